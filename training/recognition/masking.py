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
"""SpecAugment: bands and spans of the features are hidden, so that speech is understood from what is left."""

import torch


def hide(
    features: torch.Tensor,
    num_frames: torch.Tensor,
    num_frequency_masks: int,
    max_frequency_mask: int,
    num_time_masks: int,
    max_time_mask: int,
    max_time_mask_share: float,
) -> torch.Tensor:
    """
    Features `(batch_size, num_mel_bins, num_frames)` with zeros, which are of middling loudness, in random bands and spans
    of each row. `num_frames` `(batch_size,)` are those that are no padding.
    """
    batch_size, num_mel_bins, _ = features.shape
    bins = torch.full((batch_size,), num_mel_bins, device=features.device)
    widest_band = bins.new_full((batch_size,), min(max_frequency_mask, num_mel_bins))
    longest_span = (max_time_mask_share * num_frames).long().clamp(max=max_time_mask)
    bands = _spans(bins, widest_band, num_frequency_masks, num_mel_bins)
    spans = _spans(num_frames, longest_span, num_time_masks, features.shape[2])
    return features.masked_fill(bands[:, :, None] | spans[:, None, :], 0.0)


def _spans(lengths: torch.Tensor, longest: torch.Tensor, num_spans: int, size: int) -> torch.BoolTensor:
    """Random spans of up to `longest` within `lengths`, both `(batch_size,)`: (batch_size, size)"""
    width, start = torch.rand(2, len(lengths), num_spans, 1, device=lengths.device)
    width = (width * (longest + 1)[:, None, None]).long()
    start = (start * (lengths[:, None, None] - width + 1)).long()
    positions = torch.arange(size, device=lengths.device)
    return ((positions >= start) & (positions < start + width)).any(dim=1)
