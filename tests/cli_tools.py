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
"""What the tests of the command line share: a runner, and checkpoints and audio files on disk."""

from pathlib import Path

import pytest
import transformers.utils.logging
from typer.testing import CliRunner

from flow_omni.cli.app import app
from flow_omni.untrained import EXAMPLE_QUESTION, untrained


QUESTION = str(EXAMPLE_QUESTION)


def run(*arguments: object, input: str | None = None):
    """Runs `flow-omni` with these arguments in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input, prog_name="flow-omni")


def error_of(result) -> str:
    """The one line that a command which failed wrote to stderr."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of the tiny untrained model. Tests must not change it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = untrained()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    """Answers are written into the current folder by default. The commands silence libraries, for their process only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOW_OMNI_DEBUG", raising=False)
    verbosity = transformers.utils.logging.get_verbosity()
    yield
    transformers.utils.logging.set_verbosity(verbosity)
    transformers.utils.logging.enable_progress_bar()
