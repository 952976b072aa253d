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
"""Batches: rows of similar length under a budget of positions, and their collation into the model's inputs."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, IterableDataset

from ..modeling_flow_omni.modeling_flow_omni import IGNORE_INDEX
from .examples import Draw, ExampleBuilder, ExampleDataset


class LengthBatchSampler(BatchSampler):
    """
    Batches of similar length, a function of the seed and the epoch: resuming needs no other state. Rows times positions of
    the longest are at most `max_positions`.

    Every epoch has as many batches as the first, as the Trainer's arithmetic of steps and epochs requires. If the lengths
    of the drawn tasks make a few more, these are left out; if they make fewer, some come twice. Empty batches fill up the
    last round of `num_processes`: the collator makes inputs without targets of them.
    """

    batch_size, drop_last = None, False

    def __init__(self, dataset: ExampleDataset, max_positions: int, num_processes: int = 1, shuffle: bool = True):
        self.dataset, self.max_positions = dataset, max_positions
        self.num_processes, self.shuffle, self.epoch = num_processes, shuffle, 0
        self.num_batches = len(self._batches(0))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches + -self.num_batches % self.num_processes

    def __iter__(self) -> Iterator[list[Draw]]:
        yield from itertools.islice(itertools.cycle(self._batches(self.epoch)), self.num_batches)
        yield from [[]] * (len(self) - self.num_batches)

    def _batches(self, epoch: int) -> list[list[Draw]]:
        draws, generator = self.dataset.draw(epoch), np.random.default_rng((self.dataset.builder.seed, epoch))
        draws = [draws[index] for index in generator.permutation(len(draws))] if self.shuffle else sorted(draws)
        # stable: rows whose lengths are rounded to the same bucket stay in their random order
        draws = sorted(((bucket(length), draw) for draw, length in draws), key=lambda pair: -pair[0])
        batches, start = [], 0
        while start < len(draws):
            size = max(1, self.max_positions // draws[start][0])
            batches.append([draw for _, draw in draws[start : start + size]])
            start += size
        return [batches[index] for index in generator.permutation(len(batches))] if self.shuffle else batches


def bucket(length: int) -> int:
    """The length rounded up by at most an eighth, so that rows of about the same length change places."""
    step = 2 ** max(0, (length - 1).bit_length() - 4)
    return -(-length // step) * step


class StreamedBatches(IterableDataset):
    """
    Endless batches of a stream: each window of rows is batched by itself. Each worker reads its part of the stream. Options
    are those of [`ExampleDataset`].
    """

    def __init__(
        self,
        rows: Any,
        collate: Callable,
        max_positions: int,
        builder: ExampleBuilder,
        max_length: int | None = None,
        max_skipped_fraction: float = 0.1,
        window: int = 500,
    ):
        self.rows, self.collate, self.max_positions, self.builder = rows, collate, max_positions, builder
        self.max_length, self.max_skipped_fraction, self.window = max_length, max_skipped_fraction, window

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows, counts = self.rows.shuffle(seed=self.builder.seed, buffer_size=self.window), Counter()
        for epoch in itertools.count():
            rows.set_epoch(epoch)
            iterator = iter(rows)
            while window := list(itertools.islice(iterator, self.window)):
                dataset = ExampleDataset(window, self.builder, self.max_length, self.max_skipped_fraction, counts)
                sampler = LengthBatchSampler(dataset, self.max_positions)
                sampler.set_epoch(epoch)
                yield from (self.collate([dataset[draw] for draw in batch]) for batch in sampler)


class TrainingCollator:
    """
    Collates encoded examples into a batch of the model's inputs, padded on the right. `ids` names its rows, and `skipped`
    those that could not be encoded. With `all_modalities`, a batch without audio input or without speech gets a row of
    silence without targets: DDP and FSDP wait for the gradients of every module on every process, and where only the audio
    encoder or the speech decoder trains, the loss of other batches would have no gradient.
    """

    def __init__(self, processor: Any, all_modalities: bool = False):
        self.processor, self.all_modalities = processor, all_modalities

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, Any]:
        skipped = [example["error"] for example in examples if "error" in example]
        examples = [example for example in examples if "error" not in example]
        ids = [example["id"] for example in examples if "id" in example]
        if self.all_modalities or not examples:
            has_audio = any(len(example["input_features"]) for example in examples)
            has_speech = any("mel_labels" in example for example in examples)
            if not (has_audio and has_speech):
                examples = [*examples, self._without_targets(has_audio, has_speech)]
        return dict(self.processor.collate(examples)) | {"ids": ids, "skipped": skipped}

    def _without_targets(self, has_audio: bool, has_speech: bool) -> dict[str, Any]:
        """An example of a tenth of a second of silence in each modality that a batch lacks. Nothing in it is a target."""
        rate = self.processor.sampling_rate
        silence = {"type": "audio", "audio": {"array": np.zeros(rate // 10, np.float32), "sampling_rate": rate}}
        text = {"type": "text", "text": "."}
        conversation = [
            {"role": "user", "content": [text] if has_audio else [silence]},
            {"role": "assistant", "content": [text] if has_speech else [text, silence]},
        ]
        example = self.processor.encode_training_example(conversation)
        return example | {name: torch.full_like(example[name], IGNORE_INDEX) for name in ("labels", "state_labels")}
