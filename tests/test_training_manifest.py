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
"""Manifests: every form gives the same rows, and every mistake is named by file, line and field."""

import csv
import gzip
import json
import os

import pytest
import soundfile
from sounds import file_bytes, tone

from flow_omni.training import manifest
from flow_omni.training.manifest import load_rows, write_rows
from flow_omni.training.rows import RowError, has
from flow_omni.training.validation import validate


datasets = pytest.importorskip("datasets")

ROWS = [
    {"id": "a", "question_text": "Where?", "answer_text": "Here.", "answer_audio": "sounds/here.wav"},
    {"question_audio": "sounds/where.wav", "question_text": "Where?", "question_end": 0.4},
    {
        "question_text": "And now?",
        "answer_text": "Still here.",
        "answer_audio": "sounds/here.wav",
        "answer_word_times": [0.0, 0.25],
        "history": [{"role": "user", "text": "Where?"}, {"role": "assistant", "text": "Here."}],
    },
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sounds").mkdir()
    soundfile.write(tmp_path / "sounds" / "here.wav", tone(0.5), 16000)
    soundfile.write(tmp_path / "sounds" / "where.wav", tone(0.7), 16000)
    return tmp_path


def write_jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path, delimiter=","):
    names = list({name: None for row in ROWS for name in row})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, delimiter=delimiter)
        writer.writeheader()
        for row in ROWS:
            writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    return path


def essence(rows):
    """The rows without what differs by form: ids, and where audio is embedded."""
    return [
        {
            name: value
            for name, value in row.items()
            if name not in ("id", "question_audio", "answer_audio") and has(row, name)
        }
        for row in rows
    ]


