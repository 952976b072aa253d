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
"""Batches of rows that can be counted: an epoch is planned whole, and dealt out to processes and workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .batches import BatchBuilder, Batches, BatchInfo, BatchOptions, group_by_length, longest_row, too_long
from .examples import ExampleBuilder, Skipped, SkipReport
from .lengths import StepCounter, texts_of
from .mixing import rows_at
from .row_checks import check_read_row
from .row_fingerprints import digest_of, fingerprint_of, warn_of_other_rows
from .rows import TASKS, RowError, tasks_of
from .unusable_rows import why_none_is_used


# Full batches among whose rows those of like length are found, unless told otherwise.
WINDOW = 64
NOT_OFFERED = -1
# Measured by the main process alone; to start workers for fewer takes longer.
MAX_MEASURED_ALONE = 2000
# Rows whose texts become tokens in one call.
MEASURED_AT_ONCE = 256
# Other rows to try in the place of a batch of which none can be used.
MAX_SUBSTITUTES = 100


class PlannedBatches(Batches):
    """
    Batches of a dataset whose rows can be counted. Every process makes the same plan of an epoch from the lengths of the
    rows, and builds its own share of it; workers get whole batches to build, so that their number changes nothing.

    `len` is the number of batches of this process in the current epoch; all processes have as many. An iteration goes
    to the end of the epoch and moves on to the next one. [`state_dict`] tells the epoch and the batch.
    """

    def __init__(self, rows: Any, builder: ExampleBuilder, options: BatchOptions):
        super().__init__(builder, options)
        if len(rows) == 0:
            raise ValueError("There are no rows to make batches of: pass at least one.")
        self.rows = rows
        self.epoch = 0
        self.position = 0
        self._steps: np.ndarray | None = None
        self._unmeasured: dict[int, Skipped] = {}
        self._digests: Sequence[str] = ()
        self._plan: tuple[int, list[list[int]], list[tuple[int, Skipped]]] | None = None

    def __len__(self) -> int:
        return len(self.plan()) // self.options.world_size

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch, options = self.epoch, self.options
        share = self.plan()[options.rank :: options.world_size]
        left_out = [row for index, row in self._plan[2] if index % options.world_size == options.rank]
        num_rows = self._num_judged()
        if self.position == 0:
            self._reports = {past: report for past, report in self._reports.items() if past == epoch - 1}
        todo = [(epoch, indices) for indices in share[self.position :]]
        dataset = _BatchDataset(self.rows, self.builder, options.max_steps_per_batch)
        for batch, info in DataLoader(dataset, sampler=todo, **options.loader_kwargs()):
            told = _part(left_out, self.position, len(share))
            info.skipped = [*told, *info.skipped]
            info.num_judged += sum(row.is_broken for row in told)
            self._count(info, num_rows)
            self.position += 1
            if self.position == len(share):
                self.epoch, self.position = epoch + 1, 0
                self._reports = {epoch: self._reports[epoch]}
            yield self._yielded(batch, info)

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch, also of one that is under way."""
        self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        place = {"epoch": self.epoch, "position": self.position, "num_batches": len(self)}
        return self._common_state() | place | {"rows": self._fingerprint()}

    def load_state_dict(self, state: Mapping) -> None:
        self._load_common_state(state)
        self.epoch, self.position = state["epoch"], state["position"]
        num_batches = state.get("num_batches", len(self))
        if num_batches != len(self):
            # under another budget, or with more rows, an epoch has other batches: on to the same share of it
            self.position = self.position * len(self) // num_batches
        if self.options.rank == 0:
            warn_of_other_rows(state.get("rows"), self._fingerprint())

    def _fingerprint(self) -> dict[str, Any]:
        """What tells these rows from others. They are measured by then, and with that known."""
        self.plan()
        return fingerprint_of(len(self.rows), self._digests, getattr(self.rows, "mix", None))

    def plan(self) -> list[list[int]]:
        """
        The batches of the current epoch over all processes, as indices of rows. One that comes again in an epoch of a mix has
        the number of rows added to its index.
        """
        if self._plan is None or self._plan[0] != self.epoch:
            self._plan = (self.epoch, *self._planned(self.epoch))
            self._check_plan()
        return self._plan[1]

    def _num_judged(self) -> int:
        """Rows of the epoch over all processes, used or broken."""
        _, batches, skipped = self._plan
        return sum(map(len, batches)) + sum(row.is_broken for _, row in skipped)

    def _check_plan(self) -> None:
        """Before any time is spent, and in all processes alike: raises if too many rows are seen to be broken already."""
        _, batches, skipped = self._plan
        report = SkipReport()
        report.add(sum(map(len, batches)), [row for _, row in skipped])
        report.check(self.options.max_skipped_share, report.num_judged)

    @property
    def steps_by_task(self) -> np.ndarray:
        """Steps that each row makes in each task, in the order of `TASKS`: (num_rows, num_tasks)"""
        if self._steps is None:
            self._measure_rows()
        return self._steps

    def _planned(self, epoch: int) -> tuple[list[list[int]], list[tuple[int, Skipped]]]:
        """All batches of an epoch, and the rows left out with their indices."""
        options = self.options
        generator = np.random.default_rng((options.seed, epoch))
        draws = self._draws(epoch)
        lengths, skipped = self._lengths(epoch, draws.tolist())
        order = generator.permutation(draws) if options.shuffle else draws
        usable = [draw for draw in order.tolist() if draw in lengths]
        batches = []
        for rows in _windows(usable, lengths, (options.window or WINDOW) * options.max_steps_per_batch):
            groups = group_by_length(
                [lengths[index] for index in rows], options.max_steps_per_batch, options.max_rows_per_batch
            )
            batches += [[rows[index] for index in group] for group in groups]
        if not batches:
            raise ValueError(self._why_none_is_used([row for _, row in skipped]))
        if options.shuffle:
            batches = [batches[index] for index in generator.permutation(len(batches))]
        return _multiple_of(options.world_size, batches), skipped

    def _why_none_is_used(self, skipped: Sequence[Skipped]) -> str:
        return why_none_is_used(self.rows, skipped, self.builder.tasks)

    def _draws(self, epoch: int) -> np.ndarray:
        """The rows of an epoch, by their index: all of them, or of a mix what is drawn ([`Mix.draws`])."""
        mix, options = getattr(self.rows, "mix", None), self.options
        return np.arange(len(self.rows)) if mix is None else mix.draws(epoch, options.seed, options.shuffle)

    def _lengths(self, epoch: int, draws: Sequence[int]) -> tuple[dict[int, int], list[tuple[int, Skipped]]]:
        """Steps of every row that is drawn, in the task drawn for it, and which are left out and why."""
        builder = self.builder
        limit = longest_row(self.options, builder)
        steps = {task: column.tolist() for task, column in zip(TASKS, self.steps_by_task.T)}
        offered_by_row = self._offered()
        lengths, skipped = {}, []
        for draw in draws:
            index = draw % len(self.rows)
            task = builder.draw_task(offered_by_row[index], draw, epoch)
            if index in self._unmeasured:
                skipped.append((draw, self._unmeasured[index]))
            elif task is None:
                skipped.append((draw, builder.without_task(f"row {index}", offered_by_row[index])))
            elif steps[task][index] > limit:
                skipped.append((draw, too_long(f"row {index}", steps[task][index], limit, task)))
            else:
                lengths[draw] = steps[task][index]
        return lengths, skipped

    def _offered(self) -> list[tuple[str, ...]]:
        """The tasks that each row offers, among those trained."""
        is_offered = self.steps_by_task != NOT_OFFERED
        kinds, kind_of_row = np.unique(is_offered, axis=0, return_inverse=True)
        tasks_of_kind = [tuple(compress(TASKS, kind)) for kind in kinds]
        return [tasks_of_kind[kind] for kind in kind_of_row.ravel().tolist()]

    def _measure_rows(self) -> None:
        num_workers = self.options.num_workers if len(self.rows) > MAX_MEASURED_ALONE else 0
        dataset, num_rows = _LengthDataset(self.rows, self.builder), len(self.rows)
        parts = [
            range(start, min(start + MEASURED_AT_ONCE, num_rows)) for start in range(0, num_rows, MEASURED_AT_ONCE)
        ]
        loader = DataLoader(dataset, sampler=parts, batch_size=None, num_workers=num_workers, collate_fn=tuple)
        steps, unmeasured, self._digests = zip(*loader)
        self._unmeasured = {index: row for part in unmeasured for index, row in part.items()}
        self._steps = np.concatenate(steps)


