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
"""From a row to a training example: which task, how it is built, and what becomes of rows that cannot be used."""

import difflib
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from ..processing.audio_io import check_length, check_sampling_rate, read_audio
from .augmentation import Augmentation
from .row_checks import check_read_row
from .rows import COLUMNS, TASKS, RowError, audio_of, conversation_of, has, spec_of, tasks_of, word_times_of


TextLayout = Literal["leading", "timed", "auto"]
SkipReason = Literal["corrupt audio", "wrong row", "too long", "no task"]

# How far beyond the share that is allowed it is no chance any more, in standard deviations.
MAX_DEVIATIONS = 4.0
# Skipped rows of an epoch that are remembered, so as to be counted once.
MAX_TOLD_APART = 100_000


@dataclass
class Example:
    """An example as [`FlowOmniProcessor.encode_training_example`] makes it, and where it comes from."""

    inputs: dict[str, Any]
    id: str
    task: str

    @property
    def num_steps(self) -> int:
        return len(self.inputs["input_ids"])


@dataclass(frozen=True)
class Skipped:
    """A row that is not used, and why."""

    id: str
    reason: SkipReason
    message: str

    @property
    def is_broken(self) -> bool:
        """Whether it is the row that is to be mended, and not another budget or other tasks to be chosen."""
        return self.reason in ("corrupt audio", "wrong row")

    def __str__(self) -> str:
        return self.message if self.id in self.message else f"{self.id}: {self.message}"


@dataclass
class SkipReport:
    """
    What became of the rows of an epoch.

    Attributes:
        num_used: rows in batches, as often as they came.
        counts: how many rows were skipped for each reason. One that comes again in an epoch of a mix counts once.
        first: the first of these in words.
        num_judged: rows that were looked at and are used, or are broken, as often as they came.
        num_broken: how many of these are broken.
        num_batches: batches that told of them.
        told_apart: what tells the rows that were skipped from one that comes again.
    """

    num_used: int = 0
    counts: Counter = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    num_judged: int = 0
    num_broken: int = 0
    num_batches: int = 0
    told_apart: set[int] = field(default_factory=set)
    max_shown: int = 10

    @property
    def num_skipped(self) -> int:
        return sum(self.counts.values())

    def add(self, num_used: int, skipped: Sequence[Skipped], num_judged: int | None = None) -> None:
        """Counts what a worker says of a batch; `num_judged` where it has looked at more rows, or fewer, than are told of."""
        num_broken = sum(row.is_broken for row in skipped)
        self.num_batches += 1
        self.num_used += num_used
        self.num_broken += num_broken
        self.num_judged += num_used + num_broken if num_judged is None else num_judged
        for row in skipped:
            if self._is_new(row):
                self.counts[row.reason] += 1
                if len(self.first) < self.max_shown:
                    self.first.append(str(row))

    def _is_new(self, row: Skipped) -> bool:
        """Whether the row was not counted before. Not by its id alone: nobody makes sure that they differ."""
        digest = int.from_bytes(hashlib.blake2b(str(row).encode(errors="replace"), digest_size=8).digest(), "big")
        is_new = digest not in self.told_apart
        if len(self.told_apart) < MAX_TOLD_APART:
            self.told_apart.add(digest)
        return is_new

    def check(self, max_share: float, num_rows: int | None = None) -> None:
        """
        Raises if more than a share of the rows is broken: of all `num_rows` of the epoch, where they are known, or so many
        of those judged so far that it cannot be chance. A batch counts as one there, for rows of a kind come together.
        """
        by_chance = MAX_DEVIATIONS * math.sqrt(max_share / max(self.num_batches, 1))
        parts = ((num_rows, max_share), (self.num_judged, max_share + by_chance))
        judged = next((part for part, share in parts if part and self.num_broken / part > share), None)
        if judged is not None:
            raise ValueError(
                f"{self.num_broken} of {judged} rows are broken, more than `max_skipped_share` ({max_share:g}) "
                f"allows. Mend the data (`flow-omni prepare validate` lists what is wrong), or raise it.\n{self}"
            )

    def merge(self, state: Mapping) -> None:
        """Adds what another process has counted, as its `state_dict` tells it."""
        self.num_used += state["num_used"]
        self.counts.update(state["counts"])
        self.first = [*self.first, *state["first"]][: self.max_shown]

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())
        head = f"{self.num_used} rows used, {self.num_skipped} skipped" + (f" ({reasons})" if reasons else "")
        return "\n".join([head, *(f"  {message}" for message in self.first)])

    def state_dict(self) -> dict[str, Any]:
        return {
            "num_used": self.num_used,
            "counts": dict(self.counts),
            "first": list(self.first),
            "num_judged": self.num_judged,
            "num_broken": self.num_broken,
            "num_batches": self.num_batches,
            "told_apart": sorted(self.told_apart),
        }

    def load_state_dict(self, state: Mapping) -> None:
        self.num_used, self.counts, self.first = state["num_used"], Counter(state["counts"]), list(state["first"])
        self.num_judged, self.num_broken = state["num_judged"], state["num_broken"]
        self.num_batches, self.told_apart = state["num_batches"], set(state["told_apart"])


