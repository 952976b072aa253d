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
"""Rows of a data set become questions, each with the answer that is expected and the topic that its id tells."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..processing.audio_io import load_audio
from ..training.generation_metrics import Question
from ..training.manifest import load_rows
from ..training.rows import TASKS, RowError, TaskSpec, audio_of, conversation_of, file_of, has, spec_of, tasks_of


logger = logging.getLogger(__name__)

# What is evaluated of a dataset with splits, in this order.
SPLITS = ("test", "validation")
# What a change of a question does to its waveform: (samples, sampling rate, a number that only this question has).
Change = Callable[[np.ndarray, int, int], np.ndarray]
# Changes are computed, and questions heard, at this rate.
QUESTION_RATE = 16000
TOPIC = re.compile(r"([A-Za-z][A-Za-z_ ]*?)[-_ ]?\d+(?:\D.*)?")
# More groups than this are no topics, but speakers or books.
MAX_TOPICS = 30


@dataclass
class AskedRow:
    """
    One row in one task.

    Args:
        row (`Mapping`): As [`load_rows`] gives it.
        task (`str`): One of `TASKS`.
        number (`int`): Its place in the data set, which seeds what is random about it.
        topic (`str`, *optional*): What it is about.
    """

    row: Mapping[str, Any]
    task: str
    number: int
    topic: str | None = None

    @property
    def spec(self) -> TaskSpec:
        return spec_of(self.row, self.task)

    @property
    def id(self) -> str:
        """Names the row in reports; where it has no name of its own, by its file without the folder."""
        name = self.row["id"] if has(self.row, "id") else f"row {self.number + 1}"
        return re.sub(r"^.*/(?=[^/]+:\d+$)", "", name)

    @property
    def expected(self) -> str:
        return self.row[self.spec.answer_text]

    @property
    def is_spoken(self) -> bool:
        """Whether the answer is to be said."""
        return self.spec.answer_audio is not None

    @property
    def is_heard(self) -> bool:
        """Whether the question is a recording."""
        return self.spec.question == "question_audio"

    @property
    def question_text(self) -> str | None:
        return self.row["question_text"] if has(self.row, "question_text") else None

    def question_sound(self, change: Change | None = None) -> np.ndarray:
        """What is asked `(num_samples,)`, at `QUESTION_RATE`, as it is or changed."""
        waveform = self._load("question_audio", QUESTION_RATE)
        return waveform if change is None else change(waveform, QUESTION_RATE, self.number)

    def original_sound(self, sampling_rate: int) -> np.ndarray:
        """The answer `(num_samples,)` as the data set has it."""
        return self._load(self.spec.answer_audio, sampling_rate)

    def question(self, processor: Any, change: Change | None = None) -> Question:
        """What the model is asked. A recording is read here, so that a damaged one is told by its row."""
        row = self.row
        if self.is_heard:
            sound = {"array": self.question_sound(change), "sampling_rate": QUESTION_RATE}
            row = {**row, "question_audio": sound, "question_start": None, "question_end": None}
        return Question.of(self.task, conversation_of(row, self.task, processor))

    def _load(self, name: str, sampling_rate: int) -> np.ndarray:
        try:
            return load_audio(audio_of(self.row, name), sampling_rate)
        except (ValueError, TypeError, OSError) as error:
            raise RowError(self.id, name, f"`{name}` cannot be heard: {error}") from error


def rows_of(data: Any, split: str | None = None) -> Any:
    """
    The rows of a manifest, of the `test.jsonl` in a folder, or of whatever else [`load_rows`] reads; of a dataset with
    splits those of `test`, or where there is none of `validation`, unless another split is asked for.
    """
    if not isinstance(data, str | os.PathLike):
        return load_rows(data, split)
    folder = Path(data).expanduser()
    manifest = folder / f"{split or SPLITS[0]}.jsonl"
    if manifest.is_file():
        return load_rows(manifest)
    manifests = sorted(path.name for path in folder.glob("*.jsonl")) if folder.is_dir() else []
    if len(manifests) > (0 if split else 1):
        raise ValueError(
            f"The folder '{data}' has no {manifest.name}: name one of its files ({', '.join(manifests)})."
        )
    for name in SPLITS if split is None else ():
        try:
            return load_rows(data, name)
        except ValueError as error:
            if "no split" not in str(error) and "Unknown split" not in str(error):
                raise
            logger.warning("'%s' has no split '%s'.", data, name)
    return load_rows(data, split)


def questions_of(
    rows: Sequence[Mapping], tasks: Iterable[str] | None = None, limit: int | None = None
) -> list[AskedRow]:
    """
    Every row in every task that it serves, or in those of `tasks` only; the same question twice is asked once. With a
    `limit`, so many of each task, spread over all rows.
    """
    wanted = list(TASKS) if tasks is None else list(tasks)
    unknown = [task for task in wanted if task not in TASKS]
    if unknown:
        raise ValueError(f"The task {unknown[0]!r} is unknown: choose among {', '.join(TASKS)}.")
    by_task: dict[str, list[AskedRow]] = {task: [] for task in wanted}
    seen = set()
    for number, row in enumerate(rows):
        for task in tasks_of(row):
            if task not in by_task:
                continue
            asked = AskedRow(row, task, number)
            # spoken in several voices, a question is several; in writing it is one
            key = (task, number) if asked.is_heard else (task, row[asked.spec.question], asked.expected)
            if key not in seen:
                seen.add(key)
                by_task[task].append(asked)
    chosen = [asked for task in wanted for asked in spread(by_task[task], limit)]
    if not chosen:
        raise ValueError(
            f"None of the {len(rows)} rows offers {' or '.join(wanted)}: what each task needs is in docs/training.md, and "
            "`flow-omni prepare validate` says what the rows have."
        )
    _name_topics(chosen)
    return chosen


def check_sounds(questions: Sequence[AskedRow]) -> None:
    """Raises if files of questions or answers are not there, before minutes have gone by."""
    missing = {}
    for asked in questions:
        for name in asked.spec.needs:
            file = file_of(asked.row[name]) if name.endswith("_audio") else None
            if isinstance(file, str) and not os.path.isfile(file):
                missing.setdefault(file, (asked.id, name))
    if missing:
        file, (row_id, name) = next(iter(missing.items()))
        raise RowError(
            row_id,
            name,
            f"there is no '{file}'"
            + (f", and {len(missing) - 1} other files are missing" if len(missing) > 1 else "")
            + ": paths in a manifest are relative to its folder.",
        )


def language_of(questions: Sequence[AskedRow]) -> str:
    """The language that most rows say they are in, as Whisper writes it: `en` of `en-us`, `zh` of `cmn`; else English."""
    names = Counter(str(asked.row["language"]) for asked in questions if has(asked.row, "language"))
    if not names:
        return "en"
    language = re.split("[-_]", names.most_common(1)[0][0].lower())[0]
    return {"cmn": "zh", "eng": "en", "mandarin": "zh", "chinese": "zh", "english": "en"}.get(language, language)


def spread(items: Sequence, number: int | None) -> list:
    """So many of the items, evenly from the first to the last."""
    if number is None or number >= len(items):
        return list(items)
    return [items[index * len(items) // number] for index in range(number)]


def topic_of(row_id: str) -> str | None:
    """What stands before the first number of an id: `small_talk` of `small_talk-12-v3`."""
    match = TOPIC.fullmatch(row_id)
    return match[1].rstrip("-_ ") if match else None


def _name_topics(questions: Sequence[AskedRow]) -> None:
    topics = {topic_of(asked.id) for asked in questions}
    if len(topics) > 1 and len(topics) <= MAX_TOPICS:
        for asked in questions:
            asked.topic = topic_of(asked.id)
