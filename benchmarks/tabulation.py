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
"""Tables: gathered column by column, printed aligned, as Markdown, or as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stopwatch import Measure


MISSING = "-"


@dataclass
class Table:
    """`columns` maps the name of each column to its cells, by the name of the row; a column may lack rows."""

    title: str
    columns: dict[str, dict[str, object]]
    note: str = ""

    def lines(self) -> list[list[str]]:
        """The head and the rows as text, in the order in which rows first occur."""
        names = dict.fromkeys(name for cells in self.columns.values() for name in cells)
        head = ["", *self.columns]
        rows = [[name, *(str(cells.get(name, MISSING)) for cells in self.columns.values())] for name in names]
        return [head, *rows]

    def aligned(self) -> str:
        lines = self.lines()
        widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
        texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([self.title, "-" * len(self.title), *texts, *([self.note] if self.note else [])])

    def markdown(self) -> str:
        head, *rows = ["| " + " | ".join(line) + " |" for line in self.lines()]
        rule = "|" + "-|" * (len(self.columns) + 1)
        return "\n".join([f"### {self.title}", "", head, rule, *rows, *(["", self.note] if self.note else [])])

    def as_json(self) -> dict:
        """Measures with all their samples, everything else as text."""
        columns = {
            name: {row: cell.samples if isinstance(cell, Measure) else str(cell) for row, cell in cells.items()}
            for name, cells in self.columns.items()
        }
        return {"title": self.title, "note": self.note, "columns": columns}


def show(tables: Sequence[Table], markdown: Path | None = None, json_file: Path | None = None) -> None:
    """Prints tables, and writes them into the files that are asked for."""
    print("\n\n".join(table.aligned() for table in tables))
    if markdown:
        markdown.write_text("\n\n".join(table.markdown() for table in tables) + "\n")
    if json_file:
        json_file.write_text(json.dumps([table.as_json() for table in tables], indent=1) + "\n")
