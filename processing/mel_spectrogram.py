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
"""The log-mel spectrogram that the model speaks in and the vocoder listens to: exactly Vocos's, in plain torch."""

import math
from typing import Literal

import torch
from torch import nn


# Magnitudes below this count as this: the logarithm of digital silence is -16.1, not minus infinity.
SMALLEST_MAGNITUDE = 1e-7


def hertz_to_mel(frequency: float) -> float:
    """The HTK scale: about linear up to 700 Hz, logarithmic above."""
    return 2595.0 * math.log10(1.0 + frequency / 700.0)


def htk_mel_filters(sampling_rate: int, n_fft: int, num_mel_bins: int) -> torch.Tensor:
    """
    Triangles of height 1, evenly spaced in mel: `(n_fft // 2 + 1, num_mel_bins)`.

    Computed in float32, in this order of operations: filters computed in float64 (as `transformers.audio_utils` does)
    and rounded afterwards differ from those that Vocos was trained with by up to 1e-4 in the log.
    """
    frequencies = torch.linspace(0, sampling_rate // 2, n_fft // 2 + 1, dtype=torch.float32)
    mels = torch.linspace(0.0, hertz_to_mel(sampling_rate / 2), num_mel_bins + 2, dtype=torch.float32)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    widths = edges[1:] - edges[:-1]
    slopes = edges.unsqueeze(0) - frequencies.unsqueeze(1)
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


class MelSpectrogram(nn.Module):
    """
    Natural logarithm of the magnitude mel-spectrogram: HTK scale, triangles of height 1, a Hann window of `n_fft`.

    `padding` says where the first frame lies: with `"center"` on the first sample, and `n` samples give
    `1 + n // hop_length` frames; with `"same"` half a hop later, and they give `n // hop_length`. Both reflect the
    waveform at its ends. The gradient flows back to the waveform, so that a vocoder's loss can use it.
    """

    def __init__(
        self,
        sampling_rate: int = 24000,
        n_fft: int = 1024,
        hop_length: int = 256,
        num_mel_bins: int = 100,
        padding: Literal["center", "same"] = "center",
    ):
        super().__init__()
        if padding not in ("center", "same"):
            raise ValueError(f'`padding` is {padding!r}: choose "center" or "same".')
        if hop_length > n_fft:
            raise ValueError(
                f"`hop_length` ({hop_length}) exceeds `n_fft` ({n_fft}): the samples between two windows would never "
                "be seen. Lower `hop_length`."
            )
        if padding == "same" and (n_fft - hop_length) % 2:
            raise ValueError(
                f'With `padding="same"`, `n_fft - hop_length` ({n_fft} - {hop_length}) must be even, so that both '
                "ends get the same number of samples. Change one of them by one."
            )
        self.sampling_rate = sampling_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.num_mel_bins = num_mel_bins
        self.padding = padding
        self.padded_samples = n_fft // 2 if padding == "center" else (n_fft - hop_length) // 2
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float32), persistent=False)
        self.register_buffer("filters", htk_mel_filters(sampling_rate, n_fft, num_mel_bins), persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Frames that a waveform of so many samples gives."""
        return max(0, 1 + (num_samples + 2 * self.padded_samples - self.n_fft) // self.hop_length)

    def num_samples(self, num_frames: int) -> int:
        """Samples that a vocoder makes of so many frames: the shortest waveform that gives as many."""
        return max(0, (num_frames - 1) * self.hop_length + self.n_fft - 2 * self.padded_samples)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest waveform that can be reflected at its ends and gives a frame."""
        return max(self.padded_samples + 1, self.num_samples(1), 1)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Maps `(num_samples,)` or `(batch_size, num_samples)` to `(..., num_frames, num_mel_bins)`."""
        if waveform.ndim not in (1, 2) or not waveform.is_floating_point():
            raise ValueError(
                f"Got a waveform of shape {tuple(waveform.shape)} and type {waveform.dtype}: pass floating-point "
                "samples of shape (num_samples,) or (batch_size, num_samples)."
            )
        if waveform.shape[-1] < self.min_samples:
            raise ValueError(
                f"Got a waveform of {waveform.shape[-1]} samples: reflecting it at its ends takes at least "
                f"{self.min_samples} (n_fft={self.n_fft}, padding={self.padding!r}). Append silence."
            )
        # fp32 whatever the caller computes in: a spectrum spans more than the 8 bits of bf16
        with torch.autocast(waveform.device.type, enabled=False):
            batch = torch.atleast_2d(waveform).to(self.window.dtype)
            batch = nn.functional.pad(batch, (self.padded_samples, self.padded_samples), mode="reflect")
            spectrum = torch.stft(
                batch, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True
            )
            mel = spectrum.abs().transpose(-1, -2) @ self.filters
            log_mel = mel.clamp(min=SMALLEST_MAGNITUDE).log()
        return log_mel if waveform.ndim == 2 else log_mel.squeeze(0)
