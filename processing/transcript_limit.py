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
"""How long a transcript may become: where there is only noise to hear, a model may go on and on, and nobody said that much."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.generation import StoppingCriteria, StoppingCriteriaList


# Fast speech has some 25 letters a second, or 6 Chinese characters of three bytes each; a token has at least one of these.
MAX_TOKENS_PER_SECOND = 30
# For the end of the text, and for words whose beginning or end a recording has cut off.
EXTRA_TOKENS = 10


def transcript_limit(
    processor: Any, input_ids: torch.LongTensor, is_transcript: Sequence[bool] | None = None
) -> StoppingCriteriaList:
    """
    The `stopping_criteria` of transcripts, each by the length of its own sound, whatever else is in the batch.

    Args:
        processor (`FlowOmniProcessor`):
            Which prepared the prompts.
        input_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`):
            The prompts, a sound in each.
        is_transcript (`list[bool]`, *optional*):
            Which of the rows are to be limited. All, if left out.
    """
    extractor = processor.feature_extractor
    num_audio_tokens = (input_ids == processor.audio_token_id).sum(dim=-1)
    seconds = num_audio_tokens * (extractor.samples_per_step / extractor.sampling_rate)
    limits = (seconds * MAX_TOKENS_PER_SECOND).ceil().long() + EXTRA_TOKENS
    if is_transcript is not None:
        is_limited = torch.tensor(is_transcript, device=limits.device)
        limits = torch.where(is_limited, limits, torch.iinfo(torch.long).max)
    return StoppingCriteriaList([_LengthOfRows(limits, input_ids.shape[1])])


class _LengthOfRows(StoppingCriteria):
    """Ends each row after so many new tokens of its own, `limits` `(batch_size,)`."""

    def __init__(self, limits: torch.LongTensor, prompt_length: int):
        self.limits, self.prompt_length = limits, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs) -> torch.BoolTensor:
        return input_ids.shape[1] - self.prompt_length >= self.limits
