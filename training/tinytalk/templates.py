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
"""Sentences with gaps for words of the list: `{animals}`, in a form `{acts.past}`, with an article `{a qualities}`."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path


FOLDER = Path(__file__).parent
FORMS = {"one": 0, "many": 1, "base": 0, "third": 1, "past": 2, "ing": 3}
GAP = re.compile(r"\{(?:(a) )?(\w+)(?:\.(\w+))?\}")


@dataclass(frozen=True)
class Gap:
    """
    A gap for a word of a section.

    Attributes:
        section: of the list.
        form: which form of the word.
        is_counted: whether only nouns that have a plural fit, as after "a": told as `{things.one}`.
        has_article: whether "a" or "an" belongs before it.
    """

    section: str
    form: int = 0
    is_counted: bool = False
    has_article: bool = False


@cache
def parts_of(template: str) -> tuple[str | Gap, ...]:
    """A template's words and gaps in their order."""
    parts, end = [], 0
    for match in GAP.finditer(template):
        article, section, form = match.groups()
        parts += [template[end : match.start()], Gap(section, FORMS[form or "base"], form == "one", article == "a")]
        end = match.end()
    return (*parts, template[end:])


@cache
def templates(language: str) -> dict[str, tuple[str, ...]]:
    """The sentences, and what comes before them when they are to be repeated or to be read, as they stand in the file."""
    sections: dict[str, list[str]] = {}
    for line in (FOLDER / f"templates_{language}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return {name: tuple(lines) for name, lines in sections.items()}


@cache
def literals(language: str) -> str:
    """All of the templates, in small letters, but for what their gaps are filled with."""
    texts = [part for lines in templates(language).values() for line in lines for part in parts_of(line)]
    return " ".join(text for text in texts if isinstance(text, str)).lower()
