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
"""Rows: every form gives the same ones, every mistake is named, and mixtures come as many times as they should."""

import json

import datasets
import numpy as np
import pytest
import soundfile
import training_tools as tools
from tiny import tiny_config, tiny_processor

from flow_omni.training import data
from flow_omni.training.examples import ExampleBuilder, ExampleDataset, LengthEstimator


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(tiny_config())


@pytest.fixture
def row():
    return tools.spoken_rows(1)[0]


@pytest.fixture
def folder(tmp_path):
    """A folder with two recordings and a manifest of two rows."""
    for name in ("one.wav", "two.wav"):
        soundfile.write(tmp_path / name, tools.tone(0.3), 16000)
    rows = [
        {"question_text": "why", "question_audio": "one.wav", "answer_text": "so"},
        {"id": "second", "question_text": "where", "question_audio": "two.wav", "answer_text": "here"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


# Tasks


def test_a_row_offers_the_tasks_that_it_has_all_columns_for(row):
    assert data.tasks_of(row) == list(data.TASKS)
    cases = {
        "question_audio": ["say", "text_to_speech", "text_to_text"],
        "answer_audio": ["transcribe", "speech_to_text", "text_to_text"],
        "question_text": ["say", "speech_to_speech", "speech_to_text"],
        "answer_text": ["transcribe"],
    }
    for missing, tasks in cases.items():
        assert data.tasks_of(row | {missing: None}) == tasks, missing
    assert data.tasks_of({"question_text": "", "answer_audio": {"bytes": None, "path": None}}) == []


def test_a_recording_with_its_transcript_serves_transcribe_and_say(row, processor):
    recording = {name: row[name] for name in ("question_text", "question_audio")}
    assert data.tasks_of(recording) == ["transcribe", "say"]
    *_, answer = data.conversation_of(recording, "say", processor)
    assert answer["content"][1]["audio"] is row["question_audio"]


def test_every_task_is_encoded_with_the_prompt_of_inference(row, processor):
    for task in data.TASKS:
        *prompt, answer = data.conversation_of(row, task, processor)
        spec = data.TASKS[task]
        inputs = (
            {"audio": row["question_audio"]} if spec.question == "question_audio" else {"text": row[spec.question]}
        )
        assert prompt == processor.make_conversation(spec.prompt, **inputs)
        example = ExampleBuilder(processor).build(row, task)
        expected = processor.encode_training_example([*prompt, answer])
        assert example["input_ids"].tolist() == expected["input_ids"].tolist()
        assert ("mel_labels" in example) == (spec.answer_audio is not None)


def test_history_precedes_a_question_and_not_a_transcription(row, processor):
    row |= {"history": [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}], "system": "be brief"}
    roles = {
        task: [m["role"] for m in data.conversation_of(row, task, processor)]
        for task in ("text_to_text", "transcribe")
    }
    assert roles["text_to_text"] == ["system", "user", "assistant", "user", "assistant"]
    assert roles["transcribe"] == ["system", "user", "assistant"]
    with pytest.raises(data.RowError, match="row-0: the task 'say' needs `answer_text`"):
        data.conversation_of({"id": "row-0", "question_text": "a", "answer_audio": "b"}, "say", processor)
    with pytest.raises(ValueError, match="The task is 'sing': it must be one of transcribe"):
        data.conversation_of(row, "sing", processor)


def test_words_are_separated_by_spaces_or_single_characters(row):
    assert data.words_of("Good day, you.") == ["Good", "day,", "you."]
    assert data.words_of("你好，OK 吗？") == ["你", "好，", "OK", "吗？"]
    timed = row | {"answer_text": "so so", "answer_word_times": [0.0, 0.2]}
    assert data.word_times_of(timed, "say") == [("so", 0.0), ("so", 0.2)]
    assert data.word_times_of(row, "say") is None and data.word_times_of(timed, "text_to_text") is None
    recording = {"question_text": "so", "question_audio": "a.wav", "question_word_times": [0.1]}
    assert data.word_times_of(recording, "say") == [("so", 0.1)]
    assert data.word_times_of(recording, "transcribe") is None
    with pytest.raises(data.RowError, match="has 1 times for 2 words"):
        data.word_times_of(timed | {"answer_word_times": [0.0]}, "say")


def test_a_segment_of_a_long_recording_is_what_the_whole_has_there(tmp_path):
    waveform = tools.tone(2.0)
    soundfile.write(tmp_path / "long.wav", waveform, 16000, subtype="FLOAT")
    contents = (tmp_path / "long.wav").read_bytes()
    for source in (
        str(tmp_path / "long.wav"),
        {"bytes": contents, "path": "x"},
        {"array": waveform, "sampling_rate": 16000},
    ):
        row = {"question_audio": source, "question_start": 0.5, "question_end": 1.25}
        np.testing.assert_allclose(data.audio_of(row, "question_audio")["array"], waveform[8000:20000], atol=1e-6)
        assert data.audio_seconds(row, "question", trust_columns=False) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="The recording is 2.00 s long; its segment begins at 3 s"):
        data.audio_of({"question_audio": str(tmp_path / "long.wav"), "question_start": 3.0}, "question_audio")


