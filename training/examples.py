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
"""From rows to training examples: the task of a row, its length, and what the processor makes of it."""

import difflib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from ..processing.audio_io import load_audio
from .augmentation import Augmentation
from .data import (
    TASKS,
    audio_of,
    audio_seconds,
    conversation_of,
    draws_of_epoch,
    has,
    spec_of,
    tasks_of,
    uniform,
    word_times_of,
)


logger = logging.getLogger(__name__)

UNREADABLE = (ValueError, TypeError, OSError, RuntimeError)
# Positions of a chat message around its text: only an estimate is needed.
TURN_LENGTH = 8


class ExampleBuilder:
    """
    Builds examples from rows, in the workers of a data loader.

    Args:
        processor (`FlowOmniProcessor`):
            Encodes the examples.
        tasks (`dict[str, float]`, *optional*):
            The weight of each task among those that a row offers; other tasks are not trained. All alike by default.
        seed (`int`, *optional*, defaults to 0):
            Decides with the row and its round which task is drawn and how it is augmented.
        text_layout (`str`, *optional*, defaults to `"leading"`):
            `"leading"`, `"timed"` (spoken answers must have `answer_word_times`), or `"auto"`: timed if there are times.
        ctc_labels (`bool`, *optional*, defaults to `False`):
            Whether spoken questions carry their transcript as `audio_labels`, for the CTC loss.
        augmentation ([`Augmentation`], *optional*):
            Noise, rooms and so on for spoken questions, different in every round.
    """

    def __init__(
        self,
        processor: Any,
        tasks: Mapping[str, float] | None = None,
        seed: int = 0,
        text_layout: Literal["leading", "timed", "auto"] = "leading",
        ctc_labels: bool = False,
        augmentation: Augmentation | None = None,
    ):
        if text_layout not in ("leading", "timed", "auto"):
            raise ValueError(f'`text_layout` is {text_layout!r}: it must be "leading", "timed" or "auto".')
        self.processor, self.tasks, self.seed = processor, checked_tasks(tasks), seed
        self.text_layout, self.ctc_labels, self.augmentation = text_layout, ctc_labels, augmentation

    def draw_task(self, offered: Sequence[str], *key: Any) -> str:
        """One of the offered tasks, by their weights; which one depends on the seed and the key alone."""
        weights = [self.tasks[task] for task in offered]
        place = uniform(self.seed, "task", *key) * sum(weights)
        for task, weight in zip(offered, weights):
            place -= weight
            if place < 0:
                return task
        return offered[-1]

    def build(self, row: Mapping, task: str, *key: Any) -> dict[str, Any]:
        """
        The encoded example of a row, with its `id`. If its audio cannot be read, an example of its `id` and the `error`
        alone, which the collator leaves out.
        """
        row, spec = dict(row), spec_of(row, task)
        try:
            if self.augmentation is not None and spec.question == "question_audio":
                row |= self._augmented(row, key)
            example = self.processor.encode_training_example(
                conversation_of(row, task, self.processor), **self._layout(row, task)
            )
        except UNREADABLE as error:
            return {"id": str(row.get("id")), "error": f"{row.get('id')} ({task}): {error}"}
        if self.ctc_labels and spec.question == "question_audio" and has(row, "question_text"):
            transcript = self.processor.tokenizer(row["question_text"], add_special_tokens=False)["input_ids"]
            example["audio_labels"] = [torch.tensor(transcript, dtype=torch.long)]
        return example | {"id": str(row.get("id"))}

    def _augmented(self, row: Mapping, key: tuple) -> dict[str, Any]:
        rate, limit = self.processor.feature_extractor.sampling_rate, self.processor.max_audio_seconds
        waveform = load_audio(audio_of(row, "question_audio"), rate, max_seconds=limit)
        augmented = self.augmentation.augment(waveform, rate, key=(self.seed, *key))
        # slowed down, audio close to the limit would exceed it
        waveform = augmented if limit is None or len(augmented) <= limit * rate else waveform
        audio = {"array": waveform, "sampling_rate": rate}
        return {"question_audio": audio, "question_start": None, "question_end": None}

    def _layout(self, row: Mapping, task: str) -> dict[str, Any]:
        times = None if self.text_layout == "leading" else word_times_of(row, task)
        layout = self.text_layout
        if layout == "auto" or spec_of(row, task).answer_audio is None:
            layout = "leading" if times is None else "timed"
        return {"text_layout": layout, "word_times": times}


