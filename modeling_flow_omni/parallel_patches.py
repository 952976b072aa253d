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
"""Mel patches in the sequence: on their steps, on the step after, and made worse for training to learn from."""

import torch

from .configuration_flow_omni import FlowOmniSpeechConfig


def lay_out_patches(patches: torch.Tensor, is_generating: torch.BoolTensor) -> torch.Tensor:
    """
    Puts each row's patches onto its generating steps.

    Args:
        patches (`torch.Tensor` of shape `(batch_size, max_patches, patch_size)`):
            Right-padded; the j-th belongs to the row's j-th generating step.
        is_generating (`torch.BoolTensor` of shape `(batch_size, num_steps)`):
            The generating steps.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_steps, patch_size)`: zeros on all other steps.
    """
    most = int(is_generating.sum(dim=-1).max())
    if most > patches.shape[1]:
        raise ValueError(
            f"A row has {most} generating steps but only {patches.shape[1]} patches: `mel_labels` must hold one patch for "
            "each step whose speech state is `generating`."
        )
    if patches.shape[1] == 0:
        return patches.new_zeros(*is_generating.shape, patches.shape[-1])
    index = (is_generating.cumsum(dim=-1) - 1).clamp(min=0)
    laid_out = patches.gather(1, index[..., None].expand(-1, -1, patches.shape[-1]))
    return torch.where(is_generating[..., None], laid_out, 0.0)


def patches_before(patches: torch.Tensor) -> torch.Tensor:
    """The patch of the step before each step, zeros before the first: (batch_size, num_steps, patch_size)"""
    return torch.cat([torch.zeros_like(patches[:, :1]), patches[:, :-1]], dim=1)


def replace_some(patches: torch.Tensor, own_patches: torch.Tensor, most: float) -> torch.Tensor:
    """`patches` with a share of `own_patches` in their places, drawn for each row from `[0, most]`."""
    share = torch.rand(len(patches), 1, 1, device=patches.device) * most
    is_own = torch.rand(*patches.shape[:2], 1, device=patches.device) < share
    return torch.where(is_own, own_patches, patches)


def corrupt(patches: torch.Tensor | None, config: FlowOmniSpeechConfig) -> torch.Tensor | None:
    """
    The patches as the language model reads them in training: each row noised by a deviation of its own, and a share of its
    own left out. At inference it reads its own patches, which are never as good as the targets.
    """
    if patches is None:
        return None
    has_patch = patches.abs().sum(dim=-1, keepdim=True) > 0
    deviation = torch.rand(len(patches), 1, 1, device=patches.device) * config.patch_noise
    share_left_out = torch.rand(len(patches), 1, 1, device=patches.device) * config.patch_dropout
    is_kept = torch.rand(*patches.shape[:2], 1, device=patches.device) >= share_left_out
    return torch.where(has_patch & is_kept, patches + deviation * torch.randn_like(patches), 0.0)
