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
"""The commands `prepare …`: corpora and written dialogues become manifests of training rows, and manifests are checked."""

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..cli.commands import App
from ..cli.console import is_watched, note
from ..cli.errors import MISTAKE, CommandGroup, UserError, one_line, users_mistakes
from ..cli.options import columns_of


prepare_app = App(
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Make training data: of the corpora of the paper, of written dialogues, and see whether yours is right.",
)

CorpusFolder = Annotated[str, typer.Argument(help="Where the corpus was extracted.", show_default=False)]
OutputFolder = Annotated[str, typer.Argument(help="Where to write the manifest.", show_default=False)]
Limit = Annotated[int | None, typer.Option(help="No more rows than this.", min=1, show_default=False)]


@prepare_app.command(no_args_is_help=True)
def aishell1(
    folder: CorpusFolder,
    output: OutputFolder,
    split: Annotated[str, typer.Option(help="train, dev, test, or all.")] = "all",
    limit: Limit = None,
):
    """
    AISHELL-1 (openslr.org/33): 178 hours of Mandarin with transcripts, to transcribe and to say.

        flow-omni prepare aishell1 data_aishell data/aishell1
    """
    from .corpora.aishell1 import SPLITS, read_aishell1

    for name in SPLITS if split == "all" else [split]:
        _write(output, name, lambda counts, name=name: read_aishell1(folder, name, counts), limit)


@prepare_app.command(no_args_is_help=True)
def wenetspeech(
    folder: CorpusFolder,
    output: OutputFolder,
    subset: Annotated[str, typer.Option(help="L, M, S, W, DEV, TEST_NET or TEST_MEETING.")] = "L",
    min_seconds: Annotated[float, typer.Option(help="Shorter segments are left out.", min=0.0)] = 0.5,
    max_seconds: Annotated[float, typer.Option(help="So are longer ones.", min=0.0)] = 30.0,
    min_confidence: Annotated[float, typer.Option(help="So are those with less sure transcripts.")] = 0.0,
    limit: Limit = None,
):
    """
    WenetSpeech: 10,000 hours of Mandarin with transcripts. Its recordings stay where they are, uncut.

        flow-omni prepare wenetspeech WenetSpeech data/wenetspeech --subset M
    """
    from .corpora.wenetspeech import read_wenetspeech

    def rows(counts: Counter) -> Iterator[dict]:
        return read_wenetspeech(folder, subset, min_seconds, max_seconds, min_confidence, counts)

    _write(output, subset, rows, limit)


@prepare_app.command(no_args_is_help=True)
def lccc(
    source: Annotated[str, typer.Argument(help="The folder of LCCC-base, or one of its files.", show_default=False)],
    output: OutputFolder,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "train",
    min_words: Annotated[int, typer.Option(help="Pairs of fewer words are left out.", min=0)] = 5,
    history: Annotated[bool, typer.Option(help="Whether rows hold the turns before them.")] = True,
    limit: Limit = None,
):
    """
    LCCC-base: millions of written Chinese dialogues, cleaned as in the paper. Then let `prepare speak` say them.

        flow-omni prepare lccc LCCC-base-split data/lccc
    """
    from .corpora.lccc import read_lccc

    _write(output, split, lambda counts: read_lccc(source, split, min_words, history, counts), limit)


