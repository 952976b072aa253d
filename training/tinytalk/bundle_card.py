# Copyright 2026 The Flow-Omni authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
r"""
The card of the bundled checkpoint: who finds it should know what it is, of which speech it was made, and what it cannot do.
`bundle` writes it; alone, without touching the weights, it is written anew, `--command` and `--note` included, by

    python -m flow_omni.training.tinytalk.bundle_card flow_omni/checkpoints/tiny eval/results.json --corpus data/tinytalk
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...evaluation.questions import SPLITS
from ...evaluation.results import Results
from ...hub_card import write_model_card
from ...hub_card.evaluation_figures import figures_for_card
from .corpus import settings_of


# What `make tiny` trains before it joins them: from this machine, not from the Hub.
PARTS = {
    "encoder": "./runs/tiny/recognise",
    "language model": "./runs/tiny/language",
    "vocoder": "./runs/tiny/vocoder",
}
COMMAND, DATASET = "make tiny", "tinytalk"
CommandOption = Annotated[str, typer.Option(help="What made the checkpoint, for the card. An empty one is left out.")]
CorpusOption = Annotated[
    Path | None, typer.Option(help="The folder of its data, for the card to count their rows.", show_default=False)
]
NoteOption = Annotated[
    str | None,
    typer.Option(
        help="What the card is to tell of this checkpoint and no other, such as what else it learnt from.",
        show_default=False,
    ),
]

ABOUT = """\
**A toy, made to be tried without a download.** It lives in a small world: sums and products in words, counting, days and months,
spelling, opposites, some hundred facts, small talk, and repeating or reading what it is told, in English. Ask it anything else and
it answers something of these, fluently and wrongly. It is often wrong within them too: see the figures. Nothing should
depend on what it says.

**It has learnt from synthesizers alone**, most of it from the corpus `tinytalk`, which `flow-omni prepare tinytalk` makes on any machine from a
generator of texts. Questions are spoken by eSpeak NG in many variants, accents, rates and pitches, and by flite's voices
`rms` and `kal16`, some with noise and rooms; all answers by one voice, flite's `slt`, which also asks where answers are only
written.{people} flite's voices are built from recordings of people, those of eSpeak NG are not; people themselves it has never
heard.{counts}
No question of `test` is in the training of the corpus, nor is a voice of it but the accent `en-us`. Much else is: of three answers in ten the very
words, learnt as answers to the same thing asked otherwise, and four sums in five with their numbers the other way round.

How it was made, what made it better, and all figures, those of noise and other voices among them, are told in `docs/tiny.md` of
the sources of `flow-omni`."""
FIGURES = """\
The figures below are of the split `test` unless they say otherwise. To measure them again takes the corpus (`flow-omni prepare
tinytalk data/tinytalk`); its `words.txt` is the list that `sphinx:words.txt` listens with."""
CTC_FIGURES = """\
`ctc:recognise` is the recogniser `runs/tiny/recognise`, which `make tiny` trains on its way: the model's ears began with its encoder, and
its speech was never trained on it."""
# Manifests of a corpus, with what is in them.
MANIFESTS = {
    "train": "spoken questions to train on",
    "asked_train": "more with answers that are only written",
    "said_train": "spoken answers without questions",
    "answered_train": "spoken answers to questions that stay written",
    "text_train": "written questions",
    "validation": "spoken ones for validation",
    "test": "for the test",
    "test_seen_voices": "in voices of the training, with the texts of the test",
    "answers": "different spoken answers",
}
# An option of `prepare tinytalk` leaves them out, and corpora from before lack some.
OPTIONAL_MANIFESTS = {"asked_train", "said_train", "answered_train"}


def write_bundle_card(
    folder: Path,
    results: Results | None,
    command: str = COMMAND,
    corpus: Path | None = None,
    note: str | None = None,
) -> Path:
    """
    Writes the card into the folder of the checkpoint: `results` are its figures, `corpus` the folder of its data, `note` what is
    to be told of this checkpoint and no other.
    """
    people, counts = ("", "") if corpus is None else (people_of(corpus), counts_of(corpus))
    about = [ABOUT.format(people=people, counts=counts), note]
    if results is not None:
        about += [FIGURES, CTC_FIGURES if "ctc:" in results.command else None]
    return write_model_card(
        folder,
        base_models=PARTS,
        datasets=[DATASET],
        languages=["en"],
        license="apache-2.0",
        figures=None if results is None else figures_of(results),
        is_trained=True,
        command=command,
        evaluation_commands=None if results is None else results.command,
        about="\n\n".join(filter(None, about)),
        is_bundled=True,
    )


def figures_of(results: Results) -> list[dict[str, Any]]:
    """The figures, with the split that `flow-omni evaluate` takes of a folder unless it is told another."""
    split = {} if "--split" in results.command else {"dataset_split": SPLITS[0]}
    return [split | figure for figure in figures_for_card(results, DATASET)]


def people_of(corpus: Path) -> str:
    """Who else asked in the corpus (`--more-people`), as a sentence."""
    people = [f"`{voice}`" for voice in settings_of(corpus.expanduser()).get("more_people", [])]
    return f" {_enumerated(people)} asked as well." if people else ""


def counts_of(corpus: Path) -> str:
    """How many rows each manifest of the corpus has, as a sentence."""
    counted = []
    for name, what in MANIFESTS.items():
        manifest = corpus.expanduser() / f"{name}.jsonl"
        if manifest.is_file():
            with manifest.open("rb") as lines:
                counted.append(f"{sum(1 for _ in lines):,} {what} (`{name}`)")
        elif name not in OPTIONAL_MANIFESTS:
            raise ValueError(
                f"There is no '{manifest}': `--corpus` is the folder that `flow-omni prepare tinytalk` filled."
            )
    return f" There are {_enumerated(counted)}."


def _enumerated(items: Sequence[str]) -> str:
    *others, last = items
    return f"{', '.join(others)}{',' if len(others) > 1 else ''} and {last}" if others else last


def rewrite(
    folder: Annotated[Path, typer.Argument(help="The bundled checkpoint.", show_default=False)],
    results: Annotated[Path, typer.Argument(help="What `flow-omni evaluate` measured.", show_default=False)],
    command: CommandOption = COMMAND,
    corpus: CorpusOption = None,
    note: NoteOption = None,
):
    """Write the card of a bundled checkpoint anew, and leave all else as it is."""
    typer.echo(str(write_bundle_card(folder, Results.load(results), command, corpus, note)))


if __name__ == "__main__":
    typer.run(rewrite)
