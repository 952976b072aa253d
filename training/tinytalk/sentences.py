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
"""What is to be repeated or read: sentences from templates, and words in any order. All of the list come up in train."""

import random
from collections.abc import Iterator

from .exchanges import Exchange, in_turn, sentence
from .numbers import in_words
from .splits import SPLITS, Split, split_of
from .templates import Gap, parts_of, templates
from .words import SOUND_ALIKE, Entry, entries_by_split, held_out_words, with_article


TEMPLATE_SHARE = 0.5
# How many of the words in any order are numbers.
NUMBER_SHARE = 0.04
# How many sentences of validation and test have a word that train never had.
HELD_OUT_SHARE = 0.5
# In how many orders words are put, at most, for one that belongs to the split.
ORDERS_TRIED = 8
LENGTHS, LENGTH_WEIGHTS = (1, 2, 3, 4, 5, 6), (1, 4, 5, 5, 3, 2)


class Sentences:
    """Sentences of a split, drawn for ever."""

    def __init__(self, split: Split, language: str, rng: random.Random):
        self.split, self.language, self.rng = split, language, rng
        by_split = entries_by_split(language)
        self.known = Fillers(by_split["train"], rng)
        self.held_out = Fillers(by_split[split], rng) if split != "train" else None
        self.foreign = [word for other in SPLITS if other != split for word in held_out_words(other, language)]
        self.templates = in_turn(templates(language)["sentences"], rng)

    def __iter__(self) -> Iterator[str]:
        while True:
            is_held_out = self.held_out is not None and self.rng.random() < HELD_OUT_SHARE
            make = self.from_template if self.rng.random() < TEMPLATE_SHARE else self.in_any_order
            text = make(is_held_out)
            if is_held_out or self._is_mine(text):
                yield text

    def _is_mine(self, text: str) -> bool:
        if split_of("sentence", text.lower()) != self.split:
            return False
        # without spaces, the end of a word and the beginning of the next may make a word that is held out
        return self.language != "zh" or not any(word in text for word in self.foreign)

    def from_template(self, is_held_out: bool = False) -> str:
        """A sentence, one of whose words is held out if it is to be."""
        while True:
            parts = parts_of(next(self.templates))
            gaps = [part for part in parts if isinstance(part, Gap)]
            rare = self.rng.choice([gap for gap in gaps if self.held_out.fits(gap)] or [None]) if is_held_out else None
            if rare is not None or not is_held_out:
                break
        filled = []
        for part in parts:
            if isinstance(part, Gap):
                word = (self.held_out if part is rare else self.known).fill(part)
                part = with_article(word) if part.has_article else word
            filled.append(part)
        return sentence("".join(filled))

    def in_any_order(self, is_held_out: bool = False) -> str:
        (length,) = self.rng.choices(LENGTHS, LENGTH_WEIGHTS)
        words = [self._word() for _ in range(length)]
        if is_held_out:
            words[self.rng.randrange(length)] = next(self.held_out.words)
        # words of a sentence that is not this split's would have to wait for their next turn
        for _ in range(ORDERS_TRIED):
            self.rng.shuffle(words)
            text = "".join(words) + "。" if self.language == "zh" else sentence(" ".join(words)) + "."
            if is_held_out or self._is_mine(text):
                break
        return text

    def _word(self) -> str:
        if self.rng.random() < NUMBER_SHARE:
            return in_words(self.rng.randrange(100), self.language)
        return next(self.known.words)


class Fillers:
    """
    Words for gaps, each in its turn.

    Attributes:
        words: those that are clear without a sentence around them.
    """

    def __init__(self, entries: tuple[Entry, ...], rng: random.Random):
        self.entries, self.rng, self.decks = entries, rng, {}
        clear = [word for entry in entries for word in entry.words if word not in SOUND_ALIKE]
        self.words = in_turn(list(dict.fromkeys(clear)), rng)

    def fits(self, gap: Gap) -> bool:
        """Whether there is a word for it."""
        return self._deck(gap) is not None

    def fill(self, gap: Gap) -> str:
        return next(self._deck(gap))

    def _deck(self, gap: Gap) -> Iterator[str] | None:
        if gap not in self.decks:
            words = [word for entry in self.entries if (word := _form_for(gap, entry)) is not None]
            self.decks[gap] = in_turn(words, self.rng) if words else None
        return self.decks[gap]


def _form_for(gap: Gap, entry: Entry) -> str | None:
    if entry.section != gap.section or (gap.is_counted and entry.forms[1] is None):
        return None
    return entry.forms[gap.form]


def sentences(topic: str, split: Split, language: str, rng: random.Random) -> Iterator[Exchange]:
    """What is to be said again, for ever. No sentence of one split is one of another, be it repeated or read."""
    prompts = templates(language)[topic]
    for text in Sentences(split, language, rng):
        yield Exchange(("sentence", text), rng.choice(prompts).format(text), text)
