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
"""Texts as the letters that CTC spells them with, and back."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence


# What is said, though Unicode calls it punctuation; and what separates words and is not said.
SAID_SIGNS = "&@%#*"
SEPARATORS = re.compile(r"[\s\-‐-―_/]+")


def letters_of(text: str, alphabet: str) -> list[int]:
    """
    The letters of a text as indices of `alphabet`: in lower case if the alphabet is, without accents that it lacks and
    without punctuation. A text with other characters that are said, such as digits, has none.
    """
    return letters_with_places(text, alphabet)[0]


def letters_with_places(text: str, alphabet: str) -> tuple[list[int], list[int]]:
    """The letters of a text, and the index of the character that each stands for."""
    letters, places, space = [], [], alphabet.find(" ")
    is_lower = alphabet == alphabet.lower()
    for place, character in enumerate(text):
        character = "'" if character == "’" else character.lower()[0] if is_lower else character
        if SEPARATORS.fullmatch(character):
            # one between words, none before the first
            letter = space if letters and letters[-1] != space else -1
        else:
            if character not in alphabet:
                character = unicodedata.normalize("NFKD", character)[0]
            letter = alphabet.find(character)
            if letter < 0 and (unicodedata.category(character)[0] in "LNS" or character in SAID_SIGNS):
                return [], []
        if letter >= 0:
            letters.append(letter)
            places.append(place)
    if letters and letters[-1] == space:
        return letters[:-1], places[:-1]
    return letters, places


def spelled_tokens(
    text: str, token_ids: Sequence[int], offsets: Sequence[tuple[int, int]], alphabet: str
) -> tuple[list[int], list[int]]:
    """
    The letters of a text and a space after them, and for each the token that it completes, or -1: a token belongs to its
    last letter, punctuation to the space that follows. `offsets` are the characters that each token covers.
    """
    letters, places = letters_with_places(text, alphabet)
    if not letters:
        return [], []
    space = alphabet.index(" ")
    letters, places = [*letters, space], [*places, len(text)]
    completed = [-1] * len(letters)
    for token_id, (start, end) in zip(token_ids, offsets, strict=True):
        first, last = bisect_left(places, start), bisect_left(places, end) - 1
        while last >= first and letters[last] == space:
            last -= 1
        index = last if last >= first else first
        if index < len(letters) and completed[index] < 0 and (index == last or letters[index] == space):
            completed[index] = token_id
    return letters, completed


def text_of_letters(letters: Iterable[int], alphabet: str) -> str:
    """The text that letters spell; negative ones are padding."""
    return " ".join("".join(alphabet[letter] for letter in letters if letter >= 0).split())