def as_source(folder, form):
    if form == "jsonl":
        return write_jsonl(folder / "rows.jsonl")
    if form == "jsonl.gz":
        path = write_jsonl(folder / "rows.jsonl")
        (folder / "rows.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        return folder / "rows.jsonl.gz"
    if form in ("csv", "tsv"):
        return write_csv(folder / f"rows.{form}", "," if form == "csv" else "\t")
    if form == "csv with byte order mark":
        path = write_csv(folder / "rows.csv")
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        return path
    rows = load_rows(write_jsonl(folder / "rows.jsonl"))
    if form == "parquet folder":
        (folder / "shards").mkdir()
        for index in range(2):
            rows.shard(2, index).to_parquet(folder / "shards" / f"{index}.parquet")
        return folder / "shards"
    if form == "parquet with Audio":
        embedded = rows.map(lambda row: {"answer_audio": {"bytes": file_bytes(tone(0.5)), "path": "here.wav"}})
        embedded = embedded.cast_column("answer_audio", datasets.Audio())
        embedded.to_parquet(folder / "rows.parquet")
        return folder / "*.parquet"
    if form == "saved":
        datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(folder / "saved")
        return folder / "saved"
    return rows


FORMS = [
    "jsonl",
    "jsonl.gz",
    "csv",
    "tsv",
    "csv with byte order mark",
    "parquet folder",
    "parquet with Audio",
    "saved",
    "loaded",
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(folder, form, streaming):
    rows = load_rows(as_source(folder, form), streaming=streaming)
    assert isinstance(rows, datasets.IterableDataset if streaming else datasets.Dataset)
    assert essence(rows) == essence(ROWS)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_manifest_is_the_same_in_memory_and_on_disk_and_never_stale(folder, monkeypatch, in_memory):
    if not in_memory:
        monkeypatch.setattr(manifest, "MAX_BYTES_IN_MEMORY", 0)
    path = write_jsonl(folder / "rows.jsonl")
    assert essence(load_rows(path)) == essence(ROWS)
    changed = [ROWS[0] | {"answer_text": "Gone away."}]
    assert essence(load_rows(write_jsonl(path, changed))) == essence(changed)


def test_paths_are_relative_to_the_manifest_and_rows_are_named_by_their_line(folder):
    rows = load_rows(write_jsonl(folder / "rows.jsonl"))
    assert rows[0]["answer_audio"]["path"] == str(folder / "sounds" / "here.wav")
    assert [row["id"] for row in rows] == ["a", f"{folder}/rows.jsonl:2", f"{folder}/rows.jsonl:3"]


def test_a_split_is_chosen_by_name(folder):
    source = as_source(folder, "saved")
    assert len(load_rows(source)) == 3
    assert len(load_rows(source, split="test")) == 1
    with pytest.raises(ValueError, match="has no split 'dev': choose one of train, test"):
        load_rows(source, split="dev")


@pytest.mark.parametrize("form", ["jsonl", "loaded"])
def test_columns_of_other_names_are_renamed(folder, form):
    theirs = [{"path": "sounds/where.wav", "sentence": "Where?", "age": 3}]
    source = write_jsonl(folder / "rows.jsonl", theirs)
    if form == "loaded":
        source = datasets.Dataset.from_list(theirs)
    rows = load_rows(source, columns={"question_audio": "path", "question_text": "sentence"})
    assert rows[0]["question_text"] == "Where?"
    assert has(rows[0], "question_audio")


@pytest.mark.parametrize("form", ["jsonl", "csv", "loaded"])
def test_a_column_that_is_to_be_renamed_and_is_missing_is_named(folder, form):
    """Of manifests each row was found to have nothing that training reads, and none was left."""
    theirs = [{"path": "sounds/where.wav", "sentence": "Where?"}]
    source = folder / f"rows.{form}"
    if form == "jsonl":
        write_jsonl(source, theirs)
    elif form == "csv":
        source.write_text("path,sentence\nsounds/where.wav,Where?\n")
    else:
        source = datasets.Dataset.from_list(theirs)
    columns = {"question_audio": "file", "question_text": "sentence"}
    message = "lacks the column 'file' of `columns`, which is to be `question_audio`: it has path, sentence"
    for read in (load_rows, validate):
        with pytest.raises(ValueError, match=message):
            read(source, columns=columns)
    with pytest.raises(ValueError, match="`columns` names 'question', and training reads id, "):
        load_rows(source, columns={"question": "sentence"})
    if form != "loaded":
        assert validate(source, columns=columns | {"question_audio": "path"}).tasks["transcribe"] == 1


def test_of_several_manifests_some_may_have_our_names_already(folder):
    ours = write_jsonl(folder / "ours.jsonl", [{"question_text": "a", "answer_text": "b"}])
    theirs = write_jsonl(folder / "theirs.jsonl", [{"sentence": "c", "answer_text": "d"}])
    rows = load_rows([ours, theirs], columns={"question_text": "sentence"})
    assert rows["question_text"] == ["a", "c"]


def test_written_rows_read_back_and_the_folder_can_move(folder):
    path = folder / "out" / "rows.jsonl"
    sound = folder / "out" / "a.wav"
    assert write_rows(path, iter([ROWS[0] | {"answer_audio": str(sound)}])) == 1
    assert json.loads(path.read_text())["answer_audio"] == "a.wav"
    os.rename(folder / "out", folder / "moved")
    assert load_rows(folder / "moved" / "rows.jsonl")[0]["answer_audio"]["path"] == str(folder / "moved" / "a.wav")


def test_rows_that_fail_half_way_leave_no_manifest(folder):
    def rows():
        yield ROWS[0]
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_rows(folder / "new" / "rows.jsonl", rows())
    assert list((folder / "new").iterdir()) == []


GOOD = ROWS[0]
MISTAKES = {
    "no JSON": ('{"question_text": "a"', "", r"the line is no JSON \(.* at column \d+\)"),
    "no object": ("[1, 2]", "", r"the row is \[1, 2\]: it must be an object of fields"),
    "typo": (GOOD | {"anser_text": "x"}, "anser_text", "`anser_text` is unknown: did you mean `answer_text`"),
    "foreign": ({"sentence": "x", "wave": "y"}, "sentence", r"none of its fields \(sentence, wave\) is one"),
    "number for text": (GOOD | {"answer_text": 3}, "answer_text", "`answer_text` is 3: it must be a string"),
    "spaces": (GOOD | {"answer_text": "  "}, "answer_text", "must hold more than spaces"),
    "audio": (GOOD | {"answer_audio": 3}, "answer_audio", "`answer_audio` is 3: it must be the path"),
    "seconds": (GOOD | {"answer_seconds": "soon"}, "answer_seconds", "is 'soon': it must be a number of seconds"),
    "negative": (GOOD | {"question_start": -1}, "question_start", "is -1: it must be a number of seconds, 0 or more"),
    "interval": (GOOD | {"question_start": 2, "question_end": 1}, "question_end", "ends after it begins"),
    "times": (GOOD | {"answer_word_times": [0.2, 0.1]}, "answer_word_times", "falls from 0.2 to 0.1"),
    "history": (GOOD | {"history": [{"role": "nurse", "text": "a"}]}, "history", "each must have a `role`, user or"),
    "nothing to learn": (
        {"question_text": "a", "speaker": "b"},
        "",
        "has `question_text`, `speaker`, from which nothing",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_by_file_line_field_value_and_rule(folder, mistake):
    row, field, message = MISTAKES[mistake]
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n")
    for read in (validate, load_rows):
        with pytest.raises(RowError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}:3: ")
        assert caught.value.field == field
    assert len(load_rows(path, on_error="skip")) == 1


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_line_that_is_no_utf8_is_named_with_its_byte(folder, form):
    """One such byte ended the reading of everything, without a word about where it stands."""
    head, line = b"question_text,answer_text\n", b"%s,there\n"
    if form == "jsonl":
        head, line = b"", b'{"question_text": "%s", "answer_text": "there"}\n'
    texts = [b"where", "schön".encode("latin-1"), "schön".encode()]
    path = folder / f"rows.{form}"
    path.write_bytes(b"\xef\xbb\xbf" + head + b"".join(line % text for text in texts))
    number = 2 if form == "jsonl" else 3
    for read in (validate, load_rows):
        with pytest.raises(RowError, match=f"rows.{form}:{number}: the line has the byte 0xf6 behind .*sch") as caught:
            read(path)
        assert "save the file as UTF-8" in str(caught.value)
    rows = load_rows(path, on_error="skip")
    assert [row["question_text"] for row in rows] == ["where", "schön"]


def test_a_header_that_is_no_utf8_is_named(folder):
    path = folder / "rows.csv"
    path.write_bytes("größe,question_text,answer_text\n3,a,b\n".encode("latin-1"))
    with pytest.raises(RowError, match="rows.csv:1: the header has the byte 0xf6"):
        load_rows(path)


def test_a_csv_line_with_too_many_values_is_named(folder):
    path = folder / "rows.csv"
    path.write_text("question_text,answer_text\nWhere?,Here, or there\n")
    with pytest.raises(RowError, match=r"rows.csv:2: the line has 1 values more than there are columns: quote"):
        load_rows(path)


def test_a_report_counts_what_is_right_and_what_is_wrong(folder):
    (folder / "sounds" / "noise.wav").write_bytes(b"no sound at all")
    wrong = [
        GOOD | {"answer_audio": "sounds/none.wav"},
        GOOD | {"answer_audio": "sounds/noise.wav"},
        GOOD | {"answer_word_times": [0.1, 0.2, 0.3]},
        {"question_audio": "sounds/where.wav", "question_text": "a", "question_end": 9},
        GOOD | {"answer_text": 3},
    ]
    path = write_jsonl(folder / "rows.jsonl", [*ROWS, *wrong])
    report = validate(path, on_error="skip", max_shown=4)
    assert (report.num_rows, report.num_problems, len(report.problems)) == (3, 5, 4)
    assert report.fields == {"answer_audio": 2, "answer_word_times": 1, "question_audio": 1, "answer_text": 1}
    assert report.tasks == {"say": 3, "text_to_speech": 2, "text_to_text": 2, "transcribe": 1}
    assert report.answer_hours == pytest.approx(1.0 / 3600)
    assert report.question_hours == pytest.approx(0.4 / 3600)
    lines = str(report).splitlines()
    assert lines[0] == "3 rows, 5 with mistakes"
    assert f"{path}:4: `answer_audio`: There is no audio file at" in lines[1]
    assert lines[5] == "  … and 1 more"
    unopened = validate(path, on_error="skip", check_audio=False)
    assert unopened.fields == {"answer_word_times": 1, "answer_text": 1}


def test_datasets_are_validated_by_row(folder):
    rows = datasets.Dataset.from_list(
        [{"question_text": "a", "answer_text": "b"}, {"question_text": "a", "answer_text": " "}]
    )
    with pytest.raises(RowError, match="row 2 of the dataset: `answer_text` is ' '"):
        validate(rows)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("none.jsonl", FileNotFoundError, "There is no .*none.jsonl"),
        ("*.parquet", FileNotFoundError, "No file matches"),
        ("notes.txt", ValueError, "is no manifest: it must end in .jsonl"),
        ("empty", ValueError, "holds neither manifests nor parquet files nor a saved dataset"),
        ("empty.jsonl", ValueError, "There are no rows in"),
    ],
)
def test_sources_that_are_none_say_so(folder, source, error, message):
    (folder / "empty").mkdir()
    (folder / "empty.jsonl").touch()
    (folder / "notes.txt").touch()
    for read in (load_rows, validate):
        with pytest.raises(error, match=message):
            read(str(folder / source))


@pytest.mark.parametrize(
    "name", ["test.jsonl.x", "rows.csv.bak", "data/tinytalk/test", "./nothing", "shard.parquet.gz"]
)
def test_what_looks_like_a_file_is_not_asked_of_the_hub(monkeypatch, name):
    """Without internet, a mistyped path took half a minute to be told."""
    monkeypatch.setattr(manifest, "_from_hub", lambda *arguments: pytest.fail("The Hub was asked."))
    with pytest.raises(FileNotFoundError, match="There is no '.*': check the path of the manifest"):
        load_rows(name)


def test_an_unknown_dataset_of_the_hub_says_where_was_looked():
    with pytest.raises(ValueError, match="there is neither a file or folder of this name here nor"):
        load_rows("nobody/nothing")


def test_other_things_are_no_rows():
    with pytest.raises(TypeError, match="Rows cannot be read from a `int`"):
        load_rows(3)
