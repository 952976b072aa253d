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
"""Batches in which every module has work, as training on many processes needs it: gradients are exchanged all at once."""

from collections.abc import Mapping

import torch
from torch.nn.functional import pad

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from ..modeling_flow_omni.modeling_flow_omni import IGNORE_INDEX as IGNORED


def with_all_modalities(batch: Mapping[str, torch.Tensor], config: FlowOmniConfig) -> dict[str, torch.Tensor]:
    """
    The batch, and where it lacks heard or spoken sound one more row that has it. That row has no labels. Its patch is in
    the mean of the speech loss, so the caller must weight that loss by the number of real patches, here 0.

    DDP and FSDP exchange the gradients (FSDP also the weights) of every module in every process: one whose batch does not
    reach the encoder would leave the others waiting.
    """
    batch = dict(batch)
    is_silent, is_deaf = batch.get("mel_labels") is None, batch.get("input_features") is None
    if not is_silent and not is_deaf:
        return batch
    row = _Row(batch["input_ids"])
    if is_deaf:
        batch |= row.hear(config)
    if is_silent:
        batch |= row.speak(config, batch)
    return batch | row.appended_to(batch)


class _Row:
    """A row of a few steps, in the types and on the device of a batch."""

    def __init__(self, input_ids: torch.Tensor):
        self.input_ids, self.states = input_ids.new_zeros(2), input_ids.new_zeros(2)

    def hear(self, config: FlowOmniConfig) -> dict[str, torch.Tensor]:
        """Lets the row hear as many frames of silence as make one step."""
        self.input_ids[0] = config.audio_token_id
        num_frames = 2 * config.adapter_stack_size
        silence = torch.zeros(1, config.audio_config.num_mel_bins, num_frames, device=self.input_ids.device)
        return {"input_features": silence, "input_features_mask": self.input_ids.new_ones(1, num_frames)}

    def speak(self, config: FlowOmniConfig, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Lets the row say one patch."""
        self.states[1] = config.generating_state_id
        speech = config.speech_config
        shape = (len(batch["input_ids"]) + 1, 1, speech.frames_per_step, speech.num_mel_bins)
        return {"mel_labels": torch.full(shape, speech.initial_mel_mean, device=self.input_ids.device)}

    def appended_to(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The streams of the batch with the row below the others, and the patches with as many rows."""
        num_missing = max(0, len(self.input_ids) - batch["input_ids"].shape[1])
        ignored = torch.full_like(self.input_ids, IGNORED)
        rows = {
            "input_ids": (self.input_ids, 0),
            "speech_states": (self.states, 0),
            "attention_mask": (torch.ones_like(self.input_ids), 0),
            "labels": (ignored, IGNORED),
            "state_labels": (ignored, IGNORED),
        }
        appended = {}
        for name, (row, filler) in rows.items():
            if name in batch:
                rest = pad(batch[name], (0, num_missing), value=filler)
                row = pad(row, (0, rest.shape[1] - len(row)), value=filler)
                appended[name] = torch.cat([rest, row[None].to(rest.dtype)])
        mel = batch["mel_labels"]
        num_rows = len(appended["input_ids"])
        appended["mel_labels"] = pad(mel, (0, 0) * 3 + (0, num_rows - len(mel)))
        return appended
