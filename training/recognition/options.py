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
"""The options of the stage `recognise`."""

from dataclasses import dataclass, field

from ..augmentation import Augmentation


SIDES = ("question_audio", "answer_audio")


@dataclass
class RecogniseOptions:
    """
    Args:
        sides (`list[str]`, *optional*):
            What is heard of each row, `question_audio`, `answer_audio`, or by default both; a row that lacks one gives
            the other.
        augmentation ([`Augmentation`], *optional*):
            What the world does to speech before it is heard, drawn anew in every epoch; nothing by default.
        augmented_sides (`list[str]`, *optional*):
            Whom that happens to. By default only to questions: answers are those of one voice, without a room.
    """

    sides: list[str] = field(default_factory=lambda: list(SIDES))
    augmentation: Augmentation | None = None
    augmented_sides: list[str] = field(default_factory=lambda: ["question_audio"])

    def __post_init__(self):
        for name in ("sides", "augmented_sides"):
            sides = getattr(self, name)
            unknown = [side for side in sides if side not in SIDES]
            if unknown or (name == "sides" and not sides) or len(set(sides)) < len(sides):
                raise ValueError(f"`{name}` is {sides}: name {' or '.join(SIDES)}, or both, each once.")
