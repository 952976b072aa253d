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
"""The report of an evaluation, alone or compared with others: Markdown tables, plots and playable samples."""

import html
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from urllib.parse import quote

import numpy as np

from .results import SPEECH, AnswerRecord, Groups, Results, group_name, heading
from .stop_errors import STOP_ERRORS


REPORT_FILE = "report.md"
TEXT_METRICS = ("num_rows", "cer", "wer", "exact", "cer_of_own_text", "correct", "over_written", "agreement", "kl")
SPEECH_METRICS = ("num_rows", "clean", *STOP_ERRORS, "batch_real_time_factor")
SPEED_METRICS = ("num_rows", "first_text_ms", "first_audio_ms", "real_time_factor")
SWEEP_METRICS = ("cer", "exact", "clean", "batch_real_time_factor")
RATES = ("cer", "wer", "exact", "cer_of_own_text", "correct", "over_written", "agreement", "clean", *STOP_ERRORS)


def write_report(output: str | os.PathLike, compare: Sequence[str | os.PathLike] = ()) -> Path:
    """Writes `report.md` and `plots/` from `results.json` in a folder, with columns for other results in `compare`."""
    folder = Path(output).expanduser()
    results = [Results.load(path) for path in (folder, *compare)]
    names = [PurePath(one.checkpoint).name or "model" for one in results]
    labels = [f"{name} ({index + 1})" if names.count(name) > 1 else name for index, name in enumerate(names)]
    (folder / "plots").mkdir(exist_ok=True)
    groups = list(dict.fromkeys(group for one in results for group in one.metrics))
    speech = [group for group in groups if group.partition("/")[0] == SPEECH]
    lines = {group: [{"": one.metrics.get(group, {})} for one in results] for group in groups}
    text_table = {group_name(group): lines[group] for group in groups if group not in speech}
    speech_table = {group_name(group): lines[group] for group in speech}
    points = {one: [(key, line[index][""]) for key, line in text_table.items()] for index, one in enumerate(labels)}
    about = [vars(one) | one.settings | one.machine for one in results]
    settings = dict.fromkeys(("checkpoint", "data", "created", "command", *results[0].settings, *results[0].machine))
    sections = [
        f"# Evaluation of {escape(', '.join(labels))}",
        *(f"> {escape(note)}" for note in dict.fromkeys(note for one in results for note in one.notes)),
        "Error rates follow Whisper's normaliser; 95 % intervals are in brackets. A line with an ASR model is about speech, by "
        "its transcripts, other lines about the text of the model. `docs/evaluation.md` explains all metrics.",
        f"## Text and transcripts\n\n{_metric_table(text_table, TEXT_METRICS, labels)}",
        _plot(folder, "error_rates", "", points),
        f"## Stop errors\n\n{_metric_table(speech_table, SPEECH_METRICS, labels)}" if speech else "",
        f"## Speed\n\n{_metric_table({'': [{'': one.speed} for one in results]}, SPEED_METRICS, labels)}",
        *(section for name in results[0].sweeps for section in _sweep(folder, name, results, labels)),
        "## Samples",
        *(_sample(record) for record in results[0].samples),
        "## Settings",
        _table(["", *labels], [[name, *(str(one.get(name, "")) for one in about)] for name in settings]),
    ]
    path = folder / REPORT_FILE
    path.write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")
    return path


def show(name: str, metrics: Mapping[str, float]) -> str:
    """A metric with its interval; a dash where it was not measured."""
    if name not in metrics:
        return "–"
    ends = [metrics[f"{name}_{end}"] for end in ("low", "high") if f"{name}_{end}" in metrics]
    if name in RATES:
        interval = f" ({'–'.join(f'{100 * end:.1f}' for end in ends)})" if ends else ""
        return f"{100 * metrics[name]:.1f} %{interval}"
    return f"{metrics[name]:.0f}" if name == "num_rows" or name.endswith("_ms") else f"{metrics[name]:.2f}"


def escape(text: str) -> str:
    """Text of a data set on one line, without a meaning in Markdown or HTML."""
    return re.sub(r"([|*_`\[\]\\])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[escape(cell) for cell in line] for line in (head, *rows)]
    lines.insert(1, ["-", *["-:"] * (len(head) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _metric_table(lines: Mapping[str, Sequence[Groups]], metrics: Sequence[str], labels: Sequence[str]) -> str:
    """A line for each key; for each metric of each group a cell for each of the results."""
    tables = [one for line in lines.values() for one in line]
    columns = [(group, name) for group in dict.fromkeys(group for one in tables for group in one) for name in metrics]
    columns = [(group, name) for group, name in columns if any(name in one.get(group, {}) for one in tables)]
    names = [f"{group_name(group)} {heading(name)}".strip() for group, name in columns]
    head = [f"{name}: {label}" if len(labels) > 1 else name for name in names for label in labels]
    cells = {key: [show(name, one.get(group, {})) for group, name in columns for one in lines[key]] for key in lines}
    return _table(["", *head], [[key, *line] for key, line in cells.items()])


def _sweep(folder: Path, name: str, results: Sequence[Results], labels: Sequence[str]) -> list[str]:
    """Heading, table and plot of a sweep."""
    lines: dict[str, list[Groups]] = {}
    curves: dict[str, list[tuple]] = {}
    for index, (one, label) in enumerate(zip(results, labels)):
        for point in one.sweeps.get(name, {"points": []})["points"]:
            value = "none" if point["value"] is None else str(point["value"])
            groups = {group: table for group, table in point["metrics"].items() if "/" not in group}
            lines.setdefault(value, [{} for _ in results])[index] = groups
            for group, table in groups.items():
                curves.setdefault(f"{group_name(group)}: {label}", []).append((value, table))
    plot = _plot(folder, name.replace("/", "-"), results[0].sweeps[name]["axis"], curves)
    return [f"## Sweep: {escape(name)}", _metric_table(lines, SWEEP_METRICS, labels), plot]


def _plot(folder: Path, name: str, axis: str, curves: Mapping[str, Sequence[tuple[str, Mapping]]]) -> str:
    """Plots character error rates with their intervals, a curve for each key."""
    from matplotlib.figure import Figure

    curves = {label: [point for point in curve if "cer" in point[1]] for label, curve in curves.items()}
    curves = {label: curve for label, curve in curves.items() if curve}
    if not curves:
        return ""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, curve in curves.items():
        values, tables = zip(*curve)
        rates = [[100 * table.get(end, table["cer"]) for table in tables] for end in ("cer_low", "cer", "cer_high")]
        axes.errorbar(values, rates[1], np.diff(rates, axis=0), fmt="o-" if axis else "o", capsize=3, label=label)
    axes.set(xlabel=heading(axis), ylabel="CER (%)", ylim=(0, None))
    figure.autofmt_xdate(rotation=0 if axis else 20, ha="center" if axis else "right")
    axes.legend()
    figure.savefig(folder / "plots" / f"{name}.png", dpi=120)
    return f"![Character error rates](plots/{name}.png)"


def _sample(record: AnswerRecord) -> str:
    texts = {"question": record.question_text, "reference": record.reference, "answer": record.text}
    lines = [f"### {escape(f'{record.task}: {record.id}')}"]
    lines += [f"- {name}: {escape(text)}" for name, text in (texts | record.transcripts).items() if text]
    lines += [f"- stop errors: {', '.join(record.stop_errors)}"] if record.stop_errors else []
    lines += [""] + [
        f'{name} <audio controls preload="none" src="{quote(file)}"></audio>' for name, file in record.files.items()
    ]
    return "\n".join(lines)
