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
"""What the world does to speech on its way to a microphone: rooms, noises, loudness, telephones, speeds and pitches."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from ..processing.audio_io import resample


Noise = Literal["white", "pink", "brown", "hum", "babble"]

# How steeply the power of a noise falls with frequency f: 1 / f ** exponent.
EXPONENTS: dict[str, float] = {"white": 0.0, "pink": 1.0, "brown": 2.0}
NOISES = (*EXPONENTS, "hum", "babble")
# Talkers of a babble: fewer are understood, more are a rustle.
NUM_TALKERS = 5
# Decay of sound by 60 dB, as a power of e.
SIXTY_DECIBELS = 3.0 * np.log(10.0)
TELEPHONE_BAND = (300.0, 3400.0)
MU_LAW = 255.0


def add_noise(
    waveform: np.ndarray,
    rate: int,
    snr_db: float,
    kind: Noise,
    generator: np.random.Generator,
    speech: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """
    The waveform `(num_samples,)` with noise, so many decibels below what is loud in it.

    Args:
        snr_db (`float`):
            How much louder the speech is, pauses not counted.
        kind (`str`):
            `"white"`, `"pink"` (rain), `"brown"` (wind), `"hum"` (mains) or `"babble"` (people).
        speech (`list[np.ndarray]`):
            Recordings of other people at the same rate, for babble.
    """
    noise = make_noise(kind, len(waveform), rate, generator, speech)
    scale = np.sqrt(loud_power(waveform) / max(mean_power(noise), 1e-12)) * 10.0 ** (-snr_db / 20.0)
    return _float32(waveform + scale * noise)


def make_noise(
    kind: Noise, num_samples: int, rate: int, generator: np.random.Generator, speech: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Noise of a kind, of any loudness: (num_samples,)"""
    if kind == "hum":
        return _hum(num_samples, rate, generator)
    if kind == "babble":
        return _babble(num_samples, generator, speech)
    if kind not in EXPONENTS:
        raise ValueError(f"The noise is {kind!r}: it must be one of {', '.join(NOISES)}.")
    size = _fast_size(num_samples)
    spectrum = np.fft.rfft(generator.standard_normal(size, dtype=np.float32))
    # nothing below 20 Hz, where brown noise would have all its power and nobody hears it
    frequencies = np.maximum(np.fft.rfftfreq(size, 1.0 / rate), 20.0)
    return np.fft.irfft(spectrum * frequencies ** (-EXPONENTS[kind] / 2.0), size)[:num_samples]


def _hum(num_samples: int, rate: int, generator: np.random.Generator) -> np.ndarray:
    """Mains: 50 or 60 Hz with overtones."""
    time = np.arange(num_samples) / rate
    mains = generator.choice([50.0, 60.0])
    phases = generator.uniform(0.0, 2.0 * np.pi, 8)
    levels = generator.uniform(0.2, 1.0, 8) / np.arange(1, 9)
    overtones = np.arange(1, 9)[:, None] * (2.0 * np.pi * mains) * time
    return (levels[:, None] * np.sin(overtones + phases[:, None])).sum(axis=0)


def _babble(num_samples: int, generator: np.random.Generator, speech: Sequence[np.ndarray]) -> np.ndarray:
    """Several people at once, each from somewhere in what they say."""
    if len(speech) == 0:
        raise ValueError("Babble is made of speech, and none was given: pass recordings of other people as `speech`.")
    babble = np.zeros(num_samples)
    for index in generator.integers(len(speech), size=NUM_TALKERS):
        talker = np.roll(speech[index], generator.integers(len(speech[index])))
        level = generator.uniform(0.5, 1.0) / np.sqrt(max(loud_power(talker), 1e-12))
        babble += level * np.resize(talker, num_samples)
    return babble


def add_room(
    waveform: np.ndarray,
    rate: int,
    rt60: float,
    generator: np.random.Generator,
    direct_to_reverberant_db: float = 6.0,
) -> np.ndarray:
    """
    The waveform as it sounds in a room, as loud as before: what arrives directly comes undelayed, then single reflections,
    then a dense tail. What would sound after the end is cut.

    Args:
        rt60 (`float`):
            Seconds in which sound fades by 60 dB: 0.15 in a car, 0.4 in a living room, 0.7 in a classroom.
        direct_to_reverberant_db (`float`, *optional*, defaults to 6.0):
            How much louder the direct sound is than all that follows: less, the farther away.
    """
    if rt60 <= 0:
        raise ValueError(f"`rt60` is {rt60}: it must be a number of seconds above 0.")
    response = generator.standard_normal(max(2, round(rt60 * rate)), dtype=np.float32).astype(np.float64)
    time = np.arange(len(response)) / rate
    # the tail is dense only after about 20 ms, when sound has met several walls
    response *= np.minimum(time / 0.02, 1.0)
    first = generator.integers(round(0.002 * rate), max(3, min(round(0.04 * rate), len(response))), 6)
    response[first] += generator.choice([-1.0, 1.0], 6) * generator.uniform(1.0, 4.0, 6)
    response *= np.exp(-SIXTY_DECIBELS * time / rt60)
    response[0] = 0.0
    response *= 10.0 ** (-direct_to_reverberant_db / 20.0) / max(np.sqrt((response**2).sum()), 1e-12)
    response[0] = 1.0
    size = _fast_size(len(waveform) + len(response))
    wet = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(response, size), size)[: len(waveform)]
    return _float32(wet * np.sqrt(mean_power(waveform) / max(mean_power(wet), 1e-12)))


