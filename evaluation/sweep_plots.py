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
"""The sweeps of a report as small plots: one for each figure, with a line for each variant or for each of the results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from .figure_tables import SweepTables, axis_of
from .plots import LinePlot, Point, Series, draw
from .results import HIGH, LOW
from .side_by_side import Entry, base_name, figure_of
from .tables import is_end
from .wording import axis_heading, axis_words, heading_of, task_words, written, written_tick


# Of each pair the first is in the tables only where the second is plotted: they rise and fall together.
INSTEAD = {"wer": "cer", "heard_wer": "heard_cer", "num_rows": ""}


@dataclass(frozen=True)
class Panel:
    """A plot with its heading."""

    title: str
    svg: str


@dataclass(frozen=True)
class SweepPlots:
    """The plots of a kind of sweep, and what each line of them is."""

    panels: list[Panel]
    legend: list[str]


def plots_of(sweeps: SweepTables, entries: Sequence[Entry]) -> SweepPlots:
    """
    With one evaluation its variants (white and pink noise) are lines of one plot; with several each variant has a plot, in
    which every evaluation is a line.
    """
    by_axis: dict[str, list[str]] = {}
    for name in sweeps.variants:
        by_axis.setdefault(axis_of(name, entries), []).append(name)
    panels, legend = [], [entry.label for entry in entries] if len(entries) > 1 else []
    for axis, names in by_axis.items():
        if len(entries) > 1:
            for name in names:
                lines = [(entry.label, entry.results.sweeps.get(name, [])) for entry in entries]
                panels += _panels(axis, lines, sweeps.variants[name])
        else:
            legend += [sweeps.variants[name] for name in names] if len(names) > 1 else []
            lines = [(sweeps.variants[name], entries[0].results.sweeps[name]) for name in names]
            panels += _panels(axis, lines, None)
    return SweepPlots(panels, legend)


def plotted(names: Iterable[str]) -> list[str]:
    """The figures of a sweep that have a plot."""
    names = [name for name in dict.fromkeys(names) if not is_end(name)]
    chosen = []
    for name in names:
        task, base = base_name(name)
        other = INSTEAD.get(base)
        if other is None or (other and (f"{task}_{other}" if task else other) not in names):
            chosen.append(name)
    return chosen


def _panels(axis: str, lines: Sequence[tuple[str, Sequence[dict]]], variant: str | None) -> list[Panel]:
    rows = [row for _, table in lines for row in table if axis in row]
    places = list(dict.fromkeys(row[axis] for row in rows))
    panels = []
    for name in plotted(key for row in rows for key in row if key != axis):
        task, figure = base_name(name)[0], figure_of(name)
        words = [heading_of(name), *([task_words(task)] if task else []), *([variant] if variant else [])]
        series = [
            Series(
                label,
                [
                    Point(row[axis], row[name], row.get(name + LOW), row.get(name + HIGH))
                    for row in table
                    if row.get(name) is not None
                ],
            )
            for label, table in lines
        ]
        is_share_to_raise = figure.kind == "share" and figure.better == "higher"
        plot = LinePlot(
            title=", ".join(words),
            axis=axis_heading(axis),
            places=places,
            series=series,
            value_words=partial(written, kind=figure.kind),
            tick_words=partial(written_tick, kind=figure.kind),
            place_words=axis_words,
            from_zero=not is_share_to_raise,
            ceiling=1.0 if is_share_to_raise else None,
        )
        panels.append(Panel(plot.title, draw(plot)))
    return panels
