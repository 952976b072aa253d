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
"""The commands `train`, `prepare …` and `evaluate`."""

import itertools
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from .ask import GenerationOptions, option, with_options
from .common import USER_ERROR, UserError, command, note, user_errors, write


prepare = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Make training data: from corpora, from written dialogues; and validate it.",
)
Corpus = Annotated[str, typer.Argument(help="The folder of the extracted corpus.", show_default=False)]
Output = Annotated[Path, typer.Argument(help="The folder to write to.", show_default=False)]
Limit = Annotated[int | None, option(help="Most rows.", min=1)]
Columns = Annotated[list[str] | None, option(metavar="OURS=THEIRS", help="A renamed column: question_text=sentence.")]
Seed = Annotated[int, typer.Option(min=0)]


def train(
    recipe: Annotated[str, typer.Argument(help="align, finetune, vocoder, or a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="As learning_rate=3e-4.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Print modules, parameters, rows, hours and steps only.")
    ] = False,
    fresh: Annotated[bool, option("--fresh", help="Start again: move existing checkpoints aside.")] = False,
):
    """
    Train a model with a recipe.

    Any key of the recipe can be overridden. The same command resumes from the last checkpoint. With several processes:
    `accelerate launch -m flow_omni.training align …`.

    Examples:

        flow-omni train align model=my-model train_data=train.jsonl output_dir=runs/align --dry-run
        flow-omni train finetune model=runs/align train_data=train.jsonl output_dir=runs/finetune
        flow-omni train align model=my-model "train_data={a.jsonl: 1, b.jsonl: 2}" output_dir=runs/align
    """
    from ..training.train import train_recipe

    train_recipe(recipe, overrides or [], dry_run=dry_run, fresh=fresh)


@prepare.command(no_args_is_help=True)
@command
def aishell1(
    folder: Corpus,
    output: Output,
    split: Annotated[str, typer.Option(help="train, dev, test, or all.")] = "all",
    limit: Limit = None,
):
    """
    AISHELL-1 (openslr.org/33): 178 hours of Mandarin with transcripts.

        flow-omni prepare aishell1 data_aishell data/aishell1
    """
    from ..training.prepare import aishell1_rows

    for name in ("train", "dev", "test") if split == "all" else (split,):
        _write_corpus(output, name, limit, lambda counts, name=name: aishell1_rows(folder, name, counts=counts))


@prepare.command(no_args_is_help=True)
@command
def wenetspeech(
    folder: Corpus,
    output: Output,
    subset: Annotated[str, typer.Option(help="L, M, S, W, DEV, TEST_NET or TEST_MEETING.")] = "L",
    min_seconds: Annotated[float, typer.Option(help="Leave out shorter segments.", min=0.0)] = 0.5,
    max_seconds: Annotated[float, typer.Option(help="Leave out longer segments.", min=0.0)] = 30.0,
    min_confidence: Annotated[float, typer.Option(help="Leave out less certain transcripts.", min=0.0)] = 0.0,
    limit: Limit = None,
):
    """
    WenetSpeech: 10,000 hours of Mandarin with transcripts. The recordings stay where they are, uncut.

        flow-omni prepare wenetspeech WenetSpeech data/wenetspeech --subset M
    """
    from ..training.prepare import wenetspeech_rows

    def rows(counts: Counter) -> Iterator[dict]:
        return wenetspeech_rows(folder, subset, min_seconds, max_seconds, min_confidence, counts=counts)

    _write_corpus(output, subset, limit, rows)


@prepare.command(no_args_is_help=True)
@command
def lccc(
    source: Annotated[str, typer.Argument(help="The folder of LCCC-base, or one of its files.", show_default=False)],
    output: Output,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "train",
    min_words: Annotated[int, typer.Option(help="Leave out pairs of fewer words.", min=0)] = 5,
    history: Annotated[bool, typer.Option(help="Rows hold the turns before them.")] = True,
    limit: Limit = None,
):
    """
    LCCC-base: millions of written Chinese dialogues, filtered as in the paper. `prepare speak` synthesises them.

        flow-omni prepare lccc LCCC-base-split data/lccc
    """
    from ..training.prepare import lccc_rows

    _write_corpus(output, split, limit, lambda counts: lccc_rows(source, split, min_words, history, counts=counts))


def _write_corpus(output: Path, name: str, limit: int | None, rows: Callable[[Counter], Iterator[dict]]) -> None:
    """Writes the rows of a corpus to `output`/`name`.jsonl."""
    from tqdm import tqdm

    from ..training.data import write_rows

    counts, path = Counter(), output.expanduser() / f"{name}.jsonl"
    with user_errors():
        bar = tqdm(itertools.islice(rows(counts), limit), desc=name, unit=" rows", disable=not sys.stderr.isatty())
        first = next(iterator := iter(bar), None)
        if first is None:
            raise ValueError(f"No rows found for '{path}': check the corpus, and the options that leave rows out.")
        path.parent.mkdir(parents=True, exist_ok=True)
        num_rows = write_rows(path, itertools.chain([first], iterator))
    left_out = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason != "rows")
    note(f"{path}: {num_rows} rows" + (f"; left out: {left_out}" if left_out else ""))


