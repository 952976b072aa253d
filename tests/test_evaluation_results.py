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
"""Results of an evaluation survive the way into a file and back, and a file that is no such thing is refused."""

import json

import pytest

from flow_omni.evaluation.results import FIGURES, Results, ResultsError, Sample, group_name, split_group


@pytest.fixture
def results():
    sample = Sample("add-1", "say", "add", None, "Four.", "Four.", {"own": "for"}, True, "complete", {}, None)
    return Results(
        checkpoint="tiny",
        data="test.jsonl",
        created="2026-01-01T00:00:00",
        figures={"say@own": {"cer": 0.25, "cer_low": 0.1, "cer_high": 0.4}},
        sweeps={"noise/white": [{"snr_db": None, "transcribe_cer": 0.1}, {"snr_db": 10, "transcribe_cer": 0.2}]},
        speed={"real_time_factor": 0.5},
        samples=[sample],
    )


def test_results_are_the_same_after_writing_and_reading(results, tmp_path):
    results.save(tmp_path)
    assert Results.load(tmp_path) == results
    assert Results.load(tmp_path / "results.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"format": 0}, "format 0"),
        ({"figures": {"say": {"cer": "low"}}}, "cer is 'low'"),
        ({"figures": {"say": {"cer": float("nan")}}}, "NaN"),
        ({"sweeps": {"noise": [[10, 0.1]]}}, "rows of figures"),
        ({"samples": [{"id": "1"}]}, "lacks 'task'"),
        ({"checkpoint": 3}, "checkpoint is 3"),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_what_is_no_result_is_refused(results, tmp_path, change, complaint):
    path = results.save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ResultsError, match=complaint):
        Results.load(path)


def test_results_without_a_number_are_not_written(results, tmp_path):
    results.speed["real_time_factor"] = float("inf")
    with pytest.raises(ResultsError, match="real_time_factor is inf"):
        results.save(tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ResultsError, match="nowhere"):
        Results.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "parts", [("say", None, None), ("say", "repeat", None), ("reference", None, "ctc:a/b@c"), ("say", "add", "own")]
)
def test_groups_are_named_after_task_topic_and_recogniser(parts):
    assert split_group(group_name(*parts)) == parts


def test_every_figure_says_what_it_means():
    assert all(figure.meaning and not figure.meaning.endswith(".") for figure in FIGURES.values())
