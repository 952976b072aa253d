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
"""The interface of text-to-speech engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..data import WORD


class SynthesisError(ValueError):
    """An engine that is not installed, or a text or a voice that it does not support."""


@dataclass(frozen=True)
class Speech:
    """Synthesized speech: samples between -1 and 1, and the second at which each word begins if the engine knows it."""

    waveform: np.ndarray
    sampling_rate: int
    word_times: list[float] | None = None

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sampling_rate


class Synthesizer(Protocol):
    """A text-to-speech engine. It is pickled to be sent to other processes."""

    def voices(self, language: str | None = None) -> list[str]:
        """The voices of one language (such as `en`), or all of them."""

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        """Speaks the text, at a rate and a pitch relative to those of the voice, or raises [`SynthesisError`]."""


def check_text(text: str) -> None:
    if "\0" in text or not any(character.isalnum() for character in text):
        raise SynthesisError(f"The text {text!r} cannot be spoken: it must hold a word, and no null character.")


def word_onsets(text: str, events: Sequence[tuple[int, float]]) -> list[float]:
    """
    The second at which each word of the text begins. `events` holds indices of characters and the seconds at which their
    sound begins. A word without sound, such as a dash, begins with the next one.
    """
    spans = [match.span() for match in WORD.finditer(text)]
    onsets = [min((time for index, time in events if start <= index < end), default=None) for start, end in spans]
    following = max((time for _, time in events), default=0.0)
    for index in reversed(range(len(onsets))):
        # some words are spoken out of order, such as the currency of "$5": onsets never fall
        following = following if onsets[index] is None else min(onsets[index], following)
        onsets[index] = following
    return onsets
