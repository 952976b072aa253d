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
"""Which tables a report has: by task, by topic, how answers ended, spectra, speed, sweeps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..training.rows import TASKS
from .headlines import REFERENCE, SPEED, STOPS, headlines_of_all
from .results import group_name, split_group
from .side_by_side import Entry, Measured, base_name
from .tables import Column, Line, Table, is_end, make_group, make_table, places_of
from .wording import axis_heading, axis_words, family_words, heard_words, task_words


SPECTRUM = "spectrum"
# The same errors counted in other ways have a table of their own.
OTHER_COUNTS = ("cer_whisper", "wer_whisper", "cer_raw", "wer_raw")
TOPIC_FIGURES = ("num_rows", "cer", "exact")
VOCODED = "originals through the vocoder"


@dataclass(frozen=True)
class SweepTables:
    """The sweeps of one kind (`noise`), each with the variant that it is of (`white`) and its table."""

    family: str
    variants: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


def headline_table(entries: Sequence[Entry]) -> Table:
    """Every headline in a line, whatever its unit."""
    column = Column("value")
    headlines = headlines_of_all(entry.results for entry in entries)
    lines = [Line(headline.title, {column: (headline.group, headline.name)}) for headline in headlines]
    return make_table("Headline figures", lines, entries, "figure")


def task_table(entries: Sequence[Entry]) -> Table:
    """Every task, as written and as each recogniser heard it, and below them what the recognisers make of the originals."""
    lines = []
    for task, _, recogniser in _groups_of(entries, lambda task, topic, _: task in TASKS and topic is None):
        places = places_of(entries, group_name(task, None, recogniser), without=OTHER_COUNTS)
        lines.append(Line(task_words(task), places, heard_words(recogniser)))
    for _, _, recogniser in _groups_of(entries, lambda task, *_: task == REFERENCE):
        places = places_of(entries, group_name(REFERENCE, None, recogniser), without=OTHER_COUNTS)
        vocoded = _taken_out(places, "vocoded_")
        below = heard_words(recogniser)
        lines += [Line("originals", places, below), Line(VOCODED, vocoded, below)]
    return make_table("By task", lines, entries, "task")


def count_table(entries: Sequence[Entry]) -> Table:
    """The same errors, counted in other ways."""
    lines = []
    found = _groups_of(entries, lambda task, topic, _: task in (*TASKS, REFERENCE) and topic is None)
    for task, _, recogniser in found:
        group = group_name(task, None, recogniser)
        label = "originals" if task == REFERENCE else task_words(task)
        lines.append(Line(label, {Column(name): (group, name) for name in OTHER_COUNTS}, heard_words(recogniser)))
    return make_table("The same errors counted otherwise", lines, entries, "task")


def topic_tables(entries: Sequence[Entry]) -> list[Table]:
    """A table for each task with a line for each topic: as written, and as each recogniser heard it."""
    found = _groups_of(entries, lambda task, topic, _: task in TASKS and topic is not None)
    tables = []
    for task in dict.fromkeys(task for task, _, _ in found):
        recognisers = list(dict.fromkeys(recogniser for one, _, recogniser in found if one == task))
        lines = []
        for topic in dict.fromkeys(topic for one, topic, _ in found if one == task):
            places = {}
            for recogniser in recognisers:
                group = group_name(task, topic, recogniser)
                below = heard_words(recogniser) if len(recognisers) > 1 else None
                for name in TOPIC_FIGURES if recogniser is None else TOPIC_FIGURES[1:]:
                    places[Column(name, None if name == "num_rows" else below)] = (group, name)
            lines.append(Line(task_words(topic), places))
        tables.append(make_table(task_words(task), lines, entries, "topic"))
    return tables


def stop_table(entries: Sequence[Entry]) -> Table:
    """How spoken answers ended, in all and by task."""
    return make_table("How spoken answers ended", _by_task(entries, STOPS), entries, "task")


def spectrum_table(entries: Sequence[Entry]) -> Table:
    """How far answers are from the originals, and how far the vocoder alone takes an original from itself."""
    lines = _by_task(entries, SPECTRUM)
    if lines:
        vocoded, originals = (_taken_out(lines[0].places, prefix) for prefix in ("vocoded_", "reference_"))
        lines += [Line("originals", originals), Line(VOCODED, vocoded)]
    return make_table("Sound against the originals", lines, entries, "task")


def speed_table(entries: Sequence[Entry]) -> Table:
    """The times of single questions and of batches."""
    return make_table("Speed", [Line("timed answers", places_of(entries, SPEED))], entries)


def other_tables(entries: Sequence[Entry]) -> list[Table]:
    """Groups that no table above knows: of a later version, or of somebody's own."""
    known = (*TASKS, STOPS, SPECTRUM, REFERENCE)
    groups = dict.fromkeys(name for entry in entries for name in entry.results.figures)
    unknown = [name for name in groups if split_group(name)[0] not in known]
    return [make_table(name, [Line("all", places_of(entries, name))], entries) for name in unknown]


def sweep_tables(entries: Sequence[Entry]) -> list[SweepTables]:
    """The sweeps of all results, those of a kind together."""
    families: dict[str, SweepTables] = {}
    for name in dict.fromkeys(name for entry in entries for name in entry.results.sweeps):
        family, _, variant = name.partition("/")
        sweeps = families.setdefault(family, SweepTables(family))
        sweeps.variants[name] = variant.replace("_", " ")
        sweeps.tables[name] = sweep_table(name, sweeps.variants[name] or family_words(family), entries)
    return list(families.values())


def sweep_table(name: str, title: str, entries: Sequence[Entry]) -> Table:
    """The figures of one sweep, a line for each place on its axis."""
    axis = axis_of(name, entries)
    tables = [
        {axis_words(row[axis]): row for row in entry.results.sweeps.get(name, []) if axis in row} for entry in entries
    ]
    names = dict.fromkeys(key for table in tables for row in table.values() for key in row)
    columns = [
        Column(key, task_words(task) if (task := base_name(key)[0]) else None)
        for key in names
        if key != axis and not is_end(key)
    ]
    groups = []
    for place in dict.fromkeys(place for table in tables for place in table):
        values = {column: [Measured.of(table.get(place), column.name) for table in tables] for column in columns}
        groups.append(make_group(place, None, values, entries))
    return Table(title, columns, groups, axis_heading(axis))


def axis_of(name: str, entries: Sequence[Entry]) -> str:
    """The key of a sweep's axis, which is the first of every row."""
    rows = (row for entry in entries for row in entry.results.sweeps.get(name, []))
    return next((next(iter(row)) for row in rows), "")


def _taken_out(places: dict[Column, tuple], prefix: str) -> dict[Column, tuple]:
    """The places whose names begin so, under the names without; they are no longer among `places`."""
    found = [column for column in places if column.name.startswith(prefix)]
    return {Column(column.name.removeprefix(prefix)): places.pop(column) for column in found}


def _by_task(entries: Sequence[Entry], kind: str) -> list[Line]:
    """The lines of groups whose second part is a task: `stops`, `stops/say`."""
    return [
        Line(task_words(task or "all"), places_of(entries, group_name(kind, task, recogniser)), recogniser)
        for _, task, recogniser in _groups_of(entries, lambda task, *_: task == kind)
    ]


def _groups_of(entries: Sequence[Entry], is_wanted: Callable[..., bool]) -> list[tuple[str, str | None, str | None]]:
    """Task, topic and recogniser of every group that is wanted, in the order in which the results have them."""
    groups = dict.fromkeys(split_group(name) for entry in entries for name in entry.results.figures)
    return [group for group in groups if is_wanted(*group)]