@prepare_app.command(no_args_is_help=True)
def speak(
    manifest: Annotated[str, typer.Argument(help="Rows with question_text and answer_text.", show_default=False)],
    output: Annotated[str, typer.Argument(help="Where to write sounds and manifest.jsonl.", show_default=False)],
    synthesizer: Annotated[str, typer.Option(help="espeak, flite, pico, piper, or for Mandarin pinyin.")] = "espeak",
    answer_voice: Annotated[
        str | None, typer.Option(help="The voice of the answers.", show_default="the plain one of the language")
    ] = None,
    question_voices: Annotated[
        str | None,
        typer.Option(help="Voices of the questions, with commas between.", show_default="all others of the language"),
    ] = None,
    language: Annotated[str, typer.Option(help="Language of the voices.")] = "en",
    file_format: Annotated[str, typer.Option("--format", help="flac or wav.")] = "flac",
    seed: Annotated[int, typer.Option(help="Decides who says what.")] = 0,
    processes: Annotated[
        int | None, typer.Option(help="How many speak at a time.", min=1, show_default="one for each core")
    ] = None,
    limit: Limit = None,
):
    """
    Say written dialogues: questions in many voices, answers in one. Stopped, it goes on where it was.

        flow-omni prepare speak dialogues.jsonl data/spoken --answer-voice en-us
    """
    from .speaking import Voices, speak_dialogues
    from .synthesis import listed, synthesizer_named

    with _mistakes():
        speaker = synthesizer_named(synthesizer)
        known = speaker.voices(language)
        if not known:
            raise ValueError(f"{synthesizer} has no voice for the language {language!r}: choose another `--language`.")
        answer = answer_voice or next((voice for voice in (language, f"{language}-us") if voice in known), known[0])
        # where there is another voice, nobody talks to themselves
        others = [voice for voice in known if voice != answer]
        voices = Voices(answer, question_voices.split(",") if question_voices else others or known, seed=seed)
        for voice in {voices.answer, *voices.questions} if question_voices or answer_voice else ():
            if voice not in speaker.voices():
                raise ValueError(f"{synthesizer} has no voice {voice!r}: it has {listed(known)}.")
        with _bar("rows") as bar:
            report = speak_dialogues(
                itertools.islice(_written_rows(manifest), limit),
                output,
                speaker,
                voices,
                file_format=file_format,
                num_processes=processes or os.cpu_count() or 1,
                progress=bar.update,
            )
    if report.num_rows == 0:
        raise UserError(f"None of the rows of '{manifest}' could be said ({report}): look at them, or at the voices.")
    note(f"{report.manifest}: {report}")


@prepare_app.command(no_args_is_help=True)
def tinytalk(
    folder: Annotated[str, typer.Argument(help="Where to write the corpus.", show_default=False)],
    rows: Annotated[int, typer.Option(help="Texts for training that are said.", min=1)] = 20_000,
    voices_per_question: Annotated[int, typer.Option(help="In how many voices their questions.", min=1)] = 3,
    asked_rows: Annotated[
        int, typer.Option(help="Further texts with many words, of which only the question is said.", min=0)
    ] = 40_000,
    said_rows: Annotated[
        int, typer.Option(help="Answers of these that are said by themselves, at most.", min=0)
    ] = 20_000,
    answered_rows: Annotated[
        int, typer.Option(help="Texts that ask for knowledge, of which only the answer is said.", min=0)
    ] = 12_000,
    text_rows: Annotated[int, typer.Option(help="Texts for training that are only written.", min=1)] = 200_000,
    test_rows: Annotated[int, typer.Option(help="Texts of the test.", min=1)] = 1_000,
    validation_rows: Annotated[int, typer.Option(help="Texts of the validation.", min=1)] = 500,
    answer_voice: Annotated[
        str | None,
        typer.Option(help="A synthesizer and its voice.", show_default="flite:slt, for zh pinyin:cmn-latn-pinyin"),
    ] = None,
    more_people: Annotated[
        str | None,
        typer.Option(
            help="Voices that ask too in the training, with commas between: pico:en-GB,piper:en_US-joe-medium.",
            show_default="none",
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="en or zh.")] = "en",
    seed: Annotated[int, typer.Option(help="Decides all that is drawn.")] = 0,
    processes: Annotated[
        int | None, typer.Option(help="How many speak at a time.", min=1, show_default="one for each core")
    ] = None,
):
    """
    Make a corpus of small talk, arithmetic and facts, written and spoken by this machine. Stopped, it goes on where it was.

        flow-omni prepare tinytalk data/tinytalk
    """
    from .tinytalk.corpus import make_corpus

    with _mistakes(), _bar("texts") as bar:

        def progress(what: str, count: int) -> None:
            bar.set_description(what, refresh=False)
            bar.update(count)

        report = make_corpus(
            folder,
            rows,
            voices_per_question,
            asked_rows,
            said_rows,
            answered_rows,
            text_rows,
            test_rows,
            validation_rows,
            answer_voice,
            language,
            seed,
            processes or os.cpu_count() or 1,
            progress,
            more_people=more_people.split(",") if more_people else (),
        )
    note(str(report))


