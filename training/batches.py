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
"""Batches under a budget of steps: rows of like length together, the same in every run, wherever they are built."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from .examples import Example, ExampleBuilder, Skipped, SkipReport, uniform


logger = logging.getLogger(__name__)

# What a data loader may still be asked about: more batches than are ever under way at once.
MAX_REMEMBERED = 256
# Broken rows that are named as they are met; what is known of the others is in the report.
MAX_NAMED = 10
# The shortest row of a batch against the longest. More of it means less padding and more batches that are not full.
MIN_LIKENESS = 0.7


class TrainingCollator:
    """Joins encoded examples into a batch of the model's inputs, padded on the right."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        return dict(self.processor.collate(examples))


@dataclass
class BatchInfo:
    """
    What is known of a batch beside its tensors.

    Attributes:
        ids: the rows in it, in the order of the batch.
        tasks: what each of them teaches.
        num_steps: steps that are no padding.
        num_padded_steps: all steps.
        skipped: rows that should have been in it, or were met on the way to it.
        num_judged: rows that were looked at for it, be they used or broken.
        epoch: when this is.
        position: where a stream stands after it.
        is_changed: whether the rows of a stream are not those that the position it went on from tells of.
    """

    ids: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    num_steps: int = 0
    num_padded_steps: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    num_judged: int = 0
    epoch: int = 0
    position: Any = None
    is_changed: bool = False


class BatchBuilder:
    """Builds whole batches, in a worker or in the main process, bit for bit the same."""

    def __init__(self, builder: ExampleBuilder):
        self.builder = builder
        self.collate = TrainingCollator(builder.processor)

    def __call__(
        self, keyed_rows: Sequence[tuple[Any, Mapping]], epoch: int
    ) -> tuple[dict[str, torch.Tensor] | None, BatchInfo]:
        """A batch of rows, each with its key; `None` if none of them can be used."""
        seed = int(uniform(self.builder.seed, epoch, "features", keyed_rows[0][0]) * 2**53)
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = [self.builder.build(row, key, epoch) for key, row in keyed_rows]
            examples = [example for example in built if isinstance(example, Example)]
            info = BatchInfo(
                ids=[example.id for example in examples],
                tasks=[example.task for example in examples],
                num_steps=sum(example.num_steps for example in examples),
                skipped=[row for row in built if isinstance(row, Skipped)],
                num_judged=len(built),
                epoch=epoch,
            )
            if not examples:
                return None, info
            batch = self.collate([example.inputs for example in examples])
        info.num_padded_steps = len(examples) * max(example.num_steps for example in examples)
        return batch, info


@contextmanager
def one_thread() -> Iterator[None]:
    """
    Sums are rounded otherwise on several threads, and workers have one: with this the main process makes the same bits.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def group_by_length(lengths: Sequence[int], max_steps: int, max_rows: int | None = None) -> list[list[int]]:
    """
    Indices of rows in batches of like length, whose number of rows times the longest is at most `max_steps`, and whose
    shortest row is not much shorter than the longest. A row that is longer than `max_steps` gets a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[batches[-1][0]] if batches else 0
        has_room = (
            batches and (len(batches[-1]) + 1) * longest <= max_steps and lengths[index] >= MIN_LIKENESS * longest
        )
        if has_room and (max_rows is None or len(batches[-1]) < max_rows):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@dataclass(frozen=True)
class BatchOptions:
    """
    How rows become batches.

    Attributes:
        max_steps_per_batch: rows times steps of the longest, padding included.
        max_rows_per_batch: no more rows than this, however short they are.
        window: how many full batches of rows those of like length are found among; more of them mean less padding and,
            of a stream, more rows in memory. By default 64 of rows that can be counted, and 24 of a stream.
        seed: decides the order of rows and batches.
        shuffle: whether rows come in another order in every epoch; without it they come in theirs, grouped by length.
        rank: which of the processes that train together this is.
        world_size: how many of them there are.
        num_workers: processes that build batches for this one; 0 builds them in it.
        prefetch_factor: batches that each worker builds ahead.
        pin_memory: whether batches lie in page-locked memory, from which GPUs copy faster.
        max_skipped_share: an epoch of which more rows than this are broken is not gone through; 1 lets everything pass.
    """

    max_steps_per_batch: int = 4096
    max_rows_per_batch: int | None = None
    window: int | None = None
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    world_size: int = 1
    num_workers: int = 0
    prefetch_factor: int = 2
    pin_memory: bool = False
    max_skipped_share: float = 0.2

    def __post_init__(self):
        least = {"max_steps_per_batch": 1, "max_rows_per_batch": 1, "window": 1, "world_size": 1, "num_workers": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"`{name}` is {value!r}: it must be at least {bound}.")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"`rank` is {self.rank} of `world_size` {self.world_size}: ranks count from 0 to {self.world_size - 1}."
            )

    def loader_kwargs(self) -> dict[str, Any]:
        """Arguments of the `DataLoader` that yields whole batches."""
        kwargs = {"batch_size": None, "num_workers": self.num_workers, "pin_memory": self.pin_memory}
        return kwargs | ({"prefetch_factor": self.prefetch_factor} if self.num_workers else {})


