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
"""The commands `prepare …`: what they write, what they say, and how they end."""

import json

import numpy as np
import pytest
import soundfile
from sounds import tone
from typer.testing import CliRunner

from flow_omni.training import synthesis
from flow_omni.training.espeak import find_library, find_program
from flow_omni.training.manifest import load_rows
from flow_omni.training.prepare_command import prepare_app
from flow_omni.training.synthesis import Speech
from flow_omni.training.validation import validate


class Parrot:
    """Says everything as a tone."""

    def voices(self, language=None):
        return ["en", "en+high"] if language in (None, "en") else []

    def speak(self, text, voice, rate=1.0, pitch=1.0):
        time = np.arange(round(800 * (1 + len(text)) / rate)) / 16000
        return Speech(np.sin(2 * np.pi * 300 * pitch * time).astype(np.float32) / 2, 16000)


@pytest.fixture
def parrot(monkeypatch):
    monkeypatch.setattr(synthesis, "synthesizer_named", lambda name: Parrot())


def run(*arguments):
    return CliRunner().invoke(prepare_app, [str(argument) for argument in arguments])


def assert_mistake(result, message):
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


@pytest.fixture
def aishell1(tmp_path):
    root = tmp_path / "data_aishell"
    for split, speaker in (("train", "S0002"), ("dev", "S0724"), ("test", "S0764")):
        (root / "wav" / split / speaker).mkdir(parents=True)
        soundfile.write(root / "wav" / split / speaker / f"BAC009{speaker}W0122.wav", tone(0.3), 16000)
    soundfile.write(root / "wav" / "train" / "S0002" / "BAC009S0002W0495.wav", tone(0.3), 16000)
    (root / "transcript").mkdir()
    lines = "".join(f"BAC009{speaker}W0122 楼市 成交\n" for speaker in ("S0002", "S0724", "S0764"))
    (root / "transcript" / "aishell_transcript_v0.8.txt").write_text(lines, encoding="utf-8")
    return root