@prepare.command(no_args_is_help=True)
@command
def speak(
    manifest: Annotated[str, typer.Argument(help="Rows with question_text and answer_text.", show_default=False)],
    output: Output,
    synthesizer: Annotated[str, typer.Option(help="espeak, flite, piper, or for Mandarin pinyin.")] = "espeak",
    answer_voice: Annotated[str | None, option(help="Voice of the answers. Default: that of the language.")] = None,
    question_voices: Annotated[str | None, option(help="Voices of the questions: a,b,c. Default: all others.")] = None,
    language: Annotated[str, typer.Option(help="Language of the voices.")] = "en",
    file_format: Annotated[str, typer.Option("--format", help="flac or wav.")] = "flac",
    seed: Seed = 0,
    processes: Annotated[int | None, option(help="Number of processes. Default: one per core.", min=1)] = None,
    limit: Limit = None,
):
    """
    Synthesise written dialogues: questions in many voices, answers in one. The same command resumes.

        flow-omni prepare speak dialogues.jsonl data/spoken --answer-voice en-us
    """
    from tqdm import tqdm

    from ..training.prepare import speak_dialogues

    with user_errors(), tqdm(desc="rows", unit=" rows", disable=not sys.stderr.isatty()) as bar:
        spoken = speak_dialogues(
            manifest,
            output,
            synthesizer,
            answer_voice=answer_voice,
            question_voices=_listed([question_voices]) or None,
            language=language,
            file_format=file_format,
            num_processes=processes or os.cpu_count() or 1,
            seed=seed,
            limit=limit,
            progress=bar.update,
        )
    note(f"{spoken.manifest}: {spoken}")


@prepare.command(no_args_is_help=True)
@command
def validate(
    source: Annotated[str, typer.Argument(help="A manifest, parquet files, a dataset.", show_default=False)],
    split: Annotated[str | None, option(help="The split of a dataset.")] = None,
    audio: Annotated[bool, typer.Option(help="Read the audio files too.")] = True,
    show: Annotated[int, typer.Option(help="Number of errors to list.", min=0)] = 20,
    columns: Columns = None,
):
    """
    Check rows, and summarise them. The exit code is 2 if a row is invalid.

        flow-omni prepare validate train.jsonl
        flow-omni prepare validate recordings.csv --columns question_audio=file --columns question_text=sentence
    """
    from tqdm import tqdm

    from ..training.prepare import validate_rows

    with user_errors(), tqdm(desc="rows", unit=" rows", disable=not sys.stderr.isatty()) as bar:
        result = validate_rows(source, _columns(columns), split, audio, show, bar.update)
    write(f"{result}\n")
    if result.num_invalid:
        raise typer.Exit(USER_ERROR)


