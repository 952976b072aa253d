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
"""Errors of one text against another, in three ways: as it is said, as Whisper's authors count, and as it is written."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from ..training.extras import needs
from .number_words import readings


# Scripts without spaces between words: every character is a word, as in Whisper's own evaluation.
WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")


@dataclass(frozen=True)
class Errors:
    """Wrong, missing and surplus characters and words of one text, and how many were expected."""

    characters: int
    num_characters: int
    words: int
    num_words: int

    @property
    def is_exact(self) -> bool:
        """A word more or less apart ("every day", "everyday") is no error of an answer."""
        return self.characters == 0


@dataclass(frozen=True)
class TextErrors:
    """
    The errors of one text, counted in three ways.

    Args:
        said (`Errors`):
            After Whisper's normaliser, but with numbers in words, whichever side wrote digits, and Chinese in simplified
            characters. Characters are counted without spaces.
        whisper (`Errors`):
            After Whisper's normaliser as it is, which writes numbers in digits: as in published figures. "One, two,
            three" is one word to it, 123.
        raw (`Errors`):
            As written, with case and punctuation. In scripts without spaces, those that are there count in neither.
    """

    said: Errors
    whisper: Errors
    raw: Errors


@lru_cache(maxsize=2**16)
def text_errors(expected: str, found: str, language: str = "en") -> TextErrors:
    """Counts what is wrong with `found` in each way."""
    normalise, _ = normalisers(language)
    is_spaced = language not in WITHOUT_SPACES
    split = str.split if is_spaced else _characters
    return TextErrors(
        said=said_errors(expected, found, language),
        whisper=_errors(normalise(expected), normalise(found), drop_spaces=not is_spaced),
        raw=_errors(" ".join(split(expected)), " ".join(split(found)), drop_spaces=not is_spaced),
    )


@lru_cache(maxsize=2**16)
def said_errors(expected: str, found: str, language: str = "en") -> Errors:
    """What is wrong with `found` as texts are said: of several ways to read a number, by the one that comes closest."""
    _, normalise = normalisers(language)
    pairs = [
        _errors(normalise(one), normalise(other), drop_spaces=True)
        for one in readings(expected, language)
        for other in readings(found, language)
    ]
    return min(pairs, key=lambda errors: errors.characters / max(errors.num_characters, 1))


def missing_at_the_end(text: str, heard: str, language: str = "en") -> int:
    """
    How many characters at the end of `text` were not heard, where nothing else was heard in their place: of a last word
    that was misheard for another only what the other is shorter.
    """
    _, normalise = normalisers(language)
    text, heard = (normalise(readings(one, language)[0]).replace(" ", "") for one in (text, heard))
    if not text:
        return 0
    (alignment,) = needs("jiwer").process_characters([text], [heard]).alignments
    matched = [chunk for chunk in alignment if chunk.type == "equal"]
    text_end, heard_end = (matched[-1].ref_end_idx, matched[-1].hyp_end_idx) if matched else (0, 0)
    return max(0, (len(text) - text_end) - (len(heard) - heard_end))


def last_word(text: str, language: str = "en") -> str:
    """The last word of a text as it is said."""
    return (normalisers(language)[1](readings(text, language)[0]).split() or [""])[-1]


@cache
def normalisers(language: str) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """Whisper's normaliser for the language, and the same without its treatment of numbers."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    if language == "en":
        whole, without_numbers = EnglishTextNormalizer(spellings()), EnglishTextNormalizer(spellings())
        without_numbers.standardize_numbers = _without_and
        return _stripped(whole), _stripped(without_numbers)
    basic = _stripped(BasicTextNormalizer(split_letters=language in WITHOUT_SPACES))
    simplified = simplifier() if language == "zh" else None
    return basic, (lambda text: basic(simplified(text))) if simplified else basic


@cache
def simplifier() -> Callable[[str], str] | None:
    """Writes Chinese in simplified characters, where OpenCC is installed: one recogniser writes 减, another 減."""
    return needs("opencc").OpenCC("t2s").convert if find_spec("opencc") is not None else None


@cache
def spellings() -> dict[str, str]:
    """British to American spellings, as openai-whisper has them; none where it is not installed."""
    package = find_spec("whisper")
    folders = package.submodule_search_locations if package is not None else None
    file = Path(next(iter(folders or ["."]))) / "normalizers" / "english.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _without_and(text: str) -> str:
    """ "One hundred and five" is "one hundred five"."""
    words = text.split()
    return " ".join(
        word for before, word in zip(["", *words], words) if word != "and" or before not in ("hundred", "thousand")
    )


def _stripped(normaliser: Callable[[str], str]) -> Callable[[str], str]:
    """The normaliser with single spaces, and without the lone signs that Whisper's leaves at the end of a text."""
    return lambda text: " ".join(word for word in normaliser(text).split() if any(map(str.isalnum, word)))


def _characters(text: str) -> list[str]:
    """The characters as they are seen, a letter with the vowels and tones on it, without spaces."""
    import regex

    return regex.findall(r"\X", "".join(text.split()))


def _errors(expected: str, found: str, drop_spaces: bool) -> Errors:
    words, found_words = expected.split(), found.split()
    if drop_spaces:
        expected, found = expected.replace(" ", ""), found.replace(" ", "")
    return Errors(_distance(expected, found), len(expected), _distance(words, found_words), len(words))


def _distance(expected: Sequence[str], found: Sequence[str]) -> int:
    if not expected or not found:
        return max(len(expected), len(found))
    jiwer = needs("jiwer")
    if isinstance(expected, str):
        measured = jiwer.process_characters([expected], [found])
    else:
        measured = jiwer.process_words([" ".join(expected)], [" ".join(found)])
    return measured.substitutions + measured.deletions + measured.insertions
