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
"""Which audio belongs to which row: audios come in one list for the whole batch, in the order of their placeholders."""

import torch

from .configuration_flow_omni import FlowOmniConfig


def num_audio_tokens(
    input_features: torch.Tensor, input_features_mask: torch.Tensor | None, config: FlowOmniConfig
) -> list[int]:
    """Steps of the language model that each audio takes up."""
    if input_features_mask is None:
        num_frames = torch.full((len(input_features),), input_features.shape[-1])
    else:
        num_frames = input_features_mask.sum(dim=-1)
    # the encoder halves the frames, the adapter joins `adapter_stack_size` of what is left; both round up
    num_encoded = (num_frames + 1) // 2
    return (-(-num_encoded // config.adapter_stack_size)).tolist()


def audio_indices_of_rows(
    input_ids: torch.LongTensor,
    input_features: torch.Tensor,
    input_features_mask: torch.Tensor | None,
    config: FlowOmniConfig,
) -> list[list[int]]:
    """The indices of the audios of each row of `input_ids` (batch_size, num_steps)."""
    lengths = num_audio_tokens(input_features, input_features_mask, config)
    rows, next_audio = [], 0
    for num_placeholders in (input_ids == config.audio_token_id).sum(dim=-1).tolist():
        row = []
        while num_placeholders > 0 and next_audio < len(lengths):
            num_placeholders -= lengths[next_audio]
            row.append(next_audio)
            next_audio += 1
        if num_placeholders != 0:
            break
        rows.append(row)
    if len(rows) != len(input_ids) or next_audio != len(lengths):
        raise ValueError(
            f"The `<|audio|>` placeholders of {len(input_ids)} rows do not match {len(lengths)} audios of {lengths} steps: "
            "prepare both with `FlowOmniProcessor`, and do not truncate its `input_ids`."
        )
    return rows


def uncached_audios(
    input_ids: torch.LongTensor,
    num_uncached_steps: int,
    input_features: torch.Tensor | None,
    input_features_mask: torch.Tensor | None,
    config: FlowOmniConfig,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """
    The features (and mask) of the audios whose placeholders lie in the last `num_uncached_steps` of `input_ids`; the
    others are in the cache. The caller may have passed only those.
    """
    uncached_ids = input_ids[:, -num_uncached_steps:]
    num_placeholders = int((uncached_ids == config.audio_token_id).sum())
    if input_features is None:
        if num_placeholders > 0:
            raise ValueError(
                f"The prompt has {num_placeholders} `<|audio|>` placeholders but no audio: pass the `input_features` (and "
                "`input_features_mask`) that the processor returned with it."
            )
        return None, None
    if num_placeholders == sum(num_audio_tokens(input_features, input_features_mask, config)):
        audio_indices_of_rows(uncached_ids, input_features, input_features_mask, config)  # each in its own row
        return input_features, input_features_mask
    kept = _indices_of_uncached_audios(input_ids, uncached_ids, input_features, input_features_mask, config)
    if not kept:
        return None, None
    return input_features[kept], input_features_mask[kept] if input_features_mask is not None else None


def _indices_of_uncached_audios(
    input_ids: torch.LongTensor,
    uncached_ids: torch.LongTensor,
    input_features: torch.Tensor,
    input_features_mask: torch.Tensor | None,
    config: FlowOmniConfig,
) -> list[int]:
    lengths = num_audio_tokens(input_features, input_features_mask, config)
    rows = audio_indices_of_rows(input_ids, input_features, input_features_mask, config)
    kept = []
    for row, row_ids in zip(rows, uncached_ids):
        num_left = int((row_ids == config.audio_token_id).sum())
        first = len(row)
        while num_left > 0:
            first -= 1
            num_left -= lengths[row[first]]
        if num_left < 0:
            raise ValueError(
                f"The cache ends in the middle of an audio of {lengths[row[first]]} steps: crop `cache` to the end "
                "of a message."
            )
        kept += row[first:]
    return kept
