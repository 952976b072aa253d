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
"""Sweeps: the same questions with more and more of one thing, in how they sound or in how they are answered."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..training.augmentation import add_noise, add_room, change_tempo, generator_of, shift_pitch, telephone_band
from .figures import error_rate, heard, share, stops
from .intervals import error_interval
from .judging import AnswerRecord
from .questions import AskedRow, Change, spread
from .results import HIGH, LOW
from .text_errors import text_errors


NOISES = ("white", "pink", "babble")
SNRS_DB = (20, 10, 5, 0)
TEMPOS = (0.7, 0.85, 1.15, 1.3, 1.5)
SEMITONES = (-4, -2, 2, 4, 7)
REVERBERATIONS = (0.2, 0.4, 0.7, 1.0)
# As loud as all its reflections together: a speaker some metres away.
DIRECT_TO_REVERBERANT_DB = 0.0
NUM_BYSTANDERS = 16

# Of each sweep of generation its option of `generate`, and the values.
GENERATION_SWEEPS: dict[str, tuple[str, tuple[float, ...]]] = {
    "steps": ("num_flow_steps", (1, 2, 4, 8, 16)),
    "temperature": ("flow_temperature", (0.0, 0.5, 0.7, 1.0, 1.2)),
    "guidance": ("flow_guidance_scale", (1.0, 1.5, 2.0, 3.0)),
}
QUESTION_SWEEPS = ("noise", "speed", "pitch", "room", "telephone")
SWEEPS = (*QUESTION_SWEEPS, *GENERATION_SWEEPS)
# What is asked in sweeps of how questions sound, and of how answers are made: the first of each line that there is.
QUESTION_TASKS = (("transcribe",), ("speech_to_speech", "speech_to_text"))
GENERATION_TASKS = (("say", "speech_to_speech", "text_to_speech"),)


@dataclass(frozen=True)
class Point:
    """
    One point of a sweep.

    Args:
        sweep (`str`): Its name, such as `noise/white`.
        axis (`str`): What is swept, such as `snr_db`.
        value (`float`, `str`, *optional*): How much of it; `None` for the question as it is.
        change (`Callable`, *optional*): What is done to questions.
        options (`dict`): Of `generate`.
    """

    sweep: str
    axis: str
    value: float | str | None
    change: Change | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> str:
        """Names its records."""
        return f"{self.sweep}={self.value}"


def check_sweeps(names: Iterable[str]) -> list[str]:
    """The sweeps of these names; `all` is every one."""
    names = list(names)
    unknown = [name for name in names if name not in (*SWEEPS, "all")]
    if unknown:
        raise ValueError(f"The sweep {unknown[0]!r} is unknown: choose among {', '.join(SWEEPS)}, or `all`.")
    return [name for name in SWEEPS if name in names or "all" in names]


def points_of(name: str, questions: Sequence[AskedRow], seed: int = 0) -> list[Point]:
    """The points of a sweep, the question as it is first."""
    if name in GENERATION_SWEEPS:
        axis, values = GENERATION_SWEEPS[name]
        return [Point(name, axis, value, options={axis: value}) for value in values]
    if name == "noise":
        bystanders = bystanders_of(questions)
        noises = [noise for noise in NOISES if noise != "babble" or bystanders]
        return [point for noise in noises for point in _noise_points(noise, bystanders, seed)]
    if name == "telephone":
        narrow = Point(name, "line", "telephone", lambda waveform, rate, number: telephone_band(waveform, rate))
        return [Point(name, "line", "as it is"), narrow]
    axis, values, effect = {
        "speed": ("tempo", TEMPOS, lambda waveform, rate, value, _: change_tempo(waveform, rate, value)),
        "pitch": ("semitones", SEMITONES, lambda waveform, rate, value, _: shift_pitch(waveform, rate, value)),
        "room": ("reverberation_seconds", REVERBERATIONS, _room),
    }[name]
    unchanged = {"speed": 1.0, "pitch": 0, "room": 0.0}[name]
    points = [Point(name, axis, value, _change(effect, value, seed, name)) for value in values]
    return sorted([Point(name, axis, unchanged), *points], key=lambda point: point.value)


def _noise_points(noise: str, bystanders: Sequence[np.ndarray], seed: int) -> list[Point]:
    def effect(waveform: np.ndarray, rate: int, snr_db: float, generator: np.random.Generator) -> np.ndarray:
        return add_noise(waveform, rate, snr_db, noise, generator, bystanders)

    sweep = f"noise/{noise}"
    noisy = [Point(sweep, "snr_db", value, _change(effect, value, seed, sweep)) for value in SNRS_DB]
    return [Point(sweep, "snr_db", None), *noisy]


def _room(waveform: np.ndarray, rate: int, seconds: float, generator: np.random.Generator) -> np.ndarray:
    return add_room(waveform, rate, seconds, generator, DIRECT_TO_REVERBERANT_DB)


def _change(effect: Callable, value: float, seed: int, sweep: str) -> Change:
    """The effect as a change: each question in a noise or room of its own, which is the same at every strength."""

    def change(waveform: np.ndarray, rate: int, number: int) -> np.ndarray:
        return effect(waveform, rate, value, generator_of(seed, sweep, number))

    return change


def bystanders_of(questions: Sequence[AskedRow]) -> list[np.ndarray]:
    """What other people say, for babble: some of the questions."""
    recorded = {asked.number: asked for asked in questions if asked.is_heard}
    return [asked.question_sound() for asked in spread(list(recorded.values()), NUM_BYSTANDERS)]


def questions_for(name: str, questions: Sequence[AskedRow], limit: int | None) -> list[AskedRow]:
    """The questions of a sweep: of the tasks that show its effect, so many each."""
    lines = GENERATION_TASKS if name in GENERATION_SWEEPS else QUESTION_TASKS
    chosen = []
    for line in lines:
        by_task = {task: [asked for asked in questions if asked.task == task] for task in line}
        task = next((task for task in line if by_task[task]), None)
        chosen += spread(by_task[task], limit) if task is not None else []
    return chosen


def row_of(point: Point, records: Sequence[AnswerRecord], language: str, seed: int = 0) -> dict[str, Any]:
    """A line of the sweep's table."""
    row: dict[str, Any] = {point.axis: point.value}
    if point.sweep in GENERATION_SWEEPS:
        return row | _of_speech(records, language, seed)
    for task in dict.fromkeys(record.task for record in records):
        errors = [text_errors(one.expected, one.text, language).said for one in records if one.task == task]
        values = error_rate("cer", errors, seed)
        if task == "transcribe":
            values |= error_rate("wer", errors, None, of_words=True)
        else:
            values |= share("exact", [one.is_exact for one in errors])
        row |= {f"{task}_{name}": value for name, value in values.items()}
    return row | {"num_rows": len({record.number for record in records})}


def _of_speech(records: Sequence[AnswerRecord], language: str, seed: int) -> dict[str, float]:
    values: dict[str, float] = {}
    listener = next((name for record in records for name in record.heard), None)
    if listener is not None:
        names = [end for name in ("cer", "wer", "exact") for end in (name, name + LOW, name + HIGH)]
        figures = heard(records, listener, language, seed)
        values |= {f"heard_{name}": figures[name] for name in names if name in figures}
    values |= {name: value for name, value in stops(records).items() if name in ("clean", "clean_low", "clean_high")}
    for name in ("mel_distance", "log_spectral_distance", "sharpness"):
        measured = [record.measures[name] for record in records if name in record.measures]
        if measured:
            values[name] = float(np.mean(measured))
            interval = error_interval(measured, [1.0] * len(measured), seed)
            if interval is not None:
                values[name + LOW], values[name + HIGH] = interval
    speech_seconds = sum(record.speech_seconds for record in records)
    if speech_seconds > 0:
        values["batch_real_time_factor"] = sum(record.seconds for record in records) / speech_seconds
    return values | {"num_rows": len(records)}
