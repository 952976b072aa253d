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
"""What a waveform tells without a recogniser: where it is silent, and how far its spectrum is from another's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .time_alignment import aligned_distance


FRAME_SECONDS = 0.02
# Speech this far below its own loud parts is heard as a pause; below the floor nothing is heard at all.
PAUSE_DECIBELS, FLOOR_DECIBELS = -35.0, -60.0
# A click or a breath is no speech, and does not end a silence.
MIN_SOUND_FRAMES = 3


@dataclass(frozen=True)
class Silences:
    """Seconds of silence before the first sound, the longest between sounds, and after the last; and of the rest."""

    before: float
    longest_inside: float
    after: float
    voiced: float


def silences(waveform: np.ndarray, sampling_rate: int) -> Silences:
    """Where a waveform `(num_samples,)` is silent, by the energy of its frames."""
    is_sound = _without_clicks(frame_decibels(waveform, sampling_rate) > threshold(waveform, sampling_rate))
    if not is_sound.any():
        return Silences(before=len(waveform) / sampling_rate, longest_inside=0.0, after=0.0, voiced=0.0)
    first, last = int(is_sound.argmax()), len(is_sound) - 1 - int(is_sound[::-1].argmax())
    inside = max((length for value, _, length in _runs(is_sound[first : last + 1]) if not value), default=0)
    return Silences(
        before=first * FRAME_SECONDS,
        longest_inside=inside * FRAME_SECONDS,
        after=(len(is_sound) - 1 - last) * FRAME_SECONDS,
        voiced=(last + 1 - first) * FRAME_SECONDS,
    )


def frame_decibels(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """The level of each frame in decibels below full scale."""
    size = round(FRAME_SECONDS * sampling_rate)
    padded = np.pad(np.asarray(waveform, dtype=np.float64), (0, -len(waveform) % size))
    power = (padded.reshape(-1, size) ** 2).mean(axis=1)
    return 10 * np.log10(np.maximum(power, 1e-12))


def threshold(waveform: np.ndarray, sampling_rate: int) -> float:
    """The level under which a frame of this waveform is silent."""
    levels = frame_decibels(waveform, sampling_rate)
    loud = np.quantile(levels, 0.95) if len(levels) else FLOOR_DECIBELS
    return max(loud + PAUSE_DECIBELS, FLOOR_DECIBELS)


def _without_clicks(is_sound: np.ndarray) -> np.ndarray:
    is_sound = is_sound.copy()
    for value, start, length in _runs(is_sound):
        if value and length < MIN_SOUND_FRAMES:
            is_sound[start : start + length] = False
    return is_sound


def _runs(values: np.ndarray) -> list[tuple[bool, int, int]]:
    """Value, start and length of each run of equal values."""
    if len(values) == 0:
        return []
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1, [len(values)]])
    return [(bool(values[start]), int(start), int(end - start)) for start, end in zip(starts, starts[1:])]


@dataclass(frozen=True)
class SpectralDistance:
    """
    How far one recording is from another of the same words.

    Args:
        mel (`float`):
            Root mean square difference of log-mel frames (natural logarithm), mean over the warping path.
        decibels (`float`):
            Log-spectral distance along the same path: the root mean square difference of power spectra in decibels.
    """

    mel: float
    decibels: float


def spectral_distance(first: np.ndarray, second: np.ndarray, mel_spectrogram: Any, floor: float) -> SpectralDistance:
    """
    The distance of two waveforms of `mel_spectrogram`'s sampling rate. Values below `floor` (of a log-mel) count as
    `floor`: the noise of a silence that nobody hears would decide the figure otherwise.
    """
    first, second = (_long_enough(waveform, mel_spectrogram) for waveform in (first, second))
    mels = [np.maximum(mel_spectrogram(torch.from_numpy(waveform)).numpy(), floor) for waveform in (first, second)]
    distance, path = aligned_distance(*mels)
    spectra = [_decibels(waveform, mel_spectrogram, floor) for waveform in (first, second)]
    differences = spectra[0][path[0]] - spectra[1][path[1]]
    return SpectralDistance(distance, float(np.sqrt((differences**2).mean(axis=1)).mean()))


def _long_enough(waveform: np.ndarray, mel_spectrogram: Any) -> np.ndarray:
    waveform = np.asarray(waveform, dtype=np.float32)
    return np.pad(waveform, (0, max(0, mel_spectrogram.min_samples - len(waveform))))


def _decibels(waveform: np.ndarray, mel_spectrogram: Any, floor: float) -> np.ndarray:
    """The spectrum `(num_frames, num_frequencies)` in decibels, in the same frames as its mel-spectrogram."""
    padding = mel_spectrogram.padded_samples
    padded = torch.nn.functional.pad(torch.from_numpy(waveform)[None], (padding, padding), mode="reflect")
    spectrum = torch.stft(
        padded,
        mel_spectrogram.n_fft,
        mel_spectrogram.hop_length,
        window=mel_spectrogram.window,
        center=False,
        return_complex=True,
    )
    magnitudes = spectrum.abs()[0].T.clamp(min=float(np.exp(floor)))
    return (20 * magnitudes.log10()).numpy()


def sharpness(mel: np.ndarray, floor: float) -> float:
    """
    Mean absolute difference between neighbouring frames of a log-mel `(num_frames, num_bins)`: lower than that of natural
    speech where a model blurs. Frames of silence would lower it, and are left out.
    """
    mel = np.maximum(mel, floor)
    level = mel.mean(axis=1)
    is_loud = level > floor + 0.25 * (level.max(initial=floor) - floor)
    both = is_loud[1:] & is_loud[:-1]
    return float(np.abs(np.diff(mel, axis=0))[both].mean()) if both.any() else 0.0
