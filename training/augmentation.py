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
"""Augmentation of recorded speech: noise, rooms, telephone band, clipping, gain, speed, tempo and pitch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from ..processing.audio_io import resample


Speech = Sequence[np.ndarray]

NOISES = ("white", "pink", "babble")
NUM_TALKERS = 5  # of babble: fewer are intelligible, more sound like stationary noise
TELEPHONE_BAND = (300.0, 3400.0)


def add_noise(
    waveform: np.ndarray, rate: int, snr_db: float, kind: str, generator: Generator, speech: Speech = ()
) -> np.ndarray:
    """
    The waveform `(num_samples,)` with noise of a kind of `NOISES`, at a signal-to-noise ratio that does not count the
    pauses. Babble mixes parts of `speech`, recordings of other speakers at the same rate.
    """
    if kind == "babble":
        noise = np.zeros(len(waveform))
        for index in generator.integers(len(speech), size=NUM_TALKERS):
            talker = np.roll(speech[index], generator.integers(len(speech[index])))
            level = generator.uniform(0.5, 1.0) / np.sqrt(max(speech_power(talker), 1e-12))
            noise += level * np.resize(talker, len(waveform))
    else:
        noise = generator.standard_normal(_fft_size(len(waveform)))
        if kind == "pink":
            # power falls with 1 / frequency, but not below 20 Hz, which is inaudible
            frequencies = np.maximum(np.fft.rfftfreq(len(noise), 1.0 / rate), 20.0)
            noise = np.fft.irfft(np.fft.rfft(noise) / np.sqrt(frequencies), len(noise))
        noise = noise[: len(waveform)]
    scale = np.sqrt(speech_power(waveform) / max(mean_power(noise), 1e-12)) * 10.0 ** (-snr_db / 20.0)
    return _in_full_scale(waveform + scale * noise)


def add_room(
    waveform: np.ndarray, rate: int, rt60: float, generator: Generator, direct_to_reverberant_db: float = 6.0
) -> np.ndarray:
    """
    The waveform with reverberation that decays by 60 dB in `rt60` seconds (car 0.15, living room 0.4, classroom 0.7): six
    early reflections and a tail of noise. The power stays the same and the direct sound is not delayed.
    """
    time = np.arange(max(2, round(rt60 * rate))) / rate
    # the tail is dense only after about 20 ms
    response = generator.standard_normal(len(time)) * np.minimum(time / 0.02, 1.0)
    early = generator.integers(round(0.002 * rate), max(3, min(round(0.04 * rate), len(time))), 6)
    response[early] += generator.choice([-1.0, 1.0], 6) * generator.uniform(1.0, 4.0, 6)
    response *= 10.0 ** (-3.0 * time / rt60)
    response *= 10.0 ** (-direct_to_reverberant_db / 20.0) / np.sqrt((response**2).sum())
    response[0] = 1.0
    size = _fft_size(len(waveform) + len(response))
    wet = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(response, size), size)[: len(waveform)]
    return _in_full_scale(wet * np.sqrt(mean_power(waveform) / max(mean_power(wet), 1e-12)))


def telephone_band(waveform: np.ndarray, rate: int) -> np.ndarray:
    """The waveform from 300 to 3400 Hz, the band of a telephone."""
    frequencies = np.fft.rfftfreq(len(waveform), 1.0 / rate)
    # sloping edges: steep ones would ring
    low, high = (np.clip((frequencies - edge) / (0.2 * edge) + 0.5, 0.0, 1.0) for edge in TELEPHONE_BAND)
    return _in_full_scale(np.fft.irfft(np.fft.rfft(waveform) * low * (1.0 - high), len(waveform)))


def clip(waveform: np.ndarray, level: float) -> np.ndarray:
    """The waveform clipped at a fraction of its largest sample."""
    limit = level * np.abs(waveform).max(initial=0.0)
    return _in_full_scale(np.clip(waveform, -limit, limit))


def change_speed(waveform: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """The waveform played `factor` times as fast; pitch and formants change with it."""
    return _in_full_scale(resample(waveform, round(rate * factor), rate))


def change_tempo(waveform: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """The waveform `factor` times as fast at the same pitch, by a phase vocoder."""
    width = 2 ** round(np.log2(0.04 * rate))
    hop, window = width // 4, np.hanning(width + 1)[:-1]
    padded = np.pad(waveform, (width, 2 * width))
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, width)[::hop] * window)
    positions = np.arange(0.0, len(spectra) - 1, factor)
    before = np.minimum(positions.astype(int), len(spectra) - 2)  # rounding may reach the last frame
    weight = (positions - before)[:, None]
    magnitudes = (1.0 - weight) * np.abs(spectra[before]) + weight * np.abs(spectra[before + 1])
    # phases advance from frame to frame as in the input, at whichever pace the frames are read
    advances = np.angle(spectra[before + 1]) - np.angle(spectra[before])
    phases = np.angle(spectra[:1]) + np.cumsum(advances, axis=0) - advances
    frames = np.fft.irfft(magnitudes * np.exp(1j * phases), width) * window
    stretched = np.zeros(len(frames) * hop + width)
    for index, frame in enumerate(frames):
        stretched[index * hop : index * hop + width] += frame
    start = round(0.5 * width * (1.0 + 1.0 / factor))
    # the overlapping squares of the window add up to 1.5
    return _in_full_scale(stretched[start : start + round(len(waveform) / factor)] / 1.5)


def shift_pitch(waveform: np.ndarray, rate: int, semitones: float) -> np.ndarray:
    """The waveform at another pitch, as long as before. The formants are shifted as well."""
    factor = 2.0 ** (semitones / 12.0)
    shifted = change_speed(change_tempo(waveform, rate, 1.0 / factor), rate, factor)
    return np.pad(shifted, (0, max(0, len(waveform) - len(shifted))))[: len(waveform)]


@dataclass(frozen=True)
class Augmentation:
    """
    How often each effect is applied, and its range. Draws depend on the key alone, such as a seed and the index of a row: the
    same key gives the same result in any order and any process.
    """

    share: float = 0.6  # of the waveforms that are changed at all; the shares below are of these
    speed_share: float = 0.4
    speeds: tuple[float, float] = (0.88, 1.14)
    room_share: float = 0.5
    rooms: tuple[float, float] = (0.15, 0.7)  # rt60 in seconds
    distances_db: tuple[float, float] = (0.0, 12.0)  # direct-to-reverberant ratio
    noise_share: float = 0.7
    noises: tuple[str, ...] = NOISES  # babble only if `speech` is passed to `augment`
    snrs_db: tuple[float, float] = (5.0, 30.0)
    clip_share: float = 0.05
    clip_levels: tuple[float, float] = (0.3, 0.9)
    telephone_share: float = 0.1
    gain_share: float = 1.0
    peaks_db: tuple[float, float] = (-26.0, -1.0)  # of the largest sample; 0 is full scale

    def __post_init__(self):
        for name, value in vars(self).items():
            if name.endswith("share") and not 0.0 <= value <= 1.0:
                raise ValueError(f"`{name}` is {value}: it must be between 0 and 1.")
            if name == "noises" and (unknown := set(value) - set(NOISES)):
                raise ValueError(f"`noises` holds {min(unknown)!r}: choose from {', '.join(NOISES)}.")
            if not name.endswith(("share", "noises")) and (len(value) != 2 or value[0] > value[1]):
                raise ValueError(f"`{name}` is {value}: it must be two numbers, the smaller one first.")

    @property
    def longest(self) -> float:
        """The largest factor by which a waveform gets longer."""
        return 1.0 / min(1.0, self.speeds[0]) if self.share > 0.0 and self.speed_share > 0.0 else 1.0

    def augment(self, waveform: np.ndarray, rate: int, key: Any, speech: Speech = ()) -> np.ndarray:
        """The augmented waveform; `speech` holds recordings of other speakers at the same rate, for babble."""
        generator = generator_of(key)
        if generator.random() >= self.share:
            return waveform
        if generator.random() < self.speed_share:
            waveform = change_speed(waveform, rate, generator.uniform(*self.speeds))
        if generator.random() < self.room_share:
            rt60, distance_db = generator.uniform(*self.rooms), generator.uniform(*self.distances_db)
            waveform = add_room(waveform, rate, rt60, generator, distance_db)
        noises = [noise for noise in self.noises if noise != "babble" or len(speech) > 0]
        if noises and generator.random() < self.noise_share:
            kind = noises[generator.integers(len(noises))]
            waveform = add_noise(waveform, rate, generator.uniform(*self.snrs_db), kind, generator, speech)
        if generator.random() < self.clip_share:
            waveform = clip(waveform, generator.uniform(*self.clip_levels))
        if generator.random() < self.telephone_share:
            waveform = telephone_band(waveform, rate)
        if generator.random() < self.gain_share:
            peak = max(float(np.abs(waveform).max(initial=0.0)), 1e-4)
            waveform = _in_full_scale(waveform * 10.0 ** (generator.uniform(*self.peaks_db) / 20.0) / peak)
        return waveform


def generator_of(*key: Any) -> Generator:
    """A random generator that depends on the key alone."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big"))


def mean_power(waveform: np.ndarray) -> float:
    return float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0


def speech_power(waveform: np.ndarray) -> float:
    """The mean power without pauses: over blocks of 256 samples at most 30 dB below the loudest one."""
    blocks = waveform[: len(waveform) // 256 * 256].reshape(-1, 256)
    powers = np.square(blocks, dtype=np.float64).mean(axis=1) if len(blocks) else np.array([mean_power(waveform)])
    return float(powers[powers >= 1e-3 * powers.max()].mean())


def _in_full_scale(waveform: np.ndarray) -> np.ndarray:
    """float32, attenuated as a whole if it exceeds full scale: clipping is an effect of its own."""
    return (waveform / max(1.0, float(np.abs(waveform).max(initial=0.0)))).astype(np.float32)


def _fft_size(num_samples: int) -> int:
    return 1 << max(1, num_samples - 1).bit_length()
