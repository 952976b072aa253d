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
"""Sums, differences and products in words. A combination of numbers belongs to one split, however it is asked."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..examples import uniform
from .exchanges import Exchange, in_turn, sentence
from .numbers import in_words
from .splits import TEST_SHARE, VALIDATION_SHARE, Split, split_at, split_of


@dataclass(frozen=True)
class Operation:
    """
    Attributes:
        name: of the operation.
        combinations: pairs of numbers.
        result: of a pair.
        share: how many of the questions are of this operation.
        questions, answer: with `{a}` and `{b}` the numbers, and `{c}` the result.
    """

    name: str
    combinations: tuple[tuple[int, int], ...]
    share: float
    questions: tuple[str, ...]
    answer: str

    def result(self, a: int, b: int) -> int:
        return {"addition": a + b, "subtraction": a - b, "multiplication": a * b}[self.name]

    def split(self, a: int, b: int) -> Split:
        """
        Pairs are ordered: of "two plus five" in the test, "five plus two" may be in train. Of a product it always is, since
        tables are learnt by heart, and squares always are in train.
        """
        if self.name != "multiplication":
            return split_of(self.name, a, b)
        if a == b:
            return "train"
        pair = (min(a, b), max(a, b))
        is_small_first = uniform("tinytalk", self.name, "order", *pair) < 0.5
        if (a < b) != is_small_first:
            return "train"
        # twice the shares, since of two orders one is held out
        return split_at(uniform("tinytalk", self.name, *pair), 2 * VALIDATION_SHARE, 2 * TEST_SHARE)

    def ask(self, a: int, b: int, question: str, language: str) -> Exchange:
        numbers = {"a": in_words(a, language), "b": in_words(b, language), "c": in_words(self.result(a, b), language)}
        return Exchange(
            (self.name, a, b), sentence(question.format(**numbers)), sentence(self.answer.format(**numbers))
        )


def pairs(first: range, second: range, is_difference: bool = False) -> tuple[tuple[int, int], ...]:
    return tuple((a, b) for a in first for b in second if not is_difference or a >= b)


OPERATIONS: dict[str, tuple[Operation, ...]] = {
    "en": (
        Operation(
            "addition",
            pairs(range(51), range(51)),
            0.48,
            (
                "What is {a} plus {b}?",
                "How much is {a} plus {b}?",
                "{a} plus {b}?",
                "What's {a} plus {b}?",
                "Can you add {a} and {b}?",
                "Add {a} and {b}.",
                "What do you get if you add {a} and {b}?",
                "What is the sum of {a} and {b}?",
                "How much is {a} and {b}?",
                "Tell me what {a} plus {b} is.",
            ),
            "{a} plus {b} is {c}.",
        ),
        Operation(
            "subtraction",
            pairs(range(51), range(51), is_difference=True),
            0.32,
            (
                "What is {a} minus {b}?",
                "How much is {a} minus {b}?",
                "{a} minus {b}?",
                "What's {a} minus {b}?",
                "Can you take {b} from {a}?",
                "Take {b} from {a}.",
                "Subtract {b} from {a}.",
                "What do you get if you take {b} from {a}?",
                "What is left if you take {b} away from {a}?",
                "Tell me what {a} minus {b} is.",
            ),
            "{a} minus {b} is {c}.",
        ),
        Operation(
            "multiplication",
            pairs(range(13), range(13)),
            0.20,
            (
                "What is {a} times {b}?",
                "How much is {a} times {b}?",
                "{a} times {b}?",
                "What's {a} times {b}?",
                "Can you multiply {a} by {b}?",
                "Multiply {a} by {b}.",
                "What do you get if you multiply {a} by {b}?",
                "What is {a} multiplied by {b}?",
                "What is the product of {a} and {b}?",
                "Tell me what {a} times {b} is.",
            ),
            "{a} times {b} is {c}.",
        ),
    ),
    "zh": (
        Operation(
            "addition",
            pairs(range(21), range(21)),
            0.5,
            ("{a}加{b}等于几？", "{a}加{b}是多少？", "{a}加{b}？", "请问{a}加{b}等于多少？", "请算一下{a}加{b}。"),
            "{a}加{b}等于{c}。",
        ),
        Operation(
            "subtraction",
            pairs(range(21), range(21), is_difference=True),
            0.3,
            ("{a}减{b}等于几？", "{a}减{b}是多少？", "{a}减{b}？", "请问{a}减{b}等于多少？", "请算一下{a}减{b}。"),
            "{a}减{b}等于{c}。",
        ),
        Operation(
            "multiplication",
            pairs(range(10), range(10)),
            0.2,
            ("{a}乘{b}等于几？", "{a}乘{b}是多少？", "{a}乘{b}？", "请问{a}乘{b}等于多少？", "请算一下{a}乘{b}。"),
            "{a}乘{b}等于{c}。",
        ),
    ),
}

HIGHEST_RESULT = max(
    one.result(*pair) for operations in OPERATIONS.values() for one in operations for pair in one.combinations
)


def arithmetic(split: Split, operations: Sequence[Operation], language: str, rng: random.Random) -> Iterator[Exchange]:
    """Questions for ever: each combination of the split in turn, small ones twice as often."""
    decks = [in_turn(combinations_of(operation, split), rng) for operation in operations]
    for index in _draws(rng, [operation.share for operation in operations]):
        operation, (a, b) = operations[index], next(decks[index])
        yield operation.ask(a, b, rng.choice(operation.questions), language)


def combinations_of(operation: Operation, split: Split) -> list[tuple[int, int]]:
    mine = [pair for pair in operation.combinations if operation.split(*pair) == split]
    return mine + [pair for pair in mine if max(pair) <= 20]


def _draws(rng: random.Random, weights: list[float]) -> Iterator[int]:
    while True:
        yield rng.choices(range(len(weights)), weights)[0]