def checked_tasks(tasks: Mapping[str, float] | None) -> dict[str, float]:
    """The weights of the tasks that train."""
    tasks = dict.fromkeys(TASKS, 1.0) if tasks is None else tasks
    for task, weight in tasks.items():
        if task not in TASKS:
            close = difflib.get_close_matches(task, TASKS, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"`tasks` names {task!r}: the tasks are {', '.join(TASKS)}.{hint}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0.0 <= weight < math.inf:
            raise ValueError(f"The weight of the task {task!r} is {weight!r}: it must be a number, 0 or more.")
    kept = {task: float(weight) for task, weight in tasks.items() if weight > 0}
    if not kept:
        raise ValueError(f"`tasks` is {dict(tasks)}: give at least one task a weight above 0.")
    return kept


class LengthEstimator:
    """
    The number of positions of a row's example, from the durations of its audio and the tokens of its texts. Prompts are
    not laid out again here: their length is that of one encoded example per task.
    """

    def __init__(self, builder: ExampleBuilder):
        self.processor, extractor = builder.processor, builder.processor.feature_extractor
        self.positions_per_second = extractor.sampling_rate / extractor.samples_per_position
        if builder.augmentation is not None:
            self.positions_per_second *= builder.augmentation.longest
        self.patches_per_second = extractor.patches_per_second
        audio = {
            "array": np.zeros(extractor.sampling_rate, dtype=np.float32),
            "sampling_rate": extractor.sampling_rate,
        }
        sample = {"question_text": "a", "answer_text": "a", "question_audio": audio, "answer_audio": audio}
        sample |= {"question_seconds": 1.0, "answer_seconds": 1.0}
        self.overhead = dict.fromkeys(TASKS, 0)
        for task in builder.tasks:
            encoded = self.processor.encode_training_example(conversation_of(sample, task, self.processor))
            self.overhead[task] = len(encoded["input_ids"]) - self(sample, task)

    def __call__(self, row: Mapping, task: str) -> int:
        spec = spec_of(row, task)
        if spec.question == "question_audio":
            length = math.ceil(audio_seconds(row, "question_audio") * self.positions_per_second)
        else:
            length = self._tokens(row[spec.question])
        answer = self._tokens(row[spec.answer_text])
        if spec.answer_audio is not None:
            num_patches = math.ceil(audio_seconds(row, spec.answer_audio) * self.patches_per_second)
            answer = max(answer, min(answer, self.processor.speech_delay) + num_patches)
        turns = [row["system"]] if has(row, "system") else []
        turns += [turn["text"] for turn in row.get("history") or []] if spec.prompt == "ask" else []
        return self.overhead[task] + length + answer + sum(self._tokens(text) + TURN_LENGTH for text in turns)

    def _tokens(self, text: str) -> int:
        return len(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])


class Draw(NamedTuple):
    """A row of an epoch: its index, its round (how often it came before), and the task it trains."""

    index: int
    round: int
    task: str


