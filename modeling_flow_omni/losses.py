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
"""The losses, each a mean over its own targets, and zero (with a gradient of zero) where there are none."""

import torch
from torch import nn


IGNORED = -100


def text_loss(lm_head: nn.Module, hidden_states: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
    """
    Cross-entropy of the next text token. The vocabulary head runs only where there is a label: with 152 thousand tokens
    it would otherwise cost more than everything else.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch_size, num_steps, hidden_size)`):
            The language model's output.
        labels (`torch.LongTensor` of shape `(batch_size, num_steps)`):
            Aligned with the input: step `t` predicts the label of step `t + 1`.
    """
    targets = labels[:, 1:].to(hidden_states.device)
    is_target = targets != IGNORED
    logits = lm_head(hidden_states[:, :-1][is_target]).float()
    loss = nn.functional.cross_entropy(logits, targets[is_target].to(logits.device), reduction="sum")
    return loss / max(len(logits), 1)


def states_loss(
    state_logits: torch.Tensor, state_labels: torch.LongTensor, class_weights: list[float]
) -> torch.Tensor:
    """
    Cross-entropy of the next speech state, weighted by class, from `state_logits` (batch_size, num_steps, 4) and
    `state_labels` (batch_size, num_steps), which are aligned as the text labels are.
    """
    logits = state_logits[:, :-1].flatten(0, 1).float()
    targets = state_labels[:, 1:].flatten().to(logits.device)
    weights = torch.tensor(class_weights, device=logits.device)
    loss = nn.functional.cross_entropy(logits, targets, weights, ignore_index=IGNORED, reduction="sum")
    total_weight = torch.where(targets == IGNORED, 0.0, weights[targets.clamp(min=0)]).sum()
    return loss / total_weight.clamp(min=1e-6)


def mean_of_patches(losses: torch.Tensor) -> torch.Tensor:
    """The mean of the patches' losses (num_patches,); a batch without speech has none."""
    return losses.sum() / max(len(losses), 1)
