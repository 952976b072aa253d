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
"""Tables of figures: the better one marked in the right direction, what is behind a label, how a figure is written."""

import pytest
from report_results import blank_results, made_results

from flow_omni.evaluation.figure_tables import task_table, topic_tables
from flow_omni.evaluation.headlines import headlines_of
from flow_omni.evaluation.results import FIGURES
from flow_omni.evaluation.side_by_side import Measured, best_of, differing_settings, entries_of, labels_of
from flow_omni.evaluation.tables import Column, cells_of
from flow_omni.evaluation.wording import HEADINGS, written, written_difference


@pytest.mark.parametrize(
    "name, values, best",
    [
        ("cer", (0.1, 0.2), [True, False]),
        ("exact", (0.1, 0.2), [False, True]),
        ("real_time_factor", (0.3, 0.2, 0.2), [False, True, True]),
        ("cer", (0.1, 0.1), [False, False]),
        ("cer", (None, 0.1), [False, False]),
        ("duration_ratio", (0.9, 1.1), [False, False]),
    ],
)
def test_better_figure_is_marked_in_the_right_direction(name, values, best):
    measured = [None if value is None else Measured(value) for value in values]
    assert best_of(measured, FIGURES[name].better) == best
    assert [cell.is_best for cell in cells_of(measured, name)] == best


def test_differences_are_clear_only_where_intervals_are_apart():
    first = Measured(0.10, 0.08, 0.12)
    cells = cells_of([first, Measured(0.13, 0.11, 0.15), Measured(0.2, 0.17, 0.24), Measured(0.2)], "cer")
    assert [cell.difference for cell in cells] == [None, "+3.0", "+10.0", "+10.0"]
    assert [cell.is_clear for cell in cells] == [False, False, True, False]
    assert not any(cell.is_clearly_best for cell in cells)
    cells = cells_of([first, Measured(0.2, 0.17, 0.24)], "cer")
    assert [cell.is_clearly_best for cell in cells] == [True, False]


def test_a_point_is_no_interval():
    """So were written figures of one row, and of rows without any error; nothing is clear of them."""
    cells = cells_of([Measured(0.958, 0.958, 0.958), Measured(0.0, 0.0, 0.0)], "cer")
    assert [cell.interval for cell in cells] == [None, None]
    assert [cell.is_best for cell in cells] == [False, True]
    assert not any(cell.is_clear or cell.is_clearly_best for cell in cells)


def test_batch_and_number_of_samples_are_no_difference():
    one, other = (blank_results(settings={"batch_size": size, "num_samples": size}) for size in (1, 2))
    assert differing_settings(entries_of(one, None, [other])) == {}


@pytest.mark.parametrize(
    "checkpoints, labels",
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["runs/a/last", "runs/b/last"], ["a/last", "b/last"]),
        (["me/a", "a"], ["me/a", "a"]),
        (["a", "a"], ["a (1)", "a (2)"]),
    ],
)
def test_results_are_called_by_as_much_as_tells_them_apart(checkpoints, labels):
    assert labels_of([blank_results(checkpoint=name) for name in checkpoints]) == labels


def test_same_checkpoint_is_told_by_its_data():
    results = [blank_results(data=f"sets/{name}/test.jsonl") for name in ("clean", "noisy")]
    assert labels_of(results) == ["tiny on clean/test.jsonl", "tiny on noisy/test.jsonl"]


def test_headlines_are_what_a_checkpoint_is_judged_by(tmp_path):
    headlines = headlines_of(made_results(tmp_path))
    assert [(one.group, one.name) for one in headlines] == [
        ("transcribe", "cer"),
        ("transcribe", "wer"),
        ("speech_to_speech", "exact"),
        ("speech_to_speech@ctc:judge", "exact"),
        ("say@ctc:judge", "cer"),
        ("stops", "clean"),
        (None, "first_sound_ms"),
        (None, "real_time_factor"),
    ]
    floors = headlines[4].floors(made_results(tmp_path))
    assert [round(one.value, 4) for one in floors.values()] == [0.012, 0.014]


def test_originals_stand_below_the_tasks_in_the_same_columns(tmp_path):
    table = task_table(entries_of(made_results(tmp_path), tmp_path))
    rows = {(group[0].label, group[0].below): group[0].cells for group in table.groups}
    cer = table.columns.index(Column("cer"))
    assert rows["originals", "as heard by sphinx"][cer].text == "4.2 %"
    assert rows["originals through the vocoder", "as heard by sphinx"][cer].text == "4.4 %"


def test_topics_have_a_line_each(tmp_path):
    tables = topic_tables(entries_of(made_results(tmp_path), tmp_path))
    assert [group[0].label for group in tables[0].groups] == [
        "arithmetic",
        "facts",
        "spelling",
        "small talk",
        "repeat",
    ]
    assert [column.name for column in tables[1].columns] == ["num_rows", *["cer", "exact"] * 3]


@pytest.mark.parametrize(
    "value, kind, words",
    [
        (0.0312, "share", "3.1 %"),
        (1.0, "share", "100.0 %"),
        (1234, "count", "1\u202f234"),
        (61.7, "milliseconds", "62 ms"),
        (0.174, "number", "0.17"),
        (-0.001, "number", "0.00"),
        (8.914, "decibel", "8.91 dB"),
    ],
)
def test_figures_are_written_with_their_unit(value, kind, words):
    assert written(value, kind) == words


def test_differences_have_their_sign():
    assert written_difference(0.05, 0.03, "share") == "+2.0"
    assert written_difference(50, 62, "milliseconds") == "−12 ms"
    assert written_difference(0.0300001, 0.03, "share") == "±0.0"


def test_every_heading_is_of_a_figure():
    assert set(HEADINGS) <= set(FIGURES)