def change_gain(waveform: np.ndarray, gain_db: float) -> np.ndarray:
    """Louder or softer, but not beyond full scale."""
    return _float32(waveform * 10.0 ** (gain_db / 20.0))


def telephone_band(
    waveform: np.ndarray, rate: int, band: tuple[float, float] = TELEPHONE_BAND, codec: bool = True
) -> np.ndarray:
    """What a telephone leaves: no lows, no highs, and with its codec the 8-bit samples (mu-law) at 8 kHz."""
    spectrum = np.fft.rfft(waveform)
    frequencies = np.fft.rfftfreq(len(waveform), 1.0 / rate)
    # slopes, as steep edges would ring
    rises, falls = (np.clip((frequencies - edge) / (0.2 * edge) + 0.5, 0.0, 1.0) for edge in band)
    narrow = _float32(np.fft.irfft(spectrum * rises * (1.0 - falls), len(waveform)))
    if not codec:
        return narrow
    line = np.clip(resample(narrow, rate, 8000), -1.0, 1.0)
    coded = np.round(np.sign(line) * np.log1p(MU_LAW * np.abs(line)) / np.log1p(MU_LAW) * 127.0) / 127.0
    decoded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(MU_LAW)) / MU_LAW
    return _float32(resample(decoded.astype(np.float32), 8000, rate)[: len(waveform)])


def clip(waveform: np.ndarray, level: float) -> np.ndarray:
    """The peaks cut off at a part of the largest one."""
    if not 0.0 < level <= 1.0:
        raise ValueError(f"`level` is {level}: it must be above 0 and at most 1.")
    limit = level * np.abs(waveform).max(initial=0.0)
    return _float32(np.clip(waveform, -limit, limit))


def change_speed(waveform: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """Played so many times as fast, as a tape: the pitch and the size of the speaker change with it."""
    _check_factor("factor", factor)
    return _float32(resample(waveform, round(rate * factor), rate))


def change_tempo(waveform: np.ndarray, rate: int, factor: float) -> np.ndarray:
    """Said so many times as fast at the same pitch, by a phase vocoder."""
    _check_factor("factor", factor)
    size, window_seconds = len(waveform), 0.04
    width = 2 ** round(np.log2(window_seconds * rate))
    hop, window = width // 4, np.hanning(width + 1)[:-1]
    padded = np.pad(waveform, (width, 2 * width))
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, width)[::hop] * window)
    at = np.arange(0.0, len(spectra) - 1, factor)
    # rounding may put the last one on the end
    before = np.minimum(at.astype(int), len(spectra) - 2)
    part = (at - before)[:, None]
    magnitudes = (1.0 - part) * np.abs(spectra[before]) + part * np.abs(spectra[before + 1])
    # by how much each phase advances from frame to frame, whichever pace the frames are read at
    advances = np.angle(spectra[before + 1]) - np.angle(spectra[before])
    phases = np.angle(spectra[:1]) + np.concatenate([np.zeros_like(advances[:1]), np.cumsum(advances, axis=0)[:-1]])
    frames = np.fft.irfft(magnitudes * np.exp(1j * phases), width) * window
    stretched = np.zeros(len(frames) * hop + width)
    for index, frame in enumerate(frames):
        stretched[index * hop : index * hop + width] += frame
    # the overlapping squares of the window add up to 1.5
    start = round(0.5 * width * (1.0 + 1.0 / factor))
    return _float32(stretched[start : start + round(size / factor)] / 1.5)


def shift_pitch(waveform: np.ndarray, rate: int, semitones: float) -> np.ndarray:
    """As long as before, but higher (or lower, below zero), and so are the formants: a smaller speaker."""
    factor = 2.0 ** (semitones / 12.0)
    shifted = change_speed(change_tempo(waveform, rate, 1.0 / factor), rate, factor)
    return np.pad(shifted, (0, max(0, len(waveform) - len(shifted))))[: len(waveform)]


