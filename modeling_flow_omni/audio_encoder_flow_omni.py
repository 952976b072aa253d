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
"""Whisper's encoder for audio of any length, and the adapter into the language model."""

import torch
from torch import nn
from transformers import WhisperConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_flow_omni import FlowOmniConfig


class FlowOmniAudioPositions(nn.Module):
    """Whisper's fixed sinusoids: a buffer, which is saved with the weights and never trained."""

    def __init__(self, num_positions: int, size: int):
        super().__init__()
        self.register_buffer("weight", sinusoids(num_positions, size))

    def forward(self, num_frames: int) -> torch.Tensor:
        return self.weight[:num_frames]


class FlowOmniAudioEncoder(WhisperEncoder):
    """
    `WhisperEncoder` for audio of any length: shorter audio is encoded at its own length, under a mask; longer audio in
    windows of 30 seconds, one after another. On one full window the output is Whisper's own.
    """

    def __init__(self, config: WhisperConfig):
        super().__init__(config)
        self.embed_positions = FlowOmniAudioPositions(self.max_source_positions, config.d_model)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, FlowOmniAudioPositions):
            init.copy_(module.weight, sinusoids(*module.weight.shape))

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutput:
        r"""
        Args:
            input_features (`torch.Tensor` of shape `(num_audios, num_mel_bins, num_frames)`):
                Whisper's log-mel features, of any length.
            attention_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
                1 for frames of audio, 0 for padding, which must be on the right.

        Returns:
            `BaseModelOutput`, whose `last_hidden_state` has the shape `(num_audios, ceil(num_frames / 2), d_model)` and
            is zero where a whole window is padding.
        """
        if input_features.shape[1] != self.num_mel_bins:
            raise ValueError(
                f"Got features of {input_features.shape[1]} mel bands for an encoder of {self.num_mel_bins}: use the "
                f"checkpoint's own processor, or set `feature_size={self.num_mel_bins}` of the feature extractor."
            )
        # dtype only: an offloaded encoder has its weights nowhere until its layers run
        input_features = input_features.to(self.conv1.weight.dtype)
        if attention_mask is None:
            attention_mask = input_features.new_ones(input_features.shape[0], input_features.shape[-1])
        window_length = self.max_source_positions * self.conv1.stride[0] * self.conv2.stride[0]
        windows = zip(
            input_features.split(window_length, dim=-1),
            attention_mask.to(input_features.device).split(window_length, dim=-1),
        )
        encoded = [self._encode_rows_with_audio(features, mask, **kwargs) for features, mask in windows]
        return BaseModelOutput(last_hidden_state=torch.cat(encoded, dim=1))

    def _encode_rows_with_audio(self, features: torch.Tensor, mask: torch.Tensor, **kwargs) -> torch.Tensor:
        """One window of the rows that have audio in it; attention over nothing but padding would give NaN."""
        has_audio = mask.bool().any(dim=-1)
        if has_audio.all():
            return self._encode_window(features, mask, **kwargs)
        encoded_length = (features.shape[-1] + 1) // 2
        encoded = features.new_zeros(features.shape[0], encoded_length, self.config.d_model)
        if has_audio.any():
            encoded[has_audio] = self._encode_window(features[has_audio], mask[has_audio], **kwargs)
        return encoded

    def _encode_window(self, features: torch.Tensor, mask: torch.Tensor, **kwargs) -> torch.Tensor:
        # Both convolutions see one frame to each side: beyond the end of a row these must be the zeros of the padding
        # that the row would get alone, before the first and again before the second.
        frame_mask = mask[:, None].to(features.dtype)
        hidden_states = nn.functional.gelu(self.conv1(features * frame_mask)) * frame_mask
        hidden_states = nn.functional.gelu(self.conv2(hidden_states)).permute(0, 2, 1)
        hidden_states = hidden_states + self.embed_positions(hidden_states.shape[1])
        hidden_states = nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)

        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=mask[:, ::2].bool()
        )
        for layer in self.layers:
            if self.training and torch.rand([]) < self.layerdrop:
                continue
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return self.layer_norm(hidden_states)


class FlowOmniEmbeddingNorm(nn.RMSNorm):
    """Scales embeddings to the size of the language model's own, at first; the scale is trained."""


class FlowOmniAudioAdapter(nn.Module):
    """
    Joins `adapter_stack_size` encoder frames into one position of the language model, through linear layers and a norm.
    Without the norm, training makes encoded audio a hundred times as large as text embeddings, so that the updates of
    the language model's layers are lost in it.
    """

    def __init__(self, config: FlowOmniConfig):
        super().__init__()
        self.stack_size = config.adapter_stack_size
        sizes = [config.audio_config.d_model * self.stack_size]
        sizes += [config.adapter_hidden_size] * (config.adapter_num_layers - 1) + [config.text_config.hidden_size]
        self.layers = nn.ModuleList([nn.Linear(size_in, size_out) for size_in, size_out in zip(sizes, sizes[1:])])
        self.act_fn = ACT2FN[config.adapter_hidden_act]
        self.norm = FlowOmniEmbeddingNorm(config.text_config.hidden_size, eps=1e-6)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.BoolTensor]:
        """
        `hidden_states` (num_audios, num_encoded, d_model) and their mask (num_audios, num_encoded) -> the embeddings
        (num_audios, ceil(num_encoded / stack_size), hidden_size) and theirs.
        """
        # encoder outputs at padding are not zero, and a last group may contain some of them
        hidden_states = hidden_states * attention_mask[..., None].to(hidden_states.dtype)
        missing = -hidden_states.shape[1] % self.stack_size
        hidden_states = nn.functional.pad(hidden_states, (0, 0, 0, missing))
        hidden_states = hidden_states.reshape(hidden_states.shape[0], -1, self.layers[0].in_features)
        for layer in self.layers[:-1]:
            hidden_states = self.act_fn(layer(hidden_states))
        return self.norm(self.layers[-1](hidden_states)), attention_mask[:, :: self.stack_size].bool()
