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
"""Samples as a report shows them: the same question to every checkpoint, texts with their wrong words, sounds and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .inline_media import Sound, picture_at, sound_at
from .questions import spread
from .results import Sample
from .side_by_side import Entry
from .stops import COMPLETE
from .word_differences import Piece, differences


@dataclass(frozen=True)
class ShownAnswer:
    """
    What one checkpoint answered.

    Args:
        entry (`str`, *optional*): Whose it is, where there are several.
        sample (`Sample`): The answer.
        text (`list[Piece]`): What it wrote, compared with what was expected.
        heard (`dict[str, list[Piece]]`): What each recogniser heard, compared likewise.
        sound, picture: The spoken answer, where its files are there.
    """

    entry: str | None
    sample: Sample
    text: list[Piece]
    heard: dict[str, list[Piece]]
    sound: Sound | None
    picture: str | None

    @property
    def faults(self) -> list[str]:
        return [] if self.sample.stop == COMPLETE else self.sample.stop.split(",")

    @property
    def is_misheard(self) -> bool:
        """Whether the first recogniser heard anything but what was expected."""
        return any(piece.kind != "same" for piece in next(iter(self.heard.values()), []))


@dataclass(frozen=True)
class ShownSample:
    """A question with the answers of all checkpoints, and the original."""

    id: str
    task: str
    topic: str | None
    question_text: str | None
    expected: str
    question: Sound | None
    original: Sound | None
    answers: list[ShownAnswer]

    @property
    def asked(self) -> str | None:
        """What was asked, where that is not what is expected, nor left out: who is to say an answer hears no question."""
        is_told = self.task != "say" and self.question_text != self.expected
        return self.question_text if is_told else None

    @property
    def traits(self) -> list[str]:
        """What readers look for: answers that are `wrong`, `misheard` or of `faulty` speech, of any checkpoint."""
        signs = {
            "wrong": any(not answer.sample.is_exact for answer in self.answers),
            "misheard": any(answer.is_misheard for answer in self.answers),
            "faulty": any(answer.faults for answer in self.answers),
        }
        return [name for name, sign in signs.items() if sign]


def shown_samples(entries: Sequence[Entry], max_samples: int | None) -> tuple[list[ShownSample], int]:
    """The samples of a page, with their sounds, and how many there are in all."""
    chosen, number = samples_side_by_side(entries, max_samples)
    return [_shown(answers, len(entries) > 1) for answers in chosen], number


def samples_side_by_side(
    entries: Sequence[Entry], max_samples: int | None
) -> tuple[list[list[tuple[Entry, Sample]]], int]:
    """
    Every question with the answers of all checkpoints, those of a task together, and how many questions there are. With
    more than `max_samples` they are taken evenly from the first to the last; those that every checkpoint answered go first.
    """
    by_question: dict[tuple, list[tuple[Entry, Sample]]] = {}
    for entry in entries:
        for key, sample in _keyed(entry.results.samples).items():
            by_question.setdefault(key, []).append((entry, sample))
    shared = [answers for answers in by_question.values() if len(answers) == len(entries)]
    others = [answers for answers in by_question.values() if len(answers) < len(entries)]
    chosen = spread(shared, max_samples)
    chosen += spread(others, None if max_samples is None else max_samples - len(chosen))
    tasks = list(dict.fromkeys(key[0] for key in by_question))
    chosen.sort(key=lambda answers: tasks.index(answers[0][1].task))
    return chosen, len(by_question)


def _keyed(samples: Sequence[Sample]) -> dict[tuple, Sample]:
    """Samples by what tells their questions apart; of equal ones the second has another key."""
    keyed: dict[tuple, Sample] = {}
    for sample in samples:
        key = (sample.task, sample.id, sample.question_text, sample.expected)
        number = 0
        while (*key, number) in keyed:
            number += 1
        keyed[*key, number] = sample
    return keyed


def _shown(answers: Sequence[tuple[Entry, Sample]], is_compared: bool) -> ShownSample:
    sample = answers[0][1]
    return ShownSample(
        id=sample.id,
        task=sample.task,
        topic=sample.topic,
        question_text=sample.question_text,
        expected=sample.expected,
        question=_first_sound(answers, "question"),
        original=_first_sound(answers, "original"),
        answers=[_shown_answer(entry, one, is_compared) for entry, one in answers],
    )


def _shown_answer(entry: Entry, sample: Sample, is_compared: bool) -> ShownAnswer:
    language = entry.results.settings.get("language") or "en"
    return ShownAnswer(
        entry=entry.label if is_compared else None,
        sample=sample,
        text=differences(sample.expected, sample.text, language),
        heard={name: differences(sample.expected, heard, language) for name, heard in sample.heard.items()},
        sound=_sound(entry.folder, sample.wavs, "answer"),
        picture=picture_at(entry.folder / sample.mel_picture) if entry.folder and sample.mel_picture else None,
    )


def _first_sound(answers: Sequence[tuple[Entry, Sample]], kind: str) -> Sound | None:
    sounds = (_sound(entry.folder, sample.wavs, kind) for entry, sample in answers)
    return next((sound for sound in sounds if sound is not None), None)


def _sound(folder: Path | None, files: Mapping[str, str], kind: str) -> Sound | None:
    return sound_at(folder / files[kind]) if folder is not None and kind in files else None
