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
"""A row is one exchange: a question and its answer, written, spoken or both; and what can be learnt from it."""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from ..processing.audio_io import read_audio


@dataclass(frozen=True)
class Column:
    """What a column holds: `text`, `audio`, `seconds`, `times` (a list of seconds) or `messages`."""

    kind: Literal["text", "audio", "seconds", "times", "messages"]
    meaning: str


COLUMNS: dict[str, Column] = {
    "id": Column("text", "names the row in reports; its file and line where it is missing"),
    "question_text": Column("text", "what the user writes, or says in `question_audio`"),
    "question_audio": Column("audio", "what the user says: a path (relative to the manifest) or the bytes of a file"),
    "question_start": Column("seconds", "where the question begins in a long recording"),
    "question_end": Column("seconds", "where it ends"),
    "question_seconds": Column("seconds", "how long the question is; saves reading the file's header"),
    "answer_text": Column("text", "what the assistant writes, or says in `answer_audio`"),
    "answer_audio": Column("audio", "what the assistant says"),
    "answer_seconds": Column("seconds", "how long the spoken answer is"),
    "answer_word_times": Column("times", "the second in which each word of `answer_text` begins in `answer_audio`"),
    "history": Column("messages", "earlier turns, each with `role` (user or assistant) and `text`"),
    "system": Column("text", "the system prompt"),
    "language": Column("text", "language of the row"),
    "speaker": Column("text", "who asks"),
}


# In the place of a row that is wrong, where those are to be counted: its `id`, and here what is wrong with it.
WRONG = "__wrong__"


@dataclass(frozen=True)
class TaskSpec:
    """
    What the model is shown and what it is to answer, as names of columns.

    Attributes:
        prompt: the task of the processor's [`make_conversation`]: `ask`, `say` or `transcribe`.
        question: the column that becomes the user's message.
        answer_text: the column that is to be written.
        answer_audio: the column that is to be said as well, if any.
    """

    prompt: Literal["ask", "say", "transcribe"]
    question: str
    answer_text: str
    answer_audio: str | None = None

    @cached_property
    def needs(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(name for name in (self.question, self.answer_text, self.answer_audio) if name is not None)
        )


TASKS: dict[str, TaskSpec] = {
    "transcribe": TaskSpec("transcribe", "question_audio", "question_text"),
    "say": TaskSpec("say", "answer_text", "answer_text", "answer_audio"),
    "speech_to_speech": TaskSpec("ask", "question_audio", "answer_text", "answer_audio"),
    "speech_to_text": TaskSpec("ask", "question_audio", "answer_text"),
    "text_to_speech": TaskSpec("ask", "question_text", "answer_text", "answer_audio"),
    "text_to_text": TaskSpec("ask", "question_text", "answer_text"),
}

# Of a recording with its transcript and no answer, as in corpora for recognition, the transcript can be said as well.
SAY_RECORDING = TaskSpec("say", "question_text", "question_text", "question_audio")

# The columns that decide what a row offers.
NEEDED = tuple(dict.fromkeys(name for spec in TASKS.values() for name in spec.needs))

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{CJK}][^\s\w]*|[^\s{CJK}]+")


class RowError(ValueError):
    """What is wrong with a row: where it stands, which field, and what the field should be."""

    def __init__(self, where: str, field: str, problem: str):
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where, self.field, self.problem = where, field, problem


def has(row: Mapping, name: str) -> bool:
    """Whether a column of the row holds something."""
    value = row.get(name)
    # what is asked most comes first: this is called a dozen times for every row there is
    if value is None:
        return False
    if isinstance(value, str | list | tuple):
        return len(value) > 0
    return not isinstance(value, Mapping) or any(value.get(key) is not None for key in ("array", "bytes", "path"))


def spec_of(row: Mapping, task: str) -> TaskSpec:
    """How this row serves the task."""
    if task not in TASKS:
        raise ValueError(f"The task is {task!r}: it must be one of {', '.join(TASKS)}.")
    is_recording = not has(row, "answer_text") and not has(row, "answer_audio")
    return SAY_RECORDING if task == "say" and is_recording else TASKS[task]


def tasks_of(row: Mapping) -> list[str]:
    """The tasks for which the row has all that is needed."""
    return list(_tasks_with(frozenset(name for name in NEEDED if has(row, name))))


