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
"""Figures as they are written in reports: units, decimals, headings."""

from .results import Figure
from .side_by_side import Measured, base_name


HEADINGS = {
    "num_rows": "rows",
    "cer": "CER",
    "wer": "WER",
    "exact": "exact",
    "cer_whisper": "CER, Whisper",
    "wer_whisper": "WER, Whisper",
    "cer_raw": "CER, raw",
    "wer_raw": "WER, raw",
    "cer_of_own_text": "CER to own text",
    "heard_cer": "CER as heard",
    "heard_wer": "WER as heard",
    "heard_exact": "exact as heard",
    "vocoded_cer": "CER, vocoded",
    "vocoded_wer": "WER, vocoded",
    "vocoded_exact": "exact, vocoded",
    "hit_cap": "ran into cap",
    "silent_inside": "silence inside",
    "silent_start": "silence before",
    "silent_end": "silence after",
    "empty": "no text",
    "no_start": "no sound",
    "duration_ratio": "length ratio",
    "vocoded_log_spectral_distance": "log-spectral distance, vocoded",
    "vocoded_mel_distance": "mel distance, vocoded",
    "log_spectral_distance": "log-spectral distance",
    "reference_sharpness": "sharpness, original",
    "first_sound_ms": "first sound after",
    "first_text_ms": "first word after",
    "batch_real_time_factor": "real-time factor, batch",
    "real_time_factor": "real-time factor",
    "speech_seconds": "speech in all",
}
AXES = {
    "snr_db": "signal to noise (dB)",
    "tempo": "times as fast",
    "semitones": "pitch (semitones)",
    "reverberation_seconds": "reverberation (s)",
    "num_flow_steps": "steps of the flow solver",
    "flow_temperature": "temperature of the flow",
    "flow_guidance_scale": "guidance scale",
}
FAMILIES = {
    "noise": "Noise in the question",
    "speed": "Speed of the question",
    "pitch": "Pitch of the question",
    "room": "Reverberation of the question",
    "telephone": "Telephone line",
    "steps": "Steps of the flow solver",
    "temperature": "Temperature of the flow",
    "guidance": "Guidance of the flow",
}
# The question as it is, on the axis of a sweep.
UNCHANGED = "as is"
MINUS = "−"


def heading_of(name: str) -> str:
    """The heading of a column, without the task that may stand in front of the name."""
    _, base = base_name(name)
    return HEADINGS.get(base, base.replace("_", " "))


def axis_heading(name: str) -> str:
    return AXES.get(name, name.replace("_", " "))


def family_words(family: str) -> str:
    """What the sweeps of a kind vary."""
    return FAMILIES.get(family, family.replace("_", " ").capitalize())


def task_words(task: str) -> str:
    return task.replace("_", " ")


def heard_words(recogniser: str | None) -> str:
    return "as written" if recogniser is None else f"as heard by {recogniser}"


def written(value: float, kind: str) -> str:
    """A figure with its unit: a share of 0.0312 is 3.1 %."""
    if kind == "share":
        return f"{_decimal(100 * value, 1)} %"
    if kind == "count":
        return f"{value:,.0f}".replace(",", "\u202f")
    if kind == "seconds":
        return f"{_decimal(value, 1)} s"
    if kind == "milliseconds":
        return f"{_decimal(value, 0)} ms"
    if kind == "decibel":
        return f"{_decimal(value, 2)} dB"
    return _decimal(value, 2 if abs(value) < 100 else 0)


def written_tick(value: float, kind: str) -> str:
    """A round figure, with as many decimals as it has."""
    number = f"{100 * value if kind == 'share' else value:.10g}".replace("-", MINUS)
    return f"{number} %" if kind == "share" else number


def written_interval(measured: Measured, kind: str) -> str | None:
    """Both ends of the interval, the unit left to the figure beside it."""
    if not measured.has_interval:
        return None
    low, high = (written(end, kind).rpartition(" ")[0] or written(end, kind) for end in (measured.low, measured.high))
    return f"{low}–{high}"


def written_difference(value: float, first: float, kind: str) -> str:
    """How far `value` is from `first`, with its sign; shares in points of a per cent."""
    words = written(abs(value - first), kind)
    number = words.rpartition(" ")[0] if kind == "share" else words
    is_zero = not any(digit in "123456789" for digit in number)
    return f"±{number}" if is_zero else f"{'+' if value > first else MINUS}{number}"


def axis_words(value: float | str | None) -> str:
    """A place on the axis of a sweep."""
    if value is None:
        return UNCHANGED
    if isinstance(value, str):
        return value
    return f"{value:g}".replace("-", MINUS)


def direction_words(figure: Figure) -> str:
    return {"lower": "lower is better", "higher": "higher is better", None: ""}[figure.better]


def _decimal(value: float, places: int) -> str:
    words = f"{value:.{places}f}"
    # rounded to nothing, it has no sign
    return words.lstrip("-") if float(words) == 0 else words.replace("-", MINUS)