@prepare_app.command(no_args_is_help=True)
def validate(
    manifest: Annotated[
        str, typer.Argument(help="A manifest, parquet files, a saved dataset or one of the Hub.", show_default=False)
    ],
    split: Annotated[str | None, typer.Option(help="Of a dataset with splits, which.", show_default=False)] = None,
    audio: Annotated[bool, typer.Option(help="Whether to open the audio files too.")] = True,
    stop: Annotated[bool, typer.Option("--stop", help="Stop at the first mistake.")] = False,
    show: Annotated[int, typer.Option(help="How many mistakes to tell in words.", min=0)] = 20,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="A column that is called otherwise, such as question_text=sentence. To be repeated.",
            show_default=False,
        ),
    ] = None,
):
    """
    See whether rows are right, and what is in them. The exit code is 2 if any is wrong.

        flow-omni prepare validate train.jsonl
        flow-omni prepare validate recordings.csv --columns question_audio=file --columns question_text=sentence
    """
    from .validation import validate as validate_rows

    with _mistakes(), _bar("rows") as bar:

        def progress(rows: Iterable) -> Iterator:
            return _counted(rows, bar)

        report = validate_rows(
            manifest, "stop" if stop else "skip", split, audio, show, progress, columns_of(columns or [])
        )
    typer.echo(str(report))
    if report.num_problems:
        raise typer.Exit(MISTAKE)


def _write(output: str, name: str, read, limit: int | None) -> None:
    """Writes the rows of a corpus into `output`/`name`.jsonl, and says what was left out."""
    from .manifest import write_rows

    counts: Counter = Counter()
    path = Path(output).expanduser() / f"{name}.jsonl"
    with _mistakes(), _bar(name) as bar:
        num_rows = write_rows(path, _found(_counted(itertools.islice(read(counts), limit), bar), path))
    left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason != "rows")
    note(f"{path}: {num_rows} rows" + (f"; left out: {left_out}" if left_out else ""))


def _found(rows: Iterable[dict], path: Path) -> Iterator[dict]:
    """The rows, of which there must be one: an empty manifest would only be noticed in training."""
    is_empty = True
    for row in rows:
        is_empty = False
        yield row
    if is_empty:
        raise ValueError(f"Nothing was found for '{path}': check the corpus and the options that leave rows out.")


def _written_rows(manifest: str) -> Iterator[dict]:
    """Checked rows of a manifest, their audio as paths."""
    from .manifest import raw_rows
    from .row_checks import check_row
    from .rows import RowError

    for where, folder, raw in raw_rows(manifest):
        if isinstance(raw, RowError):
            raise raw
        row = check_row(raw, where, None if folder is None else os.path.abspath(folder))
        for name in ("question_audio", "answer_audio"):
            value = row.get(name)
            if isinstance(value, dict) and value.get("bytes") is None:
                row[name] = value["path"]
            elif value is not None and not isinstance(value, str):
                raise RowError(
                    where, name, f"`{name}` holds a file: only rows without sound, or with paths, can be said."
                )
        yield row


def _counted(rows: Iterable, bar) -> Iterator:
    for row in rows:
        yield row
        bar.update(1)


def _bar(what: str):
    """A progress bar on stderr, where somebody is watching."""
    from tqdm import tqdm

    return tqdm(desc=what, unit=" rows", disable=not is_watched())


@contextmanager
def _mistakes() -> Iterator[None]:
    """Around work on things of the user's: what is wrong with them, or missing on the machine, is told in one line."""
    try:
        with users_mistakes():
            yield
    except ImportError as error:
        raise UserError(one_line(error)) from error


def main() -> None:
    """The commands on their own, as `flow-omni prepare` has them."""
    prepare_app()
