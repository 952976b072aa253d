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
"""Rows: what each of them can teach, the conversations they become, and parts of long recordings."""

import numpy as np
import pytest
import soundfile
from sounds import file_bytes, frequency_of, noise, tone
from tiny import tiny_processor

from flow_omni.training.rows import (
    TASKS,
    RowError,
    conversation_of,
    read_part,
    tasks_of,
    word_times_of,
    words_of,
)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture
def row():
    return {
        "id": "1",
        "question_text": "how old are you",
        "question_audio": file_bytes(noise(0.4)),
        "answer_text": "two days",
        "answer_audio": file_bytes(tone(0.5)),
    }


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def test_a_whole_exchange_offers_every_task(row):
    assert tasks_of(row) == list(TASKS)


@pytest.mark.parametrize(
    ("lacking", "tasks"),
    [
        (["question_audio"], ["say", "text_to_speech", "text_to_text"]),
        (["answer_audio"], ["transcribe", "speech_to_text", "text_to_text"]),
        (["question_text"], ["say", "speech_to_speech", "speech_to_text"]),
        (["question_text", "question_audio"], ["say"]),
        (["question_audio", "answer_audio"], ["text_to_text"]),
        (["answer_text", "answer_audio", "question_audio"], []),
    ],
)
def test_a_row_offers_the_tasks_for_which_it_has_all(row, lacking, tasks):
    assert tasks_of(without(row, *lacking)) == tasks


def test_a_recording_with_its_transcript_can_be_said_as_well(row, processor):
    recording = without(row, "answer_text", "answer_audio")
    assert tasks_of(recording) == ["transcribe", "say"]
    *prompt, answer = conversation_of(recording, "say", processor)
    assert prompt == processor.make_conversation("say", text="how old are you")
    assert answer["content"][1]["audio"] == recording["question_audio"]


def test_empty_cells_of_a_table_count_as_absent(row):
    empty = row | {"answer_audio": {"bytes": None, "path": None}, "question_text": None, "answer_word_times": []}
    assert tasks_of(empty) == ["speech_to_text"]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_becomes_an_example_with_the_prompt_of_use(row, processor, task):
    *prompt, answer = conversation_of(row, task, processor)
    spec = TASKS[task]
    shown = {"audio" if spec.question == "question_audio" else "text": row[spec.question]}
    assert prompt == processor.make_conversation(spec.prompt, **shown)
    example = processor.encode_training_example([*prompt, answer])
    target = example["labels"][example["labels"] >= 0].tolist()
    assert processor.decode(target, skip_special_tokens=True) == row[spec.answer_text]
    assert ("mel_labels" in example) == (spec.answer_audio is not None)
    assert len(example["input_features"]) == (spec.question == "question_audio")


def test_history_and_system_prompt_come_before_a_question_and_not_before_a_transcript(row, processor):
    row |= {"system": "Be brief.", "history": [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "yes?"}]}
    roles = [message["role"] for message in conversation_of(row, "text_to_text", processor)]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    roles = [message["role"] for message in conversation_of(row, "transcribe", processor)]
    assert roles == ["system", "user", "assistant"]


def test_a_task_that_the_row_does_not_offer_is_refused_by_name(row, processor):
    with pytest.raises(RowError, match="needs `answer_audio`, which the row lacks: it offers transcribe"):
        conversation_of(without(row, "answer_audio"), "say", processor)
    with pytest.raises(ValueError, match="it must be one of transcribe, say"):
        conversation_of(row, "sing", processor)


@pytest.mark.parametrize("kind", ["wav", "flac", "opus", "bytes", "array"])
def test_a_part_of_a_long_recording_is_what_the_whole_has_there(tmp_path, kind):
    rate = 16000
    whole = np.concatenate([tone(1.0, frequency=300), tone(1.0, frequency=600), tone(1.0, frequency=1200)])
    source = {"bytes": file_bytes(whole), "array": {"array": whole, "sampling_rate": rate}}.get(kind)
    if source is None:
        source = str(tmp_path / f"long.{kind}")
        options = {"format": "OGG", "subtype": "OPUS"} if kind == "opus" else {}
        soundfile.write(source, whole, rate, **options)
    part = read_part(source, 1.1, 1.9)
    factor = part["sampling_rate"] / rate
    assert len(part["array"]) == pytest.approx(0.8 * rate * factor, abs=1)
    assert frequency_of(part["array"], part["sampling_rate"]) == pytest.approx(600, abs=5)
    reference = soundfile.read(source, dtype="float32")[0] if isinstance(source, str) else whole
    start = round(1.1 * part["sampling_rate"])
    tolerance = 2e-2 if kind == "opus" else 1e-4
    np.testing.assert_allclose(part["array"], reference[start : start + len(part["array"])], atol=tolerance)


def test_a_part_outside_of_its_recording_says_so():
    with pytest.raises(ValueError, match=r"from 2 s to 3 s of a recording of 0\.50 s: it must lie within"):
        read_part(file_bytes(tone(0.5)), 2.0, 3.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Well, it is 4 p.m.!", ["Well,", "it", "is", "4", "p.m.!"]),
        ("你好，世界。", ["你", "好，", "世", "界。"]),
        ("我用Python写code", ["我", "用", "Python", "写", "code"]),
        ("안녕 세상", ["안녕", "세상"]),
        ("", []),
    ],
)
def test_words_are_between_spaces_or_single_characters(text, words):
    assert words_of(text) == words


def test_word_times_pair_words_with_their_onsets(row, processor):
    row["answer_word_times"] = [0.1, 0.3]
    times = word_times_of(row, "say")
    assert times == [("two", 0.1), ("days", 0.3)]
    processor.encode_training_example(conversation_of(row, "say", processor), text_layout="timed", word_times=times)
    assert word_times_of(without(row, "answer_text", "answer_audio"), "say") is None
    with pytest.raises(RowError, match="3 times for the 2 words"):
        word_times_of(row | {"answer_word_times": [0.1, 0.2, 0.3]}, "say")
