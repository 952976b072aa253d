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
"""Log-mel values as the model sees them: held above a floor, then brought to zero mean and unit deviation for each band."""

import torch
from torch import nn

from .configuration_flow_omni import FlowOmniSpeechConfig


class FlowOmniMelNormalizer(nn.Module):
    """The statistics are measured on the training data before the first step, and travel with the checkpoint."""

    def __init__(self, config: FlowOmniSpeechConfig):
        super().__init__()
        self.config = config
        mean, std = self.initial_statistics()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def initial_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation (num_mel_bins,) until the training data has been measured."""
        return (
            torch.full((self.config.num_mel_bins,), self.config.initial_mel_mean, dtype=torch.float32),
            torch.full((self.config.num_mel_bins,), self.config.initial_mel_std, dtype=torch.float32),
        )

    def _apply(self, fn, recurse: bool = True):
        # `model.to(bfloat16)` may move the statistics but not round them: they scale everything that is heard
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)
        if self.mean.dtype != torch.float32:
            self.mean, self.std = mean.to(self.mean.device), std.to(self.std.device)
        return self

    def normalize(self, mel: torch.Tensor) -> torch.Tensor:
        """Log-mel values (..., num_mel_bins) to the model's, in fp32."""
        mel = mel.to(self.mean.device, torch.float32).clamp(min=self.config.mel_floor)
        return (mel - self.mean) / self.std

    def hold_above_floor(self, mel: torch.Tensor) -> torch.Tensor:
        """The model's values (..., frames_per_step * num_mel_bins), none below the floor."""
        floor = (self.config.mel_floor - self.mean) / self.std
        return torch.maximum(mel.unflatten(-1, (-1, len(floor))), floor.to(mel.device)).flatten(-2)

    def denormalize(self, mel: torch.Tensor) -> torch.Tensor:
        """The model's values (..., num_mel_bins) to log-mel."""
        return mel.to(self.mean.device, torch.float32) * self.std + self.mean