class Batches:
    """
    What planned and streamed batches have in common: iterating yields dictionaries of the model's inputs.

    Attributes:
        report ([`SkipReport`]):
            Rows of this process that were used and skipped in the last whole epoch; until there is one, in the first so far.
        padding_share (`float`):
            The part of all steps that was padding.
    """

    def __init__(self, builder: ExampleBuilder, options: BatchOptions):
        self.builder = builder
        self.options = options
        # of the last whole epoch and of those under way: workers may be in one while others are in the next
        self._reports: dict[int, SkipReport] = {}
        self._named: set[str] = set()
        self.num_steps = self.num_padded_steps = 0
        self._ids: OrderedDict[bytes, BatchInfo] = OrderedDict()

    @property
    def report(self) -> SkipReport:
        return self._reports[min(self._reports)] if self._reports else SkipReport()

    @property
    def padding_share(self) -> float:
        return 1.0 - self.num_steps / self.num_padded_steps if self.num_padded_steps else 0.0

    def info_of(self, batch: Mapping) -> BatchInfo:
        """What is known of a batch that was yielded lately, wherever its tensors were moved since."""
        try:
            return self._ids[_fingerprint(batch)]
        except KeyError:
            raise KeyError("This batch was not yielded lately: ask within the next hundred batches.") from None

    def ids_of(self, batch: Mapping) -> list[str]:
        """The ids of the rows in a batch that was yielded lately."""
        return self.info_of(batch).ids

    def _yielded(self, batch: dict, info: BatchInfo) -> dict:
        """Notes what is known of a batch on its way out."""
        self.num_steps += info.num_steps
        self.num_padded_steps += info.num_padded_steps
        self._ids[_fingerprint(batch)] = info
        while len(self._ids) > MAX_REMEMBERED:
            self._ids.popitem(last=False)
        return batch

    def _count(self, info: BatchInfo, num_rows: int | None = None) -> None:
        """Counts what is told with a batch, of an epoch of `num_rows` over all processes, if that is known."""
        report = self._reports.setdefault(info.epoch, SkipReport())
        report.add(len(info.ids), info.skipped, info.num_judged)
        for row in info.skipped:
            if row.is_broken and len(self._named) < MAX_NAMED and str(row) not in self._named:
                self._named.add(str(row))
                logger.warning("Skipped %s", row)
        report.check(self.options.max_skipped_share, num_rows)

    def _common_state(self) -> dict[str, Any]:
        steps = {"num_steps": self.num_steps, "num_padded_steps": self.num_padded_steps}
        return steps | {"reports": {epoch: report.state_dict() for epoch, report in self._reports.items()}}

    def _load_common_state(self, state: Mapping) -> None:
        self.num_steps, self.num_padded_steps = state["num_steps"], state["num_padded_steps"]
        self._reports = {}
        # checkpoints of earlier versions have one report of all epochs, which tells nothing of one
        for epoch, report in state.get("reports", {}).items():
            self._reports[epoch] = SkipReport()
            self._reports[epoch].load_state_dict(report)


def longest_row(options: BatchOptions, builder: ExampleBuilder) -> int:
    """Steps of the longest row to use."""
    return min(options.max_steps_per_batch, builder.max_steps or options.max_steps_per_batch)


def too_long(where: str, num_steps: int, max_steps: int, task: str | None = None) -> Skipped:
    """A row that no batch has room for."""
    shown = f"{num_steps} steps" if task is None else f"{num_steps} steps as {task}"
    return Skipped(where, "too long", f"it has about {shown}, and at most {max_steps} fit in a batch")


def _fingerprint(batch: Mapping) -> bytes:
    # of speech that is only heard there are no ids
    told_by = batch["input_ids" if "input_ids" in batch else "labels"].detach().cpu().contiguous()
    digest = hashlib.blake2b(repr(tuple(told_by.shape)).encode(), digest_size=16)
    digest.update(told_by.numpy().tobytes())
    return digest.digest()


def make_batches(rows: Any, builder: ExampleBuilder, num_epochs: int | None = None, **options) -> Batches:
    """
    Ready batches of rows, from memory or streamed.

    Args:
        rows (`datasets.Dataset`, `datasets.IterableDataset` or `list[dict]`):
            The rows, of which [`load_rows`] makes the first two. Everything is planned ahead where rows can be counted;
            a stream is grouped by length as it comes.
        builder ([`ExampleBuilder`]):
            Makes examples of them.
        num_epochs (`int`, *optional*):
            After how many rounds a stream ends; never by default. What can be counted is iterated once for each epoch.
        options:
            Fields of [`BatchOptions`], and `num_lanes` of [`StreamedBatches`].
    """
    from .planned_batches import PlannedBatches
    from .streamed_batches import StreamedBatches

    if not hasattr(rows, "__getitem__") or not hasattr(rows, "__len__"):
        num_lanes = options.pop("num_lanes", None)
        return StreamedBatches(rows, builder, BatchOptions(**options), num_lanes=num_lanes, num_epochs=num_epochs)
    if num_epochs is not None:
        raise ValueError(f"`num_epochs` is {num_epochs}: it is for streams. Iterate once for each epoch instead.")
    return PlannedBatches(rows, builder, BatchOptions(**options))
