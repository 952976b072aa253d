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
"""The report as Markdown: every table, and some of the samples as text."""

import re
from collections.abc import Sequence

from .figure_tables import (
    count_table,
    headline_table,
    other_tables,
    spectrum_table,
    speed_table,
    stop_table,
    sweep_tables,
    task_table,
    topic_tables,
)
from .provenance import notes_of, provenance_of
from .shown_samples import samples_side_by_side
from .side_by_side import Entry, differing_settings
from .tables import Cell, Row, Table
from .wording import family_words, task_words


# What would be taken for markup, or for the end of a cell.
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&$])")
LEGEND = "In brackets 95 % confidence intervals. ↓ lower is better, ↑ higher is better."
EXACT, WRONG = "exact", "not exact"


def markdown_report(entries: Sequence[Entry], max_samples: int | None) -> str:
    """All tables in the order of the page; sounds, pictures and plots are in the page only."""
    parts = [f"# Evaluation of {' against '.join(escaped(entry.label) for entry in entries)}", _about(entries)]
    parts += [f"> {escaped(note)}" for note in notes_of(entries)]
    parts += _section("Headline figures", [headline_table(entries)], level=2)
    parts.append(_legend(entries))
    if len(entries) > 1:
        parts += _words_section("What differs besides the checkpoint", differing_settings(entries), entries)
    parts += _section("By task", [task_table(entries)], level=2)
    parts += _section("The same errors counted otherwise", [count_table(entries)], level=3)
    parts += _section("By topic", topic_tables(entries), level=2)
    parts += _section("How spoken answers ended", [stop_table(entries)], level=2)
    parts += _section("Sound against the originals", [spectrum_table(entries)], level=2)
    for sweeps in sweep_tables(entries):
        parts += _section(family_words(sweeps.family), list(sweeps.tables.values()), level=2)
    parts += _section("Speed", [speed_table(entries)], level=2)
    for table in other_tables(entries):
        parts += _section(table.title, [table], level=2)
    parts += _samples(entries, max_samples)
    parts += _provenance(entries)
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """Text that means itself in Markdown, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def markdown_table(table: Table) -> str:
    """A table of figures, the labels in front; of a group of rows only the first says what it is about."""
    headings = [table.corner, *(["checkpoint"] if table.is_compared else [])]
    num_words = len(headings)
    headings += [column.heading + (f" ({column.below})" if column.below else "") for column in table.columns]
    lines = [[escaped(heading) for heading in headings], ["-"] * num_words + ["-:"] * len(table.columns)]
    for group in table.groups:
        for index, row in enumerate(group):
            lines.append([*_labels(row, index == 0), *(written_cell(cell) for cell in row.cells)])
    return _lines(lines)


def written_cell(cell: Cell) -> str:
    """`**2.1 %** (1.5–2.8) −0.4`: bold where it is the best, the difference in italics where intervals overlap."""
    parts = [f"**{escaped(cell.text)}**" if cell.is_best else escaped(cell.text)]
    if cell.interval:
        parts.append(f"({escaped(cell.interval)})")
    if cell.difference:
        parts.append(escaped(cell.difference) if cell.is_clear else f"*{escaped(cell.difference)}*")
    return " ".join(parts)


def _labels(row: Row, is_first: bool) -> list[str]:
    label = escaped(row.label) + (f", {escaped(row.below)}" if row.below else "") if is_first else ""
    return [label, *([escaped(row.entry)] if row.entry is not None else [])]


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _section(title: str, tables: Sequence[Table], level: int) -> list[str]:
    """A heading with its tables, which have headings of their own if they are called otherwise; nothing without figures."""
    tables = [table for table in tables if table.groups]
    if not tables:
        return []
    parts = [f"{'#' * level} {escaped(title)}"]
    for table in tables:
        if table.title != title:
            parts.append(f"{'#' * (level + 1)} {escaped(table.title)}")
        parts.append(markdown_table(table))
    return parts


def _words_section(title: str, rows: dict[str, list[str]], entries: Sequence[Entry], level: int = 3) -> list[str]:
    if not rows:
        return []
    head = ["", *(escaped(entry.label) for entry in entries)]
    lines = [[escaped(name), *(escaped(value) for value in values)] for name, values in rows.items()]
    return [f"{'#' * level} {escaped(title)}", _lines([head, ["-"] * len(head), *lines])]


def _about(entries: Sequence[Entry]) -> str:
    lines = []
    for entry in entries:
        results = entry.results
        about = f"{escaped(results.checkpoint)} on {escaped(results.data)}, {escaped(results.created[:10])}"
        lines.append(f"- **{escaped(entry.label)}**: {about}" if len(entries) > 1 else f"{about}.")
    return "\n".join(lines)


def _legend(entries: Sequence[Entry]) -> str:
    if len(entries) == 1:
        return LEGEND
    return (
        f"{LEGEND} The better figure is **bold**. Differences are from {escaped(entries[0].label)}, of shares in percentage "
        "points; *in italics* where the intervals overlap, or where there is none."
    )


def _samples(entries: Sequence[Entry], max_samples: int | None) -> list[str]:
    samples, num_samples = samples_side_by_side(entries, max_samples)
    if not samples:
        return []
    head = ["task", "id", *(["checkpoint"] if len(entries) > 1 else []), "expected", "wrote", "", "heard", "faults"]
    lines = []
    for sample in samples:
        for entry, answer in sample:
            faults = "" if answer.stop == "complete" else answer.stop.replace("_", " ").replace(",", ", ")
            heard = "; ".join(f"{name}: {text}" for name, text in answer.heard.items())
            names = [task_words(answer.task), answer.id, *([entry.label] if len(entries) > 1 else [])]
            words = [answer.expected, answer.text, EXACT if answer.is_exact else WRONG, heard, faults]
            lines.append([escaped(word) for word in (*names, *words)])
    told = f"{len(samples)} of {num_samples}" if len(samples) < num_samples else "All"
    about = f"{told} that were kept: some of every task, and some that went wrong. The page has them to listen to."
    return ["## Samples", about, _lines([head, ["-"] * len(head), *lines])]


def _provenance(entries: Sequence[Entry]) -> list[str]:
    parts = ["## How this was measured"]
    commands = [entry.results.command for entry in entries if entry.results.command]
    if commands:
        fence = "`" * max(3, 1 + max(len(run) for command in commands for run in re.findall("`*", command)))
        parts.append("\n".join([f"{fence}console", *(f"$ {command}" for command in commands), fence]))
    for name, rows in provenance_of(entries).items():
        parts += _words_section(name, rows, entries)
    return parts
