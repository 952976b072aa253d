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
"""The recogniser: a Whisper's encoder, and on each of its frames a character or nothing."""

import copy
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, WhisperFeatureExtractor, WhisperModel
from transformers.modeling_outputs import CausalLMOutput

from ...modeling_flow_omni.audio_encoder import FlowOmniAudioEncoder
from ...processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor
from .characters import BLANK, Characters, collapse
from .configuration import CtcRecogniserConfig
from .masking import hide


# Labels of this value are padding.
IGNORED = -100
# Encoder frames that are transcribed at once, padding included: a matter of memory, not of results.
MAX_FRAMES_AT_ONCE = 16_000


class CtcRecogniser(PreTrainedModel):
    """
    A recogniser by CTC. It hears with the encoder, the features and the any length of a [`FlowOmniForSpeechGeneration`],
    for which [`export_whisper`] makes its encoder a part.
    """

    config_class = CtcRecogniserConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"
    _supports_sdpa = True

    def __init__(self, config: CtcRecogniserConfig):
        super().__init__(config)
        self.encoder = FlowOmniAudioEncoder(config.whisper_config())
        self.head = nn.Linear(config.d_model * config.stack_size, config.num_classes)
        self.post_init()

    @cached_property
    def characters(self) -> Characters:
        return Characters(self.config.characters)

    @cached_property
    def feature_extractor(self) -> FlowOmniFeatureExtractor:
        return FlowOmniFeatureExtractor(feature_size=self.config.num_mel_bins)

    def forward(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> CausalLMOutput:
        """
        Args:
            input_features (`torch.Tensor` of shape `(batch_size, num_mel_bins, num_frames)`):
                Whisper's log-mel features, of any length.
            input_features_mask (`torch.Tensor` of shape `(batch_size, num_frames)`, *optional*):
                1 for frames of speech, 0 for padding, which must be on the right.
            labels (`torch.Tensor` of shape `(batch_size, num_characters)`, *optional*):
                Classes of the characters, padded with -100.

        Returns:
            `logits` of the shape `(batch_size, num_judged, num_classes)`, and with labels the CTC loss per character.
        """
        if input_features_mask is None:
            input_features_mask = input_features.new_ones(input_features.shape[0], input_features.shape[2])
        if self.training:
            input_features = self._hide(input_features, input_features_mask)
        encoded = self.encoder(input_features, input_features_mask).last_hidden_state
        logits = self.head(self._stacked(encoded, input_features_mask[:, ::2]))
        if labels is None:
            return CausalLMOutput(logits=logits)
        return CausalLMOutput(loss=ctc_loss(logits, self.num_judged(input_features_mask), labels), logits=logits)

    def num_judged(self, input_features_mask: torch.Tensor) -> torch.Tensor:
        """Of each row the frames that are judged: the encoder halves those of the features, and some are stacked."""
        per_judged = 2 * self.config.stack_size
        return (input_features_mask.sum(dim=1).long() + per_judged - 1) // per_judged

    def _hide(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        names = ("num_frequency_masks", "max_frequency_mask", "num_time_masks", "max_time_mask", "max_time_mask_share")
        return hide(features, mask.sum(dim=1).long(), **{name: getattr(self.config, name) for name in names})

    def _stacked(self, encoded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Neighbouring frames side by side; zeros where a last one has no neighbour."""
        stack_size = self.config.stack_size
        if stack_size == 1:
            return encoded
        encoded = encoded * mask[..., None].to(encoded.dtype)
        encoded = nn.functional.pad(encoded, (0, 0, 0, -encoded.shape[1] % stack_size))
        return encoded.reshape(encoded.shape[0], -1, self.head.in_features)

    def decode(self, logits: torch.Tensor, num_judged: torch.Tensor) -> list[str]:
        """What the likeliest path of each row says, up to its length."""
        paths = logits.argmax(dim=-1).tolist()
        return [self.characters.decode(collapse(path[:length])) for path, length in zip(paths, num_judged.tolist())]

    @torch.no_grad()
    def transcribe_batch(self, waveforms: Sequence[Any], sampling_rate: int | None = None) -> list[str]:
        """
        What is said in several sounds: arrays at `sampling_rate`, 16000 by default, or anything else that the processor
        reads.
        """
        was_training = self.training
        self.eval()
        sounds = [load_sound(self.feature_extractor, waveform, sampling_rate) for waveform in waveforms]
        texts: dict[int, str] = {}
        for indices in _groups([len(sound) for sound in sounds], MAX_FRAMES_AT_ONCE * 320):
            features = self.feature_extractor([sounds[index] for index in indices], return_tensors="pt").to(
                self.device
            )
            texts |= zip(indices, self.decode(self(**features).logits, self.num_judged(features.input_features_mask)))
        self.train(was_training)
        return [texts[index] for index in range(len(sounds))]

    def transcribe(self, waveform: Any, sampling_rate: int | None = None) -> str:
        """What is said in a sound."""
        return self.transcribe_batch([waveform], sampling_rate)[0]

    def export_whisper(self, folder: str | os.PathLike) -> None:
        """
        Writes a Whisper that has this encoder, for `from_pretrained_parts(whisper=folder)`. It writes nothing: its
        decoder is there because a Whisper has one, as small as can be and untrained.
        """
        # what is dropped in training is a matter of this training
        config = copy.deepcopy(self.encoder.config)
        config.dropout = config.encoder_layerdrop = 0.0
        whisper = WhisperModel(config)
        whisper.encoder.load_state_dict(self.encoder.state_dict())
        whisper.save_pretrained(folder)
        WhisperFeatureExtractor(feature_size=self.config.num_mel_bins).save_pretrained(Path(folder))


def load_sound(extractor: FlowOmniFeatureExtractor, sound: Any, sampling_rate: int | None) -> Any:
    return extractor.fetch_audio(sound, source_sampling_rate=sampling_rate)


def _groups(lengths: Sequence[int], max_total: int) -> Iterator[list[int]]:
    """Indices of sounds of like length, whose number times the longest is at most so many samples."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if group and (len(group) + 1) * lengths[group[0]] > max_total:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def ctc_loss(logits: torch.Tensor, num_judged: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The negative logarithm of the probability of all paths that say the labels, per character."""
    with torch.autocast(logits.device.type, enabled=False):
        log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)
        num_characters = (labels != IGNORED).sum(dim=1)
        loss = nn.functional.ctc_loss(
            log_probs,
            labels.clamp(min=0),
            num_judged,
            num_characters,
            blank=BLANK,
            reduction="sum",
            # of what is said too fast to be written there is nothing to learn
            zero_infinity=True,
        )
        return loss / num_characters.sum().clamp(min=1)


__all__ = ["CtcRecogniser"]