class _LengthDataset(Dataset):
    """
    Of a part of the rows, the steps that each makes in each task (num_rows, num_tasks), by their index those that cannot
    be measured, and a digest of all of them.
    """

    def __init__(self, rows: Any, builder: ExampleBuilder):
        self.rows, self.builder = rows, builder
        self.counter = StepCounter(builder.processor, builder.augmentation)

    def __getitem__(self, part: range) -> tuple[np.ndarray, dict[int, Skipped], str]:
        rows = rows_at(self.rows, part)
        named_rows = [(f"row {index}", row) for index, row in zip(part, rows)]
        measured = measure_rows(named_rows, self.builder, self.counter)
        # an array and not a list for each row: hundreds of thousands of lists keep Python's garbage collector busy
        steps = np.array([steps for steps, _ in measured], dtype=np.int32)
        unmeasured = {index: skipped for index, (_, skipped) in zip(part, measured) if skipped is not None}
        return steps, unmeasured, digest_of(rows)


def measure_rows(
    named_rows: Sequence[tuple[str, Mapping]], builder: ExampleBuilder, counter: StepCounter
) -> list[tuple[list[int], Skipped | None]]:
    """
    For each row, with what it is called if it has no id, the steps that it makes in each task (`NOT_OFFERED` where it does
    not), or why it cannot be measured.
    """
    named_rows = [(str(row.get("id") or name), row) for name, row in named_rows]
    checked = [_or_skipped(partial(check_read_row, row, where), where, builder) for where, row in named_rows]
    num_tokens = counter.num_tokens(text for row in checked if not isinstance(row, Skipped) for text in texts_of(row))
    measured = []
    for (where, _), row in zip(named_rows, checked):
        steps = row
        if not isinstance(row, Skipped):
            steps = _or_skipped(partial(_steps_by_task, row, builder, counter, num_tokens), where, builder)
        is_skipped = isinstance(steps, Skipped)
        measured.append(([NOT_OFFERED] * len(TASKS), steps) if is_skipped else (steps, None))
    return measured