@pytest.fixture
def dialogues(tmp_path):
    path = tmp_path / "dialogues.jsonl"
    rows = [{"question_text": f"how much is {i}", "answer_text": f"it is {i} coins"} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_aishell1_becomes_a_manifest_for_each_split(aishell1, tmp_path):
    result = run("aishell1", aishell1, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "train.jsonl: 1 rows; left out: 1 without transcript" in result.stderr
    for split in ("train", "dev", "test"):
        assert validate(tmp_path / "out" / f"{split}.jsonl").tasks == {"transcribe": 1, "say": 1}
    assert run("aishell1", aishell1, tmp_path / "one", "--split", "dev").exit_code == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["dev.jsonl"]


def test_wenetspeech_becomes_a_manifest(tmp_path):
    soundfile.write(tmp_path / "long.opus", tone(3.0), 16000, format="OGG", subtype="OPUS")
    segments = [
        {"sid": str(i), "begin_time": i, "end_time": i + 0.9, "text": "你好", "confidence": 1.0, "subsets": ["L", "S"]}
        for i in range(3)
    ]
    metadata = {"audios": [{"aid": "Y0", "path": "long.opus", "segments": segments}]}
    (tmp_path / "WenetSpeech.json").write_text(json.dumps(metadata))
    result = run("wenetspeech", tmp_path, tmp_path / "out", "--subset", "S", "--limit", 2)
    assert result.exit_code == 0, result.output
    report = validate(tmp_path / "out" / "S.jsonl")
    assert report.num_rows == 2
    assert report.question_hours == pytest.approx(1.8 / 3600)
    none = run("wenetspeech", tmp_path, tmp_path / "none", "--subset", "M")
    assert_mistake(none, "Nothing was found for")
    assert not (tmp_path / "none" / "M.jsonl").exists()


def test_lccc_becomes_a_manifest(tmp_path):
    dialogues = [["我 饿 了 。", "去 吃 饭 吧 ！ ！"], ["嗯", "好"]]
    (tmp_path / "LCCC-base_train.json").write_text(json.dumps(dialogues))
    result = run("lccc", tmp_path, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "train.jsonl: 1 rows; left out: 1 too few words" in result.stderr
    assert load_rows(tmp_path / "out" / "train.jsonl")[0]["answer_text"] == "去吃饭吧！"


def test_dialogues_are_spoken_with_any_synthesizer(dialogues, tmp_path, parrot):
    result = run("speak", dialogues, tmp_path / "out", "--processes", 1, "--format", "wav", "--limit", 4)
    assert result.exit_code == 0, result.output
    assert "manifest.jsonl: 4 rows" in result.stderr
    report = validate(tmp_path / "out" / "manifest.jsonl")
    assert report.tasks["speech_to_speech"] == 4
    # "en" answers, and would talk to itself
    assert set(load_rows(tmp_path / "out" / "manifest.jsonl")["speaker"]) == {"en+high"}


@pytest.mark.skipif(find_library() is None and find_program() is None, reason="espeak-ng is not installed")
def test_dialogues_are_spoken_by_espeak(dialogues, tmp_path):
    result = run("speak", dialogues, tmp_path / "out", "--answer-voice", "en-us", "--processes", 2)
    assert result.exit_code == 0, result.output
    rows = load_rows(tmp_path / "out" / "manifest.jsonl")
    assert len(rows) == 5
    assert all(voice.startswith("en") for voice in rows["speaker"])


def test_a_right_manifest_is_described(dialogues):
    result = run("validate", dialogues)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("5 rows, 0 with mistakes")
    assert "text_to_text" in result.stdout


def test_a_manifest_with_columns_of_its_own_is_validated_under_their_names(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("frage,antwort\nwo?,hier\n")
    columns = ["--columns", "question_text=frage", "--columns"]
    result = run("validate", path, *columns, "answer_text=antwort")
    assert result.exit_code == 0, result.output
    assert "1 rows, 0 with mistakes" in result.stdout
    assert_mistake(run("validate", path, *columns, "answer_text=anwort"), "lacks the column 'anwort'")
    assert_mistake(run("validate", path, *columns, "answer_text"), "write OURS=THEIRS, such as")


def test_a_wrong_manifest_is_told_line_by_line_and_ends_with_two(dialogues):
    with open(dialogues, "a") as file:
        file.write('{"question_text": 3, "answer_text": "a"}\n{"question_text": "a"\n')
    result = run("validate", dialogues)
    assert result.exit_code == 2
    assert "dialogues.jsonl:6: `question_text` is 3" in result.stdout
    assert "dialogues.jsonl:7: the line is no JSON" in result.stdout
    assert_mistake(run("validate", dialogues, "--stop"), "dialogues.jsonl:6: `question_text` is 3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aishell1", "nowhere", "out"], "pass the folder into which data_aishell.tgz"),
        (["aishell1", "nowhere", "out", "--split", "valid"], "AISHELL-1 has train, dev, test"),
        (["wenetspeech", "nowhere", "out"], "There is no 'nowhere/WenetSpeech.json'"),
        (["wenetspeech", "nowhere", "out", "--subset", "XL"], "WenetSpeech has L, M, S, W"),
        (["lccc", "nowhere", "out"], "There is no LCCC in 'nowhere'"),
        (["lccc", "nowhere"], "Missing argument"),
        (["speak", "none.jsonl", "out"], "There is no 'none.jsonl'"),
        (["speak", "none.jsonl", "out", "--language", "tlh"], "has no voice for the language 'tlh'"),
        (["speak", "none.jsonl", "out", "--answer-voice", "tom"], "has no voice 'tom'"),
        (["speak", "none.jsonl", "out", "--format", "mp3"], '"flac" or "wav"'),
        (["validate", "none.jsonl"], "There is no 'none.jsonl'"),
        (["sing"], "No such command 'sing'"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch, parrot, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert_mistake(run(*arguments), message)


def test_a_synthesizer_that_is_not_installed_is_a_mistake_of_nobody_but_told(dialogues, tmp_path, monkeypatch):
    from flow_omni.training import espeak

    monkeypatch.setattr(espeak, "find_library", lambda: None)
    monkeypatch.setattr(espeak, "find_program", lambda: None)
    assert_mistake(run("speak", dialogues, tmp_path / "out"), "install espeak-ng")
    assert_mistake(run("speak", dialogues, tmp_path / "out", "--synthesizer", "parrot"), "choose one of espeak, flite")


@pytest.mark.parametrize("command", ["aishell1", "wenetspeech", "lccc", "speak", "validate"])
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"flow-omni prepare {command}" in result.output
