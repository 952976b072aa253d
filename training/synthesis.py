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
"""Text to speech by other programs, behind one small interface: it makes spoken training pairs of written dialogues."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from .rows import WORD


class SynthesisError(ValueError):
    """A text or a voice that a synthesizer cannot say."""


@dataclass(frozen=True)
class Speech:
    """
    What a synthesizer said.

    Attributes:
        waveform: samples between -1 and 1: (num_samples,)
        sampling_rate: samples per second.
        word_times: the second in which each word of the text ([`words_of`]) begins, where the synthesizer tells.
    """

    waveform: np.ndarray
    sampling_rate: int
    word_times: list[float] | None = None

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sampling_rate


@runtime_checkable
class Synthesizer(Protocol):
    """
    Says text. It must survive pickling, as it is sent to worker processes.

    `rate` and `pitch` are relative to the voice's own: 2.0 is twice as fast, or the highest.
    """

    def voices(self, language: str | None = None) -> list[str]:
        """The voices that there are, of one language (such as `en`) or of all."""

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        """Says the text, or raises [`SynthesisError`]."""


@runtime_checkable
class LoadsVoices(Protocol):
    """A synthesizer whose voices take a while to load. Processes that are forked from this one have what it has loaded."""

    def load(self, voice: str) -> None:
        """Loads the voice, or raises [`SynthesisError`]."""


def synthesizer_named(name: str) -> Synthesizer:
    """A synthesizer by its name: `espeak`, `flite`, `pico`, `piper`, or for Mandarin in characters `pinyin`."""
    from .espeak import EspeakSynthesizer
    from .flite import FliteSynthesizer
    from .mandarin import PinyinSynthesizer
    from .pico import PicoSynthesizer
    from .piper import PiperSynthesizer

    known: dict[str, Callable[[], Synthesizer]] = {
        "espeak": EspeakSynthesizer,
        "flite": FliteSynthesizer,
        "pico": PicoSynthesizer,
        "pinyin": PinyinSynthesizer,
        "piper": PiperSynthesizer,
    }
    if name not in known:
        raise ValueError(f"There is no synthesizer {name!r}: choose one of {', '.join(known)}.")
    return known[name]()


class NamedVoices:
    """Several synthesizers as one, whose voices are named with them: `espeak:en-us+f3`, `flite:slt`."""

    def __init__(self, *names: str):
        self.synthesizers = {name: synthesizer_named(name) for name in names}

    def voices(self, language: str | None = None) -> list[str]:
        return [
            f"{name}:{voice}"
            for name, synthesizer in self.synthesizers.items()
            for voice in synthesizer.voices(language)
        ]

    def load(self, voice: str) -> None:
        synthesizer, voice_of_it = self._found(voice)
        if isinstance(synthesizer, LoadsVoices):
            synthesizer.load(voice_of_it)

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        synthesizer, voice_of_it = self._found(voice)
        return synthesizer.speak(text, voice_of_it, rate, pitch)

    def _found(self, voice: str) -> tuple[Synthesizer, str]:
        name, _, voice_of_it = voice.partition(":")
        if name not in self.synthesizers:
            raise SynthesisError(
                f"There is no voice {voice!r}: name one of {', '.join(self.synthesizers)}, a colon, and its voice."
            )
        return self.synthesizers[name], voice_of_it


def check_text(text: str) -> None:
    """Refuses what no program takes."""
    if "\0" in text:
        raise SynthesisError(f"The text {text!r} holds a null character: take it out.")


def check_word(text: str, engine: str) -> None:
    """Refuses what an engine passes over, or spells as signs."""
    if not any(character.isalnum() for character in text):
        raise SynthesisError(f"{engine} says nothing for {text!r}: the text must hold a word.")


def listed(names: Sequence[str], most: int = 8) -> str:
    """Some of the names, for an error that tells what there is."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def onsets_of_words(text: str, events: Sequence[tuple[int, float]]) -> list[float]:
    """
    The second in which each word of the text begins, from where in the text a synthesizer was at which time. A word that
    it passes over in silence, such as a dash, begins with the next one.

    Args:
        text (`str`):
            What was said.
        events (`list[tuple[int, float]]`):
            Index of a character, and the second in which the sound for it begins, in rising order.
    """
    spans = [match.span() for match in WORD.finditer(text)]
    onsets = [min((time for index, time in events if start <= index < end), default=None) for start, end in spans]
    following = max((time for _, time in events), default=0.0)
    for index in reversed(range(len(onsets))):
        # never later than a word after it: some are said out of order, such as the currency in "$5"
        following = following if onsets[index] is None else min(onsets[index], following)
        onsets[index] = following
    return onsets