@lru_cache
def _tasks_with(filled: frozenset[str]) -> tuple[str, ...]:
    """The tasks of a row in which these columns hold something."""
    row = dict.fromkeys(filled, "something")
    return tuple(task for task in TASKS if filled.issuperset(spec_of(row, task).needs))


def conversation_of(row: Mapping, task: str, processor: Any) -> list[dict]:
    """
    The messages of a training example for `processor.encode_training_example`, the last being the answer. The user's
    message is the processor's own, so that training and use share their prompts.
    """
    spec = spec_of(row, task)
    missing = [name for name in spec.needs if not has(row, name)]
    if missing:
        raise RowError(
            str(row.get("id") or ""),
            missing[0],
            f"the task {task!r} needs `{missing[0]}`, which the row lacks: it offers {', '.join(tasks_of(row)) or 'no task'}.",
        )
    is_heard = spec.question == "question_audio"
    question = {"audio": audio_of(row, spec.question)} if is_heard else {"text": row[spec.question]}
    answer = [{"type": "text", "text": row[spec.answer_text]}]
    if spec.answer_audio is not None:
        answer.append({"type": "audio", "audio": audio_of(row, spec.answer_audio)})
    messages = [{"role": "system", "content": row["system"]}] if has(row, "system") else []
    # what was said before matters to an answer, not to a transcript
    if spec.prompt == "ask" and has(row, "history"):
        messages += [{"role": turn["role"], "content": turn["text"]} for turn in row["history"]]
    messages += processor.make_conversation(spec.prompt, **question)
    return [*messages, {"role": "assistant", "content": answer}]


def audio_of(row: Mapping, name: str) -> Any:
    """An audio column as [`load_audio`] reads it; of a part of a long recording, its samples."""
    value = row[name]
    if name == "question_audio" and (has(row, "question_start") or has(row, "question_end")):
        return read_part(value, row.get("question_start") or 0.0, row.get("question_end"))
    return value


def read_part(source: Any, start: float, end: float | None) -> dict[str, Any]:
    """The samples of a recording between two times in seconds. Of a file, only these are decoded."""
    import soundfile

    file = file_of(source)
    if file is None:
        waveform, rate = read_audio(source)
        first, last = round(start * rate), None if end is None else round(end * rate)
        return {"array": waveform[first:last], "sampling_rate": rate}
    try:
        with soundfile.SoundFile(file) as sound:
            rate, num_samples = sound.samplerate, sound.frames
            first = round(start * rate)
            last = num_samples if end is None else min(round(end * rate), num_samples)
            if first >= last:
                raise ValueError(
                    f"Got a part from {start:g} s to {'the end' if end is None else f'{end:g} s'} of a recording of "
                    f"{num_samples / rate:.2f} s: it must lie within the recording."
                )
            sound.seek(first)
            samples = sound.read(last - first, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"Cannot decode {_shown(source)} ({str(error).strip()}): convert it to wav or flac."
        ) from error
    return {"array": samples.mean(axis=1), "sampling_rate": rate}


def file_of(source: Any) -> str | io.BytesIO | None:
    """What soundfile opens of an audio cell, if it is a local file or the bytes of one."""
    if isinstance(source, Mapping):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(bytes(source))
    if isinstance(source, str | os.PathLike) and not str(source).startswith(("http://", "https://", "data:")):
        return os.path.expanduser(source)
    return None


def words_of(text: str) -> list[str]:
    """The words of a text, with the punctuation that follows them; of a script without spaces, its characters."""
    return WORD.findall(text)


def word_times_of(row: Mapping, task: str) -> list[tuple[str, float]] | None:
    """The words of a spoken answer and their onsets, for the timed layout; `None` where the row has no times."""
    if spec_of(row, task).answer_audio != "answer_audio" or not has(row, "answer_word_times"):
        return None
    words, onsets = words_of(row["answer_text"]), row["answer_word_times"]
    if len(words) != len(onsets):
        raise RowError(
            str(row.get("id") or ""),
            "answer_word_times",
            f"`answer_word_times` has {len(onsets)} times for the {len(words)} words of `answer_text` ({words[:5]}…): give "
            "one for each word (between spaces; of Chinese or Japanese, for each character).",
        )
    return list(zip(words, onsets))


def _shown(source: Any) -> str:
    path = source.get("path") if isinstance(source, Mapping) else source
    return f"'{path}'" if isinstance(path, str | os.PathLike) else "the bytes given"
