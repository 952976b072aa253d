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
"""The report of an evaluation: tables, plots and samples, alone and compared."""

import re
from dataclasses import replace

import pytest
from evaluation_tools import ToneASR, perfect_answers, write_rows
from tiny import tiny_processor

from flow_omni.evaluation import evaluate as evaluation
from flow_omni.evaluation.questions import load_questions
from flow_omni.evaluation.report import escape, write_report
from flow_omni.evaluation.results import Results, ResultsError


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The results of an evaluation with two sweeps."""
    folder = tmp_path_factory.mktemp("results")
    write_rows(folder)
    questions, _ = load_questions(folder / "test.jsonl")
    settings = evaluation.Settings(sweeps=["telephone", "guidance"], sweep_limit=2, num_timed=1, num_samples=2)
    settings.generation = {"max_new_tokens": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "answer_batch", perfect_answers)
        pair, about = (model, tiny_processor(model.config)), {"checkpoint": "runs/first", "notes": ["A <b>note</b>."]}
        evaluation.evaluate(*pair, questions, {"tones": ToneASR()}, folder, settings, **about)
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return write_report(folder).read_text()


def tables_of(text: str) -> list[list[list[str]]]:
    """The cells of each table."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block] for block in blocks]


def test_tables_are_well_formed(report):
    tables = tables_of(report)
    assert len(tables) == 6  # text, stop errors, speed, two sweeps, settings
    for table in tables:
        assert len({len(line) for line in table}) == 1
        assert set("".join(table[1])) <= set("-: ")


def test_every_metric_has_its_cell(folder, tmp_path):
    """Every metric gets a value of its own, which the tables must show."""
    results = Results.load(folder)
    names = [(group, name) for group in results.metrics for name in results.metrics[group]]
    names = [(group, name) for group, name in names if not name.endswith(("_low", "_high"))]
    metrics = {group: {} for group in results.metrics}
    for number, (group, name) in enumerate(names, start=1):
        metrics[group][name] = number if name == "num_rows" else number / 1000
    replace(results, metrics=metrics, sweeps={}, speed={}, samples=[]).save(tmp_path)
    text = write_report(tmp_path).read_text()
    for group, name in names:
        value = metrics[group][name]
        shown = (f"| {value:.0f} |", f"| {value:.2f} |", f"| {100 * value:.1f} % |")
        assert any(cell in text for cell in shown), (group, name)


def test_samples_are_playable(folder, report):
    sources = re.findall(r'<audio controls preload="none" src="([^"]+)"></audio>', report)
    results = Results.load(folder)
    assert sources == [file for sample in results.samples for file in sample.files.values()]
    assert len(sources) >= 10 and all((folder / source).is_file() for source in sources)


def test_plots_are_pictures(folder, report):
    plots = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", report)
    assert plots == ["plots/error_rates.png", "plots/telephone.png", "plots/guidance.png"]
    assert all((folder / plot).read_bytes().startswith(b"\x89PNG") for plot in plots)


def test_texts_of_a_data_set_are_not_markup(report):
    assert "> A &lt;b&gt;note&lt;/b&gt;." in report
    assert escape("a | b\n*c* <script> [x](y) `d`") == r"a \| b \*c\* &lt;script&gt; \[x\](y) \`d\`"


def test_compared_results_are_further_columns(folder, tmp_path):
    results = Results.load(folder)
    worse = {"transcribe": results.metrics["transcribe"] | {"cer": 0.5}}
    replace(results, checkpoint="runs/second", metrics=results.metrics | worse).save(tmp_path)
    text = write_report(folder, [tmp_path]).read_text()
    assert text.startswith("# Evaluation of first, second\n")
    (head, _, *lines), *others = tables_of(text)
    line = dict(zip([cell.strip() for cell in head], [cell.strip() for cell in lines[0]]))
    assert (line[""], line["CER: first"], line["CER: second"]) == ("transcribe", "0.0 %", "50.0 %")
    assert [cell.strip() for cell in others[-1][0]] == ["", "first", "second"]
    three = write_report(folder, [tmp_path / "results.json", folder]).read_text()
    assert three.startswith("# Evaluation of first (1), second, first (3)\n")


def test_results_without_metrics_still_make_a_report(folder, tmp_path):
    replace(Results.load(folder), metrics={}, sweeps={}, speed={}, samples=[]).save(tmp_path)
    text = write_report(tmp_path).read_text()
    assert "Stop errors" not in text and "runs/first" in text.replace("\\", "")


def test_a_folder_without_results_is_named(folder, tmp_path):
    with pytest.raises(ResultsError, match="results.json. cannot be read as results"):
        write_report(folder, [tmp_path])
