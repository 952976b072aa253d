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
"""Counting up, down and in steps, and what comes before and after a number."""

from collections.abc import Iterator

from .exchanges import Exchange, sentence
from .numbers import in_words
from .splits import Split, split_of


MAX_COUNTED = 10
PHRASINGS = {
    "en": {
        "up": ("Count from {a} to {b}.", "Please count from {a} to {b}.", "Can you count from {a} to {b}?"),
        "down": (
            "Count down from {a} to {b}.",
            "Count backwards from {a} to {b}.",
            "Please count backwards from {a} to {b}.",
        ),
        "twos": ("Count by twos from {a} to {b}.", "Count in twos from {a} to {b}."),
        "fives": ("Count by fives from {a} to {b}.", "Count in fives from {a} to {b}."),
        "tens": ("Count by tens from {a} to {b}.", "Count in tens from {a} to {b}."),
        "after": ("What comes after {a}?", "Which number comes after {a}?", "What number follows {a}?"),
        "before": ("What comes before {a}?", "Which number comes before {a}?", "What number is just before {a}?"),
    },
    "zh": {
        "up": ("从{a}念到{b}。", "请数数，从{a}到{b}。", "你能从{a}念到{b}吗？"),
        "down": ("从{a}倒数到{b}。", "请从{a}倒数到{b}。"),
        "after": ("{a}后面是几？", "{a}的后面是什么数？", "哪个数在{a}后面？"),
        "before": ("{a}前面是几？", "{a}的前面是什么数？", "哪个数在{a}前面？"),
    },
}
NEIGHBORS = {
    "en": {"after": "After {a} comes {b}.", "before": "Before {a} comes {b}."},
    "zh": {"after": "{a}后面是{b}。", "before": "{a}前面是{b}。"},
}
STEPS = {"up": 1, "down": -1, "twos": 2, "fives": 5, "tens": 10}
# The highest number that is counted to, and the highest whose neighbours are asked for.
HIGHEST = {"en": (50, 100), "zh": (30, 50)}


def counting(split: Split, language: str) -> list[Exchange]:
    """All questions of a split, to which every pair of ends and every number belongs as a whole."""
    phrasings = PHRASINGS[language]
    exchanges = []
    for kind, numbers in combinations(language):
        if split_of("counting", kind, numbers[0], numbers[-1]) != split:
            continue
        words = [in_words(number, language) for number in numbers]
        if kind in STEPS:
            answer = ("，".join(words) + "。") if language == "zh" else ", ".join(words) + "."
        else:
            answer = NEIGHBORS[language][kind].format(a=words[0], b=words[-1])
        for question in phrasings[kind]:
            asked = question.format(a=words[0], b=words[-1])
            exchanges.append(Exchange((kind, numbers[0], numbers[-1]), sentence(asked), sentence(answer)))
    return exchanges


def combinations(language: str) -> Iterator[tuple[str, range]]:
    """What can be counted, by its kind."""
    highest_counted, highest = HIGHEST[language]
    for kind in PHRASINGS[language]:
        if kind in STEPS:
            yield from ((kind, numbers) for numbers in _counts(STEPS[kind], highest_counted))
        else:
            step = 1 if kind == "after" else -1
            yield from ((kind, range(a, a + 2 * step, step)) for a in range(highest + 1) if a + step >= 0)


def _counts(step: int, highest: int) -> Iterator[range]:
    """Counts of three to ten numbers; those in steps begin at a multiple of the step."""
    highest = highest if abs(step) == 1 else 100
    for start in range(0, highest + 1, 1 if abs(step) == 1 else step):
        for length in range(3, MAX_COUNTED + 1):
            numbers = range(start, start + length * step, step)
            if 0 <= numbers[-1] <= highest:
                yield numbers
