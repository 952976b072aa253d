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
"""A user's mistakes: exit code 2, one line that says what to do, and nothing written."""

import json
import shutil
import sys
from pathlib import Path

import cli_tools
import numpy as np
import pytest
import soundfile
from cli_tools import QUESTION, error_of, run
from safetensors.torch import load_file, save_file


checkpoint, in_an_empty_folder = cli_tools.checkpoint, cli_tools.in_an_empty_folder
pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def fails(*arguments: object) -> str:
    """The error of a command that must be the user's mistake, and must not write a file."""
    before = sorted(Path().rglob("*"))
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert sorted(Path().rglob("*")) == before
    assert result.stdout == ""
    return error_of(result)


def write_noise(path: str, samples: np.ndarray) -> None:
    soundfile.write(path, samples, 16000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"This is a letter.", "Cannot decode"),
        (np.zeros(1), "at least 10 ms"),
        (np.full(16000, np.nan), "16000 of 16000 samples are NaN"),
        (np.full(16000, 30000.0), "lie between -1 and 1"),
    ],
)
@pytest.mark.parametrize("command", [("ask",), ("transcribe",)])
def test_sound_that_cannot_be_heard(checkpoint, command, content, message):
    if isinstance(content, bytes):
        Path("bad.wav").write_bytes(content)
    else:
        write_noise("bad.wav", content)
    error = fails(*command, "bad.wav", "-m", checkpoint)
    assert "bad.wav" in error
    assert message in error


def test_sound_that_is_too_long(checkpoint):
    write_noise("long.wav", np.zeros(601 * 16000, dtype=np.float32))
    assert "at most 600 s" in fails("ask", "long.wav", "-m", checkpoint)


def test_a_folder_in_the_place_of_a_file(checkpoint):
    Path("folder").mkdir()
    assert "'folder' is a folder" in fails("ask", "folder", "-m", checkpoint)
    assert "it is a folder" in fails("ask", QUESTION, "-o", "folder", "-m", checkpoint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "no/where.wav"), "does not exist. Create it"),
        (("-o", "answer.aac"), "must end in one of .wav"),
        (("-o", "answer"), "must end in one of .wav"),
        (("--picture", "answer.jpeg"), "must end in one of .png"),
        (("--picture", "no/where.png"), "does not exist. Create it"),
        (("--mode", "text", "-o", "a.wav"), "With `--mode text` nothing is spoken"),
        (("--mode", "text", "--picture", "a.png"), "With `--mode text` nothing is spoken"),
        (("--mode", "sing"), "'sing'"),
        (("--seed", "-1"), "-1 is out of range: it must be a number of at least 0"),
        (("--seed", "often"), "--seed"),
        (("--max-new-tokens", "0"), "0 is out of range: it must be a number of at least 1"),
        (("--end-after-repeats", "-1"), "-1 is out of range"),
        (("--end-after-repeats", "1"), "every phrase stands once"),
        (("--num-flow-steps", "0"), "0 is out of range"),
        (("--flow-temperature", "nan"), "nan is out of range"),
        (("--flow-guidance-scale", "inf"), "inf is out of range"),
        (("--temperature", "0"), "at least 0.01"),
        (("--device", "toaster"), "choose one of: cpu"),
        (("--device", "meta"), "choose one of: cpu"),
        (("--device", "cuda:99"), "choose one of: cpu"),
        (("--dtype", "int8"), "'int8'"),
        (("--volume", "11"), "--volume"),
    ],
)
def test_options_that_cannot_be_met(checkpoint, options, message):
    assert message in fails("ask", QUESTION, "-m", checkpoint, *options)


def test_output_is_checked_before_the_model_is_loaded(checkpoint, monkeypatch):
    """A minute's work is lost when it turns out afterwards that its result cannot be written."""
    monkeypatch.setattr("flow_omni.cli.loading.load_model", None)
    assert "does not exist" in fails("say", "Hi.", "-o", "no/where.wav", "-m", checkpoint)


def test_pictures_need_matplotlib_and_say_so_before_the_work(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "flow-omni[train]" in fails("ask", QUESTION, "-m", checkpoint, "--picture", "a.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "There is no folder 'missing'"),
        ("./missing/folder", "There is no folder"),
        ("owner/missing", "the Hub does not give it"),
        ("owner/mis sing", "neither a folder nor an id"),
        ("file", "is a file"),
        ("bert", "no Flow-Omni checkpoint"),
        ("empty", "no Flow-Omni checkpoint"),
    ],
)
def test_models_that_are_none(name, message):
    Path("file").write_text("not a folder")
    Path("empty").mkdir()
    Path("bert").mkdir()
    Path("bert/config.json").write_text('{"model_type": "bert"}')
    assert message in fails("ask", QUESTION, "-m", name)
    assert message in fails("info", name)
    assert message in fails("chat", "-m", name)


@pytest.mark.parametrize(
    "damage", ["truncated", "no weights", "missing weights", "no processor", "bad config", "shapes"]
)
def test_checkpoints_that_are_damaged(checkpoint, tmp_path, damage):
    shutil.copytree(checkpoint, "damaged")
    folder, config = tmp_path / "damaged", json.loads((checkpoint / "config.json").read_text())
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "missing weights":
        state_dict = load_file(weights)
        del state_dict["state_head.weight"]
        save_file(state_dict, weights, metadata={"format": "pt"})
    elif damage == "no processor":
        (folder / "processor_config.json").unlink()
    elif damage == "bad config":
        config["speech_config"]["frames_per_step"] = 0
    else:
        config["speech_config"]["frames_per_step"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    error = fails("ask", QUESTION, "-m", "damaged")
    assert "damaged" in error
    if damage == "missing weights":
        assert "state_head.weight" in error


def test_text_to_say_that_is_empty(checkpoint):
    assert "is empty" in fails("say", "  ", "-m", checkpoint)


def test_text_that_imitates_audio(checkpoint):
    assert "stands for audio" in fails("ask", "--text", "<|audio|>", "-m", checkpoint)


def test_files_to_transcribe_are_looked_at_before_the_first_is_written_down(checkpoint):
    assert "'missing.wav'" in fails("transcribe", QUESTION, "missing.wav", "-m", checkpoint)


def test_folders_for_a_chat_that_cannot_be(checkpoint):
    Path("file").write_text("")
    assert "it is a file" in fails("chat", "-m", checkpoint, "--save-audio", "file")
    assert "does not exist" in fails("chat", "-m", checkpoint, "--save-audio", "no/where")


def test_commands_and_options_that_do_not_exist():
    assert "'sing'" in fails("sing")
    assert "--loud" in fails("--loud")
    assert "--llm" in fails("init", "--whisper", "tiny")
