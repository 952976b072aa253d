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
"""The reconstruction losses of the vocoder: spectra of what it says against spectra of what was said."""

from collections.abc import Sequence

import torch
from torch import nn


# Window lengths in samples; each hops a quarter of its window. The long ones see pitch, the short ones see clicks.
RESOLUTIONS = (2048, 1024, 512, 256, 128)
SMALLEST_MAGNITUDE = 1e-5


def magnitudes(waveform: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Magnitudes of the spectrum of `(batch_size, num_samples)`: `(batch_size, n_fft // 2 + 1, num_frames)`."""
    window = torch.hann_window(n_fft, device=waveform.device)
    spectrum = torch.stft(waveform, n_fft, n_fft // 4, window=window, return_complex=True)
    # not `abs`, whose gradient at zero is not a number
    return (spectrum.real.square() + spectrum.imag.square() + SMALLEST_MAGNITUDE**2).sqrt()


class MultiResolutionSTFTLoss(nn.Module):
    """
    For each resolution the relative error of the magnitudes (which minds the loud) and the mean error of their logarithms
    (which minds the quiet).
    """

    def __init__(self, resolutions: Sequence[int] = RESOLUTIONS):
        super().__init__()
        self.resolutions = tuple(resolutions)

    def forward(self, said: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        losses = []
        for n_fft in self.resolutions:
            if target.shape[-1] <= n_fft:  # too short to be reflected at its ends
                continue
            one, other = magnitudes(said, n_fft), magnitudes(target, n_fft)
            convergence = (other - one).norm(dim=(-2, -1)) / other.norm(dim=(-2, -1)).clamp(min=SMALLEST_MAGNITUDE)
            losses.append(convergence.mean() + (other.log() - one.log()).abs().mean())
        if not losses:
            raise ValueError(
                f"Pieces of {target.shape[-1]} samples are shorter than every window of {self.resolutions}: raise "
                "`vocoder.segment_seconds`."
            )
        return torch.stack(losses).mean()


def hinge_of_discriminator(real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Above 1 for what was said, below -1 for what the vocoder says: what is beyond that counts no more."""
    losses = [(1 - one).clamp(min=0).mean() + (1 + other).clamp(min=0).mean() for one, other in zip(real, fake)]
    return torch.stack(losses).mean()


def hinge_of_vocoder(fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """The vocoder is to be taken for real."""
    return torch.stack([(1 - score).clamp(min=0).mean() for score in fake]).mean()


def feature_distance(real: Sequence[Sequence[torch.Tensor]], fake: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Mean distance of what the layers of the discriminators see in the two."""
    distances = [
        (one.detach() - other).abs().mean()
        for real_layers, fake_layers in zip(real, fake)
        for one, other in zip(real_layers, fake_layers)
    ]
    return torch.stack(distances).mean()