class ExampleBuilder:
    """
    Builds examples in the workers of a data loader.

    Args:
        processor (`FlowOmniProcessor`):
            Makes the inputs.
        tasks (`dict[str, float]`, *optional*):
            The share of each task, among those that a row offers; tasks that are not named are not trained. All tasks
            alike by default.
        seed (`int`, *optional*, defaults to 0):
            Decides, with the epoch and the row, which task is drawn: in any process the same.
        text_layout (`str`, *optional*, defaults to `"leading"`):
            `"leading"`, `"timed"` (every spoken answer must have its `answer_word_times`), or `"auto"`: timed where
            there are times.
        max_steps (`int`, *optional*):
            Longest example to use; longer ones are skipped and counted.
        transcripts (`bool`, *optional*, defaults to `False`):
            Whether examples with heard speech carry its transcript too (`audio_labels`), for the loss of listening.
        on_error (`str`, *optional*, defaults to `"skip"`):
            Whether a row whose audio is corrupt or that is wrong otherwise is skipped and counted, or raised (`"stop"`).
        augmentation ([`Augmentation`], *optional*):
            What the world does to recorded questions before they are heard, drawn anew in every epoch; nothing by default.
            What is to be said stays as it is.
    """

    def __init__(
        self,
        processor: Any,
        tasks: Mapping[str, float] | None = None,
        seed: int = 0,
        text_layout: TextLayout = "leading",
        max_steps: int | None = None,
        on_error: Literal["stop", "skip"] = "skip",
        transcripts: bool = False,
        augmentation: Augmentation | None = None,
    ):
        if text_layout not in ("leading", "timed", "auto"):
            raise ValueError(f'`text_layout` is {text_layout!r}: choose "leading", "timed" or "auto".')
        if on_error not in ("stop", "skip"):
            raise ValueError(f'`on_error` is {on_error!r}: it must be "stop" or "skip".')
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"`max_steps` is {max_steps!r}: it must be a number of steps, 1 or more.")
        self.processor = processor
        self.tasks = checked_shares(tasks)
        self.seed = seed
        self.text_layout = text_layout
        self.max_steps = max_steps
        self.on_error = on_error
        self.transcripts = transcripts
        self.augmentation = augmentation

    def draw_task(self, offered: Iterable[str], key: Any, epoch: int = 0) -> str | None:
        """The task of a row in an epoch among those it offers ([`tasks_of`]), or `None` if none of them is trained."""
        trained = [task for task in offered if task in self.tasks]
        if len(trained) < 2:
            return trained[0] if trained else None
        point = uniform(self.seed, epoch, key) * sum(self.tasks[task] for task in trained)
        for task in trained:
            point -= self.tasks[task]
            if point < 0.0:
                return task
        return trained[-1]

    def build(self, row: Mapping, key: Any, epoch: int = 0) -> Example | Skipped:
        """
        The example of a row, or why there is none.

        Args:
            row (`Mapping`):
                The row, as [`load_rows`] reads it.
            key (`int` or `str`):
                What tells it from other rows, for the draw of its task.
            epoch (`int`, *optional*, defaults to 0):
                Each epoch draws anew.
        """
        where = str(row.get("id") or f"row {key}")
        try:
            row = check_read_row(row, where)
            offered = tasks_of(row)
            task = self.draw_task(offered, key, epoch)
            if task is None:
                return self.without_task(where, offered)
            row = self._with_waveforms(row, task, where, (self.seed, epoch, key))
            inputs = self._encode(row, task)
        except (ValueError, TypeError, OSError) as error:
            if self.on_error == "stop":
                error.add_note(f"The row is {where}.")
                raise
            is_audio = isinstance(error, CorruptAudioError)
            return Skipped(where, "corrupt audio" if is_audio else "wrong row", " ".join(str(error).split()))
        example = Example(inputs, where, task)
        if self.max_steps is not None and example.num_steps > self.max_steps:
            message = f"it has {example.num_steps} steps as {task}, and `max_steps` is {self.max_steps}"
            return Skipped(where, "too long", message)
        return example

    def without_task(self, where: str, offered: Iterable[str]) -> Skipped:
        others = ", ".join(offered) or "other tasks"
        return Skipped(where, "no task", f"it offers {others}, and {', '.join(self.tasks)} are trained")

    def _with_waveforms(self, row: Mapping, task: str, where: str, draw: tuple) -> dict[str, Any]:
        """The row with the audio that the task needs decoded, so that a broken file is told from a broken row."""
        row, spec = dict(row), spec_of(row, task)
        for name in spec.needs:
            if COLUMNS[name].kind != "audio":
                continue
            try:
                source = audio_of(row, name)
                waveform, rate = read_audio(source, self.processor.max_audio_seconds)
                check_sampling_rate(rate)
                check_length(len(waveform) / rate, self.processor.max_audio_seconds)
            except (ValueError, TypeError, OSError, RuntimeError) as error:
                raise CorruptAudioError(where, name, f"`{name}`: {error}") from error
            if name == spec.question:
                waveform = self._as_heard(waveform, rate, draw)
            row[name] = {"array": waveform, "sampling_rate": rate}
            if name == "question_audio":
                row.pop("question_start", None)
                row.pop("question_end", None)
        return row

    def _as_heard(self, waveform: np.ndarray, rate: int, draw: tuple) -> np.ndarray:
        """A question after what happens to it on its way, which depends on the draw alone."""
        if self.augmentation is None:
            return waveform
        heard = self.augmentation.augment(waveform, rate, key=draw)
        # slowed down, what is nearly too long would be too long
        return heard if len(heard) <= self.processor.max_audio_seconds * rate else waveform

    def _encode(self, row: Mapping, task: str) -> dict[str, Any]:
        conversation = conversation_of(row, task, self.processor)
        word_times = None if self.text_layout == "leading" else word_times_of(row, task)
        layout = self.text_layout
        if layout == "auto" or spec_of(row, task).answer_audio is None:
            layout = "leading" if word_times is None else "timed"
        example = self.processor.encode_training_example(conversation, text_layout=layout, word_times=word_times)
        if self.transcripts and spec_of(row, task).question == "question_audio" and has(row, "question_text"):
            transcript = self.processor.tokenizer(row["question_text"], add_special_tokens=False)["input_ids"]
            example["audio_labels"] = [torch.tensor(transcript, dtype=torch.long)]
        return example


class CorruptAudioError(RowError):
    """The audio of a row cannot be read."""


def checked_shares(tasks: Mapping[str, float] | None) -> dict[str, float]:
    """The shares of the tasks, those of 0 left out."""
    if tasks is None:
        return dict.fromkeys(TASKS, 1.0)
    for task, share in tasks.items():
        if task not in TASKS:
            likely = difflib.get_close_matches(task, TASKS, n=1)
            hint = f" Did you mean `{likely[0]}`?" if likely else ""
            raise ValueError(f"`tasks` names {task!r}: the tasks are {', '.join(TASKS)}.{hint}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share < math.inf:
            raise ValueError(f"The share of the task {task!r} is {share!r}: it must be a number, 0 or more.")
    shares = {task: float(share) for task, share in tasks.items() if share > 0.0}
    if not shares:
        raise ValueError(f"`tasks` is {dict(tasks)}: give at least one task a share above 0.")
    return shares


def uniform(*key: Any) -> float:
    """A number in [0, 1) that depends on the key alone: on no state, no process, no order."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
