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
from .splits import Split, split_of
from .templates import TEMPLATES, Gap, parts_of
from .words import Entry, entries_by_split, with_article


PROMPTS = {
    "repeat": (
        "Repeat after me: {0}",
        "Say after me: {0}",
        "Please repeat after me: {0}",
        "Repeat this: {0}",
        "Please repeat: {0}",
    ),
    "read": ("Read this: {0}", "Please say: {0}", "Read aloud: {0}", "Please read this: {0}", "Say: {0}"),
}
TEMPLATE_SHARE = 0.5
NUMBER_SHARE = 0.04
# How many sentences of validation and test have a word that train never had.
HELD_OUT_SHARE = 0.5
LENGTHS, LENGTH_WEIGHTS = (1, 2, 3, 4, 5, 6), (1, 4, 5, 5, 3, 2)


class Sentences:
    """Sentences of a split, drawn for ever."""

    def __init__(self, split: Split, rng: random.Random):
        self.split, self.rng = split, rng
        by_split = entries_by_split("en")
        sections: dict[str, list[Entry]] = {}
        for entry in by_split["train"]:
            sections.setdefault(entry.section, []).append(entry)
        # forms that do not exist must not be asked for: "two waters"
        self.fillers = {
            (section, form): in_turn([entry for entry in mine if form < len(entry.forms) and entry.forms[form]], rng)
            for section, mine in sections.items()
            for form in range(len(mine[0].forms))
        }
        self.words = in_turn([word for entry in by_split["train"] for word in entry.words], rng)
        self.templates = in_turn(TEMPLATES, rng)
        held_out = by_split[split] if split != "train" else ()
        self.held_out = in_turn([word for entry in held_out for word in entry.words], rng) if held_out else None

    def __iter__(self) -> Iterator[str]:
        while True:
            is_held_out = self.held_out is not None and self.rng.random() < HELD_OUT_SHARE
            text = (
                self.from_template()
                if self.rng.random() < TEMPLATE_SHARE and not is_held_out
                else self.in_any_order(is_held_out)
            )
            if is_held_out or split_of("sentence", text.lower()) == self.split:
                yield text

    def from_template(self) -> str:
        return sentence("".join(map(self._filled, parts_of(next(self.templates)))))

    def _filled(self, part: str | Gap) -> str:
        if isinstance(part, str):
            return part
        word = next(self.fillers[part.section, part.form]).forms[part.form]
        return with_article(word) if part.has_article else word

    def in_any_order(self, has_held_out: bool) -> str:
        (length,) = self.rng.choices(LENGTHS, LENGTH_WEIGHTS)
        words = [self._word() for _ in range(length)]
        if has_held_out:
            words[self.rng.randrange(length)] = next(self.held_out)
        return sentence(" ".join(words)) + "."

    def _word(self) -> str:
        if self.rng.random() < NUMBER_SHARE:
            return in_words(self.rng.randrange(100))
        return next(self.words)


def sentences(topic: str, split: Split, rng: random.Random) -> Iterator[Exchange]:
    for text in Sentences(split, rng):
        yield Exchange(("sentence", text), rng.choice(PROMPTS[topic]).format(text), text)
