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

import bisect
import itertools
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ..processing.audio_io import load_audio
from ..processing.spelling import letters_of
from . import data
from .augmentation import Augmentation


logger = logging.getLogger(__name__)

UNREADABLE = (ValueError, TypeError, OSError, RuntimeError)
TURN_LENGTH = 8  # positions of a chat message around its text, about


class ExampleBuilder:
    """
    Builds examples from rows, in the workers of a data loader. `tasks` weighs the tasks among those that a row offers (all
    alike by default; others are not trained). `text_layout` may be `"auto"`: timed if the row has word times. With
    `ctc_labels`, spoken questions carry their transcript as `audio_labels` and `letter_labels`; with `distillation` also
    the example in which the question is written. `augmentation` is for spoken questions.
    """

    def __init__(
        self,
        processor: Any,
        tasks: Mapping[str, float] | None = None,
        seed: int = 0,
        text_layout: Literal["leading", "timed", "auto"] = "leading",
        ctc_labels: bool = False,
        augmentation: Augmentation | None = None,
        distillation: bool = False,
    ):
        for task in tasks or ():
            if task not in data.TASKS:
                raise ValueError(f"`tasks` names {task!r}: the tasks are {', '.join(data.TASKS)}.")
        tasks = dict.fromkeys(data.TASKS, 1.0) if tasks is None else data.checked_weights(tasks, "task")
        self.processor, self.tasks, self.seed = processor, tasks, seed
        self.text_layout, self.ctc_labels, self.augmentation = text_layout, ctc_labels, augmentation
        self.distillation = distillation

    def draw_task(self, offered: Sequence[str], *key: Any) -> str:
        """One of the offered tasks, by their weights; which one depends on the seed and the key alone."""
        bounds = list(itertools.accumulate(self.tasks[task] for task in offered))
        place = data.uniform(self.seed, "task", *key) * bounds[-1]
        return offered[bisect.bisect(bounds, place, hi=len(offered) - 1)]

    def build(self, row: Mapping, task: str, *key: Any) -> dict[str, Any]:
        """
        The encoded example of a row, with its `id`. If it cannot be encoded, an example of its `id` and the `error`
        alone, which the collator leaves out.
        """
        row, spec, where = dict(row), data.spec_of(row, task), str(row.get("id"))
        is_spoken, layout = spec.question == "question_audio", self.text_layout
        try:
            has_decoder = self.processor.speech_loop == "speech_decoder"
            times = None if layout == "leading" and not has_decoder else data.word_times_of(row, task)
            if spec.answer_audio is None or (layout == "auto" and times is None):
                layout = "leading"
            elif layout == "auto":
                layout = "timed"
            if self.augmentation is not None and is_spoken:
                row |= self._augmented(row, key)
            conversation = data.conversation_of(row, task, self.processor)
            example = self.processor.encode_training_example(
                conversation, layout, times, row.get("voice"), data.times_of(row, spec, "character")
            )
        except UNREADABLE as error:
            return {"id": where, "error": f"{where} ({task}): {error}"}
        if is_spoken and data.has(row, "question_text"):
            if self.ctc_labels:
                transcript = self.processor.tokenizer(row["question_text"], add_special_tokens=False)["input_ids"]
                letters = letters_of(row["question_text"], self.processor.ctc_alphabet)
                example["audio_labels"] = [torch.tensor(transcript, dtype=torch.long)]
                example["letter_labels"] = [torch.tensor(letters, dtype=torch.long)]
            if self.distillation and task == "speech_to_text":
                conversation = data.conversation_of(row, "text_to_text", self.processor)
                teacher = self.processor.encode_training_example(conversation)
                example |= {f"teacher_{name}": teacher[name] for name in ("input_ids", "labels")}
        return example | {"id": where}

    def _augmented(self, row: Mapping, key: tuple) -> dict[str, Any]:
        """The columns of the row's question with noise."""
        rate, limit = self.processor.feature_extractor.sampling_rate, self.processor.max_audio_seconds
        waveform = load_audio(data.audio_of(row, "question_audio"), rate, max_seconds=limit)
        augmented = self.augmentation.augment(waveform, rate, key=(self.seed, *key))
        # slowed down, audio close to the limit would exceed it
        waveform = augmented if limit is None or len(augmented) <= limit * rate else waveform
        audio = {"array": waveform, "sampling_rate": rate}
        return {"question_audio": audio, "question_start": None, "question_end": None}


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
        self.has_decoder = self.processor.speech_loop == "speech_decoder"
        rate = extractor.sampling_rate
        audio = {"array": np.zeros(rate, dtype=np.float32), "sampling_rate": rate}
        sample = {"question_text": "a", "question_audio": audio, "question_seconds": 1.0}
        sample |= {"answer_text": "a", "answer_audio": audio, "answer_seconds": 1.0}
        self.overhead = dict.fromkeys(data.TASKS, 0)
        for task in builder.tasks:
            encoded = self.processor.encode_training_example(data.conversation_of(sample, task, self.processor))
            length = len(encoded["input_ids"])
            if self.has_decoder:
                length += len(encoded["speech_states"])
            self.overhead[task] = length - self(sample, task)

    def __call__(self, row: Mapping, task: str) -> int:
        spec = data.spec_of(row, task)
        if spec.question == "question_audio":
            length = math.ceil(data.audio_seconds(row, "question") * self.positions_per_second)
        else:
            length = self._tokens(row[spec.question])
        answer = self._tokens(row[spec.answer_text])
        if spec.answer_audio is not None:
            seconds = data.audio_seconds(row, spec.answer_audio.removesuffix("_audio"))
            num_patches = math.ceil(seconds * self.patches_per_second)
            # the steps of a speech decoder come beside the positions of the text
            start = min(answer, self.processor.speech_delay)
            answer = answer + num_patches if self.has_decoder else max(answer, start + num_patches)
        turns = [row["system"]] if data.has(row, "system") else []
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
    The examples of rows that can be counted, indexed by [`Draw`]. `lengths` holds for each row the tasks that it can
    train, with the positions of its example. Rows that are longer than `max_length` or that cannot be read are `skipped`
    with a warning; more than `max_skipped_fraction` that cannot be read are an error. `counts` goes on from window to
    window of a stream, whose rows are judged together.
    """

    def __init__(
        self,
        rows: Any,
        builder: ExampleBuilder,
        max_length: int | None = None,
        max_skipped_fraction: float = 0.1,
        counts: Counter | None = None,
    ):
        self.rows, self.builder, self.max_skipped_fraction = rows, builder, max_skipped_fraction
        self.sizes = [len(source) for source in getattr(rows, "sources", [rows])]
        self.times = getattr(rows, "times", [1.0])
        self.lengths, self.skipped = [], []
        counts = Counter() if counts is None else counts
        estimate = LengthEstimator(builder)
        for number, row in enumerate(rows, start=1):
            offered, lengths = data.tasks_of(row), {}
            reason = f"offers {', '.join(offered) or 'no task'}"
            try:
                lengths = {task: estimate(row, task) for task in offered if task in builder.tasks}
            except UNREADABLE as error:
                reason = f"cannot be read: {error}"
                counts["unreadable"] += 1
            if lengths:
                reason = f"has {min(lengths.values())} positions, and at most {max_length} fit"
            self.lengths.append({task: n for task, n in lengths.items() if max_length is None or n <= max_length})
            if not self.lengths[-1]:
                self.skipped.append(f"{row.get('id') or f'row {number}'} {reason}")
        for message in self.skipped[:10]:
            logger.warning("Skipped: %s", message)
        counts["rows"] += len(self.lengths)
        counts["skipped"] += len(self.skipped)
        if counts["skipped"] == counts["rows"]:
            raise ValueError(
                f"None of {counts['rows']} rows can be used for the tasks {', '.join(builder.tasks)}. The first: "
                f"{self.skipped[:1]}. Set `tasks` or `columns`, or raise `max_positions_per_batch`."
            )
        if counts["unreadable"] > max_skipped_fraction * counts["rows"]:
            raise ValueError(
                f"{counts['unreadable']} of {counts['rows']} rows cannot be read, more than `max_skipped_fraction` "
                f"({max_skipped_fraction:g}) allows. `flow-omni prepare validate` lists them."
            )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return self.builder.build(self.rows[draw.index], draw.task, draw.index, draw.round)

    def draw(self, epoch: int) -> list[tuple[Draw, int]]:
        """The rows of an epoch with the positions of their examples."""
        draws = []
        for round_, index in data.draws_of_epoch(self.sizes, self.times, self.builder.seed, epoch):
            if self.lengths[index]:
                task = self.builder.draw_task(list(self.lengths[index]), index, round_)
                draws.append((Draw(index, round_, task), self.lengths[index][task]))
        return draws
