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
"""The speech heads: patches sampled by flow matching, or as codes of a residual vector quantiser (the baseline)."""

import math

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.loss.loss_lsd import lsd_distillation_loss

from .configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig
from .flow_matching import draw_normal, draw_times, flow_matching_loss, guided, integrate, velocity_from_data


# The remaining error falls by 6 % where this doubles (measured from 16 to 64), and k-means takes twice as long.
PATCHES_PER_CODE = 64


class FlowOmniZeroLinear(nn.Linear):
    """
    A linear layer that starts at zero. A class of its own, since in code from outside its package transformers never
    calls `_init_weights` on a module that only holds other modules.
    """


class FlowOmniWrittenOutNorm(nn.LayerNorm):
    """A layer norm in single operations: gradients of a derivative through torch's fused one are wrong."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        centred = hidden_states - hidden_states.mean(dim=-1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + self.eps)


def head_norm(config: FlowOmniSpeechConfig) -> nn.LayerNorm:
    """The norm of a head's layers, without parameters."""
    norm_class = FlowOmniWrittenOutNorm if config.flow_objective == "lsd" else nn.LayerNorm
    return norm_class(config.head_hidden_size, eps=1e-6, elementwise_affine=False)


class FlowOmniHeadBlock(nn.Module):
    """A residual MLP whose input is shifted and scaled, and whose output is gated, by the condition (AdaLN)."""

    def __init__(self, config: FlowOmniSpeechConfig):
        super().__init__()
        size = config.head_hidden_size
        self.norm = head_norm(config)
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
    """The modulated norm and the projection at the end of a head."""

    def __init__(self, config: FlowOmniSpeechConfig, output_size: int):
        super().__init__()
        size = config.head_hidden_size
        self.norm = head_norm(config)
        self.modulation = FlowOmniZeroLinear(size, 2 * size)
        self.proj = FlowOmniZeroLinear(size, output_size)
        self.act_fn = ACT2FN[config.head_hidden_act]

    def forward(self, hidden_states: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale = self.modulation(self.act_fn(condition)).chunk(2, dim=-1)
        return self.proj(self.norm(hidden_states) * (1 + scale) + shift)


class FlowOmniSpeechHead(nn.Module):
    """
    Samples normalised patches given the output of the speech transformer or speech decoder. A head implements `loss(condition, patches)`,
    `draw_noise(generator, device)` and `sample(condition, noise, ...)`.

    `linear_guess` predicts the patch from the condition alone: its L1 error, an auxiliary loss, trains the transformer
    below faster than the noisy loss of the head itself.
    """

    def __init__(self, config: FlowOmniConfig):
        super().__init__()
        self.config = config.speech_config
        self.condition_proj = nn.Linear(config.condition_size, self.config.head_hidden_size)
        self.empty_condition = nn.Parameter(torch.zeros(config.condition_size))
        self.blocks = nn.ModuleList([FlowOmniHeadBlock(self.config) for _ in range(self.config.head_num_layers)])
        self.linear_guess = nn.Linear(config.condition_size, self.config.patch_size)

    def forward(self, condition: torch.Tensor, patches: torch.Tensor | None = None, **sampling_options):
        """
        The losses of `patches` where they are given, otherwise a sample: both through `forward`, where the hooks of
        accelerate and FSDP gather the weights.
        """
        if patches is not None:
            return self.loss(condition, patches)
        return self.sample(condition, **sampling_options)

    def run_blocks(self, hidden_states: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states, modulation)
        return hidden_states

    def auxiliary_loss(self, condition: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """L1 error of the linear prediction: (num_patches,)"""
        return (self.linear_guess(condition).float() - patches.float()).abs().mean(dim=-1)

    def drop_conditions(self, condition: torch.Tensor) -> torch.Tensor:
        """In training, replaces a fraction of the conditions by the empty one, which guidance needs."""
        if not self.training:
            return condition
        dropped = torch.rand(len(condition), 1, device=condition.device) < self.config.condition_dropout
        return torch.where(dropped, self.empty_condition.to(condition.dtype), condition)


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
        # computed at every call, not a buffer: it costs nothing, and `model.to(bfloat16)` cannot round it
        exponents = torch.arange(self.num_frequencies, device=times.device) / self.num_frequencies
        # flow times lie in [0, 1]: without the factor the slower half of the frequencies would hardly move
        frequencies = self.time_factor * torch.exp(-math.log(self.max_period) * exponents)
        angles = times.float() * frequencies
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.fc1.weight.dtype)
        return self.fc2(self.act_fn(self.fc1(embedding)))


class FlowOmniDurationEmbedding(FlowOmniTimeEmbedding):
    """
    The embedding of the time that a jump takes. It starts at zero: a head that was trained by flow matching becomes a
    flow map that jumps along its velocities.
    """

    # training differentiates by the duration: fast sines would drown what they carry
    time_factor = 10.0

    def __init__(self, config: FlowOmniSpeechConfig):
        super().__init__(config)
        self.fc2 = FlowOmniZeroLinear(config.head_hidden_size, config.head_hidden_size)


class FlowOmniFlowHead(FlowOmniSpeechHead):
    """
    Samples patches by flow matching, or by a flow map that jumps from noise to data in one step (`flow_objective`). The
    network outputs the clean patch or the velocity (`prediction_type`).
    """

    def __init__(self, config: FlowOmniConfig):
        super().__init__(config)
        self.input_proj = nn.Linear(self.config.patch_size, self.config.head_hidden_size)
        self.time_embedding = FlowOmniTimeEmbedding(self.config)
        self.duration_embedding = None
        if self.config.flow_objective == "lsd":
            self.duration_embedding = FlowOmniDurationEmbedding(self.config)
        self.output = FlowOmniHeadOutput(self.config, self.config.patch_size)

    @property
    def latest_time(self) -> float:
        """The latest time of a training target: later ones would need velocities that no predicted data give."""
        return 1 - self.config.min_time_to_data if self.config.prediction_type == "data" else 1.0

    def velocity(
        self,
        patches: torch.Tensor,
        times: torch.Tensor,
        condition: torch.Tensor,
        end_times: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        The velocity at noisy `patches` (num_patches, patch_size) and `times` (num_patches, 1) given a `condition`
        (num_patches, hidden_size); of a flow map, the mean velocity until `end_times` in the same shape as `times`.
        """
        modulation = self.condition_proj(condition) + self.time_embedding(times)
        if self.duration_embedding is not None:
            modulation = modulation + self.duration_embedding((times if end_times is None else end_times) - times)
        hidden_states = self.run_blocks(self.input_proj(patches.to(self.input_proj.weight.dtype)), modulation)
        prediction = self.output(hidden_states, modulation).to(patches.dtype)
        if self.config.prediction_type == "velocity":
            return prediction
        return velocity_from_data(prediction, patches, times, self.config.min_time_to_data)

    def loss(self, condition: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The flow-matching loss and the auxiliary loss, each (num_patches,), of normalised `patches` (num_patches,
        patch_size) given the `condition` (num_patches, hidden_size) at their positions.
        """
        patches = patches.float()
        num_draws = self.config.num_noise_draws
        repeated = patches.repeat(num_draws, 1)
        conditions = self.drop_conditions(condition.repeat(num_draws, 1))
        # in evaluation always the same draws, so that losses compare from run to run
        generator = None if self.training else torch.Generator(patches.device).manual_seed(0)
        time_logits = self.config.time_logit_mean, self.config.time_logit_std
        times = draw_times((len(repeated), 1), *time_logits, device=patches.device, generator=generator)
        noise = draw_normal(repeated.shape, patches.device, generator)
        # a flow map learns its velocities as any flow does, and on a quarter of the draws to jump along them
        num_jumps = len(patches) * max(1, num_draws // 4) if self.duration_embedding is not None else 0
        points, jumps = slice(None, len(repeated) - num_jumps), slice(len(repeated) - num_jumps, None)
        flow_loss = flow_matching_loss(
            velocity=lambda patches, times: self.velocity(patches, times, conditions[points]),
            data=repeated[points],
            noise=noise[points],
            times=times[points],
            latest_time=self.latest_time,
        )
        if num_jumps:
            jump_loss = self.jump_loss(conditions[jumps], repeated[jumps], noise[jumps], generator)
            flow_loss = torch.cat([flow_loss, jump_loss])
        return flow_loss.view(num_draws, -1).mean(dim=0), self.auxiliary_loss(condition, patches)

    def jump_loss(
        self,
        condition: torch.Tensor,
        patches: torch.Tensor,
        noise: torch.Tensor,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """
        Lagrangian self-distillation (num_patches,): where a jump ends, it should move as its end time grows with the
        velocity that the head itself predicts there.
        """
        # evenly over all pairs, as generation starts at 0 and ends at 1
        times = torch.rand((len(patches), 2), device=patches.device, generator=generator).sort(dim=-1).values
        start_times, end_times = (times * self.latest_time).chunk(2, dim=-1)
        loss = lsd_distillation_loss(
            lambda patches, times, end_times: self.velocity(patches, times, condition, end_times),
            patches,
            noise,
            start_times,
            end_times,
        )
        return loss / patches.shape[-1]

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
        Integrates the flow from `noise` (batch_size, patch_size) to normalised patches of the same shape, in fp32,
        given the `condition` (batch_size, hidden_size), in `num_steps` solver steps, or jumps of a flow map. The noise
        is multiplied by `temperature`: 0 gives the most typical patch. A `guidance_scale` other than 1 runs the head
        twice for each step; of a flow map it guides each jump as a whole.
        """
        empty_condition = self.empty_condition.to(condition.dtype).expand_as(condition)

        def velocity(points: torch.Tensor, times: torch.Tensor, end_times: torch.Tensor) -> torch.Tensor:
            end_times = end_times.clamp(max=self.latest_time)
            conditional = self.velocity(points, times, condition, end_times)
            if guidance_scale == 1.0:
                return conditional
            return guided(conditional, self.velocity(points, times, empty_condition, end_times), guidance_scale)

        return integrate(velocity, noise.float() * temperature, num_steps)


class FlowOmniResidualQuantizer(nn.Module):
    """A patch as a sum of code vectors: each codebook quantises the residual of those before it."""

    def __init__(self, config: FlowOmniSpeechConfig):
        super().__init__()
        self.codebooks = nn.Parameter(torch.empty(config.num_codebooks, config.codebook_size, config.patch_size))

    @torch.no_grad()
    def encode(self, patches: torch.Tensor) -> torch.Tensor:
        """`patches`: (num_patches, patch_size) -> codes: (num_patches, num_codebooks)"""
        residual, codes = patches.float(), []
        for codebook in self.codebooks.float():
            nearest = torch.cdist(residual, codebook).argmin(dim=-1)
            residual = residual - codebook[nearest]
            codes.append(nearest)
        return torch.stack(codes, dim=-1)

    def forward(self, codes: torch.Tensor, first_level: int = 0) -> torch.Tensor:
        """
        The code vectors (num_patches, num_levels, patch_size), not yet summed, of codes (num_patches, num_levels) of
        the codebooks from `first_level` on.
        """
        levels = torch.arange(codes.shape[-1], device=codes.device) + first_level
        return self.codebooks[levels, codes]

    @torch.no_grad()
    def fit(self, patches: torch.Tensor, num_iterations: int = 10, generator: torch.Generator | None = None) -> None:
        """Sets the codebooks by k-means on a sample of `patches` (num_patches, patch_size), each on its residual."""
        num_codes = self.codebooks.shape[1]
        if len(patches) < num_codes:
            raise ValueError(
                f"Got {len(patches)} patches for codebooks of {num_codes} codes: pass at least as many patches as "
                "codes, or lower `codebook_size`."
            )
        chosen = torch.randperm(len(patches), generator=generator)[: num_codes * PATCHES_PER_CODE]
        residual = patches[chosen.to(patches.device)].to(self.codebooks.device, torch.float32)
        for codebook in self.codebooks:
            centres = _k_means(residual, num_codes, num_iterations, generator)
            codebook.copy_(centres)
            residual = residual - centres[torch.cdist(residual, centres).argmin(dim=-1)]


def _k_means(
    points: torch.Tensor, num_centres: int, num_iterations: int, generator: torch.Generator | None
) -> torch.Tensor:
    """Lloyd's algorithm from a random choice of points. A centre without points moves to the farthest point."""
    chosen = torch.randperm(len(points), generator=generator)[:num_centres].to(points.device)
    centres = points[chosen].clone()
    for _ in range(num_iterations):
        distances, nearest = torch.cdist(points, centres).min(dim=-1)
        counts = torch.bincount(nearest, minlength=num_centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = sums / counts.clamp(min=1)[:, None]
        lost = (counts == 0).nonzero().squeeze(-1)
        centres[lost] = points[distances.topk(len(lost)).indices]
    return centres


class FlowOmniResidualVQHead(FlowOmniSpeechHead):
    """Samples patches as discrete codes, to compare continuous and discrete speech tokens, all else being equal."""

    def __init__(self, config: FlowOmniConfig):
        super().__init__(config)
        size, num_codebooks = self.config.head_hidden_size, self.config.num_codebooks
        self.quantizer = FlowOmniResidualQuantizer(self.config)
        self.prefix_proj = nn.Linear(self.config.patch_size, size)
        self.level_embedding = nn.Embedding(num_codebooks, size)
        self.outputs = nn.ModuleList(
            [FlowOmniHeadOutput(self.config, self.config.codebook_size) for _ in range(num_codebooks)]
        )

    def logits(self, prefix: torch.Tensor, level: int, condition: torch.Tensor) -> torch.Tensor:
        """
        Logits of the codes of one `level` (num_patches, codebook_size), given the sum of the code vectors of the
        levels before it, `prefix` (num_patches, patch_size), and the `condition` (num_patches, hidden_size).
        """
        level_ids = torch.full_like(condition[:, 0], level, dtype=torch.long)
        modulation = self.condition_proj(condition) + self.level_embedding(level_ids)
        hidden_states = self.run_blocks(self.prefix_proj(prefix.to(self.prefix_proj.weight.dtype)), modulation)
        return self.outputs[level](hidden_states, modulation).float()

    def loss(self, condition: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The cross-entropy of the codes plus the error of the codebooks, and the auxiliary loss, each (num_patches,), of
        normalised `patches` (num_patches, patch_size) given the `condition` (num_patches, hidden_size).
        """
        patches = patches.float()
        auxiliary_loss = self.auxiliary_loss(condition, patches)
        condition = self.drop_conditions(condition)

        codes = self.quantizer.encode(patches)
        vectors = self.quantizer(codes)
        sums = vectors.cumsum(dim=1)
        prefixes = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], dim=1).detach()
        code_losses = [
            nn.functional.cross_entropy(
                self.logits(prefixes[:, level], level, condition), codes[:, level], reduction="none"
            )
            for level in range(self.config.num_codebooks)
        ]
        # each code vector moves towards the residual it stands for; the earlier ones do not move for the later
        residuals = patches[:, None] - prefixes
        codebook_loss = (vectors.float() - residuals).square().mean(dim=(1, 2))
        return torch.stack(code_losses).mean(dim=0) + codebook_loss, auxiliary_loss

    def draw_noise(self, generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
        """The randomness of one patch: a uniform number for each codebook (num_codebooks,)."""
        return torch.rand(self.config.num_codebooks, generator=generator, device=device, dtype=torch.float32)

    def sample(
        self,
        condition: torch.Tensor,
        noise: torch.Tensor,
        num_steps: int = 1,
        temperature: float = 1.0,
        guidance_scale: float = 1.0,
    ) -> torch.Tensor:
        """
        Samples the codes level by level and sums their vectors: normalised patches (batch_size, patch_size), in fp32.
        `noise` (batch_size, num_codebooks) is from `draw_noise`; `num_steps` is ignored, since a code is one choice.
        """
        empty_condition = self.empty_condition.to(condition.dtype).expand_as(condition)
        prefix = condition.new_zeros(len(condition), self.config.patch_size, dtype=torch.float32)
        for level in range(self.config.num_codebooks):
            logits = self.logits(prefix, level, condition)
            if guidance_scale != 1.0:
                logits = guided(logits, self.logits(prefix, level, empty_condition), guidance_scale)
            codes = _choose_codes(logits, noise[:, level], temperature)
            prefix = prefix + self.quantizer(codes[:, None], level).squeeze(1).float()
        return prefix


def _choose_codes(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> torch.Tensor:
    """One index of each row of `logits`, by inverting the cumulative distribution at `uniform`; the best at 0."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = (logits / temperature).softmax(dim=-1).cumsum(dim=-1)
    index = torch.searchsorted(cumulative, uniform[:, None].contiguous()).squeeze(-1)
    # rounding may leave the last cumulative value just below 1
    return index.clamp(max=logits.shape[-1] - 1)


SPEECH_HEADS = {"flow": FlowOmniFlowHead, "residual_vq": FlowOmniResidualVQHead}
