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
"""Rows become the right questions: every task they serve, each once, a few of many if so wished, and with their topics."""

import json

import numpy as np
import pytest
from evaluation_data import ANSWERS, QUESTIONS, write_data
from tiny import tiny_processor

from flow_omni.evaluation.questions import (
    QUESTION_RATE,
    AskedRow,
    check_sounds,
    language_of,
    questions_of,
    rows_of,
    spread,
    topic_of,
)
from flow_omni.training.rows import TASKS, RowError


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


def test_rows_are_asked_in_every_task_and_written_questions_once(data):
    questions = questions_of(rows_of(data))
    numbers = {task: sum(asked.task == task for asked in questions) for task in TASKS}
    assert numbers == {
        "transcribe": 8,
        "say": 4,
        "speech_to_speech": 8,
        "speech_to_text": 8,
        "text_to_speech": 4,
        "text_to_text": 4,
    }
    by_task = {asked.task: asked for asked in questions}
    assert by_task["transcribe"].expected in QUESTIONS
    assert by_task["say"].expected in ANSWERS
    assert [asked.is_spoken for asked in by_task.values()] == [False, True, True, False, True, False]


def test_a_limit_is_of_each_task_and_spread_over_the_rows(data):
    questions = questions_of(rows_of(data), ["transcribe", "say"], limit=2)
    assert [(asked.task, asked.number) for asked in questions] == [
        ("transcribe", 0),
        ("transcribe", 4),
        ("say", 0),
        ("say", 4),
    ]
    assert spread([1, 2, 3], None) == spread([1, 2, 3], 5) == [1, 2, 3]


def test_unknown_and_missing_tasks_are_refused(data):
    rows = rows_of(data)
    with pytest.raises(ValueError, match="'sing' is unknown: choose among transcribe"):
        questions_of(rows, ["sing"])
    with pytest.raises(ValueError, match="None of the 1 rows offers say"):
        questions_of([{"id": "1", "question_text": "Hm?", "answer_text": "Hm."}], ["say"])


@pytest.mark.parametrize(
    "row_id, topic",
    [
        ("arithmetic-12", "arithmetic"),
        ("small_talk-3-v2", "small_talk"),
        ("repeat12", "repeat"),
        ("1089-134686-0000", None),
        ("some/folder/test.jsonl:12", None),
        ("hello", None),
    ],
)
def test_a_topic_is_what_stands_before_the_first_number(row_id, topic):
    assert topic_of(row_id) == topic


def test_one_topic_alone_is_none(data):
    questions = questions_of(rows_of(data))
    assert {asked.topic for asked in questions} == {"sums", "facts"}
    assert {asked.topic for asked in questions_of([asked.row for asked in questions if asked.topic == "sums"])} == {
        None
    }


def test_a_folder_is_its_test_rows(data, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"question_text": "a", "answer_text": "b"}\n')
    assert len(rows_of(tmp_path)) == len(rows_of(str(data))) == 8
    assert len(rows_of(tmp_path, "train")) == 1
    data.rename(tmp_path / "dev.jsonl")
    with pytest.raises(ValueError, match=r"no test.jsonl: name one of its files \(dev.jsonl, train.jsonl\)"):
        rows_of(tmp_path)


def test_a_saved_dataset_is_its_test_split(tmp_path):
    import datasets

    row = {"id": "1", "question_text": "a", "answer_text": "b"}
    splits = {"train": datasets.Dataset.from_list([row] * 3), "validation": datasets.Dataset.from_list([row] * 2)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "without")
    assert len(rows_of(tmp_path / "without")) == 2
    datasets.DatasetDict(splits | {"test": datasets.Dataset.from_list([row])}).save_to_disk(tmp_path / "with")
    assert len(rows_of(tmp_path / "with")) == 1


def test_missing_sounds_are_found_before_anything_is_asked(data, tmp_path):
    questions = questions_of(rows_of(data))
    assert check_sounds(questions) == questions
    (tmp_path / "answer-1.wav").unlink()
    (tmp_path / "sums-0-v1.wav").unlink()
    with pytest.raises(
        RowError, match="sums-0-v1: .*no audio file at '.*sums-0-v1.wav'.*those of sums-1-v0 "
    ) as error:
        check_sounds(questions)
    assert "--on-error skip" in str(error.value)


def test_broken_sounds_are_found_before_anything_is_asked_and_can_be_left_out(data, tmp_path):
    """A header in order says nothing of what comes after it, and one bad file must not end hours of evaluation."""
    whole = (tmp_path / "sums-0-v0.wav").read_bytes()
    (tmp_path / "sums-0-v0.wav").write_bytes(whole[:44])
    (tmp_path / "answer-2.wav").write_bytes(b"no sound")
    questions = questions_of(rows_of(data))
    with pytest.raises(
        RowError, match=r"sums-0-v0: `question_audio` cannot be heard: .* facts-2-v0 \(`answer_audio`\)"
    ):
        check_sounds(questions)
    left = check_sounds(questions, "skip")
    assert len(left) == len(questions) - 3 - 4
    assert not [one for one in left if one.id == "sums-0-v0" and one.is_heard]
    assert not [one for one in left if one.id.startswith("facts-2") and one.is_spoken]
    (tmp_path / "sums-0-v0.wav").unlink()
    with pytest.raises(RowError, match="sums-0-v0"):
        check_sounds([one for one in questions if one.id == "sums-0-v0" and one.is_heard], "skip")


