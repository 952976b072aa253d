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
"""Tables of figures, of one evaluation or of several side by side, before anybody has decided how they will look."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .headlines import SPEED
from .results import FIGURES, HIGH, LOW
from .side_by_side import Entry, Measured, best_of, figure_of
from .wording import direction_words, heading_of, written, written_difference, written_interval


@dataclass(frozen=True)
class Column:
    """A column: the figure in it, and what its heading says below the figure's name."""

    name: str
    below: str | None = None

    @property
    def heading(self) -> str:
        arrow = {"lower": "\u00a0↓", "higher": "\u00a0↑", None: ""}[figure_of(self.name).better]
        return heading_of(self.name) + arrow

    @property
    def meaning(self) -> str:
        """What the figure means, for whoever does not know its name."""
        figure = figure_of(self.name)
        return "; ".join(words for words in (figure.meaning, direction_words(figure)) if words)


# Where a figure stands: its group (`SPEED` for `speed`), and its name there.
Place = tuple[str | None, str]


@dataclass(frozen=True)
class Line:
    """What a row of a table is about, and where the figure of each column stands."""

    label: str
    places: Mapping[Column, Place]
    below: str | None = None


@dataclass(frozen=True)
class Cell:
    """
    A figure in words.

    Args:
        text, interval (`str`): The figure and the ends of its interval.
        difference (`str`, *optional*): From the first results.
        is_clear (`bool`): Whether the intervals of these and the first results are apart.
        is_best (`bool`): Whether no other results have a better figure.
        is_clearly_best (`bool`): Whether moreover its interval is apart from those of all others.
        measured (`Measured`, *optional*): The figure itself.
    """

    text: str
    interval: str | None = None
    difference: str | None = None
    is_clear: bool = False
    is_best: bool = False
    is_clearly_best: bool = False
    measured: Measured | None = None


@dataclass(frozen=True)
class Row:
    """Cells of one of the results; `entry` is its label, and `None` where there are no others."""

    label: str
    below: str | None
    entry: str | None
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """Groups of rows: with several results a group has a row of each, else each group is one row."""

    title: str
    columns: list[Column]
    groups: list[list[Row]]
    corner: str = ""

    @property
    def is_compared(self) -> bool:
        return any(row.entry is not None for group in self.groups for row in group)


def make_table(title: str, lines: Sequence[Line], entries: Sequence[Entry], corner: str = "") -> Table:
    """The table of these lines, without the columns and lines in which there is nothing."""
    columns = dict.fromkeys(column for line in lines for column in line.places)
    columns = [column for column in columns if any(_find(entry, line, column) for line in lines for entry in entries)]
    if all(column.below is None for column in columns):
        # a line further down may have a figure that belongs between those of the first
        columns.sort(key=lambda column: order_of(column.name))
    groups = []
    for line in lines:
        values = {column: [_find(entry, line, column) for entry in entries] for column in columns}
        if any(measured is not None for row in values.values() for measured in row):
            names = {column: name for column, (_, name) in line.places.items()}
            groups.append(make_group(line.label, line.below, values, entries, names))
    return Table(title, columns, groups, corner)


def make_group(
    label: str,
    below: str | None,
    values: Mapping[Column, Sequence[Measured | None]],
    entries: Sequence[Entry],
    names: Mapping[Column, str] | None = None,
) -> list[Row]:
    """A row of every entry; the cells of a column, which may hold a figure of another name, are compared."""
    names = names or {}
    columns = [cells_of(found, names.get(column, column.name)) for column, found in values.items()]
    return [
        Row(label, below, entry.label if len(entries) > 1 else None, [cells[index] for cells in columns])
        for index, entry in enumerate(entries)
    ]


def cells_of(values: Sequence[Measured | None], name: str) -> list[Cell]:
    """The same figure of several results: how far each is from the first, and which is the best."""
    figure, first = figure_of(name), values[0]
    cells = []
    for index, (measured, is_best) in enumerate(zip(values, best_of(values, figure.better))):
        if measured is None:
            cells.append(Cell("–"))
            continue
        is_compared = index > 0 and first is not None and figure.kind != "count"
        cells.append(
            Cell(
                text=written(measured.value, figure.kind),
                interval=written_interval(measured, figure.kind),
                difference=written_difference(measured.value, first.value, figure.kind) if is_compared else None,
                is_clear=is_compared and measured.is_apart_from(first),
                is_best=is_best,
                is_clearly_best=is_best
                and all(measured.is_apart_from(one) for one in values if one not in (None, measured)),
                measured=measured,
            )
        )
    return cells


def places_of(entries: Sequence[Entry], group: str | None, without: Iterable[str] = ()) -> dict[Column, Place]:
    """A column for each figure that the group has in any of the results."""
    tables = [entry.results.speed if group is SPEED else entry.results.figures.get(group, {}) for entry in entries]
    return {Column(name): (group, name) for name in ordered(*tables) if name not in without}


def ordered(*tables: Iterable[str]) -> list[str]:
    """The names of figures in any of the tables, without the ends of intervals, in their order."""
    return sorted({name for table in tables for name in table if not is_end(name)}, key=order_of)


def order_of(name: str) -> tuple[int, str]:
    """Sorts names of figures as `FIGURES` has them, those that it does not know last."""
    names = list(FIGURES)
    return (names.index(name) if name in FIGURES else len(names)), name


def is_end(name: str) -> bool:
    """Whether a name is that of an end of an interval."""
    return name.endswith((LOW, HIGH))


def _find(entry: Entry, line: Line, column: Column) -> Measured | None:
    if column not in line.places:
        return None
    group, name = line.places[column]
    return Measured.of(entry.results.speed if group is SPEED else entry.results.figures.get(group), name)
