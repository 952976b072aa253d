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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..processing.audio_io import load_audio, read_audio
from ..training.generation_metrics import Question
from ..training.manifest import load_rows
from ..training.row_checks import RENAMING
from ..training.rows import TASKS, RowError, TaskSpec, audio_of, conversation_of, file_of, has, spec_of, tasks_of
from .identities import identity_of_sound
from .languages import whisper_code


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
# Broken recordings that are named; of the others, their number is enough.
MAX_NAMED = 10


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
        # datasets of others number their rows
        return re.sub(r"^.*/(?=[^/]+:\d+$)", "", str(name))

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

    @cached_property
    def original_identity(self) -> str:
        """What tells the original from other recordings. Once known it stays, though the file be copied or touched meanwhile."""
        identity = identity_of_sound(self.row[self.spec.answer_audio])
        if self.spec.answer_audio == "question_audio":
            identity += f" {self.row.get('question_start')}-{self.row.get('question_end')}"
        return identity

    def question(self, processor: Any, change: Change | None = None) -> Question:
        """What the model is asked. A recording is read here, so that a damaged one is told by its row."""
        row = self.row
        if self.is_heard:
            sound = {"array": self.question_sound(change), "sampling_rate": QUESTION_RATE}
            row = {**row, "question_audio": sound, "question_start": None, "question_end": None}
        return Question.of(self.task, conversation_of(row, self.task, processor))

    def check_sound(self, name: str) -> None:
        """Raises if the recording in a column cannot be heard, without the time of resampling it."""
        with self._told_by_row(name):
            read_audio(audio_of(self.row, name), source_sampling_rate=QUESTION_RATE)

    def _load(self, name: str, sampling_rate: int) -> np.ndarray:
        with self._told_by_row(name):
            return load_audio(audio_of(self.row, name), sampling_rate)

    @contextmanager
    def _told_by_row(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, OSError) as error:
            raise RowError(self.id, name, f"`{name}` cannot be heard: {error}") from error


def rows_of(data: Any, split: str | None = None, columns: Mapping[str, str] | None = None) -> Any:
    """
    The rows of a manifest, of the `test.jsonl` in a folder, or of whatever else [`load_rows`] reads; of a dataset with
    splits those of `test`, or where there is none of `validation`, unless another split is asked for. `columns` are our
    names to those of the data, where they differ.
    """
    if not isinstance(data, str | os.PathLike):
        return load_rows(data, split, columns=columns)
    folder = Path(data).expanduser()
    manifest = folder / f"{split or SPLITS[0]}.jsonl"
    if manifest.is_file():
        return load_rows(manifest, columns=columns)
    manifests = sorted(path.name for path in folder.glob("*.jsonl")) if folder.is_dir() else []
    if len(manifests) > (0 if split else 1):
        raise ValueError(
            f"The folder '{data}' has no {manifest.name}: name one of its files ({', '.join(manifests)})."
        )
    for name in SPLITS if split is None else ():
        try:
            return load_rows(data, name, columns=columns)
        except ValueError as error:
            if "no split" not in str(error) and "Unknown split" not in str(error):
                raise
            logger.warning("'%s' has no split '%s'.", data, name)
    return load_rows(data, split, columns=columns)


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
            f"`flow-omni prepare validate` says what the rows have. Columns that are called otherwise: {RENAMING}."
        )
    _name_topics(chosen)
    return chosen


def check_sounds(questions: Sequence[AskedRow], on_error: str = "stop", is_quiet: bool = True) -> list[AskedRow]:
    """
    The questions whose sounds can be heard, theirs and those of the answers. All but those behind addresses are decoded,
    which takes a fraction of what answering takes: a recording that is found to be broken later costs hours. With
    `on_error="stop"` the first one is raised with the names of others, with `"skip"` its questions are left out.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f'`on_error` is {on_error!r}: it must be "stop" or "skip".')
    problems: dict[tuple, RowError | None] = {}
    good = []
    for asked in tqdm(questions, "recordings", unit=" questions", disable=is_quiet, leave=False):
        found = [_problem(asked, name, problems) for name in asked.spec.needs if name.endswith("_audio")]
        if not any(found):
            good.append(asked)
    broken = [problem for problem in problems.values() if problem is not None]
    if broken and (on_error == "stop" or not good):
        raise _all_broken(broken)
    for problem in broken[:MAX_NAMED]:
        logger.warning("Left out: %s", problem)
    return good


def _problem(asked: AskedRow, name: str, problems: dict[tuple, RowError | None]) -> RowError | None:
    """What is wrong with a recording, looked for once however many questions share it."""
    row = asked.row
    file = file_of(row[name])
    where = (file, row.get("question_start"), row.get("question_end")) if isinstance(file, str) else (asked.number,)
    key = (name, *where)
    if key not in problems:
        problems[key] = None
        # what is behind an address is not fetched twice
        if not _is_address(row[name]):
            try:
                asked.check_sound(name)
            except RowError as error:
                problems[key] = error
    return problems[key]


def _is_address(source: Any) -> bool:
    if isinstance(source, Mapping) and source.get("array") is None and source.get("bytes") is None:
        source = source.get("path")
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def _all_broken(broken: Sequence[RowError]) -> RowError:
    """The first problem, and whom else it concerns."""
    first, *others = broken
    rest = ""
    if others:
        named = ", ".join(dict.fromkeys(f"{error.where} (`{error.field}`)" for error in others[:MAX_NAMED]))
        more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
        rest = f" Nor can those of {named}{more}."
    remedy = "Mend them, or leave their rows out with `--on-error skip` (`on_error` of `check_sounds`)."
    return RowError(first.where, first.field, f"{first.problem.rstrip('.')}.{rest} {remedy}")


def language_of(questions: Sequence[AskedRow]) -> str:
    """The language that most rows say they are in, as Whisper writes it; else English."""
    languages = Counter(whisper_code(str(asked.row["language"])) for asked in questions if has(asked.row, "language"))
    return languages.most_common(1)[0][0] if languages else "en"


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
