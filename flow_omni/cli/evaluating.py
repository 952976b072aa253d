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
"""The command `evaluate`: how good a checkpoint is on a data set, in figures, pictures and samples."""

import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import is_watched, note
from .errors import UserError, users_mistakes
from .options import (
    DeviceOption,
    DType,
    DTypeOption,
    EndAfterRepeatsOption,
    FlowGuidanceOption,
    FlowTemperatureOption,
    MaxNewTokensOption,
    NumFlowStepsOption,
    columns_of,
)


BUNDLED = ("tiny", "bundled")
ASKED_PANEL, HEARD_PANEL, REPORT_PANEL = "What is asked", "How answers are judged", "Report"


class OnError(StrEnum):
    stop = "stop"
    skip = "skip"


def evaluate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] DATA",
            help="A checkpoint (a folder, a Hub id, or `tiny`, the bundled one, which may be left out); and rows to ask: "
            "a manifest, a folder with `test.jsonl`, or a dataset's id.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write into.", rich_help_panel=REPORT_PANEL)
    ] = Path("results"),
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            "--compare",
            help="The folder of another evaluation (or its `results.json`), to show beside this one. May be repeated.",
            show_default=False,
            rich_help_panel=REPORT_PANEL,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=0, help="Answers of each task to hear, and as many faulty ones.", rich_help_panel=REPORT_PANEL
        ),
    ] = 4,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Only these tasks, with commas between: transcribe, say, speech_to_speech, speech_to_text, "
            "text_to_speech, text_to_text. Default: all that the rows offer.",
            show_default=False,
            rich_help_panel=ASKED_PANEL,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="So many questions of each task, spread over the rows. Default: all.",
            show_default=False,
            rich_help_panel=ASKED_PANEL,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Of a dataset with splits, which. Default: test.", show_default=False, rich_help_panel=ASKED_PANEL
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="A column that the data call otherwise, such as question_text=sentence. May be repeated.",
            show_default=False,
            rich_help_panel=ASKED_PANEL,
        ),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            help="Whether recordings that cannot be heard end it, or are left out.", rich_help_panel=ASKED_PANEL
        ),
    ] = OnError.stop,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Ask again under changes: noise, speed, pitch, room, telephone; steps, temperature, guidance; or all. With "
            "commas between.",
            show_default=False,
            rich_help_panel=ASKED_PANEL,
        ),
    ] = None,
    sweep_limit: Annotated[
        int, typer.Option(min=1, help="Questions of each task in a sweep.", rich_help_panel=ASKED_PANEL)
    ] = 100,
    recogniser: Annotated[
        list[str] | None,
        typer.Option(
            "--recogniser",
            help="Who listens to spoken answers: whisper:NAME, ctc:FOLDER, sphinx, own, none, or any recogniser's folder or "
            "Hub id. May be repeated. Default: openai-whisper, where it can be loaded.",
            show_default=False,
            rich_help_panel=HEARD_PANEL,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="Language of the texts: en, zh … Default: what the rows say.",
            show_default=False,
            rich_help_panel=HEARD_PANEL,
        ),
    ] = None,
    timed: Annotated[
        int, typer.Option(min=0, help="Questions to take the time of, one by one.", rich_help_panel=HEARD_PANEL)
    ] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered at once.", rich_help_panel="Model")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Decides all that is random.", rich_help_panel="Model")] = 0,
    device: DeviceOption = None,
    dtype: DTypeOption = DType.auto,
    max_new_tokens: MaxNewTokensOption = None,
    end_after_repeats: EndAfterRepeatsOption = None,
    num_flow_steps: NumFlowStepsOption = None,
    flow_temperature: FlowTemperatureOption = None,
    flow_guidance_scale: FlowGuidanceOption = None,
):
    """
    Measure how good a checkpoint is on a data set.

    Errors of transcripts and of spoken answers, exact answers, how speech ends, how far it is from the original, and how
    long a question waits. Writes results.json, results.md, report.html, answers.jsonl and samples. Stopped, it goes on
    where it was.

    Examples:

        flow-omni evaluate data/tinytalk --output results
        flow-omni evaluate my-model test.jsonl --limit 100 --recogniser whisper:small.en
        flow-omni evaluate my-model data/tinytalk --sweep noise,steps --output better --compare results
        flow-omni evaluate my-model owner/recordings --columns question_audio=audio --columns question_text=sentence
    """
    checkpoint, data = _named(sources)
    folder = _checked_folder(output)
    _check_others(compare or [], folder)
    options = {
        "max_new_tokens": max_new_tokens,
        "end_after_repeats": end_after_repeats,
        "num_flow_steps": num_flow_steps,
        "flow_temperature": flow_temperature,
        "flow_guidance_scale": flow_guidance_scale,
    }
    with users_mistakes():
        from ..evaluation.languages import whisper_code
        from ..evaluation.questions import language_of, questions_of, rows_of
        from ..evaluation.run import Settings

        rows = rows_of(data, split, columns_of(columns or []))
        questions = questions_of(rows, _listed([tasks]) if tasks else None, limit)
        settings = Settings(
            batch_size=batch_size,
            seed=seed,
            language=whisper_code(language) if language else language_of(questions),
            sweeps=_listed(sweep),
            sweep_limit=sweep_limit,
            num_samples=samples,
            num_timed=timed,
            options={name: value for name, value in options.items() if value is not None},
        )
    results = _run(checkpoint, data, questions, recogniser or [], folder, settings, (device, dtype), on_error)
    _report(results, folder, compare or [])
    note(f"{output}: results.json, results.md, report.html, samples, and every answer in answers.jsonl.")