class ExampleDataset(Dataset):
    """
    The examples of rows that can be counted, indexed by [`Draw`].

    Args:
        rows (`Dataset`, [`MixedRows`] or `list[dict]`):
            The rows.
        builder ([`ExampleBuilder`]):
            Builds the examples.
        max_length (`int`, *optional*):
            Positions of the longest example to use.
        max_skipped_fraction (`float`, *optional*, defaults to 0.1):
            Unreadable rows are skipped with a warning; more than this fraction of them is an error.

    Attributes:
        lengths: for each row, the tasks that it can train and the positions of its example.
        skipped: messages about rows that cannot be used.
    """

    def __init__(
        self, rows: Any, builder: ExampleBuilder, max_length: int | None = None, max_skipped_fraction: float = 0.1
    ):
        self.rows, self.builder, self.max_skipped_fraction = rows, builder, max_skipped_fraction
        self.sizes = [len(source) for source in getattr(rows, "sources", [rows])]
        self.times = getattr(rows, "times", [1.0])
        self.lengths, self.skipped, unreadable = [], [], 0
        estimate = LengthEstimator(builder)
        for row in rows:
            where = str(row.get("id") or f"row {len(self.lengths) + 1}")
            lengths, reason = {}, f"offers {', '.join(tasks_of(row)) or 'no task'}"
            try:
                for task in tasks_of(row):
                    if task in builder.tasks:
                        lengths[task] = estimate(row, task)
                        reason = f"has {lengths[task]} positions as {task}, and at most {max_length} fit"
            except UNREADABLE as error:
                lengths, reason, unreadable = {}, f"cannot be read: {error}", unreadable + 1
            kept = {task: length for task, length in lengths.items() if max_length is None or length <= max_length}
            if not kept:
                self.skipped.append(f"{where} {reason}")
            self.lengths.append(kept)
        for message in self.skipped[:10]:
            logger.warning("Skipped: %s", message)
        self._check(unreadable)

    def _check(self, num_unreadable: int) -> None:
        if len(self.skipped) == len(self.lengths):
            raise ValueError(
                f"None of {len(self.lengths)} rows can be used for the tasks {', '.join(self.builder.tasks)}. The first: "
                f"{self.skipped[0] if self.skipped else 'there are none'}. Set `tasks` to what the rows offer, map their columns with "
                "`columns`, or raise `max_positions_per_batch`."
            )
        if num_unreadable > self.max_skipped_fraction * len(self.lengths):
            raise ValueError(
                f"{num_unreadable} of {len(self.lengths)} rows cannot be read, more than `max_skipped_fraction` "
                f"({self.max_skipped_fraction:g}) allows: fix the data (`flow-omni prepare validate` lists what is wrong), or raise it. "
                f"The first: {self.skipped[0]}."
            )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return self.builder.build(self.rows[draw.index], draw.task, draw.index, draw.round)

    def draw(self, epoch: int) -> list[tuple[Draw, int]]:
        """The rows of an epoch with the positions of their examples."""
        draws = []
        for round_, index in draws_of_epoch(self.sizes, self.times, self.builder.seed, epoch):
            if self.lengths[index]:
                task = self.builder.draw_task(list(self.lengths[index]), index, round_)
                draws.append((Draw(index, round_, task), self.lengths[index][task]))
        return draws


class StreamedBatches(IterableDataset):
    """
    Batches of a stream of rows, without end: rows of similar length among the next `window` rows. Each process and each
    worker reads its own part of the stream.
    """

    def __init__(
        self, rows: Any, builder: ExampleBuilder, collate: Any, max_positions: int, seed: int = 0, window: int = 500
    ):
        self.rows, self.builder, self.collate = rows, builder, collate
        self.max_positions, self.seed, self.window = max_positions, seed, window

    def __iter__(self) -> Iterator[dict]:
        rows, epoch = self.rows.shuffle(seed=self.seed, buffer_size=self.window), 0
        while True:
            rows.set_epoch(epoch)
            found, examples = False, []
            for number, row in enumerate(rows):
                offered = [task for task in tasks_of(row) if task in self.builder.tasks]
                if offered:
                    key = (row.get("id") or number, epoch)
                    examples.append(self.builder.build(row, self.builder.draw_task(offered, *key), *key))
                if len(examples) == self.window:
                    yield from self._batches(examples)
                    found, examples = True, []
            yield from self._batches(examples)
            if not (found or examples):
                raise ValueError(f"The stream has no rows for the tasks {', '.join(self.builder.tasks)}.")
            epoch += 1

    def _batches(self, examples: list[dict]) -> Iterator[dict]:
        def length(example: Mapping) -> int:
            return len(example.get("input_ids", ()))

        examples = sorted((example for example in examples if length(example) <= self.max_positions), key=length)
        batch: list[dict] = []
        for example in examples:
            if batch and (len(batch) + 1) * length(example) > self.max_positions:
                yield self.collate(batch)
                batch = []
            batch.append(example)
        if batch:
            yield self.collate(batch)
