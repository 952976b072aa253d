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
"""The discrete baseline: a head that draws each patch as codes of a residual vector quantiser, one codebook after another."""

import torch
from torch import nn

from .configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig
from .flow_matching import guided
from .speech_head import FlowOmniHeadOutput, FlowOmniSpeechHead


# The error that is left falls by 6 % where this doubles (measured from 16 to 64), and k-means takes twice as long.
PATCHES_PER_CODE = 64


class FlowOmniResidualQuantizer(nn.Module):
    """A patch as a sum of code vectors: each codebook quantises what those before it have left over."""

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
        The code vectors (num_patches, num_levels, patch_size), not yet summed, of codes (num_patches, num_levels) of the
        codebooks from `first_level` on. Their sum over all levels is the patch.
        """
        levels = torch.arange(codes.shape[-1], device=codes.device) + first_level
        return self.codebooks[levels, codes]

    @torch.no_grad()
    def fit(self, patches: torch.Tensor, num_iterations: int = 10, generator: torch.Generator | None = None) -> None:
        """
        Sets the codebooks by k-means on `patches` (num_patches, patch_size), or some of many, each on the residual of those
        before.
        """
        num_codes = self.codebooks.shape[1]
        if len(patches) < num_codes:
            raise ValueError(
                f"Got {len(patches)} patches for codebooks of {num_codes} codes: pass at least as many patches as codes, "
                "or lower `codebook_size`."
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
    """Lloyd's algorithm from a random choice of points. A centre that lost all its points moves to the farthest one."""
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
    """Draws patches as discrete codes, so that continuous and discrete speech tokens compare with nothing else changed."""

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
        Logits of the codes of one `level` (num_patches, codebook_size), given the sum of the code vectors of the levels
        before it, `prefix` (num_patches, patch_size), and the `condition` (num_patches, hidden_size).
        """
        level_ids = torch.full_like(condition[:, 0], level, dtype=torch.long)
        modulation = self.condition_proj(condition) + self.level_embedding(level_ids)
        hidden_states = self.prefix_proj(prefix.to(self.prefix_proj.weight.dtype))
        for block in self.blocks:
            hidden_states = block(hidden_states, modulation)
        return self.outputs[level](hidden_states, modulation).float()

    def loss(self, condition: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The cross-entropy of the codes plus the error of the codebooks, and the auxiliary loss of a linear guess, each
        (num_patches,), for normalised `patches` (num_patches, patch_size) under `condition` (num_patches, hidden_size).
        """
        patches = patches.float()
        auxiliary_loss = self.auxiliary_loss(condition, patches)
        condition = self.drop_conditions(condition)

        codes = self.quantizer.encode(patches)
        vectors = self.quantizer(codes)
        sums = vectors.cumsum(dim=1)
        prefixes = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], dim=1).detach()
        code_loss = torch.stack(
            [
                nn.functional.cross_entropy(
                    self.logits(prefixes[:, level], level, condition), codes[:, level], reduction="none"
                )
                for level in range(self.config.num_codebooks)
            ]
        ).mean(dim=0)
        # each code vector moves towards the residual it stands for; the earlier ones do not move for the later
        residuals = patches[:, None] - prefixes
        codebook_loss = (vectors.float() - residuals).square().mean(dim=(1, 2))
        return code_loss + codebook_loss, auxiliary_loss

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
        Draws the codes level by level and sums their vectors: normalised patches (batch_size, patch_size), in fp32.
        `noise` (batch_size, num_codebooks) is from `draw_noise`; `num_steps` has no meaning here: a code is one choice.
        """
        empty_condition = self.empty_condition.to(condition.dtype).expand_as(condition)
        prefix = condition.new_zeros(len(condition), self.config.patch_size, dtype=torch.float32)
        for level in range(self.config.num_codebooks):
            logits = self.logits(prefix, level, condition)
            if guidance_scale != 1.0:
                logits = guided(logits, self.logits(prefix, level, empty_condition), guidance_scale)
            codes = _choose(logits, noise[:, level], temperature)
            prefix = prefix + self.quantizer(codes[:, None], level).squeeze(1).float()
        return prefix


def _choose(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> torch.Tensor:
    """One index of each row of `logits`, by inverting the cumulative distribution at `uniform`; the best at 0."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = (logits / temperature).softmax(dim=-1).cumsum(dim=-1)
    index = torch.searchsorted(cumulative, uniform[:, None].contiguous()).squeeze(-1)
    # rounding may leave the last cumulative value just below 1
    return index.clamp(max=logits.shape[-1] - 1)
