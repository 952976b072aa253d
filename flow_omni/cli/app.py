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
"""The door of the command line: one app, and its commands in the order in which a newcomer needs them."""

from typing import Annotated

import typer

from ..training.prepare_command import prepare_app
from ..training.train_command import train
from .assembling import init
from .chatting import chat
from .commands import App
from .errors import CommandGroup
from .evaluating import evaluate
from .inspecting import info
from .publishing import push
from .speaking import ask, say, transcribe


app = App(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

TALK, TEACH, MAKE = "Talk", "Teach", "Make and share"
app.command(no_args_is_help=True, rich_help_panel=TALK)(ask)
app.command(no_args_is_help=True, rich_help_panel=TALK)(say)
app.command(no_args_is_help=True, rich_help_panel=TALK)(transcribe)
app.command(rich_help_panel=TALK)(chat)
app.add_typer(prepare_app, name="prepare", rich_help_panel=TEACH)
app.command(no_args_is_help=True, rich_help_panel=TEACH)(train)
app.command(no_args_is_help=True, rich_help_panel=TEACH)(evaluate)
app.command(no_args_is_help=True, rich_help_panel=MAKE)(init)
app.command(rich_help_panel=MAKE)(info)
app.command(no_args_is_help=True, rich_help_panel=MAKE)(push)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from .. import __version__

        print(f"flow-omni {__version__}")
        raise typer.Exit()


@app.callback()
def set_up(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="FLOW_OMNI_DEBUG", help="Show the traceback of an error, and all warnings."),
    ] = False,
):
    """
    Talk with speech models that continue any language model with continuous speech tokens.

    Every command explains itself: `flow-omni ask --help`. Without `--model`, the commands use a tiny model that comes
    with the package.

    Examples:

        flow-omni ask question.wav --output answer.wav
        flow-omni ask --text "What is the capital of France?"
        flow-omni transcribe speech.wav
        flow-omni chat --model owner/name
        flow-omni train align model=my-model data.train=train.jsonl training.output_dir=runs/align
        flow-omni evaluate my-model test.jsonl
    """
    # `--debug` is read where an error is reported, and where a command begins


def main() -> None:
    """What the command `flow-omni` runs."""
    app(prog_name="flow-omni")


__all__ = ["app", "main"]
