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
"""Stop errors: spoken answers that end too early or too late, or are silent where they should not be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..training.metrics import normalize_text
from .text_errors import fraction, lacks_last_word


STOP_ERRORS = ("empty", "no_start", "length_limit", "cut_short", "silence_inside", "silence_start", "silence_end")
MAX_SILENCE_SECONDS = 1.0
MIN_DURATION_RATIO, FULL_DURATION_RATIO = 0.6, 0.95

FRAME_SECONDS = 0.02
SILENCE_DECIBELS, FLOOR_DECIBELS = -35.0, -60.0


@dataclass(frozen=True)
class Silences:
    """Seconds of silence at the start, the longest inside and at the end of a waveform, and of all between the ends."""

    start: float
    inside: float
    end: float
    speech: float


def find_silences(waveform: np.ndarray, sampling_rate: int) -> Silences:
    """Silence is 35 dB below the loud parts of the waveform `(num_samples,)`, or 60 dB below full scale."""
    size = round(FRAME_SECONDS * sampling_rate)
    frames = np.pad(np.asarray(waveform, dtype=np.float64), (0, -len(waveform) % size)).reshape(-1, size)
    decibels = 10 * np.log10(np.maximum((frames**2).mean(axis=1), 1e-12))
    loud = np.quantile(decibels, 0.95) if len(decibels) else FLOOR_DECIBELS
    is_loud = np.pad(decibels > max(loud + SILENCE_DECIBELS, FLOOR_DECIBELS), 2)
    # speech is at least three loud frames in a row: less is a click
    is_middle = is_loud[:-2] & is_loud[1:-1] & is_loud[2:]
    (speech,) = np.nonzero(is_middle[:-2] | is_middle[1:-1] | is_middle[2:])
    if len(speech) == 0:
        return Silences(start=len(waveform) / sampling_rate, inside=0.0, end=0.0, speech=0.0)
    first, last = int(speech[0]), int(speech[-1])
    num_frames = (first, int(np.diff(speech).max()) - 1, len(decibels) - 1 - last, last + 1 - first)
    return Silences(*(number * FRAME_SECONDS for number in num_frames))


def find_stop_errors(
    text: str,
    silences: Silences,
    is_truncated: bool,
    reference: str,
    reference_seconds: float,
    transcript: str | None = None,
    reference_transcript: str | None = None,
    language: str = "en",
) -> list[str]:
    """The stop errors of an answer with this text, by its transcript and that of the reference audio, if there are any."""
    is_empty, is_silent = not text.strip(), silences.speech == 0.0
    expected_seconds = reference_seconds * _relative_length(text, reference, language)
    ratio = silences.speech / expected_seconds if expected_seconds > 0 else 1.0
    lacks_end = transcript is not None and lacks_last_word(text, transcript, language)
    if lacks_end and text == reference and reference_transcript is not None:
        # the ASR model may miss this word in any recording
        lacks_end = not lacks_last_word(reference, reference_transcript, language)
    is_short = ratio < MIN_DURATION_RATIO or (lacks_end and ratio < FULL_DURATION_RATIO)
    found = {
        "empty": is_empty,
        "no_start": is_silent,
        "length_limit": is_truncated,
        "cut_short": is_short and not is_empty and not is_silent,
        "silence_inside": silences.inside > MAX_SILENCE_SECONDS,
        "silence_start": silences.start > MAX_SILENCE_SECONDS and not is_silent,
        "silence_end": silences.end > MAX_SILENCE_SECONDS and not is_silent,
    }
    return [name for name in STOP_ERRORS if found[name]]


def stop_metrics(errors: Sequence[Sequence[str]]) -> dict[str, float]:
    """The fractions of spoken answers that are `clean`, and that have each stop error."""
    metrics = {"num_rows": len(errors)} | fraction("clean", [not one for one in errors])
    for name in STOP_ERRORS:
        metrics |= fraction(name, [name in one for one in errors])
    return metrics


def _relative_length(text: str, reference: str, language: str) -> float:
    """How much longer `text` is than `reference`, in normalised characters."""
    lengths = [len(normalize_text(one, language).replace(" ", "")) for one in (text, reference)]
    if not all(lengths):
        # Whisper's normaliser drops fillers such as "Hmm."
        lengths = [len(text.strip()), len(reference.strip())]
    return lengths[0] / max(lengths[1], 1)
