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
Sums in a row, which are only written. They are of more numbers than any question has, and of the smallest ones, whose names
follow no rule, more often than questions are; each is computed from the words just before it, as in an answer that repeats its
question. Some are turned round at once: what is known of "three times five" is to be known of "five times three".
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from .arithmetic import OPERATIONS, arithmetic, pairs
from .exchanges import Exchange, sentence
from .numbers import in_words
from .splits import Split


LARGE = {
    "addition": pairs(range(100), range(100)),
    "subtraction": pairs(range(100), range(100), is_difference=True),
    "multiplication": pairs(range(21), range(13)) + pairs(range(13), range(13, 21)),
}
SMALL = {
    "addition": pairs(range(21), range(21)),
    "subtraction": pairs(range(21), range(21), is_difference=True),
    "multiplication": pairs(range(13), range(13)),
}
# Of three small ones one is a product: tables are most of what is learnt by heart.
SMALL_SHARES = {"addition": 0.35, "subtraction": 0.3, "multiplication": 0.35}
REQUESTS = {
    "en": ("Tell me {} sums.", "Say {} sums.", "Give me {} sums.", "Do {} sums."),
    "zh": ("请说{}道算式。", "说{}道算式。", "请做{}道算术题。"),
}
REQUESTS_BOTH_WAYS = {
    "en": ("Tell me {} sums both ways.", "Say {} sums both ways.", "Turn {} sums round.", "Do {} sums both ways."),
    "zh": ("请正反说{}道算式。", "正反说{}道算式。", "请正反做{}道算术题。"),
}
LENGTHS = (3, 4, 5, 6)
LENGTHS_BOTH_WAYS = (2, 3)
# The others are a question and its answer, as in the rest of the corpus.
SHARE_IN_A_ROW = 0.4
SHARE_BOTH_WAYS = 0.3


def drills(split: Split, num_rows: int, seed: int = 0, language: str = "en") -> Iterator[dict[str, str]]:
    """Rows of a split. No combination of another split is among them."""
    rng = random.Random(f"{seed} sums {split} {language}")
    operations = OPERATIONS[language]
    large = tuple(replace(one, combinations=LARGE[one.name]) for one in operations)
    small = tuple(replace(one, combinations=SMALL[one.name], share=SMALL_SHARES[one.name]) for one in operations)
    kinds = [arithmetic(split, kind, language, rng) for kind in (operations, large, small)]
    for index in range(num_rows):
        place = rng.random()
        if place < SHARE_BOTH_WAYS:
            exchange = both_ways(kinds[1:], split, language, rng)
        elif place < SHARE_BOTH_WAYS + SHARE_IN_A_ROW:
            sums = [next(rng.choice(kinds)) for _ in range(rng.choice(LENGTHS))]
            exchange = in_a_row(sums, REQUESTS, len(sums), language, rng)
        else:
            exchange = next(rng.choice(kinds))
        yield exchange.row(f"sums-{index}", language)


def both_ways(kinds: list[Iterator[Exchange]], split: Split, language: str, rng: random.Random) -> Exchange:
    """Sums, each with itself turned round. Those whose other side is of another split, or the same, are passed over."""
    sums: list[Exchange] = []
    num_sums = rng.choice(LENGTHS_BOTH_WAYS)
    while len(sums) < 2 * num_sums:
        one = next(rng.choice(kinds))
        other = turned(one, split, language)
        if other is not None:
            sums += [one, other]
    return in_a_row(sums, REQUESTS_BOTH_WAYS, num_sums, language, rng)


def turned(exchange: Exchange, split: Split, language: str) -> Exchange | None:
    """`b + a` of `a + b`, `b * a` of `a * b`, and of `a - b` that it and `b` are `a`; `None` where the split has no such sum."""
    name, a, b = exchange.fact
    name, a, b = ("addition", a - b, b) if name == "subtraction" else (name, b, a)
    operation = next(one for one in OPERATIONS[language] if one.name == name)
    if (name, a, b) == exchange.fact or operation.split(a, b) != split:
        return None
    return operation.ask(a, b, operation.questions[0], language)


def in_a_row(
    sums: list[Exchange], requests: dict[str, tuple[str, ...]], num_sums: int, language: str, rng: random.Random
) -> Exchange:
    request = rng.choice(requests[language]).format(in_words(num_sums, language))
    facts = tuple(one.fact for one in sums)
    return Exchange(facts, sentence(request), ("" if language == "zh" else " ").join(one.answer for one in sums))
