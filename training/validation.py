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
"""What is wrong with a manifest, row by row, and what is in it: counted before a training run meets it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .lengths import audio_seconds
from .manifest import raw_rows
from .row_checks import check_row
from .rows import RowError, tasks_of, word_times_of


@dataclass
class Report:
    """
    What was found in a manifest.

    Attributes:
        num_rows: rows that are right.
        problems: what is wrong with the others, the first of them in words.
        num_problems: how many others there are.
        fields: how often each field was to blame; `""` stands for the row as a whole.
        tasks: how many rows offer each task.
        question_hours, answer_hours: speech in the right rows.
    """

    num_rows: int = 0
    num_problems: int = 0
    problems: list[RowError] = field(default_factory=list)
    fields: Counter = field(default_factory=Counter)
    tasks: Counter = field(default_factory=Counter)
    question_hours: float = 0.0
    answer_hours: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.num_rows} rows, {self.num_problems} with mistakes"]
        lines += [f"  {error}" for error in self.problems]
        if self.num_problems > len(self.problems):
            lines.append(f"  … and {self.num_problems - len(self.problems)} more")
        if self.fields:
            blame = ", ".join(f"{name or 'the row'} {count}" for name, count in self.fields.most_common())
            lines.append(f"mistakes by field: {blame}")
        lines.append(f"speech: {self.question_hours:.2f} h of questions, {self.answer_hours:.2f} h of answers")
        lines += [f"  {task:<17}{count:>10} rows" for task, count in self.tasks.most_common()]
        return "\n".join(lines)


def validate(
    source: Any,
    on_error: Literal["stop", "skip"] = "stop",
    split: str | None = None,
    check_audio: bool = True,
    max_shown: int = 20,
    progress: Callable | None = None,
    columns: Mapping[str, str] | None = None,
) -> Report:
    """
    Reads every row and judges it.

    Args:
        source:
            As for [`load_rows`].
        on_error (`str`, *optional*, defaults to `"stop"`):
            Whether to raise the first mistake ([`RowError`]), or go on and count.
        check_audio (`bool`, *optional*, defaults to `True`):
            Whether to open the audio files too, and read how long they are.
        max_shown (`int`, *optional*, defaults to 20):
            How many mistakes to keep in words.
        progress (`Callable`, *optional*):
            Wraps the iterator of rows, as `tqdm` does.
        columns (`dict[str, str]`, *optional*):
            As for [`load_rows`].
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f'`on_error` is {on_error!r}: it must be "stop" or "skip".')
    report = Report()
    rows = raw_rows(source, split, columns)
    for where, folder, raw in rows if progress is None else progress(rows):
        try:
            if isinstance(raw, RowError):
                raise raw
            _judge(check_row(raw, where, folder), where, check_audio, report)
        except RowError as error:
            if on_error == "stop":
                raise
            report.num_problems += 1
            report.fields[error.field] += 1
            if len(report.problems) < max_shown:
                report.problems.append(error)
    if report.num_rows == 0 and report.num_problems == 0:
        raise ValueError(f"There are no rows in {source}: pass a manifest with at least one.")
    return report


def _judge(row: dict, where: str, check_audio: bool, report: Report) -> None:
    """Adds a right row to the report."""
    seconds = {"question": 0.0, "answer": 0.0}
    for side in seconds:
        if check_audio and f"{side}_audio" in row:
            try:
                seconds[side] = audio_seconds(row, side, trust_columns=False)
            except (ValueError, TypeError, OSError) as error:
                raise RowError(where, f"{side}_audio", f"`{side}_audio`: {error}") from error
        else:
            seconds[side] = row.get(f"{side}_seconds", 0.0)
    tasks = tasks_of(row)
    if "answer_word_times" in row and "say" in tasks:
        try:
            word_times_of(row, "say")
        except RowError as error:
            raise RowError(where, error.field, error.problem) from error
    report.num_rows += 1
    report.tasks.update(tasks)
    report.question_hours += seconds["question"] / 3600
    report.answer_hours += seconds["answer"] / 3600
