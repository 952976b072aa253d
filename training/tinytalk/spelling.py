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
"""Spelling of short words, letter by letter."""

from .exchanges import Exchange
from .splits import Split, split_of
from .words import NOUNS, entries_by_split


MAX_LETTERS = 7
QUESTIONS = (
    "How do you spell {0}?",
    "How is {0} spelled?",
    "Spell {0}.",
    "Can you spell {0}?",
    "Please spell the word {0}.",
    "Spell the word {0}.",
)
# Words that are heard alone have to be clear: neither "to", which is heard as "two", nor "as".
SECTIONS = (*NOUNS, "acts", "handles", "colors", "qualities", "moods", "manners", "names")


def spelling(split: Split, language: str) -> list[Exchange]:
    """Questions of a split: its held-out words and, of the others, the ones that belong to it."""
    chosen = {}
    for kind, entries in entries_by_split(language).items():
        for entry in entries:
            word = entry.forms[0]
            if entry.section in SECTIONS and 3 <= len(word) <= MAX_LETTERS:
                chosen[word] = kind if kind != "train" else split_of("spelling", word.lower())
    return [
        Exchange(
            ("spelling", word),
            question.format(word),
            f"{word[0].upper()}{word[1:]} is spelled {', '.join(word.lower())}.",
        )
        for word, mine in chosen.items()
        if mine == split
        for question in QUESTIONS
    ]