# Sources


def test_every_form_gives_the_same_rows(folder):
    rows = data.load_rows(folder / "rows.jsonl")
    expected = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert expected[0]["id"] == f"{folder}/rows.jsonl:1" and expected[1]["id"] == "second"
    assert expected[0]["question_audio"] == {"bytes": None, "path": str(folder / "one.wav")}
    names = ["id", "question_text", "question_audio", "answer_text"]
    lines = [[row["id"], row["question_text"], row["question_audio"]["path"], row["answer_text"]] for row in expected]
    (folder / "table.csv").write_text("\n".join(",".join(line) for line in [names, *lines]))
    (folder / "table.tsv").write_text(
        "\ufeff" + "\n".join("\t".join(line) for line in [names, *lines]), encoding="utf-8"
    )
    rows.to_parquet(folder / "rows.parquet")
    rows.save_to_disk(folder / "saved")
    (folder / "renamed.jsonl").write_text((folder / "rows.jsonl").read_text().replace("question_text", "sentence"))
    sources = ["rows.jsonl", "table.csv", "table.tsv", "rows.parquet", "saved", "*.parquet", "renamed.jsonl"]
    for source in sources:
        columns = {"question_text": "sentence"} if source.startswith("renamed") else None
        for streaming in (False, True):
            loaded = data.load_rows(str(folder / source), columns, streaming=streaming)
            found = [{name: value for name, value in row.items() if value is not None} for row in loaded]
            ids = [row.pop("id") for row in found]
            assert found == [{k: v for k, v in row.items() if k != "id"} for row in expected], (source, streaming)
            assert ids[1] == "second"
    # values of tables are parsed
    raw = {"id": 7, "question_text": "a", "answer_text": "b c", "answer_seconds": "1.5", "answer_word_times": "[0, 1]"}
    row = data.check_row(raw, "table.csv:2")
    assert (row["id"], row["answer_seconds"], row["answer_word_times"]) == ("7", 1.5, [0.0, 1.0])


def test_written_rows_read_back_and_the_folder_can_be_moved(folder):
    rows = [{"question_text": "why", "question_audio": str(folder / "one.wav"), "answer_text": "只"}]
    assert data.write_rows(folder / "made" / "rows.jsonl", rows) == 1
    assert data.write_rows(folder / "own.jsonl", rows) == 1
    assert json.loads((folder / "own.jsonl").read_text())["question_audio"] == "one.wav"
    assert data.load_rows(folder / "made" / "rows.jsonl")[0]["answer_text"] == "只"

    def failing():
        yield rows[0]
        raise KeyError("broken")

    with pytest.raises(KeyError):
        data.write_rows(folder / "half.jsonl", failing())
    assert not list(folder.glob("*half*"))


