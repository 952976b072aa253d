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
"""Texts as they are said: numbers, years, money, units, abbreviations and symbols as words."""

from functools import cache


LANGUAGES = ("en", "de")
# A word with one of these is said together with what follows: "5" may become "5.50" or "5 kg".
NUMBER_BYTES = b"0123456789$"
# before a number, which tell how it is said: "in 1969"
NUM_CONTEXT_WORDS = 3
# A number that does not end is said in parts.
MAX_HELD_BYTES = 64


@cache
def _normalizer(language: str):
    try:
        from normt2s import Normalizer
    except ImportError:  # this file without its package, as code from the Hub
        return None
    normalizer = Normalizer(language)
    if language == "en":
        normalizer.add_unit("mph", "mile per hour", "miles per hour")
        for title, spoken in (("PhD", "P H D"), ("Ph.D.", "P H D"), ("St. Louis", "Saint Louis")):
            normalizer.add_abbreviation(title, spoken)
    return normalizer


def as_said(text: str, language: str | None = "en") -> str:
    """
    The text in words; of a language without rules, as it is. What no rule covers stays too, such as Roman numerals and
    web addresses.
    """
    normalizer = _normalizer(language) if language in LANGUAGES else None
    return text if normalizer is None else normalizer.normalize(text)


class FlowOmniNumberReader:
    """
    A text that comes in parts, with its numbers in words. A number is held back until the word after it, which may be its
    unit, is over.
    """

    def __init__(self, language: str | None):
        self.language, self.context, self.held = language, b"", b""
        self.knows_numbers = language in LANGUAGES and _normalizer(language) is not None

    def push(self, part: bytes, is_last: bool = False) -> tuple[bytes, bytes]:
        """
        What can be said now that the next `part` of the text is known: a number from before, with the word after it, and
        of the part itself.
        """
        self.held += part
        *words, newest = self.held.split(b" ")
        if not self._has_number(self.held):
            said = b"", self.held
        elif is_last or len(self.held) > MAX_HELD_BYTES:
            said = self._in_words(self.held), b""
        elif self._has_number(newest) or not words or self._has_number(words[-1]):
            return b"", b""
        else:
            said = self._in_words(b" ".join(words)), b" " + newest
        self.context = b" ".join((self.context + self.held).split(b" ")[-NUM_CONTEXT_WORDS:])
        self.held = b""
        return said

    def _has_number(self, text: bytes) -> bool:
        return self.knows_numbers and any(byte in NUMBER_BYTES for byte in text)

    def _in_words(self, text: bytes) -> bytes:
        context, written = (part.decode(errors="ignore") for part in (self.context, text))
        before, said = (as_said(part, self.language) for part in (context.rstrip(), context + written))
        if not said.startswith(before):
            before, said = "", written[: len(written) - len(written.lstrip())] + as_said(written, self.language)
        return said[len(before) :].encode()
