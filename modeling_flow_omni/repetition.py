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


# Shorter phrases count as their multiples: one token must stand four times as often, for "000" may well be meant. Longer
# loops are not looked for: the cap comes sooner.
SHORTEST_PHRASE, LONGEST_PHRASE = 4, 64


class EndAfterRepeatsLogitsProcessor(LogitsProcessor):
    """
    Lets nothing but the end follow as soon as a phrase stands `num_repeats` times in a row. That may be within a word:
    "bees wheels wheels wheel" has "s wheel" three times.

    Args:
        num_repeats (`int`):
            How often a phrase of 4 to 64 tokens must stand.
        prompt_length (`int`):
            Steps before the answer, whose phrases do not count.
        eos_token_ids (`Sequence[int]`):
            Tokens that end a text.
        pad_token_id (`int`):
            Of the gaps between words that are written when they are said: they do not count either.
    """

    # it looks back at every token of an answer
    supports_continuous_batching = False

    def __init__(self, num_repeats: int, prompt_length: int, eos_token_ids: Sequence[int], pad_token_id: int):
        self.num_repeats, self.prompt_length = num_repeats, prompt_length
        self.eos_token_ids, self.pad_token_id = list(eos_token_ids), pad_token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        for row, steps in enumerate(input_ids[:, self.prompt_length :].tolist()):
            text = [token for token in steps if token != self.pad_token_id]
            if ends_in_repeats(text, self.num_repeats):
                # also where other options forbid the end: nothing else would be left
                scores[row] = -math.inf
                scores[row, self.eos_token_ids] = 0.0
        return scores


def ends_in_repeats(text: list[int], num_repeats: int) -> bool:
    """Whether the text ends in one phrase, so many times in a row."""
    lengths = range(SHORTEST_PHRASE, min(LONGEST_PHRASE, len(text) // num_repeats) + 1)
    return any(text[-length:] * num_repeats == text[-length * num_repeats :] for length in lengths)
