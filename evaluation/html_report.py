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
"""The report as one HTML page that holds everything it shows: figures, plots, sounds, pictures, and what it takes to play."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .figure_tables import (
    SweepTables,
    count_table,
    other_tables,
    spectrum_table,
    speed_table,
    stop_table,
    sweep_tables,
    task_table,
    topic_tables,
)
from .headlines import Headline, headlines_of_all
from .provenance import each_or_once, machines_of, notes_of, provenance_of
from .shown_samples import shown_samples
from .side_by_side import Entry, differing_settings, figure_of
from .sweep_plots import SweepPlots, plots_of
from .tables import Cell, Table, cells_of
from .wording import family_words, heading_of, task_words, written


PAGE = Path(__file__).with_name("page")
TEMPLATE, STYLE, SCRIPT = "report.html.jinja", "report.css", "report.js"


@dataclass(frozen=True)
class TileRow:
    """A headline of one of the results."""

    entry: str | None
    cell: Cell


@dataclass(frozen=True)
class Tile:
    """A headline figure of all results, and what it can be at best."""

    side: str
    title: str
    rows: list[TileRow]
    floors: list[str]


@dataclass(frozen=True)
class ShownSweep:
    """The sweeps of a kind: what is varied, plots, tables."""

    title: str
    plots: SweepPlots
    tables: list[Table]


def html_report(entries: Sequence[Entry], max_samples: int | None) -> str:
    """The whole page. The same results give the same page."""
    style, script = (PAGE.joinpath(name).read_text(encoding="utf-8") for name in (STYLE, SCRIPT))
    samples, num_samples = shown_samples(entries, max_samples)
    tables = {
        "tasks": task_table(entries),
        "counts": count_table(entries),
        "stops": stop_table(entries),
        "spectrum": spectrum_table(entries),
        "speed": speed_table(entries),
    }
    topics, sweeps = topic_tables(entries), [_shown(one, entries) for one in sweep_tables(entries)]
    shown = {"tasks": tables["tasks"].groups, "topics": topics, "stops": tables["stops"].groups}
    shown |= {
        "sound": tables["spectrum"].groups,
        "sweeps": sweeps,
        "speed": tables["speed"].groups,
        "samples": samples,
    }
    page = _template().render(
        title=f"Flow-Omni evaluation: {' against '.join(entry.label for entry in entries)}",
        entries=entries,
        is_compared=len(entries) > 1,
        sections=_sections(shown),
        notes=notes_of(entries),
        machines=machines_of(entries),
        tiles=[_tile(headline, entries) for headline in headlines_of_all(entry.results for entry in entries)],
        differing=differing_settings(entries) if len(entries) > 1 else {},
        topics=topics,
        sweeps=sweeps,
        others=other_tables(entries),
        samples=samples,
        num_samples=num_samples,
        sample_tasks=_each_once(sample.task for sample in samples),
        sample_topics=_each_once(sample.topic for sample in samples if sample.topic),
        provenance=provenance_of(entries),
        glossary=_glossary([*tables.values(), *topics, *(table for sweep in sweeps for table in sweep.tables)]),
        style=style,
        style_hash=_digest(style),
        script=script,
        script_hash=_digest(script),
        **tables,
    )
    return page.rstrip() + "\n"


def _template() -> Any:
    # imported here: whoever only reads results needs no templates
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"words": task_words, "fault": heading_of}
    return environment.get_template(TEMPLATE)


def _digest(text: str) -> str:
    """By which the page's policy knows the style and the script that are its own."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _sections(shown: dict[str, Any]) -> list[tuple[str, str]]:
    names = {
        "tasks": "Tasks",
        "topics": "Topics",
        "stops": "Endings",
        "sound": "Sound",
        "sweeps": "Sweeps",
        "speed": "Speed",
        "samples": "Samples",
    }
    there = [(id, name) for id, name in names.items() if shown[id]]
    return [("headlines", "Headlines"), *there, ("how", "How this was measured")]


def _tile(headline: Headline, entries: Sequence[Entry]) -> Tile:
    cells = cells_of([headline.of(entry.results) for entry in entries], headline.name)
    kind = figure_of(headline.name).kind
    rows = [TileRow(entry.label if len(entries) > 1 else None, cell) for entry, cell in zip(entries, cells)]
    floors = []
    for entry in entries:
        words = [f"{name} {written(one.value, kind)}" for name, one in headline.floors(entry.results).items()]
        floors.append([", ".join(words)] if words else [])
    return Tile(headline.side, headline.title, rows, each_or_once(entries, floors))


def _shown(sweeps: SweepTables, entries: Sequence[Entry]) -> ShownSweep:
    return ShownSweep(family_words(sweeps.family), plots_of(sweeps, entries), list(sweeps.tables.values()))


def _glossary(tables: Sequence[Table]) -> dict[str, str]:
    """What each heading of the tables means."""
    return {column.heading: column.meaning for table in tables for column in table.columns}


def _each_once(values: Any) -> list[str]:
    return list(dict.fromkeys(values))