def _named(sources: list[str]) -> tuple[str | None, str]:
    """The checkpoint, `None` for the bundled one, and the data."""
    if len(sources) > 2:
        raise UserError(
            f"Got {len(sources)} names ({', '.join(sources[:3])} …): pass a checkpoint and one data set, or the data set alone."
        )
    *checkpoint, data = sources
    name = checkpoint[0] if checkpoint else BUNDLED[0]
    is_bundled = name in BUNDLED and not Path(name).is_dir()
    return (None if is_bundled else name), data


def _listed(values: list[str] | None) -> list[str]:
    """Names given with commas between, in one or several options."""
    return [name.strip() for value in values or [] for name in value.split(",") if name.strip()]


def _checked_folder(folder: Path) -> Path:
    """`folder`, if it is one or can become one."""
    folder = folder.expanduser().absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"Cannot write into '{folder}': '{there}' is a file. Name a folder.")
    if not os.access(there, os.W_OK):
        raise UserError(f"Cannot write into '{folder}': the folder '{there}' is read-only for you. Choose another.")
    return folder


def _check_others(others: list[Path], folder: Path) -> None:
    """Raises unless the others are results, and stay so: they are read again when this evaluation is done."""
    from ..evaluation.results import Results, file_of

    for path in others:
        with users_mistakes():
            Results.load(path)
        if file_of(path).resolve().parent == folder.resolve():
            raise UserError(f"`--compare {path}` would be written over: choose another `--output` than '{folder}'.")


def _run(
    checkpoint: str | None,
    data: str,
    questions: list,
    names: list[str],
    folder: Path,
    settings: Any,
    place: tuple,
    on_error: OnError,
) -> Any:
    """Loads the model and the recognisers, listens whether all recordings can be heard, and asks."""
    from ..evaluation.listeners import listeners
    from ..evaluation.questions import check_sounds
    from ..evaluation.run import evaluate as evaluate_model
    from ..training.rows import RowError
    from ..untrained import has_bundled_checkpoint
    from .loading import load_model

    loaded = load_model(checkpoint, *place)
    with users_mistakes():
        recognisers, notes = listeners(names, loaded.model, loaded.processor, settings.language)
        # last: of many recordings it takes minutes, after which nothing is to be told that was known before
        heard = check_sounds(questions, on_error.value, is_quiet=not is_watched())
    if len(heard) < len(questions):
        notes.insert(0, _left_out(len(questions) - len(heard)))
    if checkpoint is None and not has_bundled_checkpoint():
        notes.append("The model is the untrained one of the package: its answers are noise.")
    for line in notes:
        note(f"Note: {line}")
    about = {
        "checkpoint": checkpoint or BUNDLED[0],
        "data": data,
        "command": shlex.join(["flow-omni", *sys.argv[1:]]),
        "notes": notes,
    }
    try:
        return evaluate_model(
            loaded.model,
            loaded.processor,
            heard,
            recognisers,
            folder,
            settings,
            tell=note,
            is_quiet=not is_watched(),
            **about,
        )
    except RowError as error:
        raise UserError(str(error)) from error


def _left_out(number: int) -> str:
    told = "question was" if number == 1 else "questions were"
    return f"{number} {told} left out, for recordings that cannot be heard."


def _report(results: Any, folder: Path, others: list[Path]) -> None:
    from ..evaluation.report import write_reports

    write_reports(results, folder, others)
