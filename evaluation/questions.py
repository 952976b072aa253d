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
"""Questions from the rows of a data set: each row in every task that it serves, with its reference answer."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from ..processing.audio_io import load_audio
from ..training.data import TASKS, RowError, TaskSpec, audio_of, conversation_of, has, load_rows, spec_of, tasks_of
from ..training.metrics import Question


logger = logging.getLogger(__name__)

ANSWERING_TASKS = ("speech_to_speech", "text_to_speech", "speech_to_text", "text_to_text")
SPEAKING_TASKS = ("say", "text_to_speech", "speech_to_speech")
# tasks of evaluations alone: facts, asked in writing and by voice, the model hearing a question beside itself reading
# it, and the transcript of the adapter's CTC, without generation by the language model
UNDERSTANDING_TASKS = {
    "knowledge": TaskSpec("ask", "question_text", "accepted_answers"),
    "spoken_knowledge": TaskSpec("ask", "question_audio", "accepted_answers"),
    "agreement": TaskSpec("ask", "question_audio", "question_text"),
    "transcribe_ctc": TaskSpec("transcribe", "question_audio", "question_text"),
}
ALL_TASKS = (*TASKS, *UNDERSTANDING_TASKS)
# without the two that every recording with a transcript offers
DEFAULT_TASKS = ALL_TASKS[:-2]
# questions of common knowledge with their accepted answers
KNOWLEDGE_FILE = Path(__file__).with_name("knowledge.jsonl")
SPLITS = ("test", "validation")
QUESTION_SAMPLING_RATE = 16000
AudioChange = Callable[[np.ndarray, int, int], np.ndarray]


@dataclass
class EvaluationQuestion:
    """One row in one task. `number` is the position of the row, which seeds everything random about the question."""

    row: Mapping[str, Any]
    task: str
    number: int

    def __post_init__(self):
        self.spec = UNDERSTANDING_TASKS.get(self.task) or spec_of(self.row, self.task)
        name = self.row["id"] if has(self.row, "id") else f"row {self.number + 1}"
        # an id made of a manifest's path and line is shown without the folder
        self.id = re.sub(r"^.*/(?=[^/]+:\d+$)", "", str(name))
        self.question_text: str | None = self.row.get("question_text")
        reference = self.row[self.spec.answer_text]
        self.reference: str = reference if isinstance(reference, str) else " / ".join(reference)
        self.accepted_answers: list[str] | None = self.row.get("accepted_answers")
        self.is_spoken = self.spec.answer_audio is not None
        self.has_audio = self.spec.question == "question_audio"

    @property
    def reference_key(self) -> tuple:
        """Identifies the reference audio: questions of several speakers may share one."""
        path = path_of(self.row[self.spec.answer_audio])
        return path or self.number, self.row.get("question_start"), self.reference

    def about(self, part: str) -> tuple:
        """The first fields of an `AnswerRecord`."""
        return part, self.task, self.number, self.id, self.question_text, self.reference

    def load(self, column: str, sampling_rate: int = QUESTION_SAMPLING_RATE) -> np.ndarray:
        """The waveform `(num_samples,)` of a column."""
        try:
            return load_audio(audio_of(self.row, column), sampling_rate)
        except (ValueError, TypeError, OSError) as error:
            raise RowError(self.id, column, f"`{column}` cannot be read: {error}") from error

    def to_question(self, processor: Any, change: AudioChange | None = None, in_writing: bool = False) -> Question:
        """
        The question for [`answer_batch`] with its audio, which `change` may alter; `in_writing`, with the transcript
        instead (of `UNDERSTANDING_TASKS`).
        """
        row, task, has_audio = self.row, self.task, self.has_audio and not in_writing
        if has_audio:
            waveform = self.load("question_audio")
            waveform = waveform if change is None else change(waveform, QUESTION_SAMPLING_RATE, self.number)
            audio = {"array": waveform, "sampling_rate": QUESTION_SAMPLING_RATE}
            row = {**row, "question_audio": audio, "question_start": None, "question_end": None}
        if task in UNDERSTANDING_TASKS:
            task, row = "speech_to_text" if has_audio else "text_to_text", {**row, "answer_text": self.reference}
        return Question(self.task, conversation_of(row, task, processor))


def load_questions(
    source: Any,
    tasks: Iterable[str] | None = None,
    limit: int | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_error: str = "stop",
    show_progress: bool = False,
) -> tuple[list[EvaluationQuestion], list[str]]:
    """
    The questions of a data set (anything that [`load_rows`] takes), and notes for the reader of the results. Of a folder
    `test.jsonl` is read, of a dataset the split `test` or `validation`, unless `split` is another. `tasks` defaults to
    `DEFAULT_TASKS`; `limit` is per task.
    Recordings that are not behind URLs are all decoded once, as a broken one would end an evaluation after hours.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f'`on_error` is {on_error!r}: it must be "stop" or "skip".')
    tasks = list(DEFAULT_TASKS if tasks is None else tasks)
    if unknown := set(tasks).difference(ALL_TASKS):
        raise ValueError(f"The task {min(unknown)!r} is unknown: choose from {', '.join(ALL_TASKS)}.")
    rows = _load_split(source, split, columns)
    questions = questions_of(rows, tasks, limit)
    if not questions:
        raise ValueError(
            f"None of the {len(rows)} rows serves {' or '.join(tasks)}: docs/training.md lists the columns of each task. "
            "Rename columns of other names with `columns`, such as `question_text=sentence`."
        )
    readable, checked = [], {}
    for question in tqdm(questions, "Reading recordings", disable=not show_progress):
        keys = [(column, question.number) for column in question.spec.needs if column.endswith("_audio")]
        checked |= {key: _is_readable(question, key[0], on_error) for key in keys if key not in checked}
        readable += [question] if all(checked[key] for key in keys) else []
    if not readable:
        raise ValueError(f"None of the {len(checked)} recordings can be read: see the warnings, and repair the files.")
    note = f"{len(questions) - len(readable)} questions with unreadable recordings were left out."
    return readable, [note] if len(readable) < len(questions) else []


