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
"""Which words of a text are not those that were expected, so that a reader's eye finds them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from ..training.rows import CJK
from .number_words import readings
from .text_errors import normalisers


# A word with what is written to it; where no spaces are written, every character.
TOKEN = rf"[{CJK}][^\w\s]*|[^\s{CJK}]+"


@dataclass(frozen=True)
class Piece:
    """A stretch of text: `same` in both, `wrong` in what was found, or `missing` from it; and the space before it."""

    gap: str
    text: str
    kind: Literal["same", "wrong", "missing"]


def differences(expected: str, found: str, language: str = "en") -> list[Piece]:
    """
    `found` in pieces, those that are `wrong` marked and those that are `missing` put in. What [`text_errors`] counts as no
    error is none here.
    """
    spaced = [(match[1] and " ", match[2]) for match in re.finditer(rf"(\s*)({TOKEN})", found)]
    tokens = [token for _, token in spaced]
    if _sounds(expected, language) & _sounds(found, language):
        return _joined([(gap, token, "same") for gap, token in spaced])
    wrong, gaps = _compared(re.findall(TOKEN, expected), tokens, language)
    marked: list[tuple[str, str, str]] = []
    for index, (gap, token) in enumerate([*spaced, ("", "")]):
        marked += [(_gap_before(one), one, "missing") for one in gaps.get(index, ())]
        if token:
            marked.append(
                (gap or _gap_before(token) if index in gaps else gap, token, "wrong" if index in wrong else "same")
            )
    return _joined(marked)


def _compared(expected: Sequence[str], found: Sequence[str], language: str) -> tuple[set[int], dict[int, list[str]]]:
    """Which tokens of `found` are wrong, and what is missing in front of which."""
    expected_words, expected_owners = _words(expected, language)
    words, owners = _words(found, language)
    wrong: set[int] = set()
    gaps: dict[int, list[str]] = {}
    for operation, from_, to, start, end in SequenceMatcher(None, expected_words, words, autojunk=False).get_opcodes():
        if operation == "delete":
            # as it was written, but of a number only the words that are missing
            whole = [
                owner
                for owner in dict.fromkeys(expected_owners[from_:to])
                if expected_owners.count(owner) == expected_owners[from_:to].count(owner)
            ]
            missing = [
                expected[owner] if owner in whole else expected_words[index]
                for index, owner in enumerate(expected_owners[from_:to], from_)
                if owner not in whole or index == expected_owners.index(owner)
            ]
            gaps.setdefault(owners[start] if start < len(owners) else len(found), []).extend(missing)
        elif operation != "equal":
            wrong.update(owners[start:end])
    return wrong, gaps


def _sounds(text: str, language: str) -> set[str]:
    """All ways to say a text, without spaces, case and punctuation: "every day" is "everyday"."""
    _, normalise = normalisers(language)
    return {"".join(normalise(reading).split()) for reading in readings(text, language)}


def _words(tokens: Sequence[str], language: str) -> tuple[list[str], list[int]]:
    """The words of all tokens, of which a number has several, and for each word the index of its token."""
    _, normalise = normalisers(language)
    words, owners = [], []
    for index, token in enumerate(tokens):
        of_token = normalise(readings(token, language)[0]).split()
        words += of_token
        owners += [index] * len(of_token)
    return words, owners


def _joined(marked: Sequence[tuple[str, str, str]]) -> list[Piece]:
    """Neighbours of one kind together."""
    pieces: list[Piece] = []
    for gap, token, kind in marked:
        if not pieces:
            pieces.append(Piece("", token, kind))
        elif pieces[-1].kind == kind:
            pieces[-1] = Piece(pieces[-1].gap, pieces[-1].text + gap + token, kind)
        else:
            pieces.append(Piece(gap, token, kind))
    return pieces


def _gap_before(token: str) -> str:
    """The space that the token's script has before it."""
    return "" if re.match(f"[{CJK}]", token) else " "
