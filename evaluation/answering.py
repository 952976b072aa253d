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
"""Every question answered: in batches of answers of a length, each with its own seed, as it is or changed."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from ..training.generation_metrics import Answer, answer_batch
from .questions import AskedRow, Change


@dataclass
class Answered:
    """A question, its answer, and the seconds it took: its share of the batch's."""

    asked: AskedRow
    answer: Answer
    seconds: float


@torch.no_grad()
def answers_to(
    questions: Sequence[AskedRow],
    model: Any,
    processor: Any,
    batch_size: int = 8,
    seed: int = 0,
    change: Change | None = None,
    label: str = "answers",
    is_quiet: bool = True,
    **options: Any,
) -> Iterator[list[Answered]]:
    """
    The answers batch by batch, the longest first: what does not fit into memory fails at once.

    Args:
        batch_size (`int`): Questions answered at once.
        seed (`int`): With a row's number, its source of noise, so that an answer does not depend on its batch.
        change (`Callable`, *optional*): What is done to the sound of spoken questions.
        label (`str`): What the progress bar says.
        is_quiet (`bool`): Whether to show none.
        options: Of `generate`.
    """
    bar = tqdm(total=len(questions), desc=label, unit=" answers", disable=is_quiet, leave=False)
    with bar:
        for batch in batches(questions, batch_size):
            asked_now = [asked.question(processor, change) for asked in batch]
            seeded = {"do_sample": False, "seed": [seed + asked.number for asked in batch]}
            # reading files, and changing what is in them, is none of the model's time
            start = time.perf_counter()
            answers = answer_batch(model, processor, asked_now, batch[0].is_spoken, **seeded | options)
            seconds = (time.perf_counter() - start) / len(batch)
            yield [Answered(asked, answer, seconds) for asked, answer in zip(batch, answers)]
            bar.update(len(batch))


def batches(questions: Sequence[AskedRow], batch_size: int) -> Iterator[list[AskedRow]]:
    """Questions of one task, with answers of about one length: a batch lasts as long as its longest answer."""
    ordered = sorted(
        questions, key=lambda asked: (not asked.is_spoken, asked.task, -len(asked.expected), asked.number)
    )
    batch: list[AskedRow] = []
    for asked in ordered:
        if batch and (len(batch) == batch_size or batch[0].task != asked.task):
            yield batch
            batch = []
        batch.append(asked)
    if batch:
        yield batch
