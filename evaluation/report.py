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
"""What a reader gets of an evaluation: `results.md` and the page `report.html`, alone or beside other results."""

import os
from collections.abc import Iterable
from pathlib import Path

from .html_report import html_report
from .markdown import markdown_report
from .results import Results
from .side_by_side import entries_of


MARKDOWN, PAGE = "results.md", "report.html"
# A sample with its three sounds takes about 200 kB of the page.
MAX_SAMPLES, MAX_SAMPLES_IN_MARKDOWN = 60, 24


def write_reports(
    results: Results,
    folder: str | os.PathLike,
    others: Iterable[Results | str | os.PathLike] = (),
    max_samples: int | None = MAX_SAMPLES,
) -> list[Path]:
    """
    Writes the reports of an evaluation, and returns their paths.

    Args:
        results (`Results`):
            What the reports are about.
        folder (`str` or `Path`):
            Where the reports go, and where the sounds and pictures of the samples lie.
        others (`Iterable`, *optional*):
            Results to show beside these. Of those given by their `results.json`, or its folder, the page has the sounds too.
        max_samples (`int`, *optional*):
            Samples in the page, of which each holds its sounds. `None` shows all.
    """
    if max_samples is not None and max_samples < 0:
        raise ValueError(f"`max_samples` is {max_samples}: it must be at least 0, or `None` for all.")
    folder = Path(folder).expanduser()
    entries = entries_of(results, folder, others)
    in_markdown = MAX_SAMPLES_IN_MARKDOWN if max_samples is None else min(max_samples, MAX_SAMPLES_IN_MARKDOWN)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write(folder / MARKDOWN, markdown_report(entries, in_markdown)),
        _write(folder / PAGE, html_report(entries, max_samples)),
    ]


def _write(path: Path, text: str) -> Path:
    """Writes a file that is there complete or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
