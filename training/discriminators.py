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
"""The vocoder's critics: some see a waveform folded at a period, the others its spectrum at a resolution."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


PERIODS = (2, 3, 5, 7, 11)
RESOLUTIONS = (2048, 1024, 512)
SLOPE = 0.1


class PeriodDiscriminator(nn.Module):
    """Folds the waveform into rows of `period` samples: what repeats at it, or should and does not, lies in columns."""

    def __init__(self, period: int, channels: int = 32):
        super().__init__()
        self.period = period
        sizes = [1, channels, 4 * channels, 16 * channels, 32 * channels]
        self.layers = nn.ModuleList(
            [
                weight_norm(nn.Conv2d(one, other, (5, 1), (3, 1), padding=(2, 0)))
                for one, other in zip(sizes, sizes[1:])
            ]
        )
        self.output = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`(batch_size, num_samples)` to scores, and the features of all layers."""
        waveform = nn.functional.pad(waveform, (0, -waveform.shape[-1] % self.period))
        hidden_states = waveform.unflatten(-1, (-1, self.period)).unsqueeze(1)
        return _through(self.layers, self.output, hidden_states)


class ResolutionDiscriminator(nn.Module):
    """Sees the magnitudes of a spectrum as a picture."""

    def __init__(self, n_fft: int, channels: int = 32):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        sizes = [1, channels, channels, channels, channels]
        # frames stay, bands are joined: harmonics are regular across bands, and change from frame to frame
        self.layers = nn.ModuleList(
            [
                weight_norm(nn.Conv2d(one, other, (7, 5), (2, 1), padding=(3, 2)))
                for one, other in zip(sizes, sizes[1:])
            ]
        )
        self.output = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, waveform: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`(batch_size, num_samples)` to scores, and the features of all layers."""
        waveform = nn.functional.pad(waveform, (0, max(0, self.n_fft - waveform.shape[-1])))
        spectrum = torch.stft(
            waveform, self.n_fft, self.n_fft // 4, window=self.window, center=False, return_complex=True
        )
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        return _through(self.layers, self.output, magnitude.unsqueeze(1))


class Discriminators(nn.Module):
    """All of them."""

    def __init__(self, periods: Sequence[int] = PERIODS, resolutions: Sequence[int] = RESOLUTIONS, channels: int = 32):
        super().__init__()
        self.critics = nn.ModuleList(
            [PeriodDiscriminator(period, channels) for period in periods]
            + [ResolutionDiscriminator(n_fft, channels) for n_fft in resolutions]
        )

    def forward(self, waveform: torch.Tensor) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        scores, features = zip(*(critic(waveform) for critic in self.critics))
        return list(scores), list(features)


def _through(
    layers: nn.ModuleList, output: nn.Module, hidden_states: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    features = []
    for layer in layers:
        hidden_states = nn.functional.leaky_relu(layer(hidden_states), SLOPE)
        features.append(hidden_states)
    return output(hidden_states).flatten(1), features
