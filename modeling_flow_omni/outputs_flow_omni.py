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
"""What the forward passes of the models return."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import auto_docstring


@auto_docstring(custom_intro="""Outputs of `FlowOmniModel`.""")
@dataclass
class FlowOmniModelOutputWithPast(BaseModelOutputWithPast):
    r"""
    audio_hidden_states (`torch.Tensor` of shape `(num_audio_tokens, hidden_size)`, *optional*):
        The adapter's output, one row for each `<|audio|>` placeholder, in the order of the batch.
    """

    audio_hidden_states: torch.Tensor | None = None


@auto_docstring(custom_intro="""Outputs of `FlowOmniForSpeechGeneration`.""")
@dataclass
class FlowOmniOutputWithPast(CausalLMOutputWithPast):
    r"""
    loss (`torch.Tensor` of shape `()`, *optional*, returned when any labels are passed):
        The weighted sum of the losses below.
    logits (`torch.Tensor` of shape `(batch_size, num_steps, vocab_size)`, *optional*, not returned when `labels` are):
        Scores of the next text token. With `labels`, the vocabulary head runs at the labelled positions alone.
    state_logits (`torch.Tensor` of shape `(batch_size, num_steps, 4)`):
        Scores of the next speech state.
    condition (`torch.Tensor` of shape `(batch_size, num_steps, hidden_size)`):
        Output of the speech transformer, the condition of each step's patch.
    text_loss (`torch.Tensor` of shape `()`, *optional*, returned when `labels` is passed):
        Cross-entropy of the text tokens.
    state_loss (`torch.Tensor` of shape `()`, *optional*, returned when `state_labels` is passed):
        Weighted cross-entropy of the speech states.
    speech_loss (`torch.Tensor` of shape `()`, *optional*, returned when `mel_labels` is passed):
        Loss of the speech head.
    auxiliary_loss (`torch.Tensor` of shape `()`, *optional*, returned when `mel_labels` is passed):
        L1 error of the linear guess of the patches.
    audio_loss (`torch.Tensor` of shape `()`, *optional*, returned when `audio_labels` is passed):
        How far the steps of heard speech are from the tokens of its transcript (CTC), per token.
    """

    state_logits: torch.Tensor | None = None
    condition: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None
    state_loss: torch.Tensor | None = None
    speech_loss: torch.Tensor | None = None
    auxiliary_loss: torch.Tensor | None = None
    audio_loss: torch.Tensor | None = None
