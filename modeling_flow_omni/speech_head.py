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
"""What every speech head has: AdaLN blocks over a condition, a linear guess beside them, and an empty condition."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig
from .zero_layers import FlowOmniZeroLinear


class FlowOmniHeadBlock(nn.Module):
    """A residual MLP whose input is shifted and scaled, and whose output is gated, by the condition (AdaLN)."""

    def __init__(self, config: FlowOmniSpeechConfig):
        super().__init__()
        size = config.head_hidden_size
        self.norm = nn.LayerNorm(size, eps=1e-6, elementwise_affine=False)
        # every block starts as the identity
        self.modulation = FlowOmniZeroLinear(size, 3 * size)
        self.fc1 = nn.Linear(size, 2 * size)
        self.fc2 = nn.Linear(2 * size, size)
        self.act_fn = ACT2FN[config.head_hidden_act]

    def forward(self, hidden_states: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(self.act_fn(condition)).chunk(3, dim=-1)
        modulated = self.norm(hidden_states) * (1 + scale) + shift
        return hidden_states + gate * self.fc2(self.act_fn(self.fc1(modulated)))


class FlowOmniHeadOutput(nn.Module):
    """The modulated norm and the projection that end the head."""

    def __init__(self, config: FlowOmniSpeechConfig, output_size: int):
        super().__init__()
        size = config.head_hidden_size
        self.norm = nn.LayerNorm(size, eps=1e-6, elementwise_affine=False)
        self.modulation = FlowOmniZeroLinear(size, 2 * size)
        self.proj = FlowOmniZeroLinear(size, output_size)
        self.act_fn = ACT2FN[config.head_hidden_act]

    def forward(self, hidden_states: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale = self.modulation(self.act_fn(condition)).chunk(2, dim=-1)
        return self.proj(self.norm(hidden_states) * (1 + scale) + shift)


class FlowOmniSpeechHead(nn.Module):
    """
    Draws normalised patches given the speech transformer's output. A head implements `loss(condition, patches)`,
    `draw_noise(generator, device)` and `sample(condition, noise, ...)`; the model knows nothing else of it.

    The linear layer guesses the patch from the condition alone: its L1 error, an auxiliary loss, teaches the
    transformer below faster than the noisy loss of the head itself.
    """

    def __init__(self, config: FlowOmniConfig):
        super().__init__()
        self.config = config.speech_config
        self.condition_proj = nn.Linear(config.text_config.hidden_size, self.config.head_hidden_size)
        self.empty_condition = nn.Parameter(torch.zeros(config.text_config.hidden_size))
        self.blocks = nn.ModuleList([FlowOmniHeadBlock(self.config) for _ in range(self.config.head_num_layers)])
        self.linear_guess = nn.Linear(config.text_config.hidden_size, self.config.patch_size)

    def forward(self, condition: torch.Tensor, patches: torch.Tensor | None = None, **sampling_options):
        """
        The losses of `patches` where they are given, otherwise a sample. One door for both, so that the hooks of
        accelerate and FSDP have the weights in place for either.
        """
        if patches is not None:
            return self.loss(condition, patches)
        return self.sample(condition, **sampling_options)

    def auxiliary_loss(self, condition: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """L1 error of the linear guess: (num_patches,)"""
        return (self.linear_guess(condition).float() - patches.float()).abs().mean(dim=-1)

    def drop_conditions(self, condition: torch.Tensor) -> torch.Tensor:
        """In training, replaces a share of the conditions by the empty one, so that guidance has something to leave."""
        if not self.training:
            return condition
        dropped = torch.rand(len(condition), 1, device=condition.device) < self.config.condition_dropout
        return torch.where(dropped, self.empty_condition.to(condition.dtype), condition)
