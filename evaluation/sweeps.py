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
"""Sweeps: the same questions under more and more of one change, to their audio or to an option of generation."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..training.augmentation import add_noise, add_room, change_tempo, generator_of, shift_pitch, telephone_band
from .questions import SPEAKING_TASKS, AudioChange, EvaluationQuestion, spread


NOISES = ("white", "pink", "babble")
NUM_BABBLE_RECORDINGS = 16
DIRECT_TO_REVERBERANT_DB = 0.0
# sweep: name of its axis, values, and the value that changes nothing
AUDIO_SWEEPS: dict[str, tuple[str, tuple, Any]] = {
    "noise": ("snr_db", (None, 20, 10, 5, 0), None),
    "speed": ("tempo", (0.7, 0.85, 1.0, 1.15, 1.3, 1.5), 1.0),
    "pitch": ("semitones", (-4, -2, 0, 2, 4, 7), 0),
    "room": ("reverberation_seconds", (0.0, 0.2, 0.4, 0.7, 1.0), 0.0),
    "telephone": ("line", ("unchanged", "telephone"), "unchanged"),
}
GENERATION_SWEEPS: dict[str, tuple[str, tuple[float, ...]]] = {
    "solver_steps": ("num_flow_steps", (1, 2, 4, 8, 16)),
    "temperature": ("flow_temperature", (0.0, 0.5, 0.7, 1.0, 1.2)),
    "guidance": ("flow_guidance_scale", (1.0, 1.5, 2.0, 3.0)),
}
SWEEPS = (*AUDIO_SWEEPS, *GENERATION_SWEEPS)
AUDIO_TASKS = (("transcribe",), ("speech_to_speech", "speech_to_text"))


@dataclass(frozen=True)
class Point:
    """One value of one sweep: what it changes in the audio of questions, or in the arguments of `generate`."""

    sweep: str
    axis: str
    value: float | str | None
    change: AudioChange | None = None
    generation: dict[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> str:
        """Names its answers in `answers.jsonl`; unchanged questions are those of the evaluation itself."""
        return "" if self.change is None and not self.generation else f"{self.sweep}={self.value}"


def check_sweeps(names: Iterable[str]) -> list[str]:
    """The named sweeps in the order of `SWEEPS`; `all` stands for every one."""
    names = list(names)
    if unknown := set(names).difference(SWEEPS, ["all"]):
        raise ValueError(f"The sweep {min(unknown)!r} is unknown: choose from {', '.join(SWEEPS)}, or `all`.")
    return [name for name in SWEEPS if name in names or "all" in names]


def sweep_points(name: str, questions: Sequence[EvaluationQuestion], seed: int = 0) -> list[Point]:
    """The points of a sweep, those of each of its variants together."""
    if name in GENERATION_SWEEPS:
        axis, values = GENERATION_SWEEPS[name]
        return [Point(name, axis, value, generation={axis: value}) for value in values]
    axis, values, unchanged = AUDIO_SWEEPS[name]
    return [
        Point(sweep, axis, value, None if value == unchanged else _change(effect, value, seed, sweep))
        for sweep, effect in _effects(name, questions).items()
        for value in values
    ]


def _effects(name: str, questions: Sequence[EvaluationQuestion]) -> dict[str, Callable]:
    """The variants of a sweep, each a function of waveform, sampling rate, value and random generator."""
    if name == "noise":
        recordings = list({question.number: question for question in questions if question.has_audio}.values())
        babble = [question.load("question_audio") for question in spread(recordings, NUM_BABBLE_RECORDINGS)]
        return {
            f"noise/{kind}": lambda wave, rate, snr, rng, kind=kind: add_noise(wave, rate, snr, kind, rng, babble)
            for kind in NOISES
        }
    return {
        "speed": {name: lambda waveform, rate, value, _: change_tempo(waveform, rate, value)},
        "pitch": {name: lambda waveform, rate, value, _: shift_pitch(waveform, rate, value)},
        "room": {name: lambda *arguments: add_room(*arguments, DIRECT_TO_REVERBERANT_DB)},
        "telephone": {name: lambda waveform, rate, *_: telephone_band(waveform, rate)},
    }[name]


def _change(effect: Callable, value: Any, seed: int, sweep: str) -> AudioChange:
    """The effect with noise or a room of each question's own, which is the same at every value."""
    return lambda waveform, rate, number: effect(waveform, rate, value, generator_of(seed, sweep, number))


def sweep_questions(name: str, questions: Sequence[EvaluationQuestion], limit: int | None) -> list[EvaluationQuestion]:
    """The questions of a sweep: `limit` of each task that shows its effect."""
    chosen = []
    for alternatives in [SPEAKING_TASKS] if name in GENERATION_SWEEPS else AUDIO_TASKS:
        by_task = [[question for question in questions if question.task == task] for task in alternatives]
        chosen += spread(next(filter(None, by_task), []), limit)
    return chosen