def questions_of(rows: Sequence[Mapping], tasks: Sequence[str], limit: int | None = None) -> list[EvaluationQuestion]:
    """Every row in each of the tasks that it serves; a written question that occurs several times is asked once."""
    by_task: dict[str, list[EvaluationQuestion]] = {task: [] for task in tasks}
    seen = set()
    for number, row in enumerate(rows):
        offered = [one for one, spec in UNDERSTANDING_TASKS.items() if all(has(row, name) for name in spec.needs)]
        for task in set(tasks).intersection([*tasks_of(row), *offered]):
            question = EvaluationQuestion(row, task, number)
            key = (task, number) if question.has_audio else (task, row[question.spec.question], question.reference)
            if key not in seen:
                seen.add(key)
                by_task[task].append(question)
    return [question for group in by_task.values() for question in spread(group, limit)]


def language_of(questions: Sequence[EvaluationQuestion]) -> str:
    """The language of most rows as a code of Whisper's; English where rows have none."""
    languages = Counter(language_code(str(one.row["language"])) for one in questions if has(one.row, "language"))
    return languages.most_common(1)[0][0] if languages else "en"


def language_code(language: str) -> str:
    """`en` for `en-us` and `English`, `zh` for `cmn`; an unknown language stays as it is."""
    name = language.strip().lower()
    code = re.split("[-_]", name)[0]
    return TO_LANGUAGE_CODE.get(name) or {"cmn": "zh", "zho": "zh", "eng": "en"}.get(code, code)


def spread(items: Sequence, number: int | None) -> list:
    """`number` of the items, evenly from first to last."""
    if number is None or number >= len(items):
        return list(items)
    return [items[index * len(items) // number] for index in range(number)]


def path_of(source: Any) -> str | None:
    """The path or URL of an audio column, if it has one."""
    source = source.get("path") if isinstance(source, Mapping) and source.get("bytes") is None else source
    return str(source) if isinstance(source, str | Path) else None


def _load_split(source: Any, split: str | None, columns: Mapping[str, str] | None) -> Any:
    folder = Path(source).expanduser() if isinstance(source, str | Path) else None
    manifests = sorted(path.name for path in folder.glob("*.jsonl")) if folder else []
    if manifests:
        name = manifests[0] if len(manifests) == 1 and split is None else f"{split or SPLITS[0]}.jsonl"
        if name not in manifests:
            raise ValueError(f"The folder '{source}' has no {name}: name one of its files ({', '.join(manifests)}).")
        return load_rows(folder / name, columns=columns)
    for name in SPLITS if split is None else ():
        try:
            return load_rows(source, split=name, columns=columns)
        except RowError:
            raise
        except ValueError as error:
            logger.info("No split '%s': %s", name, error)
    return load_rows(source, split=split, columns=columns)


def _is_readable(question: EvaluationQuestion, column: str, on_error: str) -> bool:
    if (path_of(question.row[column]) or "").startswith(("http://", "https://")):
        return True  # would be downloaded twice
    try:
        question.load(column)
    except RowError as error:
        if on_error == "stop":
            remedy = 'Repair it, or leave such rows out with `on_error="skip"`.'
            raise RowError(error.where, error.field, f"{error.problem} {remedy}") from error
        logger.warning("Left out: %s", error)
        return False
    return True
