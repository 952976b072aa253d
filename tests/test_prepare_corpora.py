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
"""Corpora in miniature copies of their published layouts, read as rows, and the validation of rows."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from sounds import frequency_of, tone

from flow_omni.training.data import audio_of, check_row, write_rows
from flow_omni.training.prepare import aishell1_rows, corpora, lccc_rows, validate_rows, wenetspeech_rows
from flow_omni.training.prepare.corpora import clean, stream_array


@pytest.fixture
def aishell1(tmp_path):
    """The layout of data_aishell.tgz with the archives of the speakers extracted."""
    root, lines = tmp_path / "data_aishell", []
    for split, speaker, count in (("train", "S0002", 3), ("train", "S0003", 1), ("test", "S0764", 1)):
        folder = root / "wav" / split / speaker
        folder.mkdir(parents=True)
        for index in range(count):
            name = f"BAC009{speaker}W{122 + index:04d}"
            soundfile.write(folder / f"{name}.wav", tone(0.2 + 0.1 * index), 16000)
            lines.append(f"{name} 而 对 楼市 成交 抑制 作用 最 大 的 限 购")
    # the corpus has recordings without a transcript, and some lines end in spaces
    soundfile.write(root / "wav" / "train" / "S0002" / "BAC009S0002W0495.wav", tone(0.2), 16000)
    (root / "transcript").mkdir()
    (root / "transcript" / "aishell_transcript_v0.8.txt").write_text(" \n".join(lines) + "\n", encoding="utf-8")
    return root


def test_aishell1_is_read_as_published(aishell1, tmp_path):
    for folder in (aishell1, aishell1.parent):
        counts = Counter()
        rows = list(aishell1_rows(folder, "train", counts))
        assert counts == {"rows": 4, "without transcript": 1}
        assert rows[1] == {
            "id": "BAC009S0002W0123",
            "question_audio": str(aishell1 / "wav/train/S0002/BAC009S0002W0123.wav"),
            "question_seconds": 0.3,
            "question_text": "而对楼市成交抑制作用最大的限购",
            "language": "zh",
            "speaker": "S0002",
        }
    assert [row["speaker"] for row in aishell1_rows(aishell1, "test")] == ["S0764"]
    (aishell1 / "wav/test/S0764/BAC009S0764W0122.wav").write_bytes(b"RIFF")
    counts = Counter()
    assert list(aishell1_rows(aishell1, "test", counts)) == [] and counts == {"unreadable": 1}
    write_rows(tmp_path / "train.jsonl", rows)
    assert validate_rows(tmp_path / "train.jsonl").tasks == {"transcribe": 4, "say": 4}


def test_missing_parts_of_aishell1_are_named(aishell1, tmp_path):
    with pytest.raises(ValueError, match="AISHELL-1 has train, dev, test"):
        list(aishell1_rows(aishell1, "valid"))
    with pytest.raises(FileNotFoundError, match=r"pass the folder that data_aishell\.tgz"):
        list(aishell1_rows(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="extract the archives of the speakers"):
        list(aishell1_rows(aishell1, "dev"))
    (aishell1 / "transcript" / "aishell_transcript_v0.8.txt").write_text("BAC009S0002W0122\n")
    with pytest.raises(ValueError, match="v0.8.txt:1: 'BAC009S0002W0122' must be the name of a recording"):
        list(aishell1_rows(aishell1))


def segment(number, begin, end, subsets, text="怎么样这些日子住得还习惯吧", confidence=1.0):
    times = {"begin_time": begin, "end_time": end}
    return {"sid": f"Y0_S{number:05d}", "confidence": confidence, "subsets": subsets, "text": text} | times


@pytest.fixture
def wenetspeech(tmp_path):
    """The layout of the corpus: long opus files, and one JSON file of all segments."""
    path = "audio/train/youtube/B00000/Y0000000000_--5llN02F84.opus"
    (tmp_path / path).parent.mkdir(parents=True)
    sound = np.concatenate([tone(1.0, frequency=frequency) for frequency in (400, 800, 1200, 1600)])
    soundfile.write(tmp_path / path, sound, 16000, format="OGG", subtype="OPUS")
    segments = [
        segment(0, 1.1, 1.9, ["L", "M"]),
        segment(1, 2.1, 2.9, ["L"]),
        segment(2, 3.0, 3.2, ["L"]),
        segment(3, 0.0, 0.9, ["W"], confidence=0.7),
        segment(4, 0.0, 4.0, ["L"]),
        segment(5, 0.0, 0.9, ["L"], text=" "),
        segment(6, 0.0, 0.9, ["L"], confidence=0.5),
    ]
    recording = {"aid": "Y0", "duration": 4.0, "md5": "0", "path": path, "source": "youtube", "segments": segments}
    missing = {"aid": "Y1", "duration": 9.0, "path": "audio/none.opus", "segments": [segment(7, 0.0, 1.0, ["L"])]}
    metadata = {"dataset": "WenetSpeech", "language": "ZH", "version": "v1.0.0", "audios": [recording, missing]}
    (tmp_path / "WenetSpeech.json").write_text(json.dumps(metadata, ensure_ascii=False, indent=1), encoding="utf-8")
    return tmp_path


def test_wenetspeech_is_read_as_published(wenetspeech):
    counts = Counter()
    rows = list(wenetspeech_rows(wenetspeech, "L", max_seconds=3.0, min_confidence=0.6, counts=counts))
    assert [row["id"][-6:] for row in rows] == ["S00000", "S00001"]
    left_out = {"too short or too long": 2, "without text": 1, "low confidence": 1, "recording missing": 1}
    assert counts == {"rows": 2} | left_out
    assert [row["id"][-6:] for row in wenetspeech_rows(wenetspeech, "W")] == ["S00003"]
    for row, frequency in zip(rows, (800, 1200)):
        part = audio_of(check_row(row, row["id"]), "question_audio")
        assert len(part["array"]) / part["sampling_rate"] == pytest.approx(0.8, abs=1e-3)
        assert frequency_of(part["array"], part["sampling_rate"]) == pytest.approx(frequency, abs=10)


def test_missing_parts_of_wenetspeech_are_named(wenetspeech, tmp_path):
    with pytest.raises(ValueError, match="WenetSpeech has L, M, S, W, DEV"):
        list(wenetspeech_rows(wenetspeech, "XL"))
    with pytest.raises(FileNotFoundError, match="pass the folder that the corpus was extracted to"):
        list(wenetspeech_rows(tmp_path / "none"))
    (wenetspeech / "WenetSpeech.json").write_text('{"audios": [{"aid": "Y", "path": "x"}]}')
    with pytest.raises(ValueError, match=r"not the metadata of WenetSpeech \(KeyError\('segments'\)"):
        list(wenetspeech_rows(wenetspeech))


DIALOGUES = [
    ["道歉 ！ ！ 再有 时间 找 你 去", "领个 搓衣板 去 吧"],
    ["我 饿 了 。", "去 相 机 家 里 吃 … …", "相 机 今 年 木 有 回 去 T . T", "好 的 。 。 。", "再 见"],
    ["嗯", "好"],
    ["哈哈 哈哈 ， 你 说 呢", "！ ！ ！"],
]


@pytest.mark.parametrize(
    "layout",
    ["LCCC-base-split/LCCC-base_train.json", "LCCC-base.json", "lccc_base_train.jsonl.gz", "lccc_base_train.jsonl"],
)
def test_lccc_is_read_in_every_form_in_which_it_is_distributed(tmp_path, layout):
    path = tmp_path / layout
    path.parent.mkdir(exist_ok=True)
    if layout.endswith(".json"):
        content = {"test": [["不", "是"]], "train": DIALOGUES} if layout == "LCCC-base.json" else DIALOGUES
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    else:
        lines = "".join(json.dumps(dialogue, ensure_ascii=False) + "\n" for dialogue in DIALOGUES).encode()
        path.write_bytes(gzip.compress(lines) if layout.endswith(".gz") else lines)
    for source in (path, tmp_path):
        counts = Counter()
        rows = list(lccc_rows(source, "train", counts))
        assert counts == {"rows": 3, "too few words": 1, "without words": 1}
    row = {"id": "lccc-train-0-0", "question_text": "道歉！再有时间找你去", "answer_text": "领个搓衣板去吧"}
    assert rows[0] == row | {"language": "zh"}
    assert rows[2]["question_text"] == "相机今年木有回去T.T"
    turns = [("user", "我饿了。"), ("assistant", "去相机家里吃…")]
    assert rows[2]["history"] == [{"role": role, "text": text} for role, text in turns]


def test_repeated_punctuation_is_removed():
    for utterance, cleaned in (
        ("真 的 吗 ？ ？ ？", "真的吗？"),
        ("不 会 吧 ！ ？ ！", "不会吧！"),
        ("等 等 。。。 我 来", "等等…我来"),
        ("…… 好", "好"),
        ("I like iPhone 6 的 颜色 !!!", "I like iPhone 6的颜色!"),
        ("（ （ 笑 ） ）", "（ 笑 ）"),
        ("看 《 三体 》 ， 好", "看 《三体 》，好"),
    ):
        assert clean(utterance).replace(" ", "") == cleaned.replace(" ", "")
    assert clean("I like iPhone 6 的 颜色 !!!") == "I like iPhone 6的颜色!"


def test_errors_of_lccc_name_the_dialogue_or_the_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="it must hold one of LCCC-base_train.json"):
        list(lccc_rows(tmp_path))
    with pytest.raises(ValueError, match="LCCC-base has train, valid, test"):
        list(lccc_rows(tmp_path, "dev"))
    (tmp_path / "LCCC-base_train.json").write_text('[["a", "b"], "c"]')
    with pytest.raises(ValueError, match="Dialogue 1 of .* is 'c': it must be a list of strings"):
        list(lccc_rows(tmp_path))
    (tmp_path / "LCCC-base_train.json").unlink()
    (tmp_path / "lccc_base_train.jsonl").write_text('["a"]\n["b"\n')
    with pytest.raises(ValueError, match="lccc_base_train.jsonl:2: not a line of JSON"):
        list(lccc_rows(tmp_path))


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_an_array_is_streamed_whatever_the_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(corpora, "CHUNK_CHARACTERS", chunk)
    items = [{"a": [1, {"b": "]},["}]}, "text, [", 12345, -1.5e3, [], None, "最后"]
    for indent in (None, 2):
        (tmp_path / "whole.json").write_text(json.dumps(items, indent=indent))
        assert list(stream_array(tmp_path / "whole.json")) == items
        content = {"name": "x" * 200, "items": items, "more": [1]}
        (tmp_path / "object.json").write_text(json.dumps(content, indent=indent))
        assert list(stream_array(tmp_path / "object.json", "items")) == items
    for content, key in (("[1, 2", None), ("{}", "a"), ("", None)):
        (tmp_path / "half.json").write_text(content)
        with pytest.raises(ValueError, match="not a complete JSON file"):
            list(stream_array(tmp_path / "half.json", key))


def test_validation_names_the_line_and_the_field_of_each_invalid_row(tmp_path):
    soundfile.write(tmp_path / "two.wav", tone(2.0), 16000)
    rows = [
        {"question_text": "Where?", "answer_text": "Here it is.", "answer_audio": "two.wav"},
        {"question_text": 3, "answer_text": "a"},
        {"question_audio": "none.wav", "question_text": "Where?"},
        {"answer_text": "one two", "answer_audio": "two.wav", "answer_word_times": [0.5]},
        {"question_audio": "two.wav", "question_text": "a", "question_start": 0.5, "question_end": 1.5},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"question_text": "a"\n')
    finished = []
    report = validate_rows(path, progress=finished.append)
    assert (report.num_rows, report.num_invalid, len(finished)) == (2, 4, 6)
    places = [(error.where.rpartition(":")[2], error.field) for error in report.errors]
    assert places == [("2", "question_text"), ("3", "question_audio"), ("4", "answer_word_times"), ("6", "")]
    assert report.tasks == {"say": 2, "text_to_speech": 1, "text_to_text": 1, "transcribe": 1}
    assert (report.question_hours, report.answer_hours) == pytest.approx((1 / 3600, 2 / 3600))
    shown = str(validate_rows(path, max_shown=1))
    assert shown.startswith("2 valid rows, 4 invalid\n") and "rows.jsonl:2: `question_text` is 3" in shown
    assert "… and 3 more" in shown
    assert validate_rows(path, check_audio=False).num_invalid == 3
    path = tmp_path / "own.csv"
    path.write_text("frage,antwort\nwo?,hier\n")
    columns = {"question_text": "frage", "answer_text": "antwort"}
    assert validate_rows(path, columns).tasks == {"text_to_text": 1}
    path.write_text("frage,antwort\n")
    with pytest.raises(ValueError, match="There are no rows in"):
        validate_rows(path, columns)
