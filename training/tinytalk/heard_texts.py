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
"""
Written questions as ears would deliver them: letters that last, pauses between them, now and then a wrong one. A language
model that can read them needs to learn nothing new when speech comes whose every step means a letter or nothing (which the
loss `audio_loss` of the model teaches the ears): it is taught to listen at the price of text.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...processing.processing_flow_omni import TASK_PROMPTS
from ..examples import uniform


PAUSE = "_"  # no text of the corpus has one


@dataclass(frozen=True)
class Ears:
    """
    How a text is heard, at 25 steps a second.

    Attributes:
        hold: the chance that a letter goes on for one more step.
        pause: the chance that one more step without a letter follows it.
        silence: at most so many of these lie before and after the text.
        mishear: the chance that a letter is taken for another of the same text,
        miss: and that it is not heard at all.
    """

    hold: float = 0.15
    pause: float = 0.4
    silence: int = 8
    mishear: float = 0.03
    miss: float = 0.02

    def __call__(self, text: str, rng: random.Random) -> str:
        heard = [PAUSE * rng.randint(0, self.silence)]
        for last, letter in zip(" " + text, text):
            if rng.random() < self.miss:
                continue
            if rng.random() < self.mishear:
                letter = rng.choice(text)
            if letter == last and not heard[-1].endswith(PAUSE):
                heard.append(PAUSE)  # or the two would be one
            heard.append(letter * _count(rng, self.hold, first=1) + PAUSE * _count(rng, self.pause))
        return "".join(heard) + PAUSE * rng.randint(0, self.silence)


def _count(rng: random.Random, chance: float, first: int = 0) -> int:
    """`first`, and one more for as long as the chance holds."""
    while rng.random() < chance:
        first += 1
    return first


def as_heard(rows: Iterable[Mapping], share: float = 0.45, seed: int = 0, ears: Ears = Ears()) -> Iterator[dict]:
    """Of a share of the rows the question is heard and not read: half of them to be answered, half to be written down."""
    for row in rows:
        drawn = uniform(seed, "heard", row["id"])
        if drawn >= share:
            yield dict(row)
            continue
        text = row["question_text"]
        heard = ears(text, random.Random(f"{seed} {row['id']}"))
        if drawn < share / 2:
            yield dict(row, id=f"{row['id']}-heard", question_text=heard)
        else:
            prompt = TASK_PROMPTS["transcribe"]
            yield dict(row, id=f"{row['id']}-dictated", question_text=heard + prompt, answer_text=text)