@pytest.mark.parametrize(
    "sound, problem",
    [
        ({"array": "nonsense", "sampling_rate": 16000}, "no audio file at 'nonsense'"),
        ({"array": np.zeros(0, np.float32), "sampling_rate": 16000}, "empty waveform"),
        ({"array": np.full(1600, 99.0), "sampling_rate": 16000}, "largest sample is 99"),
        ({"array": np.zeros(1600), "sampling_rate": 5}, "`sampling_rate` is 5"),
        ({"path": None, "bytes": None}, "An audio item has the keys"),
        (np.zeros(10), "0.625 ms of audio"),
    ],
)
def test_sounds_that_are_no_files_are_checked_as_well(sound, problem):
    row = {"id": "r1", "question_text": "a", "question_audio": sound}
    with pytest.raises(RowError, match=f"r1: `question_audio` cannot be heard: .*{problem}"):
        check_sounds([AskedRow(row, "transcribe", 0)])


def test_recordings_are_checked_without_what_need_not_be(data, monkeypatch):
    """Nothing is fetched to be fetched again, and nothing resampled."""

    def forbidden(*arguments):
        raise AssertionError("not needed")

    monkeypatch.setattr("flow_omni.processing.audio_io.download", forbidden)
    monkeypatch.setattr("flow_omni.processing.audio_io.resample", forbidden)
    sounds = ["https://example.org/a.wav", {"path": "http://example.org/a.wav", "bytes": None}]
    sounds.append({"array": np.zeros(8000), "sampling_rate": 48000})
    rows = [{"question_text": "a", "question_audio": sound} for sound in sounds]
    questions = [AskedRow(row, "transcribe", number) for number, row in enumerate(rows)]
    assert check_sounds(questions) == questions


def test_data_of_others_are_read_under_their_names_and_with_their_numbers(data, tmp_path):
    """As recordings on the Hub often are: rows are numbered, and a recording and its text have short names."""
    import datasets

    cell = {"bytes": (tmp_path / "sums-0-v0.wav").read_bytes(), "path": None}
    rows = [{"id": number, "audio": cell, "sentence": QUESTIONS[number]} for number in range(2)]
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "theirs")
    columns = {"question_audio": "audio", "question_text": "sentence"}
    questions = check_sounds(questions_of(rows_of(tmp_path / "theirs", columns=columns), ["transcribe"]))
    assert [(asked.id, asked.expected) for asked in questions] == [("0", QUESTIONS[0]), ("1", QUESTIONS[1])]
    with pytest.raises(ValueError, match="--columns question_text="):
        questions_of(rows_of(tmp_path / "theirs"))


def test_a_damaged_sound_is_told_by_its_row(data, tmp_path):
    (tmp_path / "sums-0-v0.wav").write_bytes(b"RIFF, and no more")
    asked = next(asked for asked in questions_of(rows_of(data)) if asked.is_heard)
    with pytest.raises(RowError, match="sums-0-v0: `question_audio` cannot be heard"):
        asked.question(tiny_processor())


def test_a_change_is_heard_by_the_model_and_knows_its_question(data):
    asked = next(asked for asked in questions_of(rows_of(data)) if asked.is_heard and asked.number == 2)
    changed = asked.question(tiny_processor(), lambda waveform, rate, number: waveform[: rate // 10] * number)
    sound = changed.prompt[0]["content"][0]["audio"]
    assert sound["sampling_rate"] == QUESTION_RATE
    np.testing.assert_array_equal(sound["array"], asked.question_sound()[: QUESTION_RATE // 10] * 2)


def test_a_row_is_named_without_the_folder_of_its_file(tmp_path):
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps({"question_text": "a", "answer_text": "b"}))
    (asked,) = questions_of(rows_of(manifest))
    assert asked.id == "rows.jsonl:1"
    assert AskedRow({"question_text": "a", "answer_text": "b"}, "text_to_text", 4).id == "row 5"


@pytest.mark.parametrize(
    "told, language",
    [
        (["en-us", "zh"], "en"),
        (["cmn", "zho", "en"], "zh"),
        (["eng", "English", "zh-TW"], "en"),
        (["deu"], "de"),
        (["jpn"], "ja"),
        (["German"], "de"),
        (["xyz"], "xyz"),
        ([None], "en"),
    ],
)
def test_the_language_is_that_of_most_rows(told, language):
    rows = [{"language": one, "question_text": str(number), "answer_text": "b"} for number, one in enumerate(told)]
    assert language_of(questions_of(rows, ["text_to_text"])) == language


def test_a_recording_without_an_answer_is_transcribed_and_said(data, tmp_path):
    manifest = tmp_path / "recordings.jsonl"
    manifest.write_text(json.dumps({"id": "r1", "question_text": "hello", "question_audio": "sums-0-v0.wav"}))
    questions = {asked.task: asked for asked in questions_of(rows_of(manifest))}
    assert set(questions) == {"transcribe", "say"}
    assert questions["say"].expected == "hello"
    assert len(questions["say"].original_sound(24000)) == pytest.approx(0.3 * 24000, abs=2)
