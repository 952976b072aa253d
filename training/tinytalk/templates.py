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


PROMPTS = {
    "repeat": (
        "Repeat after me: {0}",
        "Say after me: {0}",
        "Please repeat after me: {0}",
        "Repeat this: {0}",
        "Please repeat: {0}",
    ),
    "read": ("Read this: {0}", "Please say: {0}", "Read aloud: {0}", "Please read this: {0}", "Say: {0}"),
}

TEMPLATES = (
    "The {animals} {acts.past} {manners}.",
    "The {moods} {people} {acts.past} in the {places}.",
    "My {people} has {a colors} {things.one}.",
    "{names} {handles.past} the {things}.",
    "{names} {handles.past} the {qualities} {things}.",
    "We {handles.past} the {things} in the {places}.",
    "She {handles.past} {a qualities} {clothes.one}.",
    "He wants to {acts} near the {places}.",
    "They {acts.past} all {times.one} long.",
    "I would like some {foods} and {drinks}.",
    "There is {a animals.one} in the {places}.",
    "There are {counts} {animals.many} near the {places}.",
    "The {people} likes {fruits.many}.",
    "The {qualities} {animals} {acts.third} {manners}.",
    "Put the {things} on the {furniture}.",
    "Please bring me the {colors} {things}.",
    "Where is my {qualities} {things.one}?",
    "{names} and {names} {acts.past} together.",
    "The {vehicles} stops at the {places}.",
    "Her {clothes.one} is very {qualities}.",
    "The {nature} was {qualities} this {times}.",
    "We saw {a qualities} {animals.one} by the {nature}.",
    "His {body.one} hurts today.",
    "The {things.one} is made of {materials}.",
    "This {ideas} is {adjectives}.",
    "We talked about the {ideas} of the {people}.",
    "The {people} has {a adjectives} {ideas.one}.",
    "It is {a adjectives} {ideas.one}.",
    "I {often} {acts} in the {places}.",
    "They {often} {handles} the {things}.",
    "The {people} {greets.past} the {people}.",
    "She {often} {greets.third} her {people}.",
    "It {often} {verbs.third}.",
    "He is {verbs.ing} again.",
    "The {people} is {handles.ing} the {fruits}.",
    "You should {verbs} more often.",
    "Did you {greets} the {people}?",
    "We must {knows} the {ideas}.",
    "They {knows.past} the {adjectives} {ideas}.",
    "{names} is {acts.ing} with the {animals}.",
    "The {people} was {moods} and {moods}.",
    "{names} drove the {colors} {vehicles}.",
    "We need more {foods}.",
    "Do you like {foods}?",
    "Can you see the {animals} over there?",
    "Is the {places} far from here?",
    "I have {counts} {things.many}.",
    "He {verbs.past} {manners}.",
    "The {fruits.one} tastes {qualities}.",
    "{names} forgot the {things} at the {places}.",
    "The {places} is full of {people.many}.",
    "They live near the {qualities} {places}.",
    "My {clothes.one} is {colors} and {colors}.",
    "{a qualities} {things.one} stood by the {furniture}.",
    "She is {a moods} {people}.",
    "Every {times.one} we {handles} the {fruits.many}.",
    "Look at the {qualities} {nature}!",
    "I can hear the {animals} and the {animals}.",
    "The {ideas} was very {adjectives}.",
    "His {ideas} is better than yours.",
    "Our {people} {knows.third} the {ideas}.",
    "The {vehicles} is {qualities} and {colors}.",
    "The {furniture} is in the {places}.",
    "{names} is {greets.ing} the {animals}.",
    "{adverbs} the {people} {acts.past}.",
    "The {animals} is {adverbs} {moods}.",
    "{names} and I are {moods}.",
    "The {fruits.many} are in the {furniture}.",
    "There is {materials} on the {body}.",
    "He lost his {clothes} in the {nature}.",
    "Are the {people.many} {moods} now?",
    "{ideas} and {ideas} are {adjectives}.",
    "Two {vehicles.many} are near the {places.many}.",
    "Do not {handles} the {drinks}!",
    "The {body} of the {animals} is {qualities}.",
    "Some {nature} fell on the {vehicles}.",
    "I like {colors} {clothes}.",
    "She will {verbs} in the {times}.",
    "{people.many} {knows} {ideas.many}.",
    "{adverbs} I saw {counts} {places.many}.",
)


@cache
def literal_words() -> frozenset[str]:
    """The words, in small letters, of the sentences and of what is said before them, whatever their gaps are filled with."""
    texts = [part for template in TEMPLATES for part in parts_of(template) if isinstance(part, str)]
    return frozenset(
        re.findall("[a-z]+", " ".join([*texts, *(text for told in PROMPTS.values() for text in told)]).lower())
    )
