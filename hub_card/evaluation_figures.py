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
"""The headline figures of an evaluation as figures of a model card."""

import os
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from ..evaluation.headlines import REFERENCE, SPEED, Headline, headlines_of
from ..evaluation.results import Results, group_name
from ..evaluation.side_by_side import Measured
from ..evaluation.wording import axis_words, task_words
from .card_metadata import hub_id_of


# What the Hub calls the tasks. It has no name for the others.
TASK_TYPES = {
    "transcribe": "automatic-speech-recognition",
    "say": "text-to-speech",
    "text_to_text": "text-generation",
}
OTHER_TASK_TYPE = "any-to-any"
METRIC_TYPES = {"exact": "exact_match"}
SIGNIFICANT_DIGITS = 4


def figures_for_card(results: Results | str | os.PathLike, dataset: str | None = None) -> list[dict[str, Any]]:
    """
    The headlines of an evaluation, for `write_model_card(figures=...)` or `put_figures`: each says in words what it is, who
    listened, and how sure it is. Those of several evaluations may be joined.

    Args:
        results (`Results` or `str`):
            What `flow-omni evaluate` found, or its `results.json`, or the folder of it.
        dataset (`str`, *optional*):
            What the card calls the data. Defaults to the name of its folder, or to its Hub id, never to a path.
    """
    results = results if isinstance(results, Results) else Results.load(results)
    name, split = dataset_of(results.data)
    about = {"dataset_type": dataset or name, "dataset_name": dataset or name, "dataset_split": split}
    return [
        {
            "task_type": TASK_TYPES.get(task, OTHER_TASK_TYPE),
            **{key: value for key, value in about.items() if value is not None},
            "metric_type": METRIC_TYPES.get(metric, metric),
            "metric_name": words + certainty_words(measured, num_rows),
            "metric_value": _rounded(measured.value),
        }
        for task, metric, words, measured, num_rows in [*_headlines(results), *_in_noise(results)]
    ]


def dataset_of(data: str) -> tuple[str, str | None]:
    """Name and split of a data set: `tinytalk` and `test` of `.../tinytalk/test.jsonl`; a Hub id stays as it is."""
    path = PurePath(data)
    if path.suffix == ".jsonl":
        return (path.parent.name, path.stem) if path.parent.name else (path.stem, None)
    return hub_id_of(data) or path.name or "unnamed data", None


def certainty_words(measured: Measured, num_rows: float | None) -> str:
    """Of how many rows a figure is, and its interval, where it has one."""
    words = []
    if measured.has_interval:
        words.append(f"95 % interval {_rounded(measured.low)} to {_rounded(measured.high)}")
    if num_rows is not None:
        words.append(f"{round(num_rows)} row{'' if num_rows == 1 else 's'}")
    return f" ({', '.join(words)})" if words else ""


def _rounded(value: float) -> float:
    return float(f"{float(value):.{SIGNIFICANT_DIGITS}g}")


def _headlines(results: Results) -> Iterator[tuple[str | None, str, str, Measured, float | None]]:
    """
    Task, metric, words, value and number of rows of every headline, each followed by what the recogniser makes of the
    originals.
    """
    for headline in headlines_of(results):
        num_rows = headline.table(results).get("num_rows")
        yield headline.task, headline.name, _words(headline, results), headline.of(results), num_rows
        for kind, measured in headline.floors(results).items():
            what = "the originals" if kind == "originals" else f"the originals {kind}"
            yield (
                headline.task,
                headline.name,
                f"character errors of {what}, as heard by {headline.recogniser}",
                measured,
                results.figures[group_name(REFERENCE, None, headline.recogniser)].get("num_rows"),
            )


def _words(headline: Headline, results: Results) -> str:
    words = headline.title[0].lower() + headline.title[1:]
    if headline.group is SPEED:
        # a time says nothing without the machine
        machine = [results.machine[name] for name in ("processor", "device") if results.machine.get(name)]
        threads = results.machine.get("threads")
        machine += [f"{threads} thread{'' if threads == '1' else 's'}"] if threads else []
        unit = " in milliseconds" if headline.name.endswith("_ms") else ""
        return f"{words}{unit}{', on ' + ', '.join(machine) if machine else ''}"
    return f"{task_words(headline.task)}: {words}" if headline.side == "Answers" else words


def _in_noise(results: Results) -> Iterator[tuple[str, str, str, Measured, float | None]]:
    """Errors of transcripts in noise of every kind and strength."""
    for name, rows in results.sweeps.items():
        family, _, noise = name.partition("/")
        for row in rows if family == "noise" else ():
            measured = Measured.of(row, "transcribe_cer")
            if measured is not None and row.get("snr_db") is not None:
                decibels = axis_words(row["snr_db"])
                words = f"character errors of transcripts in {noise.replace('_', ' ')} noise at {decibels} dB"
                yield "transcribe", "cer", words, measured, row.get("num_rows")
