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
"""
Sums in a row, which are only written: of more numbers than any question has, so that they are learnt as a rule and not as a
table, and each computed from the words just before it, as in an answer that repeats its question.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from .arithmetic import OPERATIONS, arithmetic, pairs
from .exchanges import Exchange, sentence
from .numbers import in_words
from .splits import Split


COMBINATIONS = {
    "addition": pairs(range(100), range(100)),
    "subtraction": pairs(range(100), range(100), is_difference=True),
    "multiplication": pairs(range(21), range(13)) + pairs(range(13), range(13, 21)),
}
REQUESTS = {
    "en": ("Tell me {} sums.", "Say {} sums.", "Give me {} sums.", "Do {} sums."),
    "zh": ("请说{}道算式。", "说{}道算式。", "请做{}道算术题。"),
}
LENGTHS = range(3, 7)
# The others are a question and its answer, as in the rest of the corpus.
SHARE_IN_A_ROW = 0.7


def drills(split: Split, num_rows: int, seed: int = 0, language: str = "en") -> Iterator[dict[str, str]]:
    """Rows of a split. No combination of another split is among them."""
    rng = random.Random(f"{seed} sums {split} {language}")
    more = tuple(replace(one, combinations=COMBINATIONS[one.name]) for one in OPERATIONS[language])
    kinds = arithmetic(split, OPERATIONS[language], language, rng), arithmetic(split, more, language, rng)
    for index in range(num_rows):
        is_single = rng.random() >= SHARE_IN_A_ROW
        sums = [next(rng.choice(kinds)) for _ in range(1 if is_single else rng.choice(LENGTHS))]
        exchange = sums[0] if is_single else in_a_row(sums, language, rng)
        yield exchange.row(f"sums-{index}", language)


def in_a_row(sums: list[Exchange], language: str, rng: random.Random) -> Exchange:
    request = rng.choice(REQUESTS[language]).format(in_words(len(sums), language))
    facts = tuple(one.fact for one in sums)
    return Exchange(facts, sentence(request), ("" if language == "zh" else " ").join(one.answer for one in sums))