@with_options
def evaluate(
    sources: Annotated[
        list[str], typer.Argument(metavar="[CHECKPOINT] DATA", help="Default: the bundled model.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("results"),
    tasks: Annotated[str | None, option(help="transcribe,say,speech_to_speech … Default: all of the data.")] = None,
    limit: Annotated[int | None, option(help="Questions of each task. Default: all.", min=1)] = None,
    split: Annotated[str | None, option(help="The split of a dataset. Default: test.")] = None,
    columns: Columns = None,
    on_error: Annotated[str, typer.Option(help="stop or skip at an unreadable recording.")] = "stop",
    asr: Annotated[
        list[str] | None,
        option(
            help="ASR model for spoken answers: whisper:NAME, own, none, folder or Hub id. Default: openai-whisper."
        ),
    ] = None,
    language: Annotated[str | None, option(help="Language of the texts. Default: that of the rows.")] = None,
    sweep: Annotated[
        str | None, option(help="noise,speed,pitch,room,telephone,solver_steps,temperature,guidance, or all.")
    ] = None,
    sweep_limit: Annotated[int, typer.Option(help="Questions of each task in a sweep.", min=1)] = 100,
    compare: Annotated[list[Path] | None, option(help="Another evaluation, to compare with.")] = None,
    samples: Annotated[int, typer.Option(help="Audio samples of each task in the report.", min=0)] = 4,
    timed: Annotated[int, typer.Option(help="Questions for latency and speed.", min=0)] = 8,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    *,
    options: GenerationOptions,
):
    """
    Evaluate a checkpoint on a dataset.

    Word and character error rates, exact answers, stop errors, latency and speed, with confidence intervals: results.json,
    report.md, answers.jsonl and audio samples. The same command resumes.

    Examples:

        flow-omni evaluate my-model test.jsonl --limit 100 --asr whisper:small.en
        flow-omni evaluate my-model data/test --sweep noise,solver_steps --output better --compare results
        flow-omni evaluate my-model owner/recordings --columns question_audio=audio --columns question_text=sentence
    """
    from ..evaluation.evaluate import Settings, load_asr_models
    from ..evaluation.evaluate import evaluate as evaluate_model
    from ..evaluation.questions import language_code, language_of, load_questions
    from ..evaluation.report import write_report
    from ..evaluation.results import Results

    if len(sources) > 2:
        raise UserError(f"Got {len(sources)} names: pass a checkpoint and a dataset, or the dataset alone.")
    checkpoint, data = sources if len(sources) == 2 else (None, *sources)
    is_watched = sys.stderr.isatty()
    with user_errors():
        for other in compare or []:
            Results.load(other)
            if other.resolve() in (output.resolve(), output.resolve() / "results.json"):
                raise ValueError(f"`--compare {other}` would be overwritten: choose another `--output`.")
        questions, notes = load_questions(
            data, _listed([tasks]) or None, limit, split, _columns(columns), on_error, show_progress=is_watched
        )
        language = language_code(language) if language else language_of(questions)
        kwargs = options.generation_kwargs()
        settings = Settings(
            batch_size=batch_size,
            seed=kwargs.pop("seed", 0),
            language=language,
            sweeps=tuple(_listed([sweep])),
            sweep_limit=sweep_limit,
            num_samples=samples,
            num_timed=timed,
            generation=kwargs,
        )
        loaded = options.load(checkpoint)
        asr_models, more = load_asr_models(_listed(asr), loaded.model, loaded.processor, language)
        results = evaluate_model(
            loaded.model,
            loaded.processor,
            questions,
            asr_models,
            output,
            settings,
            checkpoint=loaded.name,
            data=data,
            command=shlex.join(["flow-omni", *sys.argv[1:]]),
            notes=[*notes, *more],
            log=note,
            show_progress=is_watched,
        )
    path = write_report(output, compare or [])
    for metric in results.headlines:
        write(f"{metric['name']}: {metric['value']:.4g} {metric['unit']}\n")
    note(f"{path}: the report.")


def _listed(values: list[str | None] | None) -> list[str]:
    """The names in comma-separated lists."""
    return [name.strip() for value in values or [] for name in (value or "").split(",") if name.strip()]


def _columns(assignments: list[str] | None) -> dict[str, str]:
    """`["question_text=sentence"]` -> `{"question_text": "sentence"}`."""
    columns = dict(assignment.partition("=")[::2] for assignment in assignments or [])
    if not all(columns) or not all(columns.values()):
        raise UserError("`--columns` must be OURS=THEIRS, such as `--columns question_text=sentence`.")
    return columns
