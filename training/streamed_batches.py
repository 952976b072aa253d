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
"""Batches of a stream: nothing but a window of rows is in memory, and it can be taken up again at any batch."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .batches import BatchBuilder, Batches, BatchInfo, BatchOptions, group_by_length, longest_row, too_long
from .examples import ExampleBuilder, Skipped
from .lengths import StepCounter
from .planned_batches import measure_rows
from .row_fingerprints import digest_of
from .rows import TASKS


logger = logging.getLogger(__name__)

# Full batches whose rows a lane holds at once (paths, or the bytes of their files), unless told otherwise.
WINDOW = 24
LANES_PER_PROCESS = 8
ROWS_READ_AT_ONCE = 32


class StreamedBatches(Batches):
    """
    Batches of a `datasets.IterableDataset`.

    The stream is divided into *lanes*: each reads its own part of the data (whole shards if there are enough, else every
    n-th row), gathers a window of rows, groups them by length and builds batches. Batch i of all processes together comes
    from lane i modulo `num_lanes`. So neither the number of processes nor of workers changes what is yielded: they
    only say who builds which lanes.

    A stream cannot be counted, so it goes on epoch after epoch unless `num_epochs` is given, and then processes may have
    unequal numbers of batches: train for a number of steps. [`state_dict`] is that of this process: keep one for each.

    Args:
        rows (`datasets.IterableDataset`):
            The stream, undivided: every process passes the same.
        builder ([`ExampleBuilder`]):
            Makes examples of the rows.
        options ([`BatchOptions`]):
            How rows become batches. `window` is that of a lane.
        num_lanes (`int`, *optional*):
            A multiple of the number of processes; 8 for each by default. Workers beyond the lanes of their process are
            idle. With the same `num_lanes`, any number of processes yields the same batches.
        num_epochs (`int`, *optional*):
            How often to go through the data. Without it there is no end.
    """

    def __init__(
        self,
        rows: Any,
        builder: ExampleBuilder,
        options: BatchOptions,
        num_lanes: int | None = None,
        num_epochs: int | None = None,
    ):
        super().__init__(builder, options)
        world_size = options.world_size
        if num_lanes is None:
            num_lanes = LANES_PER_PROCESS * world_size
        if num_lanes < 1 or num_lanes % world_size:
            raise ValueError(
                f"`num_lanes` is {num_lanes}: it must be a multiple of the {world_size} processes, such as "
                f"{-(-max(num_lanes, 1) // world_size) * world_size}."
            )
        self.rows, self.num_lanes, self.num_epochs = rows, num_lanes, num_epochs
        self.lanes = list(range(options.rank, num_lanes, world_size))
        self._positions: dict[int, dict] = {}
        self._next = 0
        self._has_warned = False

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if not self._positions:
            self._reports = {}
        dataset = _LaneDataset(self, dict(self._positions), self._next)
        for item in DataLoader(dataset, **self.options.loader_kwargs()):
            if item is None:
                continue
            lane, batch, info = item
            self._positions[lane] = info.position
            self._next = (self.lanes.index(lane) + 1) % len(self.lanes)
            if info.is_changed:
                self._warn_of_other_rows()
            self._count(info)
            self._leave_epochs(min(self._positions.get(lane, {"epoch": 0})["epoch"] for lane in self.lanes))
            if batch is not None:
                yield self._yielded(batch, info)
        self._positions, self._next = {}, 0
        self._leave_epochs(self.num_epochs)

    def _leave_epochs(self, first: int) -> None:
        """Judges the epochs that no lane is in any more, and forgets all of them but the last."""
        for epoch, report in self._reports.items():
            # what one of several processes has read is not the epoch
            if epoch < first and self.options.world_size == 1:
                report.check(self.options.max_skipped_share, report.num_judged)
        self._reports = {epoch: report for epoch, report in self._reports.items() if epoch >= first - 1}

    def set_epoch(self, epoch: int) -> None:
        """Streams count their epochs themselves: this is for trainers that set it, and does nothing."""

    def state_dict(self) -> dict[str, Any]:
        lanes = {str(lane): position for lane, position in self._positions.items()}
        place = {"lanes": lanes, "next": self._next, "num_lanes": self.num_lanes, "num_shards": self.rows.num_shards}
        return self._common_state() | place

    def load_state_dict(self, state: Mapping) -> None:
        num_shards = state.get("num_shards", self.rows.num_shards)
        if num_shards != self.rows.num_shards:
            raise ValueError(
                f"The state is that of a stream of {num_shards} shards (files), and there are {self.rows.num_shards}: which of "
                "them were read cannot be told. Put the files back as they were, or begin anew (`--fresh`)."
            )
        if state["num_lanes"] != self.num_lanes:
            raise ValueError(
                f"The state is that of {state['num_lanes']} lanes, and there are {self.num_lanes}: pass "
                f"`num_lanes={state['num_lanes']}`, and as many processes as before."
            )
        self._load_common_state(state)
        self._positions = {int(lane): position for lane, position in state["lanes"].items()}
        self._next = state["next"]

    def _warn_of_other_rows(self) -> None:
        if not self._has_warned:
            logger.warning(
                "The stream does not go on with the rows that the checkpoint was written at: they, or the budget of a batch, have "
                "changed. Some rows may come again and others not at all in this epoch, and the run will not end with the "
                "weights that it would have had. If that is not wanted, put them back, or begin anew (`--fresh`)."
            )
        self._has_warned = True


class _LaneDataset(IterableDataset):
    """
    What a worker does: it takes turns among its lanes, and yields `None` for the turn of a lane that it has not, or that is
    over, so that the workers, asked one after another, yield the lanes in order.
    """

    def __init__(self, batches: StreamedBatches, positions: dict[int, dict], first: int):
        self.reader = LaneReader(batches.rows, batches.builder, batches.options, batches.num_lanes, batches.num_epochs)
        self.lanes, self.positions, self.first = batches.lanes, positions, first

    def __iter__(self) -> Iterator[tuple[int, dict, BatchInfo] | None]:
        worker = get_worker_info()
        worker_id, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        num_turns = -(-len(self.lanes) // num_workers)
        turns = [turn * num_workers + worker_id for turn in range(num_turns)]
        streams = {
            turn: self.reader.read(self.lanes[turn], self.positions.get(self.lanes[turn]))
            for turn in turns
            if turn < len(self.lanes)
        }
        is_first_round = True
        while streams:
            for turn in turns:
                if turn not in streams or (is_first_round and turn < self.first):
                    yield None
                    continue
                item = next(streams[turn], None)
                if item is None:
                    del streams[turn]
                yield None if item is None else (self.lanes[turn], *item)
            is_first_round = False


@dataclass
class Window:
    """Rows of a lane that are grouped together: where it begins in its shard, what is in it, and what is left out."""

    row: int
    state: Any
    rows: list[tuple[str, dict]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def digest(self) -> str:
        """What tells its rows from others."""
        return digest_of(row for _, row in self.rows)


class LaneReader:
    """Reads a lane of a stream and builds its batches."""

    def __init__(
        self, rows: Any, builder: ExampleBuilder, options: BatchOptions, num_lanes: int, num_epochs: int | None
    ):
        self.rows, self.builder, self.options = rows, builder, options
        self.num_lanes, self.num_epochs = num_lanes, num_epochs
        self.num_shards = rows.num_shards
        self.by_shards = self.num_shards >= num_lanes
        self.build = BatchBuilder(builder)
        self.counter = StepCounter(builder.processor, builder.augmentation)
        # whether other rows were met than those at which reading was to go on
        self.is_changed = False

    def read(self, lane: int, position: Mapping | None = None) -> Iterator[tuple[dict | None, BatchInfo]]:
        """
        Batches of a lane from a position on: the epoch, the shard in its order, the rows of the shard read before the
        window with the state of the dataset there, a digest of the window's rows, and the batch in it. At the end of an
        epoch there may be a batch that is `None`: rows were skipped after the last one, which are to be counted.
        """
        start = {"shard": 0, "row": 0, "state": None, "batch": 0}
        position = {"epoch": 0} | start | dict(position or {})
        while self.num_epochs is None or position["epoch"] < self.num_epochs:
            is_whole = not (position["shard"] or position["row"] or position["batch"])
            is_empty, untold = True, BatchInfo(epoch=position["epoch"])
            for batch, info in self._read_epoch(lane, position, untold):
                is_empty = False
                yield batch, info
            if is_empty and is_whole and self.num_epochs is None:
                shown = f" ({untold.skipped[0]})" if untold.skipped else ""
                raise ValueError(
                    f"Lane {lane} of {self.num_lanes} found no usable row in a whole epoch{shown}: pass fewer `num_lanes`, or "
                    "look into the data with `flow-omni prepare validate`."
                )
            position = {"epoch": position["epoch"] + 1} | start
            if untold.skipped:
                untold.position = position
                yield None, untold

    def _read_epoch(self, lane: int, start: Mapping, untold: BatchInfo) -> Iterator[tuple[dict, BatchInfo]]:
        """Batches of a lane to the end of its epoch. `untold` gathers the rows met and left out until a batch tells of them."""
        epoch = start["epoch"]
        for number, shard in list(enumerate(self._shards(lane, epoch)))[start["shard"] :]:
            is_resumed = number == start["shard"]
            row, state = (start["row"], start["state"]) if is_resumed else (0, None)
            # the digest that the window must have with which it goes on
            expected = start.get("window") if is_resumed else None
            for window in self._windows(lane, shard, epoch, row, state):
                digest = window.digest()
                at = {"epoch": epoch, "shard": number, "row": window.row, "state": window.state, "window": digest}
                self.is_changed |= expected not in (None, digest)
                expected = None
                first = start["batch"] if is_resumed and window.row == start["row"] else 0
                # what was left out was told with the first batch
                if first == 0:
                    untold.skipped += window.skipped
                    untold.num_judged += len(window.rows) + sum(row.is_broken for row in window.skipped)
                for index, keyed_rows in list(enumerate(self._grouped(window, (epoch, lane, number))))[first:]:
                    batch, info = self.build(keyed_rows, epoch)
                    untold.skipped += info.skipped
                    if batch is None:
                        continue
                    info.skipped, info.num_judged = untold.skipped, untold.num_judged
                    untold.skipped, untold.num_judged = [], 0
                    info.position = at | {"batch": index + 1}
                    info.is_changed = self.is_changed
                    yield batch, info
            # none of the rows at which it was to go on is there any more
            self.is_changed |= expected is not None

    def _shards(self, lane: int, epoch: int) -> list[int]:
        """The shards that a lane reads in an epoch, in its order."""
        order = np.arange(self.num_shards)
        if self.options.shuffle:
            order = np.random.default_rng((self.options.seed, epoch)).permutation(self.num_shards)
        return order[lane :: self.num_lanes].tolist() if self.by_shards else order.tolist()

    def _windows(self, lane: int, shard: int, epoch: int, row: int, state: Any) -> Iterator[Window]:
        """A shard in windows, from a row on."""
        source = self.rows.shard(num_shards=self.num_shards, index=shard)
        if state is not None:
            source.load_state_dict(state)
        num_steps = (self.options.window or WINDOW) * self.options.max_steps_per_batch
        window = Window(row, state)
        # `iter` and not the dataset itself: that would divide its shards among the workers once more
        for chunk in source.iter(batch_size=ROWS_READ_AT_ONCE):
            num_rows = len(next(iter(chunk.values())))
            self._take(
                window,
                {
                    f"{shard}:{row + index}": {name: values[index] for name, values in chunk.items()}
                    for index in range(num_rows)
                    if self.by_shards or (row + index) % self.num_lanes == lane
                },
                epoch,
            )
            row += num_rows
            if sum(window.lengths) >= num_steps:
                yield window
                window = Window(row, source.state_dict())
        if window.rows or window.skipped:
            yield window

    def _take(self, window: Window, rows: Mapping[str, dict], epoch: int) -> None:
        """Adds rows with their keys to a window, or to what it leaves out."""
        measured = measure_rows([(f"row {key}", row) for key, row in rows.items()], self.builder, self.counter)
        for (key, row), (steps, left_out) in zip(rows.items(), measured):
            length = 0
            if left_out is None:
                length, left_out = self._length(steps, str(row.get("id") or f"row {key}"), key, epoch)
            if left_out is None:
                window.rows.append((key, row))
                window.lengths.append(length)
            else:
                window.skipped.append(left_out)

    def _grouped(self, window: Window, place: tuple[int, ...]) -> list[list[tuple[str, dict]]]:
        """The rows of a window in batches, in an order that depends on its place alone."""
        options, rows, lengths = self.options, window.rows, window.lengths
        generator = np.random.default_rng((options.seed, *place, window.row))
        order = generator.permutation(len(rows)).tolist() if options.shuffle else range(len(rows))
        rows, lengths = [rows[index] for index in order], [lengths[index] for index in order]
        groups = group_by_length(lengths, options.max_steps_per_batch, options.max_rows_per_batch)
        if options.shuffle:
            groups = [groups[index] for index in generator.permutation(len(groups))]
        return [[rows[index] for index in group] for group in groups]

    def _length(self, steps: Sequence[int], where: str, key: str, epoch: int) -> tuple[int, Skipped | None]:
        """Steps of the row in the task drawn for it, or why it is left out."""
        limit = longest_row(self.options, self.builder)
        offered = {task: count for task, count in zip(TASKS, steps) if count >= 0}
        task = self.builder.draw_task(offered, key, epoch)
        if task is None:
            return 0, self.builder.without_task(where, offered)
        if offered[task] > limit:
            return 0, too_long(where, offered[task], limit, task)
        return offered[task], None
