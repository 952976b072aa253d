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
"""What an evaluation found: figures, sweeps, speed and samples, as one JSON file that says how they came about."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal


FORMAT = 1
RESULTS_FILE = "results.json"
# Ends of the 95 % confidence interval of the figure that they are appended to.
LOW, HIGH = "_low", "_high"


class ResultsError(ValueError):
    """A file that holds no results, or those of another version."""


@dataclass(frozen=True)
class Figure:
    """
    What the name of a figure stands for.

    Args:
        meaning (`str`): What it is, in a few words.
        kind (`str`): `share` (0 to 1, shown as per cent), `number`, `count`, `seconds`, `milliseconds` or `decibel`.
        better (`str`, *optional*): `lower` or `higher`, where one of them is.
    """

    meaning: str
    kind: Literal["share", "number", "count", "seconds", "milliseconds", "decibel"]
    better: Literal["lower", "higher"] | None = None


# Every name that `figures`, `speed` and the rows of `sweeps` may hold. All may have `_low` or `_high` at the end; those of
# sweeps may have a task in front (`transcribe_cer`).
FIGURES: dict[str, Figure] = {
    "num_rows": Figure("rows", "count"),
    "cer": Figure("wrong, missing and surplus characters per expected one, as texts sound", "share", "lower"),
    "wer": Figure("wrong, missing and surplus words per expected one, as texts sound", "share", "lower"),
    "exact": Figure("answers that are what was expected, from the first word to the last", "share", "higher"),
    "cer_whisper": Figure(
        "character errors after Whisper's normaliser, as published figures have them", "share", "lower"
    ),
    "wer_whisper": Figure("word errors after Whisper's normaliser, as published figures have them", "share", "lower"),
    "cer_raw": Figure("character errors with case and punctuation, as written", "share", "lower"),
    "wer_raw": Figure("word errors with case and punctuation, as written", "share", "lower"),
    "cer_of_own_text": Figure("characters heard that differ from what the model itself wrote", "share", "lower"),
    "heard_cer": Figure("character errors of spoken answers, as the first recogniser heard them", "share", "lower"),
    "heard_wer": Figure("word errors of spoken answers, as the first recogniser heard them", "share", "lower"),
    "heard_exact": Figure("spoken answers that the first recogniser heard without an error", "share", "higher"),
    "vocoded_cer": Figure("character errors on the original passed through the vocoder", "share", "lower"),
    "vocoded_wer": Figure("word errors on the original passed through the vocoder", "share", "lower"),
    "vocoded_exact": Figure("originals passed through the vocoder that are heard without an error", "share", "higher"),
    "clean": Figure("spoken answers with none of the faults below", "share", "higher"),
    "cut_short": Figure("spoken answers that end before their text does", "share", "lower"),
    "hit_cap": Figure("spoken answers that run into the cap on their length", "share", "lower"),
    "silent_inside": Figure("spoken answers with a silence of over a second inside", "share", "lower"),
    "silent_start": Figure("spoken answers that begin after over a second of silence", "share", "lower"),
    "silent_end": Figure("spoken answers that stop over a second after their last sound", "share", "lower"),
    "no_start": Figure("spoken answers that stopped before anything was heard", "share", "lower"),
    "empty": Figure("answers without any text", "share", "lower"),
    "duration_ratio": Figure("length of the spoken answer over that of the original", "number"),
    "mel_distance": Figure("mean difference of log-mel values from the original, aligned in time", "number", "lower"),
    "log_spectral_distance": Figure("difference of spectra from the original, aligned in time", "decibel", "lower"),
    "vocoded_mel_distance": Figure("mel distance of the original passed through the vocoder", "number", "lower"),
    "vocoded_log_spectral_distance": Figure("spectral distance of the same", "decibel", "lower"),
    "sharpness": Figure("mean difference between neighbouring mel frames of the answers", "number"),
    "reference_sharpness": Figure("the same of the originals", "number"),
    "real_time_factor": Figure("seconds of computing per second of speech, one question at a time", "number", "lower"),
    "first_sound_ms": Figure("from the end of the question to the first sound of the answer", "milliseconds", "lower"),
    "first_text_ms": Figure("from the end of the question to the first word of the answer", "milliseconds", "lower"),
    "batch_real_time_factor": Figure("seconds of computing per second of speech, in batches", "number", "lower"),
    "speech_seconds": Figure("seconds of speech that the times were taken over", "seconds"),
}


@dataclass
class Sample:
    """
    One answer to look at and to listen to.

    Args:
        id (`str`): The row's.
        task (`str`): One of `training.rows.TASKS`.
        topic (`str`, *optional*): What the row is about, where its id tells.
        question_text (`str`, *optional*): What was asked, or what is said in the recording.
        expected (`str`): The right answer.
        text (`str`): What the model wrote.
        heard (`dict[str, str]`): What each recogniser heard of the spoken answer; empty for a written one.
        is_exact (`bool`): Whether `text` is what was expected.
        stop (`str`): `complete`, or the faults of the answer with commas between: `cut_short`, `hit_cap`, …
        wavs (`dict[str, str]`):
            Sound files relative to the results' folder, those that there are of `question`, `answer` and `original`.
        mel_picture (`str`, *optional*): A PNG of the answer's mel-spectrogram, relative to the results' folder.
    """

    id: str
    task: str
    topic: str | None
    question_text: str | None
    expected: str
    text: str
    heard: dict[str, str] = field(default_factory=dict)
    is_exact: bool = False
    stop: str = "complete"
    wavs: dict[str, str] = field(default_factory=dict)
    mel_picture: str | None = None


@dataclass
class Results:
    """
    The results of one evaluation.

    Args:
        checkpoint (`str`): What was evaluated.
        data (`str`): On what.
        created (`str`): When, in ISO 8601.
        machine (`dict[str, str]`): Processor, cores, versions.
        command (`str`): What to type to do it again.
        settings (`dict`): Every option, those left to their defaults too.
        figures (`dict[str, dict[str, float]]`):
            Group to name to value; see [`group_name`] and `FIGURES`. A figure that could not be measured is not there.
        sweeps (`dict[str, list[dict]]`):
            A table for each sweep, such as `noise/white`. The first key of every row is the axis (`snr_db`), a number,
            a word, or `None` for the question as it is; the others are figures.
        speed (`dict[str, float]`): Times of single questions.
        samples (`list[Sample]`): Some answers.
        notes (`list[str]`): What a reader should know, such as that no recogniser was there.
    """

    checkpoint: str
    data: str
    created: str
    machine: dict[str, str] = field(default_factory=dict)
    command: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    sweeps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes `path`, or `results.json` in the folder `path`. The file appears only when it is complete."""
        path = file_of(path)
        check(asdict(self), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        try:
            text = json.dumps({"format": FORMAT} | asdict(self), indent=1, ensure_ascii=False, allow_nan=False)
            unfinished.write_text(text + "\n", encoding="utf-8")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Results":
        """Reads what `save` wrote. What is missing, unknown or of another type is refused."""
        path = file_of(path)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except FileNotFoundError:
            raise ResultsError(
                f"There is no '{path}': pass the `{RESULTS_FILE}` that `flow-omni evaluate` wrote, or its folder."
            ) from None
        except (ValueError, OSError) as error:
            raise ResultsError(f"'{path}' cannot be read as results ({error}): evaluate again.") from error
        if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
            found = raw.get("format") if isinstance(raw, Mapping) else None
            raise ResultsError(
                f"'{path}' is of the format {found!r}: results of the format {FORMAT} are read. Evaluate again."
            )
        raw = {name: value for name, value in raw.items() if name != "format"}
        check(raw, str(path))
        return cls(**raw | {"samples": [Sample(**sample) for sample in raw["samples"]]})


def file_of(path: str | os.PathLike) -> Path:
    """The file of results that a path means: itself, or `results.json` in a folder."""
    path = Path(path).expanduser()
    return path if path.suffix == ".json" else path / RESULTS_FILE


def group_name(task: str, topic: str | None = None, recogniser: str | None = None) -> str:
    """
    The name of a group of figures: `say`, of one topic `speech_to_speech/arithmetic`, as heard by a recogniser
    `speech_to_speech/arithmetic@whisper:base.en`. Groups that are no task are `stops`, `spectrum` and `reference`.
    """
    return task + (f"/{topic}" if topic else "") + (f"@{recogniser}" if recogniser else "")


def split_group(name: str) -> tuple[str, str | None, str | None]:
    """Task, topic and recogniser of a group."""
    group, _, recogniser = name.partition("@")
    task, _, topic = group.partition("/")
    return task, topic or None, recogniser or None


def check(raw: Mapping[str, Any], where: str) -> None:
    """Raises unless `raw` has the fields of [`Results`], each of its type, and finite numbers."""
    _check_fields(raw, Results, where)
    for group, figures in raw["figures"].items():
        _check_table(figures, f"{where}: figures[{group!r}]")
    _check_table(raw["speed"], f"{where}: speed")
    for name, rows in raw["sweeps"].items():
        for row in rows if isinstance(rows, list) else [None]:
            if not isinstance(row, Mapping) or not row:
                raise ResultsError(f"{where}: sweeps[{name!r}] holds {row!r}: it must be a list of rows of figures.")
            axis, *_ = row
            _check_table({key: row[key] for key in row if key != axis}, f"{where}: sweeps[{name!r}]")
            if not isinstance(row[axis], int | float | str | NoneType):
                raise ResultsError(
                    f"{where}: sweeps[{name!r}] has the axis {row[axis]!r}: a number or a word is needed."
                )
    for number, sample in enumerate(raw["samples"]):
        _check_fields(sample, Sample, f"{where}: samples[{number}]")


def _check_fields(raw: Any, kind: type, where: str) -> None:
    if not isinstance(raw, Mapping):
        raise ResultsError(f"{where} is {raw!r}: it must be an object.")
    names = [one.name for one in fields(kind)]
    missing, unknown = [name for name in names if name not in raw], [name for name in raw if name not in names]
    if missing or unknown:
        raise ResultsError(
            f"{where} {f'lacks {missing[0]!r}' if missing else f'has the unknown field {unknown[0]!r}'}: the fields are "
            f"{', '.join(names)}. Evaluate again with this version."
        )
    for one in fields(kind):
        if not isinstance(raw[one.name], getattr(one.type, "__origin__", one.type)):
            raise ResultsError(f"{where}: {one.name} is {raw[one.name]!r}: it must be of the type {one.type}.")


def _check_table(table: Any, where: str) -> None:
    if not isinstance(table, Mapping):
        raise ResultsError(f"{where} is {table!r}: it must be an object of numbers.")
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ResultsError(
                f"{where}: {name} is {value!r}: it must be a finite number. Leave out what there is not."
            )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
