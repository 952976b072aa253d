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
"""Several results side by side: what each is called, where they differ, and which of their figures is better."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..training.rows import TASKS
from .results import FIGURES, HIGH, LOW, Figure, Results


# What says nothing about the figures.
PERSONAL_SETTINGS = ("num_samples", "batch_size")


@dataclass(frozen=True)
class Entry:
    """
    One of the results that a report is about.

    Args:
        results (`Results`): The figures.
        label (`str`): What the report calls them.
        folder (`Path`, *optional*): Where the sounds of the samples lie.
    """

    results: Results
    label: str
    folder: Path | None = None


def entries_of(results: Results, folder: Path | None, others: Iterable[Results | str | PurePath] = ()) -> list[Entry]:
    """All results of a report, those that it is about first. Of others given by their file, the sounds are known too."""
    found = [(results, folder)]
    for other in others:
        if isinstance(other, Results):
            found.append((other, None))
        else:
            path = Path(other).expanduser()
            found.append((Results.load(path), path.parent if path.suffix == ".json" else path))
    labels = labels_of([one for one, _ in found])
    return [Entry(one, label, place) for (one, place), label in zip(found, labels)]


def labels_of(results: Sequence[Results]) -> list[str]:
    """
    A short name for each: the end of the checkpoint's path, as much of it as tells it from the others. The same checkpoint
    twice is told by its data, and by a number in the end.
    """
    paths = [PurePath(one.checkpoint).parts or ("checkpoint",) for one in results]
    labels = [_shortest_end(path, paths) for path in paths]
    if len(set(labels)) < len(labels) and len({one.data for one in results}) > 1:
        data = [PurePath(one.data).parts or ("data",) for one in results]
        labels = [f"{label} on {_shortest_end(one, data)}" for label, one in zip(labels, data)]
    numbers = [labels[: index + 1].count(label) for index, label in enumerate(labels)]
    return [f"{label} ({number})" if labels.count(label) > 1 else label for label, number in zip(labels, numbers)]


def _shortest_end(path: Sequence[str], paths: Sequence[Sequence[str]]) -> str:
    others = [other for other in paths if tuple(other) != tuple(path)]
    for length in range(1, len(path) + 1):
        end = tuple(path[-length:])
        if all(tuple(other[-length:]) != end for other in others):
            return "/".join(end)
    return "/".join(path)


def differing_settings(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Each setting that is not the same in all results, with its values in their order; data first."""
    tables = [{"data": entry.results.data} | flat_settings(entry.results.settings) for entry in entries]
    table = rows_of(tables)
    return {name: row for name, row in table.items() if len(set(row)) > 1 and name not in PERSONAL_SETTINGS}


def rows_of(tables: Sequence[Mapping[str, object]]) -> dict[str, list[str]]:
    """Each name that any of the tables has, with its value in every one of them."""
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: [as_words(table.get(name)) for table in tables] for name in names}


def flat_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings within settings by their own names: those of generation are in `options`."""
    flat: dict[str, object] = {}
    for name, value in settings.items():
        flat |= flat_settings(value) if isinstance(value, Mapping) else {name: value}
    return flat


def as_words(value: object) -> str:
    """A setting as it is read: lists without brackets, nothing as a dash."""
    if value is None or value == [] or value == ():
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(as_words(one) for one in value)
    return str(value)


@dataclass(frozen=True)
class Measured:
    """A figure with the ends of its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, table: Mapping[str, float] | None, name: str) -> "Measured | None":
        if table is None or table.get(name) is None:
            return None
        return cls(table[name], table.get(name + LOW), table.get(name + HIGH))

    @property
    def has_interval(self) -> bool:
        # a point is none: earlier versions wrote one where all rows were alike, or there was only one
        return self.low is not None and self.high is not None and self.low < self.high

    def is_apart_from(self, other: "Measured") -> bool:
        """Whether the two intervals have nothing in common; without intervals nobody knows, and it is `False`."""
        if not (self.has_interval and other.has_interval):
            return False
        return self.low > other.high or self.high < other.low


def best_of(values: Sequence[Measured | None], better: str | None) -> list[bool]:
    """Which of the values are the best; none where nothing was compared, or all are the same."""
    there = [one.value for one in values if one is not None]
    if better is None or len(there) < 2 or min(there) == max(there):
        return [False] * len(values)
    best = min(there) if better == "lower" else max(there)
    return [one is not None and one.value == best for one in values]


def base_name(name: str) -> tuple[str | None, str]:
    """Task and figure of a name that may have its task in front: `transcribe_cer` is the `cer` of `transcribe`."""
    if name in FIGURES:
        return None, name
    for task in sorted(TASKS, key=len, reverse=True):
        if name.startswith(f"{task}_"):
            return task, name.removeprefix(f"{task}_")
    return None, name


def figure_of(name: str) -> Figure:
    """What a name of `figures`, `speed` or `sweeps` stands for. One that is not known is a number without a direction."""
    _, base = base_name(name)
    return FIGURES.get(base) or Figure(base.replace("_", " "), "number")
