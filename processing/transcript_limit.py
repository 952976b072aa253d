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


# Characters and not tokens, of which a letter has one to three where a tokenizer has bytes. Fast speech has some 27 a
# second in English, 18 to 23 in Russian, Greek, Hindi, Tamil, Burmese and Georgian (measured on espeak-ng at 230 words a
# minute), and 6 in Mandarin.
MAX_CHARACTERS_PER_SECOND = 40
# For the end of the text, and for words whose beginning or end a recording has cut off.
EXTRA_CHARACTERS = 10


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
    limits = ((seconds * MAX_CHARACTERS_PER_SECOND).ceil().long() + EXTRA_CHARACTERS).tolist()
    is_limited = [True] * len(limits) if is_transcript is None else is_transcript
    limits = [limit if limited else None for limit, limited in zip(limits, is_limited, strict=True)]
    return StoppingCriteriaList([_LengthOfRows(processor.tokenizer, limits, input_ids.shape[1])])


class _LengthOfRows(StoppingCriteria):
    """Ends each row when it has so many new characters: `limits`, one for each prompt, `None` where there is none."""

    def __init__(self, tokenizer: Any, limits: Sequence[int | None], prompt_length: int):
        self.tokenizer, self.limits, self.prompt_length = tokenizer, limits, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs) -> torch.BoolTensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.prompt_length :])
        # with several answers to a prompt, its rows follow each other
        num_answers = len(texts) // len(self.limits)
        limits = (limit for limit in self.limits for _ in range(num_answers))
        is_done = [limit is not None and len(text) >= limit for text, limit in zip(texts, limits)]
        return torch.tensor(is_done, device=input_ids.device)