def test_a_mistake_is_named_by_file_line_field_value_and_rule(folder):
    row = '{"question_text": "a", "answer_text": "b", '
    cases = {
        '{"question_text": 3, "answer_text": "b"}': "`question_text` is 3: it must be a string",
        '{"question_text": " ", "answer_text": "b"}': "`question_text` is ' ': it must be a string that is not blank",
        '{"question_txt": "a", "answer_text": "b"}': "the field `question_txt` is unknown: did you mean `question_text`",
        '{"sentence": "a"}': r"none of its fields \(sentence\) is known.*map other names with `columns`",
        '{"language": "en"}': "the row has `language`, which serves no task.*transcribe: question_audio",
        row + '"answer_seconds": -1}': "`answer_seconds` is -1: .* 0 or more",
        row + '"answer_word_times": [1, 0]}': ".* onsets in ascending order",
        row + '"answer_word_times": "[1"}': ".* it must be a list",
        row + '"history": [{"role": "x"}]}': ".* a list of turns, each with `role`",
        '{"question_text": "a", "question_audio": 3}': "`question_audio` is 3: it must be the path of an audio file",
        row + '"question_audio": "b", "question_start": 2, "question_end": 1}': ".* must be after",
        "[1, 2]": "the row is \\[1, 2\\]: it must be an object",
        '{"question_text": ': "the line is not JSON, one object per line",
    }
    for line, message in cases.items():
        (folder / "wrong.jsonl").write_text((folder / "rows.jsonl").read_text() + line + "\n")
        with pytest.raises(data.RowError, match=f"wrong.jsonl:3: {message}"):
            data.load_rows(folder / "wrong.jsonl")
        raw = list(data.raw_rows(folder / "wrong.jsonl"))
        assert any(isinstance(row, data.RowError) or where.endswith(":3") for where, _, row in raw)
    for name, content, message in (
        ("wrong.jsonl", b'{"question_text": "\xe9t\xe9", "answer_text": "b"}\n', "1: the line is not UTF-8"),
        ("wrong.csv", b"question_text,answer_text\na,b,c\n", "2: the line has more values than columns"),
        ("latin.csv", b"question_text,answer_text\n\xe9,b\n", "2: the line is not UTF-8"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(data.RowError, match=f"{name}:{message}"):
            data.load_rows(folder / name)


def test_sources_that_cannot_be_read_say_so(folder):
    (folder / "empty.jsonl").touch()
    (folder / "notes.txt").touch()
    (folder / "none").mkdir()
    cases = {
        "empty.jsonl": "There are no rows in",
        "notes.txt": "must end in .jsonl",
        "none": "must hold manifests, or parquet files, or a saved dataset",
        "nowhere.jsonl": "There is no .*check the path",
        "*.none": "There is no file",
    }
    for name, message in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            data.load_rows(str(folder / name))
    with pytest.raises(TypeError, match="Cannot read rows from a `int`"):
        data.load_rows(3)
    with pytest.raises(ValueError, match="maps the unknown column 'question'"):
        data.load_rows(folder / "rows.jsonl", {"question": "sentence"})
    rows = data.load_rows(folder / "rows.jsonl")
    with pytest.raises(ValueError, match="lacks the column 'sentence' of `columns`"):
        data.load_rows(rows.remove_columns("question_text"), {"question_text": "sentence"})
    recordings = datasets.Dataset.from_dict({"file": [str(folder / "one.wav")], "text": ["why"]})
    recordings = recordings.cast_column("file", datasets.Audio())
    (loaded,) = data.load_rows(recordings, {"question_audio": "file", "question_text": "text"})
    assert loaded["question_audio"]["path"] == str(folder / "one.wav"), "audio is not decoded"
    splits = datasets.DatasetDict({"train": rows, "test": rows.select([0])})
    assert (len(data.load_rows(splits)), len(data.load_rows(splits, split="test"))) == (2, 1)
    with pytest.raises(ValueError, match="has no split 'dev': choose one of train, test"):
        data.load_rows(splits, split="dev")


# Mixtures


def test_sources_come_as_many_times_per_epoch_as_they_should():
    """No row comes again before all of its source did, over epochs too."""
    sizes, times = [5, 4, 3], [1.0, 0.5, 2.5]
    drawn = [data.draws_of_epoch(sizes, times, seed=1, epoch=epoch) for epoch in range(4)]
    for epoch, draws in enumerate(drawn):
        counts = np.bincount([index for _, index in draws], minlength=12)
        assert counts[:5].tolist() == [1] * 5
        assert counts[5:9].sum() == 2
        assert abs(counts[9:].sum() - 7.5) <= 0.5 and set(counts[9:]) <= {2, 3}
        assert drawn[epoch] == data.draws_of_epoch(sizes, times, seed=1, epoch=epoch)
    assert sorted(index for draws in drawn[:2] for _, index in draws if 5 <= index < 9) == [5, 6, 7, 8]
    every = [draw for draws in drawn for draw in draws]
    assert len(set(every)) == len(every)


def test_mixed_rows_are_those_of_their_sources(folder):
    other = folder / "other.jsonl"
    other.write_text('{"question_text": "a", "answer_text": "b"}\n')
    mixed = data.load_rows({str(folder / "rows.jsonl"): 1, str(other): 2.5})
    assert (
        [row["answer_text"] for row in mixed]
        == [mixed[index]["answer_text"] for index in range(3)]
        == ["so", "here", "b"]
    )
    assert mixed.times == [1.0, 2.5]
    with pytest.raises(IndexError):
        mixed[3]
    assert len(data.load_rows([str(folder / "rows.jsonl"), str(other)])) == 3
    assert len(data.load_rows({str(folder / "rows.jsonl"): 0, str(other): 1})) == 1
    stream = data.load_rows({str(folder / "rows.jsonl"): 1, str(other): 1}, streaming=True)
    assert {row["answer_text"] for row in stream} == {"so", "here", "b"}
    for weights, message in (({"a": -1}, "The weight of the source 'a' is -1"), ({"a": 0}, "at least one source")):
        with pytest.raises(ValueError, match=message):
            data.load_rows(weights)


# Examples


def test_tasks_are_drawn_by_their_weights_among_those_offered(processor):
    builder = ExampleBuilder(processor, {"say": 3, "transcribe": 1, "text_to_text": 0}, seed=2)
    drawn = [builder.draw_task(["transcribe", "say"], index, 0) for index in range(2000)]
    assert drawn.count("say") / 2000 == pytest.approx(0.75, abs=0.03)
    assert drawn == [builder.draw_task(["transcribe", "say"], index, 0) for index in range(2000)]
    assert drawn != [builder.draw_task(["transcribe", "say"], index, 1) for index in range(2000)]
    assert builder.draw_task(["transcribe"], 0) == "transcribe"
    with pytest.raises(ValueError, match="`tasks` names 'sing': the tasks are transcribe"):
        ExampleBuilder(processor, {"sing": 1})
    for tasks, message in (({"say": -1}, "weight of the task 'say' is -1"), ({"say": 0}, "at least one task")):
        with pytest.raises(ValueError, match=message):
            ExampleBuilder(processor, tasks)


def test_lengths_are_estimated_without_encoding(row, processor):
    row |= {"history": [{"role": "user", "text": "a b"}, {"role": "assistant", "text": "c"}], "system": "be brief"}
    estimate = LengthEstimator(ExampleBuilder(processor))
    for seconds in (0.3, 1.0, 2.7):
        for text in ("so", "so " * 30):
            row |= {"question_audio": tools.sound(seconds), "answer_audio": tools.sound(seconds), "answer_text": text}
            for task in data.TASKS:
                length = len(ExampleBuilder(processor).build(row, task)["input_ids"])
                assert abs(estimate(row, task) - length) <= 0.1 * length + 4, (task, seconds)


def test_spoken_questions_are_augmented_by_seed_row_and_round_alone(row, processor):
    from flow_omni.training.augmentation import Augmentation

    builder = ExampleBuilder(processor, augmentation=Augmentation(share=1.0), seed=3)

    def features(*key):
        return builder.build(row, "speech_to_speech", *key)["input_features"][0]

    assert features(1, 0).equal(features(1, 0)) and not features(1, 0).equal(features(1, 1))
    plain = ExampleBuilder(processor).build(row, "speech_to_speech")
    assert not features(1, 0).shape[-1] == 0 and not features(1, 0).equal(plain["input_features"][0])
    assert builder.build(row, "speech_to_speech", 1, 0)["mel_labels"].equal(plain["mel_labels"])


def test_layouts_and_ctc_labels_are_as_asked(row, processor):
    timed = row | {"answer_text": "so so", "answer_word_times": [0.1, 0.2]}
    texts = {
        layout: ExampleBuilder(processor, text_layout=layout).build(timed, "say")["input_ids"].tolist()
        for layout in ("leading", "timed", "auto")
    }
    assert texts["timed"] == texts["auto"] != texts["leading"]
    untimed = ExampleBuilder(processor, text_layout="auto").build(row, "say")["input_ids"].tolist()
    assert untimed == ExampleBuilder(processor).build(row, "say")["input_ids"].tolist()
    assert "error" in ExampleBuilder(processor, text_layout="timed").build(row, "say")
    builder = ExampleBuilder(processor, ctc_labels=True)
    (labels,) = builder.build(row, "speech_to_text")["audio_labels"]
    assert processor.tokenizer.decode(labels) == row["question_text"]
    assert "audio_labels" not in builder.build(row, "say")


def test_unreadable_rows_are_skipped_up_to_a_limit(processor, tmp_path, caplog):
    rows = tools.spoken_rows(10)
    rows[3]["question_audio"] = str(tmp_path / "nowhere.wav")
    dataset = ExampleDataset(rows, ExampleBuilder(processor, {"transcribe": 1}))
    assert len(dataset.skipped) == 1 and "row-3 cannot be read: There is no audio file" in dataset.skipped[0]
    assert "row-3" in caplog.text and len(dataset.draw(0)) == 9
    # of no use for the task that needs it, and good for others
    assert len(ExampleDataset(rows, ExampleBuilder(processor, {"say": 1})).draw(0)) == 10
    rows[4]["question_audio"] = str(tmp_path / "nowhere.wav")
    with pytest.raises(ValueError, match="2 of 10 rows cannot be read, more than `max_skipped_fraction` .0.1."):
        ExampleDataset(rows, ExampleBuilder(processor, {"transcribe": 1}))


def test_rows_that_serve_no_task_or_are_too_long_are_skipped(processor):
    rows = tools.spoken_rows(6)
    lengths = [lengths["say"] for lengths in ExampleDataset(rows, ExampleBuilder(processor, {"say": 1})).lengths]
    limit = sorted(lengths)[3]
    dataset = ExampleDataset(rows, ExampleBuilder(processor, {"say": 1}), max_length=limit)
    assert len(dataset.draw(0)) == sum(length <= limit for length in lengths) < 6
    with pytest.raises(ValueError, match=r"None of 6 rows can be used.*row-0 has 26 positions, and at most 3 fit"):
        ExampleDataset(rows, ExampleBuilder(processor), max_length=3)
    texts = [{"id": "a", "question_text": "b", "answer_text": "c"}]
    with pytest.raises(ValueError, match="for the tasks say. The first: ..a offers text_to_text.*Set `tasks`"):
        ExampleDataset(texts, ExampleBuilder(processor, {"say": 1}))
