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
"""Sounds for tests: a tone, noise that resembles speech no more than it must, and files of them."""

import io

import numpy as np
import soundfile


def tone(seconds: float = 0.5, sampling_rate: int = 16000, frequency: float = 440.0) -> np.ndarray:
    """A sine at half of full scale."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def noise(seconds: float = 0.5, sampling_rate: int = 16000, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(round(seconds * sampling_rate))
    return (0.1 * samples).astype(np.float32)


def file_bytes(
    samples: np.ndarray, sampling_rate: int = 16000, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    """The contents of an audio file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sampling_rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def frequency_of(waveform: np.ndarray, sampling_rate: int) -> float:
    """The loudest frequency in Hertz."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum)) * sampling_rate / len(waveform)


def pitch_of(speech):
    """Periods in a second, by the strongest repetition of the waveform between 70 and 400 a second."""
    spectrum = np.abs(np.fft.rfft(speech.waveform, 2 * len(speech.waveform))) ** 2
    correlation = np.fft.irfft(spectrum)
    shortest, longest = speech.sampling_rate // 400, speech.sampling_rate // 70
    return speech.sampling_rate / (shortest + int(np.argmax(correlation[shortest:longest])))
