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
from itertools import chain, islice

from ..recognition.characters import spoken
from .arithmetic import HIGHEST_RESULT, OPERATIONS, arithmetic
from .counting import counting
from .exchanges import Exchange, in_turn, of_split, read_tables
from .numbers import in_words
from .sentences import sentences
from .spelling import spelling
from .splits import SPLITS, Split
from .templates import literals
from .words import entries


# Topics and how many of the rows are about them, by language.
SHARES: dict[str, dict[str, float]] = {
    "en": {
        "arithmetic": 0.28,
        "repeat": 0.20,
        "facts": 0.14,
        "read": 0.12,
        "calendar": 0.07,
        "spelling": 0.06,
        "counting": 0.05,
        "opposites": 0.04,
        "small_talk": 0.04,
    },
    "zh": {
        "arithmetic": 0.30,
        "repeat": 0.22,
        "facts": 0.14,
        "read": 0.12,
        "calendar": 0.07,
        "counting": 0.06,
        "opposites": 0.05,
        "small_talk": 0.04,
    },
}
TOPICS = tuple(SHARES["en"])
# Topics of which there are more questions than can be listed.
ENDLESS = ("arithmetic", "repeat", "read")


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
    if language not in SHARES:
        raise ValueError(f"The language is {language!r}: texts are written in {' and '.join(SHARES)} only.")
    return _rows(split, num_rows, seed, language)


def _rows(split: Split, num_rows: int, seed: int, language: str) -> Iterator[dict[str, str]]:
    rng = random.Random(f"{seed} {split} {language}")
    streams = {topic: exchanges_of(topic, split, language, rng) for topic in SHARES[language]}
    for index, topic in enumerate(islice(_drawn_topics(language, rng), num_rows)):
        yield next(streams[topic]).row(f"{topic}-{index}", language)


def exchanges_of(topic: str, split: Split, language: str, rng: random.Random) -> Iterator[Exchange]:
    """The exchanges of a topic, for ever."""
    if topic == "arithmetic":
        return arithmetic(split, OPERATIONS[language], language, rng)
    if topic in ("repeat", "read"):
        return sentences(topic, split, language, rng)
    return in_turn(all_of(topic, split, language), rng)


def all_of(topic: str, split: Split, language: str) -> list[Exchange]:
    """Every exchange of a topic that has a finite number of them."""
    if topic == "counting":
        return counting(split, language)
    if topic == "spelling":
        return spelling(split, language)
    tables = read_tables(f"{topic}_{language}")
    if topic == "opposites":
        tables += tuple(table.reversed() for table in tables)
    return of_split([exchange for table in tables for exchange in table.exchanges()], split)


def topic_of(row_id: str) -> str:
    """The topic in the name of a row: `arithmetic` of `arithmetic-17-v2`."""
    return row_id.partition("-")[0]


def vocabulary(language: str = "en") -> list[str]:
    """
    Every word that can come up in any split, in small letters, as [`spoken`] tells words apart: "twenty-one" is two. Of
    Mandarin, every character.
    """
    texts = [word for entry in entries(language) for word in entry.words]
    texts += [in_words(number, language) for number in range(HIGHEST_RESULT + 1)]
    texts += [text.format(a="", b="", c="") for one in OPERATIONS[language] for text in (*one.questions, one.answer)]
    texts.append(literals(language))
    for topic in SHARES[language]:
        if topic not in ENDLESS:
            for exchange in chain(*(all_of(topic, split, language) for split in SPLITS)):
                texts += [exchange.question, exchange.answer]
    words = spoken(" ".join(texts))
    return sorted(set(words.replace(" ", "") if language == "zh" else words.split()))


def _drawn_topics(language: str, rng: random.Random) -> Iterator[str]:
    topics, shares = zip(*SHARES[language].items())
    while True:
        yield rng.choices(topics, shares)[0]
