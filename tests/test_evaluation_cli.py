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
"""`flow-omni evaluate` from the door: it leaves a whole report, compares, and says in one line what is wrong with what it got."""

import json
import re
from pathlib import Path

import pytest
from cli_tools import checkpoint, error_of, in_an_empty_folder, run  # noqa: F401 (fixtures)
from evaluation_data import EarsForTones, write_data

from flow_omni.evaluation.results import Results
from flow_omni.evaluation.robustness import SWEEPS
from flow_omni.evaluation.stops import FAULTS


pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
GUIDE = Path(__file__).parents[1] / "docs" / "evaluation.md"
QUICK = ("--limit", 2, "--timed", 1, "--max-new-tokens", 12, "--batch-size", 4, "--device", "cpu")


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return write_data(tmp_path / "data").parent


def test_the_bundled_model_is_evaluated_from_the_data_alone(data, tmp_path):
    result = run("evaluate", data, *QUICK, "--recogniser", "none", "--sweep", "telephone", "--sweep-limit", 1)
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "results"
    assert {path.name for path in folder.iterdir()} == {
        "answers.jsonl",
        "report.html",
        "results.json",
        "results.md",
        "samples",
    }
    results = Results.load(folder)
    assert results.checkpoint == "tiny" and results.data == str(data)
    assert results.settings["num_questions"] == 12
    assert set(results.sweeps) == {"telephone"}
    assert results.speed["real_time_factor"] > 0
    assert "Paris." in (folder / "results.md").read_text()
    assert "<html" in (folder / "report.html").read_text()
    assert "Nobody listened" in result.stderr and "Nobody listened" in " ".join(results.notes)


def test_two_evaluations_are_compared_and_the_same_one_twice_is_the_same(checkpoint, data, tmp_path, monkeypatch):  # noqa: F811
    ears = EarsForTones()
    monkeypatch.setattr("flow_omni.evaluation.listeners.recogniser_of", lambda *arguments: ears)
    tasks = ("--tasks", "say,transcribe", "--recogniser", "ears")
    compared = ("--compare", "first", "--language", "eng")
    assert run("evaluate", checkpoint, data, "--output", "first", *QUICK, *tasks).exit_code == 0
    result = run("evaluate", checkpoint, data / "test.jsonl", "-o", "second", *QUICK, *tasks, *compared)
    assert result.exit_code == 0, result.stderr
    first, second = Results.load("first"), Results.load("second")
    assert first.figures == second.figures
    assert first.settings["language"] == second.settings["language"] == "en"
    assert set(first.figures) >= {"say", "say@ears", "transcribe", "reference@ears", "stops", "spectrum"}
    for name in ("results.md", "report.html"):
        text = (tmp_path / "second" / name).read_text()
        assert checkpoint.name in text and "Paris." in text, name


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (("nowhere.jsonl",), "There is no 'nowhere.jsonl'"),
        (("./no-model", "{data}"), "There is no folder './no-model'"),
        (("a", "b", "c"), "Got 3 names"),
        (("{data}", "--tasks", "sing"), "'sing' is unknown"),
        (("{data}", "--sweep", "wind"), "'wind' is unknown"),
        (("{data}", "--compare", "nothing"), "There is no 'nothing/results.json'"),
        (("{data}", "--output", "{data}/test.jsonl"), "is a file. Name a folder"),
        (("{data}", "--split", "dev"), "no dev.jsonl"),
        (("{data}", "--recogniser", "ctc:nowhere"), "there is no folder 'nowhere'"),
        (("{data}", "--recogniser", "own", "--recogniser", "own"), "name each once"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(data, tmp_path, arguments, complaint):
    result = run("evaluate", *(argument.replace("{data}", str(data)) for argument in arguments), "--device", "cpu")
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Note:")]
    assert len(lines) == 1 and lines[0].startswith("Error: ") and complaint in lines[0]
    assert not (tmp_path / "results").exists()


def test_other_results_are_not_written_over(data):
    assert run("evaluate", data, *QUICK, "--tasks", "text_to_text", "--recogniser", "none").exit_code == 0
    result = run("evaluate", data, "--compare", "results")
    assert "would be written over" in error_of(result)


def test_a_damaged_recording_is_named(data):
    (data / "sums-0-v0.wav").write_bytes(b"no sound")
    result = run("evaluate", data, *QUICK, "--recogniser", "none")
    assert result.exit_code == 2
    assert "sums-0-v0: `question_audio` cannot be heard" in result.stderr


def test_a_mistyped_recogniser_is_told_before_all_recordings_are_decoded(data):
    """Of ten thousand rows that is minutes later."""
    (data / "sums-0-v0.wav").write_bytes(b"no sound")
    assert "there is no folder 'nowhere'" in error_of(run("evaluate", data, "--recogniser", "ctc:nowhere"))


def test_recordings_under_other_names_are_evaluated_and_broken_ones_left_out(data):
    (data / "sums-0-v0.wav").write_bytes(b"no sound")
    lines = [json.dumps({"audio": f"sums-0-v{voice}.wav", "text": "hello"}) for voice in (0, 1)]
    (data / "test.jsonl").write_text("\n".join(lines))
    names = ("--columns", "question_audio=audio", "--columns", "question_text=text")
    options = ("--recogniser", "none", "--tasks", "transcribe", "--timed", 0, "--max-new-tokens", 4)
    assert "--columns question_text=" in error_of(run("evaluate", data))
    result = run("evaluate", data, *names, *options, "--on-error", "skip")
    assert result.exit_code == 0, result.stderr
    results = Results.load("results")
    assert results.figures["transcribe"]["num_rows"] == 1
    assert "1 question was left out" in results.notes[0]


def test_answers_are_kept_one_a_line(data, tmp_path):
    run("evaluate", data, *QUICK, "--recogniser", "none", "--tasks", "speech_to_text", "--samples", 0)
    lines = (tmp_path / "results" / "answers.jsonl").read_text().splitlines()
    assert sum("answer" in json.loads(line) for line in lines) == 2
    assert not (tmp_path / "results" / "samples").exists()


def test_the_python_of_the_guide_runs(data, tmp_path, monkeypatch):
    (program,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(data)
    left = {}
    exec(compile(program, str(GUIDE), "exec"), left)
    assert (data / "results" / "report.html").is_file()
    assert left["results"].figures["say"]["num_rows"] == 2


def test_the_guide_explains_every_figure_of_a_table():
    text = GUIDE.read_text(encoding="utf-8")
    for name in ("cer", "cer_of_own_text", "exact", "clean", *FAULTS, "sharpness", "first_sound_ms"):
        assert f"`{name}`" in text, name
    for name in SWEEPS:
        assert f"| `{name}` |" in text, name