def _steps_by_task(
    row: Mapping, builder: ExampleBuilder, counter: StepCounter, num_tokens: Mapping[str, int]
) -> list[int]:
    offered = [task for task in tasks_of(row) if task in builder.tasks]
    lengths = counter.measure(row, offered, num_tokens)
    return [counter.count(row, task, lengths) if task in offered else NOT_OFFERED for task in TASKS]


def _or_skipped(make: Callable[[], Any], where: str, builder: ExampleBuilder) -> Any:
    """What is made of a row, or why it cannot be: with `on_error="stop"`, an error."""
    try:
        return make()
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        if builder.on_error == "stop":
            error.add_note(f"The row is {where}.")
            raise
        reason = "wrong row" if isinstance(error, RowError) else "corrupt audio"
        return Skipped(where, reason, " ".join(str(error).split()))


class _BatchDataset(Dataset):
    """Builds the batch that an item of the plan names: an epoch and the indices of rows."""

    def __init__(self, rows: Any, builder: ExampleBuilder, max_steps: int):
        self.rows = rows
        self.build = BatchBuilder(builder)
        self.max_steps = max_steps

    def __getitem__(self, item: tuple[int, Sequence[int]]) -> tuple[dict[str, torch.Tensor], BatchInfo]:
        epoch, indices = item
        numbers = [index % len(self.rows) for index in indices]
        # its number, and not that of its turn in the epoch
        rows = [
            row if row.get("id") else {**row, "id": f"row {number}"}
            for number, row in zip(numbers, rows_at(self.rows, numbers))
        ]
        batch, info = self.build(list(zip(indices, rows)), epoch)
        skipped = info.skipped
        # every process must get its batch: the others wait for it
        for offset in range(1, MAX_SUBSTITUTES + 1):
            if batch is not None:
                break
            index = (indices[0] + offset) % len(self.rows)
            batch, info = self.build([(index, self.rows[index])], epoch)
            if batch is not None and info.num_padded_steps > self.max_steps:
                batch = None
        if batch is None:
            raise RuntimeError(
                f"None of the rows of a batch can be used, nor any of {MAX_SUBSTITUTES} others. The first: "
                f"{skipped[0]}"
            )
        info.skipped, info.num_judged = skipped, len(indices)
        return batch, info


def _part(items: Sequence, part: int, num_parts: int) -> Sequence:
    """One of as many parts of a sequence, the first of which are not shorter than others."""
    return items[-(-part * len(items) // num_parts) : -(-(part + 1) * len(items) // num_parts)]


def _windows(indices: Sequence[int], lengths: Mapping[int, int], max_steps: int) -> Iterator[list[int]]:
    """The rows in parts of about so many steps."""
    rows, num_steps = [], 0
    for index in indices:
        rows.append(index)
        num_steps += lengths[index]
        if num_steps >= max_steps:
            yield rows
            rows, num_steps = [], 0
    if rows:
        yield rows


def _multiple_of(world_size: int, batches: list[list[int]]) -> list[list[int]]:
    """As many batches as all processes can have alike: the largest are halved, so that no row is lost or doubled."""
    batches = list(batches)
    while len(batches) % world_size:
        largest = max(range(len(batches)), key=lambda index: len(batches[index]))
        rows = batches[largest]
        # single rows cannot be halved: these few are used twice
        batches[largest] = rows[: (len(rows) + 1) // 2]
        batches.append(rows[(len(rows) + 1) // 2 :] or rows)
    return batches
