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
"""The configuration of the recogniser: the size of a Whisper's encoder, what is hidden from it in training, its characters."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import WhisperConfig
from transformers.utils.type_validators import positive_int_field

from ...modeling_flow_omni.declared_fields import FlowOmniBaseConfig, non_negative_field, share_field


# What a Whisper's configuration must name and its encoder does not use.
UNUSED = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}


@strict
class CtcRecogniserConfig(FlowOmniBaseConfig):
    r"""
    The configuration of a [`CtcRecogniser`].

    Args:
        d_model (`int`, *optional*, defaults to 192):
            Width of the encoder.
        encoder_layers (`int`, *optional*, defaults to 4):
            Its transformer layers.
        encoder_attention_heads (`int`, *optional*, defaults to 4):
            Attention heads of each.
        encoder_ffn_dim (`int`, *optional*, defaults to 768):
            Width inside of each.
        num_mel_bins (`int`, *optional*, defaults to 80):
            Mel bands of the features.
        max_source_positions (`int`, *optional*, defaults to 1500):
            Encoder frames of a window, of which there are 50 in a second; longer speech is cut into several.
        dropout (`float`, *optional*, defaults to 0.0):
            Share of the outputs of sublayers that training drops.
        layerdrop (`float`, *optional*, defaults to 0.0):
            Share of the layers that training leaves out.
        stack_size (`int`, *optional*, defaults to 1):
            Encoder frames that are judged together. With 2 there are 25 characters or blanks in a second: cheaper, and
            too few for fast speakers.
        num_frequency_masks, max_frequency_mask (`int`, *optional*, default to 2 and 15):
            Bands of so many mel bins at most are hidden in training, each somewhere else (SpecAugment).
        num_time_masks, max_time_mask (`int`, *optional*, default to 2 and 20):
            Spans of so many feature frames at most, of which there are 100 in a second.
        max_time_mask_share (`float`, *optional*, defaults to 0.1):
            No span is longer than this part of the utterance.
        characters (`list[str]`, *optional*):
            What is written: the classes from 1 on, 0 being the blank. A training collects them from its rows.
    """

    model_type = "flow_omni_ctc_recogniser"

    d_model: int = positive_int_field(default=192)
    encoder_layers: int = positive_int_field(default=4)
    encoder_attention_heads: int = positive_int_field(default=4)
    encoder_ffn_dim: int = positive_int_field(default=768)
    num_mel_bins: int = positive_int_field(default=80)
    max_source_positions: int = positive_int_field(default=1500)
    dropout: float = share_field(default=0.0)
    layerdrop: float = share_field(default=0.0)
    stack_size: int = positive_int_field(default=1)
    num_frequency_masks: int = non_negative_field(default=2)
    max_frequency_mask: int = non_negative_field(default=15)
    num_time_masks: int = non_negative_field(default=2)
    max_time_mask: int = non_negative_field(default=20)
    max_time_mask_share: float = share_field(default=0.1)
    characters: list[str] = field(default_factory=list)

    def validate_architecture(self):
        if self.d_model % self.encoder_attention_heads:
            raise ValueError(
                f"`d_model` ({self.d_model}) must be a multiple of `encoder_attention_heads` ({self.encoder_attention_heads})."
            )
        if self.d_model % 2:
            raise ValueError(
                f"`d_model` ({self.d_model}) must be even: half of the positions are sines, half cosines."
            )
        wrong = [one for one in self.characters if len(one) != 1]
        if wrong or len(set(self.characters)) < len(self.characters):
            raise ValueError(f"`characters` must be single characters, each once: {wrong or self.characters}.")

    @property
    def num_classes(self) -> int:
        return 1 + len(self.characters)

    def whisper_config(self) -> WhisperConfig:
        """The Whisper that has this encoder, and as little else as a Whisper can have."""
        return WhisperConfig(
            d_model=self.d_model,
            encoder_layers=self.encoder_layers,
            encoder_attention_heads=self.encoder_attention_heads,
            encoder_ffn_dim=self.encoder_ffn_dim,
            num_mel_bins=self.num_mel_bins,
            max_source_positions=self.max_source_positions,
            dropout=self.dropout,
            encoder_layerdrop=self.layerdrop,
            decoder_layers=1,
            decoder_attention_heads=self.encoder_attention_heads,
            decoder_ffn_dim=1,
            max_target_positions=1,
            vocab_size=1,
            **UNUSED,
        )


__all__ = ["CtcRecogniserConfig"]
