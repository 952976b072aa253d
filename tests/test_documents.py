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
"""The documents keep their word: their Python runs, their commands parse, and the files they name are there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer
from test_importing_vocos import publish
from tiny import AUDIO_FIELDS, TEXT_FIELDS, byte_level_tokenizer, tiny_model, tiny_processor
from transformers import Qwen2Config, Qwen2ForCausalLM, WhisperConfig, WhisperForConditionalGeneration

from flow_omni.cli.app import app
from flow_omni.hub_card import write_model_card


ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "flow_omni/**/*.md", "hub_card/*.md", "benchmarks/*.md", "training/*.md")
    for path in ROOT.glob(pattern)
)
WHISPER, LLM, VOCODER = "openai/whisper-small", "Qwen/Qwen2-0.5B-Instruct", "charactr/vocos-mel-24khz"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# A file or folder of the repository, as documents write it: with a slash, or of a kind that lies at the top.
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
LOCAL_FOLDER = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|work|usr|opt|mnt|var|srv|Users)\b|[A-Z]:\\")

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def snippets(text: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text) if kind == language]


def run_snippets(text: str, name: str, replaced: dict[str, Path]) -> dict:
    """Runs the Python of a document from top to bottom, as a reader would, and returns what it leaves behind."""
    namespace = {}
    for number, body in enumerate(snippets(text, "python"), start=1):
        for hub_id, folder in replaced.items():
            body = body.replace(f'"{hub_id}"', repr(str(folder)))
        exec(compile(body, f"<snippet {number} of {name}>", "exec"), namespace)
    return namespace


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in, with a question in it."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "question.wav", rng.standard_normal(8000).astype(np.float32) * 0.1, 16000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def parts(tmp_path):
    """Tiny random parts in the formats of those that the README names."""
    torch.manual_seed(0)
    folders = {hub_id: tmp_path / "hub" / hub_id for hub_id in (WHISPER, LLM, VOCODER)}
    whisper = WhisperForConditionalGeneration(WhisperConfig(**AUDIO_FIELDS, vocab_size=100, pad_token_id=0))
    whisper.save_pretrained(folders[WHISPER])
    llm = Qwen2ForCausalLM(Qwen2Config(**TEXT_FIELDS))
    llm.generation_config.max_new_tokens = 12  # random words have no end
    llm.save_pretrained(folders[LLM])
    byte_level_tokenizer().save_pretrained(folders[LLM])
    folders[VOCODER].mkdir(parents=True)
    publish(folders[VOCODER])
    return folders


def test_python_of_the_readme_runs(desk, parts):
    left = run_snippets((ROOT / "README.md").read_text(), "README.md", parts)
    assert soundfile.info("answer.wav").samplerate == left["processor"].sampling_rate
    assert len(left["spoken"]) > 0 and len(left["speech"]) > 0
    assert isinstance(left["written"], str) and isinstance(left["reply"], str)
    assert left["model"].state_head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("vocoder", [{}, None], ids=["with vocoder", "without"])
def test_python_of_the_model_card_runs(desk, vocoder):
    checkpoint = desk / "checkpoint"
    model = tiny_model() if vocoder is not None else tiny_model(vocoder=None)
    model.generation_config.max_new_tokens = 12
    model.save_pretrained(checkpoint)
    tiny_processor(model.config).save_pretrained(checkpoint)
    card = write_model_card(checkpoint).read_text()
    left = run_snippets(card, "the model card", {"your-name/flow-omni": checkpoint})
    assert isinstance(left["reply"], str)
    assert (desk / "answer.wav").exists() == (vocoder is not None)


@each_document
def test_commands_are_understood(path):
    commands = typer.main.get_command(app).commands
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in "".join(snippets(path.read_text(), "console")).splitlines():
        if "{{" in line:
            continue  # a template's, which the command that is recorded fills
        assert line.startswith("$ "), f"{line!r} is no command: what a command prints is no part of these documents."
        program, *arguments = shlex.split(line.removeprefix("$ "))
        if program == "make":
            assert arguments[0] in targets
        else:
            assert program == "flow-omni"
            commands[arguments[0]].make_context(arguments[0], arguments[1:])


@each_document
def test_links_lead_to_files(path):
    for target in LINK.findall(path.read_text()):
        if not target.startswith(("http://", "https://", "#", "{{")) and "{{" not in target:
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "AGENTS.md", "docs/design.md"])
def test_files_that_are_named_exist(name):
    text = FENCE.sub("", (ROOT / name).read_text())
    named = [
        code for code in CODE.findall(text) if FILE.fullmatch(code) and "/" in code and not code.startswith(".venv/")
    ]
    missing = [file for file in named if not (ROOT / file).exists()]
    assert not missing


def test_map_names_every_file_that_travels_with_a_checkpoint():
    text = (ROOT / "AGENTS.md").read_text()
    files = [path for folder in ("modeling_flow_omni", "processing") for path in (ROOT / folder).glob("[a-z]*.py")]
    assert not [path.name for path in files if f"`{path.relative_to(ROOT)}`" not in text]


@each_document
def test_no_path_of_a_machine_is_in_a_document(path):
    assert not LOCAL_FOLDER.findall(path.read_text())


def test_picture_is_a_picture_and_names_no_machine():
    text = (ROOT / "docs" / "streams.svg").read_text()
    assert "<svg" in text and not LOCAL_FOLDER.findall(text)
