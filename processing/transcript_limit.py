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
"""A length limit for transcripts: on noise, a model may write on and on."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers.generation import StoppingCriteria, StoppingCriteriaList


# Characters, as a letter takes one to three tokens in tokenizers of bytes. Fast speech (espeak-ng, 230 words a minute)
# has about 27 per second in English, 18 to 23 in Russian, Greek, Hindi, Tamil, Burmese and Georgian, and 6 in
# Mandarin.
MAX_CHARACTERS_PER_SECOND = 40
# For the end of the text, and for words that are cut off at an end of the recording.
EXTRA_CHARACTERS = 10


def transcript_limit(
    processor: Any, input_ids: torch.LongTensor, is_transcript: Sequence[bool] | None = None
) -> StoppingCriteriaList:
    """
    The `stopping_criteria` of transcripts, each limited by the length of its audio. `input_ids` are the prompts, of
    shape `(batch_size, prompt_length)`, and `is_transcript` says which of them to limit (all by default).
    """
    extractor = processor.feature_extractor
    seconds_per_position = extractor.samples_per_position / extractor.sampling_rate
    limits = []
    for row, num_positions in enumerate((input_ids == processor.audio_token_id).sum(dim=-1).tolist()):
        limit = math.ceil(num_positions * seconds_per_position * MAX_CHARACTERS_PER_SECOND) + EXTRA_CHARACTERS
        limits.append(limit if is_transcript is None or is_transcript[row] else math.inf)
    return StoppingCriteriaList([MaxCharacters(processor.tokenizer, limits, input_ids.shape[1])])


class MaxCharacters(StoppingCriteria):
    """Ends the rows of each prompt when they have as many new characters as its entry in `limits`."""

    def __init__(self, tokenizer: Any, limits: Sequence[float], prompt_length: int):
        self.tokenizer, self.limits, self.prompt_length = tokenizer, limits, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs) -> torch.BoolTensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.prompt_length :])
        num_answers = len(texts) // len(self.limits)  # the rows of a prompt follow each other
        is_done = [len(text) >= self.limits[row // num_answers] for row, text in enumerate(texts)]
        return torch.tensor(is_done, device=input_ids.device)
