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
"""How the command line starts: at once, for whoever only asks how it is used, and with all it needs for whoever uses it."""

import subprocess
import sys
from pathlib import Path

import cli_tools
import pytest
import typer
from cli_tools import run

import flow_omni
from flow_omni.cli.app import app
from flow_omni.cli.commands import Command


in_an_empty_folder = cli_tools.in_an_empty_folder

MODULE = ["-m", "flow_omni.cli"]
SCRIPT = [str(Path(sys.executable).with_name("flow-omni"))]


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ([*MODULE, "--help"], 0),
        ([*SCRIPT, "--version"], 0),
        ([*SCRIPT, "prepare", "tinytalk", "--help"], 0),
        ([*MODULE, "ask", "question.wav", "--volume", "11"], 2),
    ],
)
def test_help_and_mistakes_in_calling_do_not_wait_for_torch(command, exit_code):
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=False)
    assert done.returncode == exit_code
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "flow_omni.cli.app" in imported
    assert not imported & {"torch", "transformers", "huggingface_hub", "numpy", "soundfile"}


def test_every_command_imports_the_libraries_before_it_runs():
    commands = [typer.main.get_command(app)]
    while commands:
        command = commands.pop()
        subcommands = getattr(command, "commands", {}).values()
        assert subcommands or isinstance(command, Command), command.name
        commands += subcommands


def test_a_command_registers_the_classes_with_transformers(in_an_empty_folder, monkeypatch):
    """What it saves would not bring its code otherwise."""
    monkeypatch.delitem(sys.modules, "flow_omni.auto_classes")
    monkeypatch.delattr(flow_omni, "auto_classes")
    assert run("info", "--help").exit_code == 0
    assert "flow_omni.auto_classes" not in sys.modules
    assert run("info").exit_code == 0
    assert "flow_omni.auto_classes" in sys.modules


@pytest.mark.parametrize(
    ("program", "arguments", "expected"),
    [
        (["python", "-m", "flow_omni.cli"], ["--help"], True),
        (["python", "-X", "dev", "/home/me/.venv/bin/flow-omni"], [], True),
        (["python", "flow-omni.py"], ["ask"], False),
        (["python", "chat.py"], ["-m", "flow_omni.cli"], False),
        (["python", "-m", "pytest"], ["flow-omni"], False),
        (["python"], [], False),
    ],
)
def test_only_the_command_itself_puts_imports_off(monkeypatch, program, arguments, expected):
    """Any other program finds the classes registered by `import flow_omni`."""
    monkeypatch.setattr(sys, "orig_argv", [*program, *arguments])
    monkeypatch.setattr(sys, "argv", [program[-1], *arguments] if len(program) > 1 else [""])
    assert flow_omni._is_command() is expected


def test_public_names_are_there_when_they_were_not_imported():
    assert flow_omni.__getattr__("FlowOmniModel") is flow_omni.FlowOmniModel
    with pytest.raises(AttributeError, match="no attribute 'FlowOmni'"):
        flow_omni.__getattr__("FlowOmni")
