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
from collections.abc import Iterable


# What separates words and is not said.
SEPARATORS = re.compile(r"[\s\-‐-―_/]+")


def letters_of(text: str, alphabet: str) -> list[int]:
    """
    The letters of a text as indices of `alphabet`: in lower case if the alphabet is, without accents that it lacks and
    without punctuation. A text with other characters that are said, such as digits, has none.
    """
    text = unicodedata.normalize("NFC", text.replace("’", "'"))
    text = SEPARATORS.sub(" ", text.lower() if alphabet == alphabet.lower() else text).strip()
    letters = []
    for character in text:
        if character not in alphabet:
            character = unicodedata.normalize("NFKD", character)[0]
        if character in alphabet:
            letters.append(alphabet.index(character))
        elif unicodedata.category(character)[0] in "LNS":
            return []
    return letters


def text_of_letters(letters: Iterable[int], alphabet: str) -> str:
    """The text that letters spell; negative ones are padding."""
    return " ".join("".join(alphabet[letter] for letter in letters if letter >= 0).split())
