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
"""Texts as they are said: numbers, years, money, units, abbreviations and symbols as words, so that speech has its text."""

from collections.abc import Mapping
from functools import cache

from normt2s import Normalizer

from ..data import has


LANGUAGES = ("en", "de")


@cache
def _normalizer(language: str) -> Normalizer:
    normalizer = Normalizer(language)
    if language == "en":
        normalizer.add_unit("mph", "mile per hour", "miles per hour")
        for title, spoken in (("PhD", "P H D"), ("Ph.D.", "P H D"), ("St. Louis", "Saint Louis")):
            normalizer.add_abbreviation(title, spoken)
    return normalizer


def as_said(text: str, language: str = "en") -> str:
    """
    The text in words; of a language without rules, as it is. What no rule covers stays too, such as Roman numerals and
    web addresses.
    """
    return _normalizer(language).normalize(text) if language in LANGUAGES else text


def row_as_said(row: Mapping, language: str) -> dict:
    """The row with its texts that are still to be spoken as they are said."""
    sides = [side for side in ("question", "answer") if has(row, f"{side}_text") and not has(row, f"{side}_audio")]
    return dict(row) | {f"{side}_text": as_said(row[f"{side}_text"], language) for side in sides}
