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
"""The commands of `flow-omni`."""

import os
from typing import Annotated

import typer

from .ask import ask, say, transcribe
from .chat import chat
from .common import DEBUG_VARIABLE, CommandGroup, command
from .hub import info, init, push
from .learn import evaluate, prepare, train
from .serve import serve


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

PANELS = {
    "Inference": (ask, say, transcribe, chat, serve),
    "Training and evaluation": (train, evaluate),
    "Checkpoints": (init, info, push),
}
for panel, functions in PANELS.items():
    for function in functions:
        app.command(no_args_is_help=function not in (chat, info, serve), rich_help_panel=panel)(command(function))
app.add_typer(prepare, name="prepare", rich_help_panel="Training and evaluation")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from .. import __version__

        print(f"flow-omni {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG_VARIABLE, help="Show the traceback of an error, and all warnings.")
    ] = False,
):
    """
    Speech-to-speech models with continuous speech tokens.

    Without `--model`, commands use the bundled model. Every command has `--help`.

    Examples:

        flow-omni ask question.wav --output answer.wav
        flow-omni ask --text "What is the capital of France?"
        flow-omni transcribe speech.wav
        flow-omni chat --model owner/name
        flow-omni serve --port 8000
        flow-omni train align model=my-model train_data=train.jsonl output_dir=runs/align
        flow-omni evaluate my-model test.jsonl --output results
    """
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def main() -> None:
    """The entry point of the program `flow-omni`."""
    app(prog_name="flow-omni")
