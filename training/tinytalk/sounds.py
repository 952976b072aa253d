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
"""How the corpus sounds: answers without idle silence, questions as a microphone hears them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...processing.audio_io import resample
from ..augmentation import Augmentation, generator_of
from ..synthesis import NamedVoices, Speech


# Sound starts and ends where 10 ms are louder than 50 dB below the loudest 10 ms.
FRAMES_PER_SECOND, SILENCE = 100, 10.0 ** (-50 / 20)
# What the people of a babble say.
CHATTER = (
    "I told them about it yesterday, but nobody wanted to listen.",
    "We could take the later train and have dinner in town.",
    "Did you see the new house at the end of the road?",
    "My sister is going to move there in the summer.",
    "They say it will be much colder by the weekend.",
    "The meeting was longer than it should have been.",
)
MANDARIN_CHATTER = ("昨天我告诉他们了，可是没有人听。", "我们可以坐下一班火车去城里吃饭。", "周末天气会冷很多。")


@dataclass(frozen=True)
class Trim:
    """
    Leaves so many seconds of silence before and after what is said: a [`SoundChange`]. What every answer begins or ends with
    beyond that costs steps of training and teaches nothing.
    """

    before: float = 0.06
    after: float = 0.15

    def __call__(self, speech: Speech, index: int = 0) -> Speech:
        return with_margins(speech, self.before, self.after)


@dataclass(frozen=True)
class Microphone:
    """
    Questions as they reach a microphone: a [`SoundChange`]. There is a while before they begin and after they end; they are
    augmented, if they are to be, and come at one rate.

    Attributes:
        sampling_rate: of the sounds that are written.
        silences: shortest and longest silence before and after.
        augmentation: room, noise and the like.
        babblers: voices of the people in the background.
        chatter: what they say.
        seed: decides the silences.
    """

    sampling_rate: int = 16000
    silences: tuple[float, float] = (0.05, 0.4)
    augmentation: Augmentation | None = None
    babblers: tuple[str, ...] = ()
    chatter: tuple[str, ...] = CHATTER
    seed: int = 0

    def __call__(self, speech: Speech, index: int) -> Speech:
        before, after = generator_of(self.seed, index, "silences").uniform(*self.silences, 2)
        speech = with_margins(speech, before, after)
        waveform = resample(speech.waveform, speech.sampling_rate, self.sampling_rate)
        # before anything is mixed in: filters for another rate may overshoot
        waveform = waveform / max(1.0, float(np.abs(waveform).max()))
        if self.augmentation is not None:
            babble = babble_of(self.babblers, self.chatter, self.sampling_rate)
            waveform = self.augmentation.augment(waveform, self.sampling_rate, index, babble)
        return Speech(waveform, self.sampling_rate)


@lru_cache(maxsize=2)
def babble_of(voices: tuple[str, ...], texts: tuple[str, ...], sampling_rate: int) -> tuple[np.ndarray, ...]:
    """Each voice says one of the texts."""
    synthesizer = NamedVoices(*dict.fromkeys(voice.partition(":")[0] for voice in voices))
    spoken = (synthesizer.speak(texts[index % len(texts)], voice) for index, voice in enumerate(voices))
    return tuple(resample(speech.waveform, speech.sampling_rate, sampling_rate) for speech in spoken)


def with_margins(speech: Speech, before: float, after: float) -> Speech:
    """The speech with so many seconds of silence around it, cut off or added; the times of words move along."""
    start, end = sound_of(speech.waveform, speech.sampling_rate)
    first, last = start - round(before * speech.sampling_rate), end + round(after * speech.sampling_rate)
    padding = (max(0, -first), max(0, last - len(speech.waveform)))
    waveform = np.pad(speech.waveform[max(0, first) : last], padding)
    times = speech.word_times
    if times is not None:
        times = [max(0.0, time - first / speech.sampling_rate) for time in times]
    return Speech(waveform, speech.sampling_rate, times)


def sound_of(waveform: np.ndarray, sampling_rate: int) -> tuple[int, int]:
    """The first sample that is heard and the one after the last."""
    size = sampling_rate // FRAMES_PER_SECOND
    frames = np.pad(waveform, (0, -len(waveform) % size)).reshape(-1, size)
    loudness = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1))
    heard = np.flatnonzero(loudness > SILENCE * loudness.max())
    if len(heard) == 0:
        return 0, len(waveform)
    return int(heard[0]) * size, min(len(waveform), int(heard[-1] + 1) * size)
