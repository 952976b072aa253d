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
"""How far an answer is from what was expected: errors by character and by word, and exact answers."""

import unicodedata
from collections.abc import Sequence

from .extras import needs


def normalized(text: str) -> str:
    """A text as it sounds: small letters, no punctuation, single spaces."""
    text = unicodedata.normalize("NFKC", text).lower()
    # apostrophes go without a trace, so that "don't" stays one word
    text = text.replace("'", "").replace("’", "")
    kept = (character if unicodedata.category(character)[0] not in "PSC" else " " for character in text)
    return " ".join("".join(kept).split())


def character_error_rate(expected: Sequence[str], heard: Sequence[str]) -> float:
    """Wrong, missing and surplus characters over all expected ones, without spaces."""
    return _error_rate("cer", [text.replace(" ", "") for text in map(normalized, expected)], heard, drop_spaces=True)


def word_error_rate(expected: Sequence[str], heard: Sequence[str]) -> float:
    """Wrong, missing and surplus words over all expected ones."""
    return _error_rate("wer", [normalized(text) for text in expected], heard, drop_spaces=False)


def exact_rate(expected: Sequence[str], heard: Sequence[str]) -> float:
    """The share of answers that are what was expected, in the end."""
    return sum(normalized(one) == normalized(other) for one, other in zip(expected, heard)) / len(expected)


def _error_rate(measure: str, expected: Sequence[str], heard: Sequence[str], drop_spaces: bool) -> float:
    heard = [normalized(text).replace(" ", "") if drop_spaces else normalized(text) for text in heard]
    pairs = [(one, other) for one, other in zip(expected, heard) if one]
    if not pairs:
        raise ValueError(
            f"None of the {len(expected)} expected texts has a letter or a digit: there is nothing to measure errors against."
        )
    return getattr(needs("jiwer"), measure)(*map(list, zip(*pairs)))
