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
"""Corpora: miniature copies of their published layouts, read as rows, with what is wrong in them counted."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from sounds import frequency_of, tone
from tiny import tiny_processor

from flow_omni.training.corpora import json_streams, read_aishell1, read_lccc, read_wenetspeech
from flow_omni.training.corpora.json_streams import stream_array
from flow_omni.training.corpora.lccc import clean
from flow_omni.training.examples import ExampleBuilder
from flow_omni.training.manifest import load_rows, write_rows
from flow_omni.training.row_checks import check_row
from flow_omni.training.rows import audio_of


# -- AISHELL-1 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def aishell1(tmp_path):
    """The layout of data_aishell.tgz with the archives of the speakers extracted."""
    root = tmp_path / "data_aishell"
    lines = []
    for split, speaker, count in (
        ("train", "S0002", 3),
        ("train", "S0003", 1),
        ("dev", "S0724", 1),
        ("test", "S0764", 1),
    ):
        folder = root / "wav" / split / speaker
        folder.mkdir(parents=True)
        for index in range(count):
            name = f"BAC009{speaker}W{122 + index:04d}"
            soundfile.write(folder / f"{name}.wav", tone(0.2 + 0.1 * index), 16000)
            lines.append(f"{name} 而 对 楼市 成交 抑制 作用 最 大 的 限 购")
    # the corpus has 325 recordings without a transcript, and lines end in spaces here and there
    soundfile.write(root / "wav" / "train" / "S0002" / "BAC009S0002W0495.wav", tone(0.2), 16000)
    (root / "transcript").mkdir()
    (root / "transcript" / "aishell_transcript_v0.8.txt").write_text(" \n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("from_parent", [False, True])
def test_aishell1_is_read_as_published(aishell1, from_parent):
    counts = Counter()
    rows = list(read_aishell1(aishell1.parent if from_parent else aishell1, "train", counts))
    assert counts == {"rows": 4, "without transcript": 1}
    assert rows[1] == {
        "id": "BAC009S0002W0123",
        "question_audio": str(aishell1 / "wav/train/S0002/BAC009S0002W0123.wav"),
        "question_seconds": 0.3,
        "question_text": "而对楼市成交抑制作用最大的限购",
        "language": "zh",
        "speaker": "S0002",
    }
    assert [row["speaker"] for row in read_aishell1(aishell1, "test")] == ["S0764"]


def test_recordings_of_aishell1_teach_to_transcribe_and_to_say(aishell1, tmp_path):
    write_rows(tmp_path / "out" / "train.jsonl", read_aishell1(aishell1, "train"))
    rows = load_rows(tmp_path / "out" / "train.jsonl")
    for task in ("transcribe", "say"):
        example = ExampleBuilder(tiny_processor(), {task: 1}, on_error="stop").build(rows[0], 0)
        assert example.task == task


def test_a_broken_recording_is_counted(aishell1):
    (aishell1 / "wav/dev/S0724/BAC009S0724W0122.wav").write_bytes(b"RIFF")
    counts = Counter()
    assert list(read_aishell1(aishell1, "dev", counts)) == []
    assert counts == {"unreadable": 1}


def test_what_is_missing_of_aishell1_is_named(aishell1, tmp_path):
    with pytest.raises(ValueError, match="AISHELL-1 has train, dev, test"):
        list(read_aishell1(aishell1, "valid"))
    with pytest.raises(FileNotFoundError, match=r"pass the folder into which data_aishell\.tgz"):
        list(read_aishell1(tmp_path / "nowhere"))
    (aishell1 / "wav" / "dev").rename(aishell1 / "away")
    with pytest.raises(FileNotFoundError, match="download data_aishell.tgz again"):
        list(read_aishell1(aishell1, "dev"))
    (aishell1 / "wav" / "S0724.tar.gz").touch()
    with pytest.raises(FileNotFoundError, match="extract the 1 archives in"):
        list(read_aishell1(aishell1, "dev"))
    (aishell1 / "transcript" / "aishell_transcript_v0.8.txt").write_text("BAC009S0002W0122\n")
    with pytest.raises(ValueError, match="v0.8.txt:1: 'BAC009S0002W0122' is no transcript"):
        list(read_aishell1(aishell1))


# -- WenetSpeech -------------------------------------------------------------------------------------------------------


def segment(number, begin, end, subsets, text="怎么样这些日子住得还习惯吧", confidence=1.0):
    return {
        "sid": f"Y0000000000_--5llN02F84_S{number:05d}",
        "confidence": confidence,
        "begin_time": begin,
        "end_time": end,
        "subsets": subsets,
        "text": text,
    }


@pytest.fixture
def wenetspeech(tmp_path):
    """The layout of the corpus: long opus files, and one JSON of all segments."""
    path = "audio/train/youtube/B00000/Y0000000000_--5llN02F84.opus"
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    sound = np.concatenate([tone(1.0, frequency=frequency) for frequency in (400, 800, 1200, 1600)])
    soundfile.write(file, sound, 16000, format="OGG", subtype="OPUS")
    segments = [
        segment(0, 1.1, 1.9, ["L", "M"]),
        segment(1, 2.1, 2.9, ["L"]),
        segment(2, 3.0, 3.2, ["L"]),
        segment(3, 0.0, 0.9, ["W"], confidence=0.7),
        segment(4, 0.0, 4.0, ["L"]),
        segment(5, 0.0, 0.9, ["L"], text=" "),
        segment(6, 0.0, 0.9, ["L"], confidence=0.5),
    ]
    recording = {"aid": "Y0000000000_--5llN02F84", "duration": 4.0, "md5": "0", "path": path, "source": "youtube"}
    missing = {"aid": "Y0000000001_x", "duration": 9.0, "md5": "0", "path": "audio/train/youtube/B00000/none.opus"}
    metadata = {
        "dataset": "WenetSpeech",
        "language": "ZH",
        "version": "v1.0.0",
        "audios": [
            recording | {"tags": ["others"], "segments": segments},
            missing | {"tags": [], "segments": [segment(7, 0.0, 1.0, ["L"])]},
        ],
    }
    (tmp_path / "WenetSpeech.json").write_text(json.dumps(metadata, ensure_ascii=False, indent=1), encoding="utf-8")
    return tmp_path


def test_wenetspeech_is_read_as_published(wenetspeech):
    counts = Counter()
    rows = list(read_wenetspeech(wenetspeech, "L", max_seconds=3.0, min_confidence=0.6, counts=counts))
    assert [row["id"][-6:] for row in rows] == ["S00000", "S00001"]
    left_out = ["too short", "too long", "without text", "unsure", "recording missing"]
    assert counts == {"rows": 2} | dict.fromkeys(left_out, 1)
    assert [row["id"][-6:] for row in read_wenetspeech(wenetspeech / "WenetSpeech.json", "W")] == ["S00003"]


def test_segments_of_wenetspeech_are_cut_when_they_are_needed(wenetspeech):
    frequencies = []
    for row in read_wenetspeech(wenetspeech, "L", max_seconds=1.0, min_confidence=0.6):
        part = audio_of(check_row(row, row["id"]), "question_audio")
        assert len(part["array"]) / part["sampling_rate"] == pytest.approx(0.8, abs=1e-3)
        frequencies.append(frequency_of(part["array"], part["sampling_rate"]))
    assert frequencies == pytest.approx([800, 1200], abs=10)


def test_what_is_missing_of_wenetspeech_is_named(wenetspeech, tmp_path):
    with pytest.raises(ValueError, match="WenetSpeech has L, M, S, W, DEV"):
        list(read_wenetspeech(wenetspeech, "XL"))
    with pytest.raises(FileNotFoundError, match="pass the folder into which the corpus was extracted"):
        list(read_wenetspeech(tmp_path / "none"))
    (wenetspeech / "WenetSpeech.json").write_text('{"audios": [{"aid": "Y", "path": "x"}]}')
    with pytest.raises(ValueError, match="recording 'Y' has no `segments`"):
        list(read_wenetspeech(wenetspeech))


# -- LCCC --------------------------------------------------------------------------------------------------------------

DIALOGUES = [
    ["道歉 ！ ！ 再有 时间 找 你 去", "领个 搓衣板 去 吧"],
    ["我 饿 了 。", "去 相 机 家 里 吃 … …", "相 机 今 年 木 有 回 去 T . T", "好 的 。 。 。", "再 见"],
    ["嗯", "好"],
    ["哈哈 哈哈 ， 你 说 呢", "！ ！ ！"],
]
LAYOUTS = [
    "LCCC-base-split/LCCC-base_train.json",
    "LCCC-base.json",
    "lccc_base_train.jsonl.gz",
    "lccc_base_train.jsonl",
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("by_file", [False, True])
def test_lccc_is_read_in_every_form_in_which_it_is_handed_out(tmp_path, layout, by_file):
    path = tmp_path / layout
    path.parent.mkdir(exist_ok=True)
    if layout.endswith(".json"):
        content = {"test": [["不", "是"]], "train": DIALOGUES} if layout == "LCCC-base.json" else DIALOGUES
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    else:
        lines = "".join(json.dumps(dialogue, ensure_ascii=False) + "\n" for dialogue in DIALOGUES).encode()
        path.write_bytes(gzip.compress(lines) if layout.endswith(".gz") else lines)
    counts = Counter()
    rows = list(read_lccc(path if by_file else tmp_path, "train", counts=counts))
    assert counts == {"rows": 3, "too few words": 1, "nothing said": 1}
    assert rows[0] == {
        "id": "lccc-train-0-0",
        "question_text": "道歉！再有时间找你去",
        "answer_text": "领个搓衣板去吧",
        "language": "zh",
    }
    assert rows[2]["question_text"] == "相机今年木有回去T.T"
    assert rows[2]["history"] == [
        {"role": "user", "text": "我饿了。"},
        {"role": "assistant", "text": "去相机家里吃…"},
    ]
    assert all("history" not in row for row in read_lccc(tmp_path, with_history=False))


@pytest.mark.parametrize(
    ("utterance", "cleaned"),
    [
        ("真 的 吗 ？ ？ ？", "真的吗？"),
        ("不 会 吧 ！ ？ ！", "不会吧！"),
        ("等 等 。。。 我 来", "等等…我来"),
        ("…… 好", "好"),
        ("I like iPhone 6 的 颜色 !!!", "I like iPhone 6的颜色!"),
        ("（ （ 笑 ） ）", "（ 笑 ）"),
        ("看 《 三体 》 ， 好", "看 《三体 》，好"),
    ],
)
def test_repeated_punctuation_is_removed(utterance, cleaned):
    assert clean(utterance).replace(" ", "") == cleaned.replace(" ", "")


def test_spaces_stay_between_words_of_latin_letters():
    assert clean("I like iPhone 6 的 颜色 !!!") == "I like iPhone 6的颜色!"


@pytest.mark.parametrize(("min_words", "num_rows"), [(0, 4), (5, 3), (11, 1), (100, 0)])
def test_pairs_of_few_words_are_dropped(tmp_path, min_words, num_rows):
    (tmp_path / "LCCC-base_train.json").write_text(json.dumps(DIALOGUES))
    assert len(list(read_lccc(tmp_path, min_words=min_words))) == num_rows


def test_what_is_wrong_with_lccc_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="it must hold one of LCCC-base_train.json"):
        list(read_lccc(tmp_path))
    with pytest.raises(ValueError, match="LCCC-base has train, valid, test"):
        list(read_lccc(tmp_path, "dev"))
    (tmp_path / "LCCC-base_train.json").write_text('[["a", "b"], "c"]')
    with pytest.raises(ValueError, match="Dialogue 1 of .* is 'c': it must be a list of what is said"):
        list(read_lccc(tmp_path))
    (tmp_path / "LCCC-base_train.json").unlink()
    (tmp_path / "lccc_base_train.jsonl").write_text('["a"]\n["b"\n')
    with pytest.raises(ValueError, match="lccc_base_train.jsonl:2: the line is no JSON"):
        list(read_lccc(tmp_path))


# -- large JSON files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_streamed_whatever_the_chunks(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(json_streams, "CHUNK_CHARACTERS", chunk)
    items = [{"a": [1, {"b": "]},["}]}, "text, [", 12345, -1.5e3, [], None, "最后"]
    (tmp_path / "whole.json").write_text(json.dumps(items, indent=indent))
    assert list(stream_array(tmp_path / "whole.json")) == items
    (tmp_path / "object.json").write_text(json.dumps({"name": "x" * 200, "items": items, "more": [1]}, indent=indent))
    assert list(stream_array(tmp_path / "object.json", "items")) == items


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [("[1, 2", None, "in the middle"), ("{}", "a", "no such JSON"), ("", None, "an array")],
)
def test_half_a_file_is_noticed(tmp_path, content, key, message):
    (tmp_path / "half.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(stream_array(tmp_path / "half.json", key))
