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
"""An end for texts that have fallen into a loop: "wheels wheels wheels", on and on until the cap."""

import math
from collections.abc import Sequence

import torch
from transformers.generation import LogitsProcessor


# Phrases of fewer tokens may well stand several times in a row ("no, no, no", "000"); of more, a loop is found too late.
SHORTEST_PHRASE, LONGEST_PHRASE = 4, 64


class EndOfRepetition(LogitsProcessor):
    """
    Lets nothing but the end follow where a phrase stands so many times in a row.

    Args:
        max_repeats (`int`):
            How many times.
        prompt_length (`int`):
            Steps before the answer, whose phrases do not count.
        eos_token_ids (`list[int]`):
            Tokens that end a text.
        pad_token_id (`int`):
            Of the gaps between words that are written when they are said: they do not count either.
    """

    def __init__(self, max_repeats: int, prompt_length: int, eos_token_ids: Sequence[int], pad_token_id: int):
        self.max_repeats, self.prompt_length = max_repeats, prompt_length
        self.eos_token_ids, self.pad_token_id = list(eos_token_ids), pad_token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        for row, steps in enumerate(input_ids[:, self.prompt_length :].tolist()):
            text = [token for token in steps if token != self.pad_token_id]
            if ends_in_repetition(text, self.max_repeats):
                scores[row] = -math.inf
                scores[row, self.eos_token_ids] = 0.0
        return scores


def ends_in_repetition(text: Sequence[int], num_times: int) -> bool:
    """Whether the end of the text is one phrase, so many times in a row."""
    text = list(text)
    lengths = range(SHORTEST_PHRASE, min(LONGEST_PHRASE, len(text) // num_times) + 1)
    return any(text[-length:] * num_times == text[-length * num_times :] for length in lengths)
