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

import re
from functools import cache


LANGUAGES = ("en", "de")
# words before a number, which tell how it is said: "in 1969"
NUM_CONTEXT_WORDS = 3
# A number that does not end is said in parts.
MAX_HELD_BYTES = 40
WORD = re.compile(rb"\s*\S+|\s+$")  # with the spaces before it
# A word that may be, or belong to, a number: with a digit, or of signs alone so far ("-5", "7 - 5"). Bytes of other
# alphabets are letters, but for those of currencies.
NUMBER = re.compile(rb".*\d.*|([^A-Za-z\x80-\xff]|\xc2|\xc2\xa3|\xe2|\xe2\x82|\xe2\x82\xac)+", re.DOTALL)


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
    unit, is over. (The library's own stream holds back whole sentences, and with them the first sound.)
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
        *words, newest = WORD.findall(self.held) or [b""]
        is_number = [self.knows_numbers and bool(NUMBER.fullmatch(word.strip())) for word in (*words, newest)]
        begins_line = newest.lstrip(b" ").startswith(b"\n")
        is_long = len(self.held) > MAX_HELD_BYTES
        if any(is_number[-2:]) and not (is_last or begins_line or is_long):
            return b"", b""
        number, said, self.held = b"", self.held, b""
        if any(is_number) and (is_last or not words):
            number, said = self._in_words(said), b""
        elif any(is_number):
            number, said = self._in_words(b"".join(words)), newest
            if is_number[-1]:
                self.held, said = newest, b""
        self._remember(said)
        return number, said

    def _remember(self, text: bytes) -> None:
        self.context = b"".join(WORD.findall(self.context + text)[-NUM_CONTEXT_WORDS:])

    def _in_words(self, text: bytes) -> bytes:
        context, written = (part.decode(errors="ignore") for part in (self.context, text))
        before, said = (as_said(part, self.language) for part in (context.rstrip(), context + written))
        if not said.startswith(before):
            before, said = "", written[: len(written) - len(written.lstrip())] + as_said(written, self.language)
        self._remember(text)
        return said[len(before) :].encode()
