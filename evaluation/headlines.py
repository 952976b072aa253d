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
"""The few figures by which a checkpoint is judged first, chosen among all that an evaluation found."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .results import Results, group_name, split_group
from .side_by_side import Measured


SPEED = None  # the group of the figures in `speed`
STOPS, REFERENCE = "stops", "reference"
# Of the tasks that answer a question, the first that was evaluated is in the headlines.
ANSWERING = ("speech_to_speech", "text_to_speech", "speech_to_text", "text_to_text")
SPEAKING = ("say", "speech_to_speech", "text_to_speech")


@dataclass(frozen=True)
class Headline:
    """
    One figure, named so that it is understood without its table.

    Args:
        side (`str`): Which side of the model it is about.
        title (`str`): What it is.
        group (`str`, *optional*): Where it stands in `figures`; `SPEED` if in `speed`.
        name (`str`): Of the figure.
        recogniser (`str`, *optional*): Who listened.
    """

    side: str
    title: str
    group: str | None
    name: str
    recogniser: str | None = None

    @property
    def task(self) -> str | None:
        return None if self.group is SPEED else split_group(self.group)[0]

    def table(self, results: Results) -> Mapping[str, float] | None:
        """The figures that it stands among."""
        return results.speed if self.group is SPEED else results.figures.get(self.group)

    def of(self, results: Results) -> Measured | None:
        return Measured.of(self.table(results), self.name)

    def floors(self, results: Results) -> dict[str, Measured]:
        """What the same recogniser makes of the originals: speech cannot be expected to be understood better."""
        if self.task not in SPEAKING or self.name != "cer" or self.recogniser is None:
            return {}
        table = results.figures.get(group_name(REFERENCE, None, self.recogniser))
        floors = {
            "originals": Measured.of(table, "cer"),
            "through the vocoder": Measured.of(table, "vocoded_cer"),
        }
        return {words: measured for words, measured in floors.items() if measured is not None}


def headlines_of(results: Results) -> list[Headline]:
    """The headlines of which there are figures, in the order in which they are read."""
    groups = {split_group(name) for name in results.figures}
    tasks = {task for task, topic, recogniser in groups if topic is None and recogniser is None}
    recogniser = first_recogniser(results)
    asked = next((task for task in ANSWERING if task in tasks), None)
    spoken = next((task for task in SPEAKING if task in tasks), None)
    chosen = [
        Headline("Hearing", "Character errors of transcripts", "transcribe", "cer"),
        Headline("Hearing", "Word errors of transcripts", "transcribe", "wer"),
    ]
    if asked is not None:
        chosen.append(Headline("Answers", "Exact answers, as written", asked, "exact"))
    if recogniser is not None and asked in SPEAKING:
        heard = group_name(asked, None, recogniser)
        chosen.append(Headline("Answers", f"Exact answers, as heard by {recogniser}", heard, "exact", recogniser))
    if recogniser is not None and spoken is not None:
        heard = group_name(spoken, None, recogniser)
        chosen.append(
            Headline("Speech", f"Character errors of speech, as heard by {recogniser}", heard, "cer", recogniser)
        )
    chosen += [
        Headline("Speech", "Spoken answers that begin, go on and end without a fault", STOPS, "clean"),
        Headline("Speed", "First sound after the end of the question", SPEED, "first_sound_ms"),
        Headline("Speed", "Real-time factor, one question at a time", SPEED, "real_time_factor"),
    ]
    return [headline for headline in chosen if headline.of(results) is not None]


def headlines_of_all(results: Iterable[Results]) -> list[Headline]:
    """The headlines of several results, each once."""
    return list(dict.fromkeys(headline for one in results for headline in headlines_of(one)))


def first_recogniser(results: Results) -> str | None:
    """The recogniser that stands first in the figures, and that `heard_…` and stops are told by."""
    found = (split_group(name)[2] for name in results.figures)
    return next((name for name in found if name is not None), None)
