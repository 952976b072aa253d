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
"""Validation of training rows: which are invalid and why, and what the others offer."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..data import RowError, audio_seconds, check_row, raw_rows, tasks_of, word_times_of


@dataclass
class ValidationReport:
    """The numbers of valid and invalid rows, the first errors, the valid rows per task, and their hours of speech."""

    num_rows: int = 0
    num_invalid: int = 0
    errors: list[RowError] = field(default_factory=list)
    tasks: Counter = field(default_factory=Counter)
    question_hours: float = 0.0
    answer_hours: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.num_rows} valid rows, {self.num_invalid} invalid", *(f"  {error}" for error in self.errors)]
        if self.num_invalid > len(self.errors):
            lines.append(f"  … and {self.num_invalid - len(self.errors)} more")
        lines.append(f"speech: {self.question_hours:.2f} h of questions, {self.answer_hours:.2f} h of answers")
        return "\n".join(lines + [f"  {task:<17}{count:>10} rows" for task, count in self.tasks.most_common()])


def validate_rows(
    source: Any,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    check_audio: bool = True,
    max_shown: int = 20,
    progress: Callable[[int], Any] | None = None,
) -> ValidationReport:
    """
    Checks every row of a source (`source`, `columns` and `split` as for [`load_rows`]), keeps the first `max_shown` errors,
    and calls `progress(1)` after each row. With `check_audio`, audio files are opened and their durations read.
    """
    report = ValidationReport()
    for where, folder, raw in raw_rows(source, columns=columns, split=split):
        try:
            if isinstance(raw, RowError):
                raise raw
            _add(check_row(raw, where, folder), where, check_audio, report)
        except RowError as error:
            report.num_invalid += 1
            report.errors += [error] * (len(report.errors) < max_shown)
        if progress is not None:
            progress(1)
    if report.num_rows == report.num_invalid == 0:
        raise ValueError(f"There are no rows in {source}.")
    return report


def _add(row: dict, where: str, check_audio: bool, report: ValidationReport) -> None:
    """Adds a valid row to the report."""
    seconds = {}
    for side in ("question", "answer"):
        seconds[side] = row.get(f"{side}_seconds", 0.0)
        if check_audio and f"{side}_audio" in row:
            try:
                seconds[side] = audio_seconds(row, side, trust_columns=False)
            except (ValueError, TypeError, OSError) as error:
                raise RowError(where, f"{side}_audio", f"`{side}_audio`: {error}") from error
    tasks = tasks_of(row)
    if "say" in tasks:
        word_times_of(row | {"id": where}, "say")
    report.num_rows += 1
    report.tasks.update(tasks)
    report.question_hours += seconds["question"] / 3600
    report.answer_hours += seconds["answer"] / 3600
