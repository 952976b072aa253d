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
"""The figures of a card: those of an evaluation in words, also in the metadata, put into a card without touching the rest."""

import re
import shutil

import pytest
from huggingface_hub import EvalResult, ModelCard
from report_results import blank_results, made_results
from tiny import tiny_model, tiny_processor

from flow_omni.hub_card import figures_for_card, put_figures, write_model_card
from flow_omni.hub_card.evaluation_figures import dataset_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model()
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


@pytest.fixture
def results(tmp_path):
    return made_results(tmp_path / "results", machine={"processor": "Some CPU", "threads": "1"})


def test_headlines_become_figures_in_words_with_their_intervals(results):
    figures = figures_for_card(results)
    words = [figure["metric_name"] for figure in figures]
    assert words[:8] == [
        "character errors of transcripts (95 % interval 0.0147 to 0.0273, 500 rows)",
        "word errors of transcripts (95 % interval 0.0357 to 0.0567, 500 rows)",
        "speech to speech: exact answers, as written (95 % interval 0.91 to 0.95, 500 rows)",
        "speech to speech: exact answers, as heard by ctc:judge (95 % interval 0.88 to 0.92, 500 rows)",
        "character errors of speech, as heard by ctc:judge (95 % interval 0.0105 to 0.0195, 500 rows)",
        "character errors of the originals, as heard by ctc:judge (95 % interval 0.0084 to 0.0156, 480 rows)",
        "character errors of the originals through the vocoder, as heard by ctc:judge (95 % interval 0.01 to 0.018, 480 rows)",
        "spoken answers that begin, go on and end without a fault (95 % interval 0.986 to 0.998, 1000 rows)",
    ]
    assert "first sound after the end of the question in milliseconds, on Some CPU, 1 thread" in words
    assert (
        "character errors of transcripts in babble noise at 10 dB (95 % interval 0.1152 to 0.1728, 100 rows)" in words
    )
    assert figures[0] == {
        "task_type": "automatic-speech-recognition",
        "dataset_type": "tinytalk",
        "dataset_name": "tinytalk",
        "dataset_split": "test",
        "metric_type": "cer",
        "metric_name": words[0],
        "metric_value": 0.021,
    }


def test_figures_are_read_from_the_file_of_results(results, tmp_path):
    path = results.save(tmp_path / "results")
    assert figures_for_card(path) == figures_for_card(path.parent) == figures_for_card(results)
    assert {figure["dataset_name"] for figure in figures_for_card(results, dataset="Tiny talk")} == {"Tiny talk"}


def test_results_without_figures_give_none():
    assert figures_for_card(blank_results()) == []


@pytest.mark.parametrize(
    "data, name",
    [
        ("/data/me/tinytalk/test.jsonl", ("tinytalk", "test")),
        ("tinytalk/test_seen_voices.jsonl", ("tinytalk", "test_seen_voices")),
        ("rows.jsonl", ("rows", None)),
        ("/data/me/tinytalk", ("tinytalk", None)),
        ("me/recordings", ("me/recordings", None)),
        ("", ("unnamed data", None)),
    ],
)
def test_data_are_called_by_their_name_and_never_by_a_path(data, name):
    assert dataset_of(data) == name


def test_card_has_the_figures_in_its_table_and_in_its_metadata(folder, results):
    figures = figures_for_card(results)
    card = ModelCard.load(
        write_model_card(folder, "me/talker", figures=figures, is_trained=True, evaluation_commands=results.command)
    )
    values = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert values == {figure["metric_name"]: figure["metric_value"] for figure in figures}
    assert card.data.model_name == "talker" and {"cer", "wer", "exact_match"} <= set(card.data.metrics)
    (row,) = re.findall(r"^.*word errors of transcripts.*$", card.text, flags=re.MULTILINE)
    assert row.startswith("| automatic-speech-recognition | tinytalk (test) | ") and row.endswith(" | 0.0462 |")
    assert f"Measured by\n\n```console\n$ {results.command}\n```" in card.text


def test_figures_of_several_data_sets_stay_apart_in_the_metadata(folder, results):
    """The Hub's library takes figures of the same task and type of data together, under the name of the first."""
    figures = figures_for_card(results) + figures_for_card(results, dataset="other voices")
    card = ModelCard.load(write_model_card(folder, figures=figures))
    assert {one.dataset_name for one in card.data.eval_results} == {"tinytalk", "other voices"}


def test_figures_are_put_into_a_card_and_nothing_else_changes(folder, results):
    path = write_model_card(folder, "me/talker", datasets=["me/recordings"], languages="en", is_trained=True)
    without = path.read_text()
    put_figures(folder, figures_for_card(results), f"flow-omni evaluate {folder} data")
    card = ModelCard.load(path)
    assert card.data.model_name == "talker" and len(card.data.eval_results) == len(figures_for_card(results))
    assert "$ flow-omni evaluate checkpoint data" in card.text and "Nothing was measured" not in card.text
    put_figures(folder, [])
    assert path.read_text() == without
    write_model_card(folder)  # still nobody's edit


def test_edited_card_takes_figures_and_stays_its_authors(folder, results):
    path = write_model_card(folder)
    path.write_text(path.read_text().replace("## Limits", "## My notes\n\nKept.\n\n## Limits"))
    put_figures(folder, figures_for_card(results))
    text = path.read_text()
    assert "Kept." in text and text.count("## Figures") == 1 and text.index("0.021") < text.index("## My notes")
    with pytest.raises(FileExistsError):
        write_model_card(folder)


def test_card_without_a_place_for_figures_is_left_as_it_is(folder, results):
    path = write_model_card(folder)
    path.write_text(path.read_text().replace("## Figures", "## Numbers"))
    before = path.read_text()
    with pytest.raises(ValueError, match="## Figures"):
        put_figures(folder, figures_for_card(results))
    assert path.read_text() == before
    path.unlink()
    with pytest.raises(FileNotFoundError, match="write_model_card"):
        put_figures(folder, figures_for_card(results))


def test_figure_with_a_bar_in_its_name_stays_one_cell(folder):
    figure = EvalResult("t", "d", "d", "cer", 0.1, metric_name="as heard by a|b")
    text = write_model_card(folder, figures=[figure]).read_text()
    assert r"| t | d | as heard by a\|b | 0.1 |" in text


def test_data_may_be_called_as_a_folder_here_is(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tinytalk").mkdir()
    write_model_card(folder, figures=[EvalResult("t", "tinytalk", "tinytalk", "cer", 0.1)])
