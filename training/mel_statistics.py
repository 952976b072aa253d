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
"""Mean and deviation of every mel band of the spoken answers, measured before the first step and kept in the model."""

from collections.abc import Callable, Iterable, Mapping

import torch

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniMelNormalizer
from ..modeling_flow_omni.speech_heads import FlowOmniResidualQuantizer


# A band that hardly varies (silence above the voice's range) would be divided by next to nothing.
MIN_DEVIATION = 0.05
# A band is silent that lies this close to the floor, and stays there: with speech in it, it deviates by 1 to 3.
SILENT_ABOVE_FLOOR = 1.0
SILENT_DEVIATION = 0.5


class MelStatistics:
    """Exact sums over mel frames, in fp64: a difference of big numbers gives the deviation."""

    def __init__(self, num_mel_bins: int, mel_floor: float):
        self.mel_floor = mel_floor
        self.count = torch.zeros(1, dtype=torch.float64)
        self.sum = torch.zeros(num_mel_bins, dtype=torch.float64)
        self.sum_of_squares = torch.zeros(num_mel_bins, dtype=torch.float64)

    def add(self, frames: torch.Tensor) -> None:
        """Log-mel frames (num_frames, num_mel_bins), held above the floor as the model does."""
        frames = frames.cpu().double().clamp(min=self.mel_floor)
        self.count += len(frames)
        self.sum += frames.sum(dim=0)
        self.sum_of_squares += frames.square().sum(dim=0)

    def reduce(self, sum_over_processes: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Adds up what the processes have seen."""
        summed = sum_over_processes(torch.cat([self.count, self.sum, self.sum_of_squares]))
        self.count, self.sum, self.sum_of_squares = summed.split([1, len(self.sum), len(self.sum)])

    @property
    def mean(self) -> torch.Tensor:
        return self.sum / self.count

    @property
    def std(self) -> torch.Tensor:
        variance = self.sum_of_squares / self.count - self.mean.square()
        return variance.clamp(min=0).sqrt().clamp(min=MIN_DEVIATION)


def spoken_patches(batch: Mapping[str, torch.Tensor], generating_state_id: int) -> torch.Tensor | None:
    """The patches of a batch (num_patches, frames_per_step, num_mel_bins), without the padding of its rows."""
    if batch.get("mel_labels") is None:
        return None
    num_patches = (batch["speech_states"] == generating_state_id).sum(dim=-1)
    patches = batch["mel_labels"]
    is_patch = torch.arange(patches.shape[1], device=patches.device) < num_patches[:, None]
    return patches[is_patch]


def measure(
    batches: Iterable[Mapping[str, torch.Tensor]], normalizer: FlowOmniMelNormalizer, generating_state_id: int
) -> MelStatistics:
    """The statistics of the speech in some batches."""
    statistics = MelStatistics(len(normalizer.mean), normalizer.config.mel_floor)
    for batch in batches:
        patches = spoken_patches(batch, generating_state_id)
        if patches is not None:
            statistics.add(patches.flatten(0, 1))
    return statistics


def are_measured(normalizer: FlowOmniMelNormalizer) -> bool:
    """Whether a model brings statistics along. They stay: what it has learnt means nothing under others."""
    mean, std = normalizer.initial_statistics()
    return not (torch.equal(normalizer.mean.cpu(), mean) and torch.equal(normalizer.std.cpu(), std))


def bands_to_measure(normalizer: FlowOmniMelNormalizer) -> torch.Tensor:
    """
    Of a new model all bands; of one that brings statistics those that were silent in all that it has spoken. It has learnt
    nothing in them, and under its statistics the first voice that reaches higher would lie a hundred deviations away.
    """
    if not are_measured(normalizer):
        return torch.ones_like(normalizer.mean, dtype=torch.bool)
    is_low = normalizer.mean < normalizer.config.mel_floor + SILENT_ABOVE_FLOOR
    return is_low & (normalizer.std < SILENT_DEVIATION)


@torch.no_grad()
def store(statistics: MelStatistics, normalizer: FlowOmniMelNormalizer, bands: torch.Tensor) -> None:
    if statistics.count > 0:
        normalizer.mean[bands] = statistics.mean.to(normalizer.mean)[bands]
        normalizer.std[bands] = statistics.std.to(normalizer.std)[bands]


def fit_codebooks(
    quantizer: FlowOmniResidualQuantizer,
    batches: Iterable[Mapping[str, torch.Tensor]],
    normalizer: FlowOmniMelNormalizer,
    generating_state_id: int,
) -> None:
    """Sets the codebooks of the discrete baseline by k-means on the patches of some batches: random ones teach nothing."""
    patches = [spoken_patches(batch, generating_state_id) for batch in batches]
    patches = [normalizer.normalize(patch).flatten(1) for patch in patches if patch is not None]
    if patches:
        quantizer.fit(torch.cat(patches), generator=torch.Generator().manual_seed(0))
