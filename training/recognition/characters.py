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
"""Texts as a recogniser writes them: characters in small letters, without punctuation, and the blank of CTC between them."""

import unicodedata
from collections.abc import Iterable, Sequence


# The class of "nothing new here", before those of the characters.
BLANK = 0


def spoken(text: str) -> str:
    """A text as it is heard: small letters, single spaces, and of the punctuation only apostrophes within words."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    kept = (one if one == "'" or unicodedata.category(one)[0] not in "PSCZ" else " " for one in text)
    words = (word.strip("'") for word in "".join(kept).split())
    return " ".join(word for word in words if word)


def characters_of(texts: Iterable[str]) -> list[str]:
    """All characters of the texts as they are spoken, in order."""
    return sorted({character for text in texts for character in spoken(text)})


def collapse(classes: Iterable[int]) -> list[int]:
    """The classes that a path of CTC stands for: runs become one, and blanks, which keep doubled ones apart, go."""
    collapsed, previous = [], BLANK
    for one in classes:
        if one != previous and one != BLANK:
            collapsed.append(one)
        previous = one
    return collapsed


def num_frames_needed(classes: Sequence[int]) -> int:
    """The frames that the shortest path has: one for each class, and a blank between two that are alike."""
    return len(classes) + sum(one == other for one, other in zip(classes, classes[1:]))


class Characters:
    """The characters that a recogniser knows, and their classes: those in their order, from 1."""

    def __init__(self, characters: Sequence[str]):
        self.characters = list(characters)
        self.classes = {character: index for index, character in enumerate(self.characters, start=1)}

    def encode(self, text: str) -> list[int]:
        """The classes of a text. Characters that are not known are left out: [`unknown`] says which."""
        return [self.classes[character] for character in spoken(text) if character in self.classes]

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """Characters of the texts that are not known."""
        return [character for character in characters_of(texts) if character not in self.classes]

    def decode(self, classes: Iterable[int]) -> str:
        """The text of classes, which have been collapsed."""
        written = "".join(self.characters[one - 1] for one in classes)
        return " ".join(written.split())
