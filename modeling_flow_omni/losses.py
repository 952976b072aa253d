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


def audio_loss(
    audio_embeddings: torch.Tensor,
    num_steps: torch.LongTensor,
    token_embeddings: torch.Tensor,
    labels: torch.LongTensor,
    blank: int,
) -> torch.Tensor:
    """
    Connectionist temporal classification of heard speech by the language model's own embeddings: each step is to point at
    the token that it adds to what was heard, or at the blank. What moves is the hearing; the words stay where they are.

    Args:
        audio_embeddings (`torch.Tensor` of shape `(num_audio_tokens, hidden_size)`):
            The adapter's output for all audios, one after another.
        num_steps (`torch.LongTensor` of shape `(num_audios,)`):
            How many of them each audio has.
        token_embeddings (`torch.Tensor` of shape `(vocab_size, hidden_size)`):
            The language model's input embeddings.
        labels (`torch.LongTensor` of shape `(num_audios, max_labels)`):
            The tokens of the transcripts, padded with -100. An audio without any is left out.
        blank (`int`):
            The token of a step that adds nothing.
    """
    labels = labels.to(audio_embeddings.device)
    num_labels = (labels != IGNORED).sum(dim=-1)
    heard = nn.functional.normalize(audio_embeddings.float(), dim=-1)
    known = nn.functional.normalize(token_embeddings.detach().float(), dim=-1)
    # cosines, as sharp as the scores of an attention over vectors of this size
    log_probs = (heard @ known.T * known.shape[-1] ** 0.5).log_softmax(dim=-1)
    log_probs = nn.utils.rnn.pad_sequence(log_probs.split(num_steps.tolist()))
    losses = nn.functional.ctc_loss(
        log_probs,
        labels.clamp(min=0),
        num_steps.to(labels.device),
        num_labels,
        blank=blank,
        reduction="none",
        zero_infinity=True,  # of speech with more tokens than steps nothing can be learnt
    )
    return losses[num_labels > 0].sum() / num_labels.sum().clamp(min=1)


def mean_of_patches(losses: torch.Tensor) -> torch.Tensor:
    """The mean of the patches' losses (num_patches,); a batch without speech has none."""
    return losses.sum() / max(len(losses), 1)
