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
"""The words of sentences to repeat and to read, their forms, and those that are held out from training."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..examples import uniform
from .splits import SPLITS, Split, split_at
from .templates import literals


FOLDER = Path(__file__).parent
# Of the words that can be held out; about one in ten cannot, so that 5 % of all remain.
VALIDATION_SHARE, TEST_SHARE = 0.02, 0.045
NOUNS = (
    "people animals fruits foods drinks things furniture clothes vehicles places nature body materials times ideas"
).split()
VERBS = ("acts", "handles", "greets", "knows", "verbs")
# Sections that are too small to lose any.
NEVER_HELD_OUT = ("small", "numbers", "counts", "colors", "drinks")
# They sound like other words of the list: in a sentence it is plain which is meant, among words in any order it is not.
SOUND_ALIKE = frozenset(
    """
    acts aunt aunts ate be been blew bored by chews chew dear desserts dessert dew due flour for guessed hear hours
    our ours knew knows lead led leads maid maids male marry meet meets missed won passed patience piece pieces
    plane planes pour pours praise presents prince princes read reads rode role roles route routes rows sale sales
    sighed sighs source sources stare stares steel their threw to too weight weights wore weigh weighs weak wear
    whether would
    """.split()
)
VOWEL_SOUND = re.compile(r"(?!uni|use|eu|one\b|once\b)[aeiou]|hour|honest", re.IGNORECASE)
SIBILANT = re.compile(r"(s|x|z|ch|sh)$")
CONSONANT_Y = re.compile(r"(?<=[^aeiou])y$")


@dataclass(frozen=True)
class Entry:
    """
    A word with its forms.

    Attributes:
        section: of the list.
        forms: singular and plural of a noun; the infinitive, third person, past and -ing of a verb; else the word. `None`
            stands for a form that does not exist.
    """

    section: str
    forms: tuple[str | None, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(form for form in self.forms if form is not None))


@cache
def entries(language: str = "en") -> tuple[Entry, ...]:
    """The list as it stands in the file."""
    found, section = [], ""
    for line in (FOLDER / f"words_{language}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif not line.startswith("#"):
            found += [Entry(section, forms_of(section, entry.split("/"))) for entry in line.split()]
    return tuple(found)


def forms_of(section: str, told: list[str]) -> tuple[str | None, ...]:
    """All forms of an entry of which only those are told that are not regular."""
    word = told[0]
    if not word.isascii():  # Chinese
        regular = [word]
    elif section in NOUNS:
        regular = [word, with_s(word)]
    elif section in VERBS:
        regular = [word, with_s(word), with_ed(word), f"{re.sub(r'(?<=[^eoy])e$', '', word)}ing"]
    else:
        regular = [word]
    forms = [*told, *regular[len(told) :]]
    return tuple(None if form == "-" else form for form in forms)


def with_s(word: str) -> str:
    """The plural of a regular noun, and the third person of a regular verb."""
    return CONSONANT_Y.sub("ie", word) + "s" if not SIBILANT.search(word) else f"{word}es"


def with_ed(word: str) -> str:
    return f"{word}d" if word.endswith("e") else CONSONANT_Y.sub("i", word) + "ed"


def with_article(word: str) -> str:
    return f"{'an' if VOWEL_SOUND.match(word) else 'a'} {word}"


@cache
def entries_by_split(language: str = "en") -> dict[Split, tuple[Entry, ...]]:
    """
    The entries that train may use, and those that are held out for validation and for test, with all their forms. What
    shares a form with another entry is never held out, or its forms would come up in the other's sentences; nor is what the
    sentences themselves are made of.
    """
    is_known = _known_elsewhere(language)
    by_split: dict[Split, list[Entry]] = {split: [] for split in SPLITS}
    for entry in entries(language):
        is_fixed = entry.section in NEVER_HELD_OUT or any(map(is_known, entry.words))
        place = 0.0 if is_fixed else uniform("tinytalk", language, "word", entry.forms[0])
        by_split[split_at(place, VALIDATION_SHARE, TEST_SHARE)].append(entry)
    return {split: tuple(mine) for split, mine in by_split.items()}


def _known_elsewhere(language: str) -> Callable[[str], bool]:
    """Tells of a word whether it comes up although its entry does not."""
    words = [word.lower() for entry in entries(language) for word in entry.words]
    if language == "zh":  # no spaces: a word comes up in longer ones too
        return lambda word: word in literals(language) or sum(word in other for other in words) > 1
    counts = Counter([*words, *re.findall(r"[a-z]+", literals(language))])
    return lambda word: counts[word.lower()] > 1


def held_out_words(split: Split, language: str = "en") -> frozenset[str]:
    """The words that only sentences of this split have: `validation` or `test`."""
    return frozenset(words_of(entries_by_split(language)[split])) if split != "train" else frozenset()


def words_of(chosen: Iterable[Entry]) -> Iterator[str]:
    """All forms, each once."""
    return iter(dict.fromkeys(word for entry in chosen for word in entry.words))
