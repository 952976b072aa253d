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
"""The flow head: an MLP that carries Gaussian noise to the next patch of mel frames, under a condition."""

import math

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig
from .flow_matching import draw_normal, draw_times, flow_matching_loss, guided, integrate, velocity_from_data
from .speech_head import FlowOmniHeadOutput, FlowOmniSpeechHead


class FlowOmniTimeEmbedding(nn.Module):
    """Sines and cosines of the flow time at geometrically spaced frequencies, through a two-layer MLP."""

    max_period = 10000.0
    time_factor = 1000.0

    def __init__(self, config: FlowOmniSpeechConfig):
        super().__init__()
        self.num_frequencies = config.time_embedding_size // 2
        self.fc1 = nn.Linear(config.time_embedding_size, config.head_hidden_size)
        self.fc2 = nn.Linear(config.head_hidden_size, config.head_hidden_size)
        self.act_fn = ACT2FN[config.head_hidden_act]

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        """`times`: (..., 1) -> (..., head_hidden_size)"""
        # computed anew, not a buffer: it costs nothing, and `model.to(bfloat16)` cannot round it
        exponents = torch.arange(self.num_frequencies, device=times.device) / self.num_frequencies
        # flow times lie in [0, 1]: without the factor the slower half of the frequencies would hardly move
        frequencies = self.time_factor * torch.exp(-math.log(self.max_period) * exponents)
        angles = times.float() * frequencies
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.fc1.weight.dtype)
        return self.fc2(self.act_fn(self.fc1(embedding)))


class FlowOmniFlowHead(FlowOmniSpeechHead):
    """
    Draws patches by flow matching. The network puts out the clean patch or the velocity (`prediction_type`); loss and
    sampling see the velocity either way.
    """

    def __init__(self, config: FlowOmniConfig):
        super().__init__(config)
        self.input_proj = nn.Linear(self.config.patch_size, self.config.head_hidden_size)
        self.time_embedding = FlowOmniTimeEmbedding(self.config)
        self.output = FlowOmniHeadOutput(self.config, self.config.patch_size)

    def velocity(self, patches: torch.Tensor, times: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """
        The velocity at noisy `patches` (num_patches, patch_size) and `times` (num_patches, 1) under a `condition`
        (num_patches, hidden_size).
        """
        hidden_states = self.input_proj(patches.to(self.input_proj.weight.dtype))
        modulation = self.condition_proj(condition) + self.time_embedding(times)
        for block in self.blocks:
            hidden_states = block(hidden_states, modulation)
        prediction = self.output(hidden_states, modulation).to(patches.dtype)
        if self.config.prediction_type == "velocity":
            return prediction
        return velocity_from_data(prediction, patches, times, self.config.min_time_to_data)

    def loss(self, condition: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The flow-matching loss and the auxiliary loss of each patch.

        Args:
            condition (`torch.Tensor` of shape `(num_patches, hidden_size)`):
                Output of the speech transformer at the patches' steps.
            patches (`torch.Tensor` of shape `(num_patches, patch_size)`):
                The normalised target patches.

        Returns:
            Two `torch.Tensor` of shape `(num_patches,)`.
        """
        patches = patches.float()
        num_draws = self.config.num_noise_draws
        repeated = patches.repeat(num_draws, 1)
        conditions = self.drop_conditions(condition.repeat(num_draws, 1))
        # in evaluation always the same draws, so that losses compare from run to run
        generator = None if self.training else torch.Generator(patches.device).manual_seed(0)
        times = draw_times(
            (len(repeated), 1),
            self.config.time_logit_mean,
            self.config.time_logit_std,
            device=patches.device,
            generator=generator,
        )
        flow_loss = flow_matching_loss(
            velocity=lambda points, times: self.velocity(points, times, conditions),
            data=repeated,
            noise=draw_normal(repeated.shape, patches.device, generator),
            times=times,
            latest_time=1 - self.config.min_time_to_data if self.config.prediction_type == "data" else 1.0,
        )
        return flow_loss.view(num_draws, -1).mean(dim=0), self.auxiliary_loss(condition, patches)

    def draw_noise(self, generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
        """The randomness of one patch: Gaussian noise (patch_size,)."""
        return torch.randn(self.config.patch_size, generator=generator, device=device, dtype=torch.float32)

    def sample(
        self,
        condition: torch.Tensor,
        noise: torch.Tensor,
        num_steps: int = 2,
        temperature: float = 1.0,
        guidance_scale: float = 1.0,
    ) -> torch.Tensor:
        """
        Carries noise to patches.

        Args:
            condition (`torch.Tensor` of shape `(batch_size, hidden_size)`):
                Output of the speech transformer.
            noise (`torch.Tensor` of shape `(batch_size, patch_size)`):
                From `draw_noise`.
            num_steps (`int`, *optional*, defaults to 2):
                Steps of the solver.
            temperature (`float`, *optional*, defaults to 1.0):
                Factor of the noise: 0 gives the one most typical patch.
            guidance_scale (`float`, *optional*, defaults to 1.0):
                Above 1, exaggerates what the condition says. Runs the head twice a step, and nothing else.

        Returns:
            `torch.Tensor` of shape `(batch_size, patch_size)`: normalised patches, in fp32.
        """
        empty_condition = self.empty_condition.to(condition.dtype).expand_as(condition)

        def velocity(points: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            conditional = self.velocity(points, times, condition)
            if guidance_scale == 1.0:
                return conditional
            return guided(conditional, self.velocity(points, times, empty_condition), guidance_scale)

        return integrate(velocity, noise.float() * temperature, num_steps)