@dataclass(frozen=True)
class Augmentation:
    """
    How often which of these happens to a sound, and how strongly. Everything is drawn by a key, such as the id of a row:
    the same key meets the same, in any order and process.

    Attributes:
        share: of the sounds, how many are changed at all. The shares below are of these.
        speed_share, speeds: another speaker, see [`change_speed`].
        room_share, rooms, distances_db: a room, by its `rt60` in seconds, see [`add_room`].
        noise_share, noises, snrs_db: noises, see [`add_noise`]; babble only where other speech is given.
        telephone_share: a telephone.
        clip_share, clip_levels: an overdriven microphone.
        gain_share, peaks_db: another loudness, by its largest sample; 0 is full scale.
        seed: decides the draw.
    """

    share: float = 0.6
    speed_share: float = 0.4
    speeds: tuple[float, float] = (0.88, 1.14)
    room_share: float = 0.5
    rooms: tuple[float, float] = (0.15, 0.7)
    distances_db: tuple[float, float] = (0.0, 12.0)
    noise_share: float = 0.7
    noises: tuple[Noise, ...] = NOISES
    snrs_db: tuple[float, float] = (5.0, 30.0)
    telephone_share: float = 0.1
    clip_share: float = 0.05
    clip_levels: tuple[float, float] = (0.3, 0.9)
    gain_share: float = 1.0
    peaks_db: tuple[float, float] = (-26.0, -1.0)
    seed: int = 0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("share") and not 0.0 <= value <= 1.0:
                raise ValueError(f"`{field.name}` is {value}: it must be between 0 and 1.")
            if field.name in ("speeds", "rooms", "distances_db", "snrs_db", "clip_levels", "peaks_db"):
                if len(value) != 2 or value[0] > value[1]:
                    raise ValueError(f"`{field.name}` is {value}: it must be two numbers, the smaller one first.")
        if unknown := set(self.noises) - set(NOISES):
            raise ValueError(f"`noises` holds {sorted(unknown)[0]!r}: choose from {', '.join(NOISES)}.")

    @property
    def longest(self) -> float:
        """How many times as long as before a sound is at most."""
        return 1.0 / min(1.0, self.speeds[0]) if self.share > 0.0 and self.speed_share > 0.0 else 1.0

    def augment(self, waveform: np.ndarray, rate: int, key: Any, speech: Sequence[np.ndarray] = ()) -> np.ndarray:
        """The waveform `(num_samples,)` as it happens to be heard; `speech` is that of other people, for babble."""
        generator = generator_of(self.seed, key)
        if generator.random() >= self.share:
            return waveform
        if generator.random() < self.speed_share:
            waveform = change_speed(waveform, rate, generator.uniform(*self.speeds))
        if generator.random() < self.room_share:
            waveform = add_room(
                waveform, rate, generator.uniform(*self.rooms), generator, generator.uniform(*self.distances_db)
            )
        noises = [noise for noise in self.noises if noise != "babble" or len(speech) > 0]
        if noises and generator.random() < self.noise_share:
            kind = noises[generator.integers(len(noises))]
            waveform = add_noise(waveform, rate, generator.uniform(*self.snrs_db), kind, generator, speech)
        if generator.random() < self.clip_share:
            waveform = clip(waveform, generator.uniform(*self.clip_levels))
        if generator.random() < self.telephone_share:
            waveform = telephone_band(waveform, rate)
        if generator.random() < self.gain_share:
            peak_db = 20.0 * np.log10(max(float(np.abs(waveform).max(initial=0.0)), 1e-4))
            waveform = change_gain(waveform, generator.uniform(*self.peaks_db) - peak_db)
        return waveform


def generator_of(*key: Any) -> np.random.Generator:
    """Randomness that depends on the key alone: on no state, no process, no order."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big"))


def mean_power(waveform: np.ndarray) -> float:
    return float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0


def loud_power(waveform: np.ndarray, num_samples: int = 256) -> float:
    """The mean power where something is said: of the stretches that are at most 30 dB below the loudest."""
    whole = len(waveform) // num_samples * num_samples
    if whole == 0:
        return mean_power(waveform)
    powers = np.square(waveform[:whole], dtype=np.float64).reshape(-1, num_samples).mean(axis=1)
    return float(powers[powers >= 1e-3 * powers.max()].mean())


def _float32(waveform: np.ndarray) -> np.ndarray:
    """In full scale: what is louder is turned down as a whole, as clipping is an effect of its own."""
    return (waveform / max(1.0, float(np.abs(waveform).max(initial=0.0)))).astype(np.float32)


def _fast_size(num_samples: int) -> int:
    """A size whose Fourier transform is fast."""
    return 1 << max(1, num_samples - 1).bit_length()


def _check_factor(name: str, factor: float) -> None:
    if not 0.25 <= factor <= 4.0:
        raise ValueError(f"`{name}` is {factor}: it must be between 0.25 and 4, with 1 for no change.")
