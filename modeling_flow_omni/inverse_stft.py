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
"""The inverse short-time Fourier transform as functions of tensors: overlapping frames become a waveform."""

import math

import torch
from torch import nn


MAX_LOG_MAGNITUDE = math.log(100.0)


def hann_window(n_fft: int, device: torch.device | None = None) -> torch.Tensor:
    """The periodic Hann window in fp32: `(n_fft,)`."""
    return torch.hann_window(n_fft, dtype=torch.float32, device=device)


def num_trimmed_samples(n_fft: int, hop_length: int, padding: str) -> int:
    """Samples to cut from each end of the overlapped frames: what `padding` added before the forward transform."""
    return n_fft // 2 if padding == "center" else (n_fft - hop_length) // 2


def overlap_add(frames: torch.Tensor, hop_length: int) -> torch.Tensor:
    """
    Sums frames laid `hop_length` samples apart: `(batch_size, num_frames, n_fft)` to `(batch_size, num_samples)` with
    `num_samples = (num_frames - 1) * hop_length + n_fft`. No frames make `n_fft - hop_length` zeros: what a stream
    carries over before its first frame.
    """
    num_frames, n_fft = frames.shape[1:]
    # (batch_size, num_frames, num_parts, hop_length): part k of a frame lies k hops after its first sample
    parts = nn.functional.pad(frames, (0, -n_fft % hop_length)).unflatten(-1, (-1, hop_length))
    num_parts = parts.shape[2]
    laid_out = [nn.functional.pad(parts[:, :, k], (0, 0, k, num_parts - 1 - k)) for k in range(num_parts)]
    return sum(laid_out).flatten(1)[:, : (num_frames - 1) * hop_length + n_fft]


def frames_from_spectrum(log_magnitude: torch.Tensor, phase: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """
    Windowed samples of each frame, `(..., n_fft)`, from its spectrum, `(..., n_fft // 2 + 1)`.

    Vocos bounds magnitudes at 100. Bounding the logarithm gives the same values; bounding the exponential would give
    the gradient `0 * inf` where it overflows.
    """
    if log_magnitude.numel() == 0:  # a stream whose first frame is not complete; the Fourier transform refuses it
        return log_magnitude.new_zeros(*log_magnitude.shape[:-1], window.shape[0])
    magnitude = log_magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp()
    real = magnitude * phase.cos()
    # The lowest and the highest band of a real signal have no imaginary part; devices differ in what they make of one
    imaginary = nn.functional.pad((magnitude * phase.sin())[..., 1:-1], (1, 1))
    return torch.fft.irfft(torch.complex(real, imaginary), n=window.shape[0]) * window
