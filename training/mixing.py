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
"""Several sources as one: how many times the rows of each come in an epoch, or how often in a stream."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np


# Keeps the order in which a source is gone through apart from other draws of the same seed.
ORDER_OF_SOURCE = 1


@dataclass(frozen=True)
class Mix:
    """
    How many times the rows of each source come in an epoch.

    Attributes:
        sizes: the number of rows of each source.
        times: how many times they come: 2 is twice an epoch, 0.5 is half of them in one epoch and the others in the next.
    """

    sizes: tuple[int, ...]
    times: tuple[float, ...]

    @property
    def num_rows(self) -> int:
        return sum(self.sizes)

    def draws(self, epoch: int, seed: int, shuffle: bool = True) -> np.ndarray:
        """
        What comes in an epoch, ordered by source: (num_draws,). The rows of all sources are numbered one after another; one
        that comes again in the same epoch has `num_rows` added to its number, so that another task may be drawn for it.

        Each source is gone through in an order of its own, round and round; an epoch goes on where the last one stopped.
        So every row has had its turn before any has one more, and no memory of earlier epochs is needed to resume.
        """
        draws, first = [np.zeros(0, dtype=np.int64)], 0
        for source, (size, times) in enumerate(zip(self.sizes, self.times)):
            if size == 0:
                continue
            order = np.arange(size)
            if shuffle:
                order = np.random.default_rng((seed, source, ORDER_OF_SOURCE)).permutation(size)
            start, end = (round(passed * times * size) for passed in (epoch, epoch + 1))
            places = np.arange(start, end)
            draws.append(first + order[places % size] + (places - start) // size * self.num_rows)
            first += size
        return np.concatenate(draws)

    def of(self, rows: Iterable[int]) -> "Mix":
        """The mix of things that are made of rows, each of the row with the number given, in rising order."""
        source_of_thing = np.searchsorted(np.cumsum(self.sizes), np.fromiter(rows, dtype=np.int64), side="right")
        return Mix(tuple(np.bincount(source_of_thing, minlength=len(self.sizes)).tolist()), self.times)

    def times_of_rows(self) -> np.ndarray:
        """How many times each row comes in an epoch: (num_rows,)"""
        return np.repeat(np.array(self.times, dtype=float), self.sizes)


class MixedRows(Sequence):
    """
    The rows of several sources, one after another, each of them once, and their [`Mix`], by which batches are planned.

    Args:
        sources (`Sequence[datasets.Dataset]`):
            Where the rows are.
        times (`Sequence[float]`):
            How many times the rows of each source come in an epoch.
    """

    def __init__(self, sources: Sequence[Any], times: Sequence[float]):
        self.sources = list(sources)
        self.mix = Mix(tuple(len(source) for source in self.sources), tuple(times))
        self._ends = np.cumsum(self.mix.sizes)

    def __len__(self) -> int:
        return self.mix.num_rows

    def __iter__(self) -> Iterator[dict]:
        return chain.from_iterable(self.sources)

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no row {index} among {len(self)}.")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Several rows, as `datasets` and data loaders ask for them."""
        numbers = np.asarray(indices, dtype=np.int64)
        source_of_row = np.searchsorted(self._ends, numbers, side="right")
        rows: list[Any] = [None] * len(numbers)
        for source in np.unique(source_of_row).tolist():
            places = np.flatnonzero(source_of_row == source)
            first = self._ends[source] - self.mix.sizes[source]
            for place, row in zip(places.tolist(), rows_at(self.sources[source], (numbers[places] - first).tolist())):
                rows[place] = row
        return rows


def rows_at(rows: Any, indices: Sequence[int]) -> list[dict]:
    """Several rows: of a dataset, those that are asked for together come many times faster."""
    together = getattr(rows, "__getitems__", None)
    return together(list(indices)) if together else [rows[index] for index in indices]


def checked_times(sources: Mapping[Any, Any]) -> dict[Any, float]:
    """How many times the rows of each source come; those of 0 are left out."""
    for source, times in sources.items():
        if isinstance(times, bool) or not isinstance(times, int | float) or not 0.0 <= times < math.inf:
            raise ValueError(
                f"The weight of the source {str(source)!r} is {times!r}: it must be a number, 0 or more. With 2, its rows come "
                "twice an epoch; with 0.5, half of them come in one epoch, and the others in the next."
            )
    kept = {source: float(times) for source, times in sources.items() if times > 0}
    if not kept:
        raise ValueError(
            f"Of the sources {', '.join(map(str, sources))}, none has a weight above 0: give one to some."
        )
    return kept


def interleaved(streams: Sequence[Any], times: Sequence[float]) -> Any:
    """
    Streams as one, whose rows come in the proportion of `times`. An epoch ends when all have been gone through: those that are
    over by then begin again.
    """
    from datasets import interleave_datasets

    shares = np.array(times) / sum(times)
    return interleave_datasets(
        [_in_our_features(stream) for stream in streams], shares.tolist(), seed=0, stopping_strategy="all_exhausted"
    )


def _in_our_features(stream: Any) -> Any:
    """A stream whose columns are ours, in the types that ours have: only like streams can be interleaved."""
    from .manifest import row_features

    features = row_features(keep_wrong=True)
    if stream.features and all(features.get(name) == feature for name, feature in stream.features.items()):
        return stream
    names = [name for name in stream.column_names or next(iter(stream)) if name in features]
    return stream.select_columns(names).cast(type(features)({name: features[name] for name in names}))
