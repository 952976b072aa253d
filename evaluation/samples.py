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
"""Answers to listen to and to look at: some of every task, and beside them some of those that went wrong."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..processing.audio_io import write_audio
from ..training.extras import needs
from ..training.samples import picture_of
from .answering import Answered
from .journal import Journal
from .judging import AnswerRecord
from .questions import QUESTION_RATE, AskedRow, spread
from .results import Sample
from .stops import COMPLETE
from .text_errors import text_errors


FOLDER = "samples"
PICTURE = "mel_picture"


class SampleFolder:
    """
    Keeps sounds and pictures of `num_samples` answers of each task, spread over the questions, and of as many faulty ones.

    Args:
        folder (`str`): Where results go.
        questions (`list[AskedRow]`): All that are asked.
        num_samples (`int`): Of each task, and again of faulty ones.
        language (`str`): How texts are compared.
    """

    def __init__(self, folder: str | os.PathLike, questions: Sequence[AskedRow], num_samples: int, language: str):
        self.folder, self.num_samples, self.language = Path(folder), num_samples, language
        by_task: dict[str, list[AskedRow]] = {}
        for asked in questions:
            by_task.setdefault(asked.task, []).append(asked)
        self.chosen = {
            (asked.task, asked.number) for group in by_task.values() for asked in spread(group, num_samples)
        }
        self.num_faulty: Counter[str] = Counter()

    def clear(self) -> None:
        """Removes the samples of an earlier evaluation."""
        shutil.rmtree(self.folder / FOLDER, ignore_errors=True)

    def take_over(self, journal: Journal) -> None:
        """Counts the samples that an evaluation which was stopped has left."""
        for record in journal.answers.values():
            if record.is_sample and (record.task, record.number) not in self.chosen:
                self.num_faulty[record.task] += 1

    def offer(self, record: AnswerRecord, answered: Answered, sampling_rate: int) -> None:
        """Writes the files of an answer, if it is one to show."""
        if (record.task, record.number) not in self.chosen:
            if not self.is_faulty(record) or self.num_faulty[record.task] >= self.num_samples:
                return
            self.num_faulty[record.task] += 1
        asked, answer = answered.asked, answered.answer
        sounds: dict[str, tuple[np.ndarray, int]] = {}
        if asked.is_heard:
            sounds["question"] = (asked.question_sound(), QUESTION_RATE)
        if asked.is_spoken:
            sounds["original"] = (asked.original_sound(sampling_rate), sampling_rate)
            if answer.waveform is not None and len(answer.waveform) > 0:
                sounds["answer"] = (answer.waveform, sampling_rate)
        record.is_sample = True
        name = f"{record.task}-{re.sub(r'[^A-Za-z0-9_-]+', '_', record.id)[-60:]}-{record.number}"
        for kind, (waveform, rate) in sounds.items():
            record.files[kind] = self._write_sound(f"{name}-{kind}.wav", waveform, rate)
        if answer.mel is not None and len(answer.mel) > 0:
            record.files[PICTURE] = self._write_picture(f"{name}.png", answer.mel)

    def is_faulty(self, record: AnswerRecord) -> bool:
        """Whether an answer is wrong, ended badly, or was not understood by the first recogniser."""
        heard = next(iter(record.heard.values()), record.text)
        is_right = all(
            text_errors(record.expected, text, self.language).said.is_exact for text in (record.text, heard)
        )
        return bool(record.faults) or not is_right

    def _write_sound(self, name: str, waveform: np.ndarray, sampling_rate: int) -> str:
        path = self._path(name)
        write_audio(path, np.clip(waveform, -1.0, 1.0), sampling_rate)
        return f"{FOLDER}/{path.name}"

    def _write_picture(self, name: str, mel: np.ndarray) -> str:
        path = self._path(name)
        needs("matplotlib.image").imsave(path, picture_of(mel))
        return f"{FOLDER}/{path.name}"

    def _path(self, name: str) -> Path:
        (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
        return self.folder / FOLDER / name


def samples_of(records: Sequence[AnswerRecord], language: str) -> list[Sample]:
    """The samples among the records, those of a task together."""
    return [
        Sample(
            id=record.id,
            task=record.task,
            topic=record.topic,
            question_text=record.question_text,
            expected=record.expected,
            text=record.text,
            heard=record.heard,
            is_exact=text_errors(record.expected, record.text, language).said.is_exact,
            stop=",".join(record.faults) or COMPLETE,
            wavs={kind: file for kind, file in record.files.items() if kind != PICTURE},
            mel_picture=record.files.get(PICTURE),
        )
        for record in records
        if record.is_sample
    ]
