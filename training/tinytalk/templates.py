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
"""Sentences with gaps for words of the list: `{animals}`, with a form `{acts.past}`, with an article `{a qualities}`."""

import re
from dataclasses import dataclass
from functools import cache


FORMS = {"one": 0, "many": 1, "base": 0, "third": 1, "past": 2, "ing": 3}
GAP = re.compile(r"\{(?:(a) )?(\w+)(?:\.(\w+))?\}")


@dataclass(frozen=True)
class Gap:
    """A gap for a form of a word of a section."""

    section: str
    form: int = 0
    has_article: bool = False


@cache
def parts_of(template: str) -> tuple[str | Gap, ...]:
    """A template's words and gaps in their order."""
    parts, end = [], 0
    for match in GAP.finditer(template):
        parts.append(template[end : match.start()])
        article, section, form = match.groups()
        parts.append(Gap(section, FORMS[form or "one"], article is not None))
        end = match.end()
    return (*parts, template[end:])


TEMPLATES = tuple(
    line.strip()
    for line in """
    The {animals} {acts.past} {manners}.
    The {moods} {people} {acts.past} in the {places}.
    My {people} has {a colors} {things}.
    {names} {handles.past} the {things}.
    {names} {handles.past} the {qualities} {things}.
    We {handles.past} the {things} in the {places}.
    She {handles.past} {a qualities} {clothes}.
    He wants to {acts} near the {places}.
    They {acts.past} all {times} long.
    I would like some {foods} and {drinks}.
    There is {a animals} in the {places}.
    There are {numbers} {animals.many} near the {places}.
    The {people} likes {fruits.many}.
    The {qualities} {animals} {acts.third} {manners}.
    Put the {things} on the {furniture}.
    Please bring me the {colors} {things}.
    Where is my {qualities} {things}?
    {names} and {names} {acts.past} together.
    The {vehicles} stops at the {places}.
    Her {clothes} is very {qualities}.
    The {nature} was {qualities} this {times}.
    We saw {a qualities} {animals} by the {nature}.
    His {body} hurts today.
    The {things} is made of {materials}.
    This {ideas} is {adjectives}.
    We talked about the {ideas} of the {people}.
    The {people} has {a adjectives} {ideas}.
    It is {a adjectives} {ideas}.
    I {adverbs} {acts} in the {places}.
    They {adverbs} {handles} {things.many}.
    She will {verbs} {small} {small}.
    The {people} {verbs.past} the {people}.
    It {adverbs} {verbs.third}.
    He is {verbs.ing} again.
    The {people} is {handles.ing} the {fruits}.
    You should {verbs} more often.
    {names} is {acts.ing} with the {animals}.
    The {people} was {moods} and {moods}.
    {names} drove the {colors} {vehicles}.
    We need more {foods}.
    Do you like {foods}?
    Can you see the {animals} over there?
    Is the {places} far from here?
    I have {numbers} {things.many}.
    He {verbs.past} {manners}.
    The {fruits} tastes {qualities}.
    {names} forgot the {things} at the {places}.
    The {places} is full of {people.many}.
    They live near the {qualities} {places}.
    My {clothes} is {colors} and {colors}.
    {a qualities} {things} stood by the {furniture}.
    She is {a moods} {people}.
    Every {times} we {handles} the {fruits.many}.
    Look at the {qualities} {nature}!
    I can hear the {animals} and the {animals}.
    The {ideas} was very {adjectives}.
    His {ideas} is better than yours.
    Our {people} {verbs.third} the {ideas}.
    The {vehicles} is {qualities} and {colors}.
    The {furniture} is in the {places}.
    """.strip().splitlines()
)
