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
"""The written exchanges of tinytalk: questions and answers that are made by rule, the same ones every time."""

import random
from collections.abc import Iterator
from itertools import islice

from .arithmetic import arithmetic
from .counting import counting
from .exchanges import Exchange, in_turn, of_split, read_tables
from .sentences import sentences
from .spelling import spelling
from .splits import SPLITS, Split


# Topics and how many of the rows are about them.
TOPICS: dict[str, float] = {
    "arithmetic": 0.28,
    "repeat": 0.20,
    "facts": 0.14,
    "read": 0.12,
    "calendar": 0.07,
    "spelling": 0.06,
    "counting": 0.05,
    "opposites": 0.04,
    "small_talk": 0.04,
}
TABLES = ("facts", "calendar", "opposites", "small_talk")


def generate(split: Split, num_rows: int, seed: int = 0, language: str = "en") -> Iterator[dict[str, str]]:
    """
    Rows of a split. Fewer rows are the first ones of more.

    Args:
        split (`str`):
            `train`, `validation` or `test`: what is asked in one is asked in no other, whatever the seed.
        num_rows (`int`):
            How many.
        seed (`int`, *optional*, defaults to 0):
            Decides what is drawn, and its order.
        language (`str`, *optional*, defaults to `"en"`):
            `"en"`, or `"zh"` for Mandarin.
    """
    if split not in SPLITS:
        raise ValueError(f"The split is {split!r}: it must be one of {', '.join(SPLITS)}.")
    rng = random.Random(f"{seed} {split} {language}")
    streams = {topic: exchanges_of(topic, split, language, rng) for topic in TOPICS}
    for index, topic in enumerate(islice(_drawn_topics(rng), num_rows)):
        exchange = next(streams[topic])
        yield {
            "id": f"{topic}-{index}",
            "question_text": exchange.question,
            "answer_text": exchange.answer,
            "language": language,
        }


def exchanges_of(topic: str, split: Split, language: str, rng: random.Random) -> Iterator[Exchange]:
    """The exchanges of a topic, for ever."""
    if topic == "arithmetic":
        return arithmetic(split, language, rng)
    if topic in ("repeat", "read"):
        return sentences(topic, split, rng)
    return in_turn(all_of(topic, split, language), rng)


def all_of(topic: str, split: Split, language: str) -> list[Exchange]:
    """Every exchange of a topic that has a finite number of them."""
    if topic == "counting":
        return counting(split, language)
    if topic == "spelling":
        return spelling(split, language)
    exchanges = [exchange for table in read_tables(f"{topic}_{language}") for exchange in table.exchanges()]
    if topic == "opposites":
        exchanges += [
            exchange for table in read_tables(f"{topic}_{language}") for exchange in table.reversed().exchanges()
        ]
    return of_split(exchanges, split)


def topic_of(row_id: str) -> str:
    """The topic in the name of a row: `arithmetic` of `arithmetic-17-v2`."""
    return row_id.partition("-")[0]


def _drawn_topics(rng: random.Random) -> Iterator[str]:
    while True:
        yield rng.choices(list(TOPICS), list(TOPICS.values()))[0]
