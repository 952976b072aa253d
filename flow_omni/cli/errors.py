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
"""How a command ends when it cannot go on: one line that says what to do, and an exit code that says whose fault it was."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from typer.core import TyperGroup


# 0 is done; the others as in most programs of a shell (130 is 128 + SIGINT).
FAILURE, MISTAKE, INTERRUPTED = 1, 2, 130
# typer carries its own click, or uses the installed one, depending on its version: the class is found by descent.
UsageError = typer.BadParameter.__base__


class UserError(Exception):
    """A mistake of the user's. Its message is all that is shown: the value, the rule, the remedy."""


@contextmanager
def users_mistakes() -> Iterator[None]:
    """
    Around what works on things of the user's (files, names, values): what the library objects to there is a mistake of
    theirs. Anywhere else the same exceptions would be a fault of ours.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks, and what was noted about where it happened."""
    if type(error).__name__ == "StrictDataclassClassValidationError" and error.__cause__ is not None:
        # what a config's own validator says, without the frame that the Hub's library puts around it
        error = error.__cause__
    notes = " ".join(getattr(error, "__notes__", []))
    return " ".join(f"{error} {notes}".split()) or type(error).__name__


def report(error: BaseException, debug: bool = False) -> None:
    """Writes an error to stderr on one line, with `debug` after its traceback."""
    if debug:
        traceback.print_exception(error)
    print(f"Error: {one_line(error)}", file=sys.stderr, flush=True)


class CommandGroup(TyperGroup):
    """Runs the commands so that no traceback meets a user, whether a shell or a test starts them."""

    def main(self, *args, standalone_mode: bool = True, **kwargs):
        try:
            exit_code = super().main(*args, standalone_mode=False, **kwargs)
        except UsageError as error:
            exit_code = error.exit_code
            # raised by a command without arguments, whose help has been printed by then
            if type(error).__name__ != "NoArgsIsHelpError":
                report(UserError(_with_remedy(error)))
        except typer.Abort:
            exit_code = INTERRUPTED
        if not standalone_mode:
            return exit_code
        sys.exit(exit_code or 0)

    def invoke(self, ctx):
        debug = ctx.params.get("debug", False)
        try:
            return super().invoke(ctx)
        except UserError as error:
            report(error, debug)
            raise typer.Exit(MISTAKE) from error
        except (UsageError, typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if debug:
                traceback.print_exception(error)
            report(UserError(_unforeseen(error)))
            raise typer.Exit(FAILURE) from error


def _unforeseen(error: Exception) -> str:
    """What is said of an error that nobody foresaw: its kind and message, and a way on."""
    remedy = "`flow-omni --debug COMMAND …` shows where it happened."
    if type(error).__name__ == "OutOfMemoryError":
        remedy = "Try `--dtype bfloat16`, `--device cpu`, or a smaller model."
    return f"{type(error).__name__}: {one_line(error)} {remedy}"


def _with_remedy(error: Exception) -> str:
    """What typer says of a wrong option or argument, and where to read more."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "flow-omni"
    # some versions of typer check values by pydantic, which says "Value error" before everything
    message = error.format_message().replace("Value error, ", "")
    return f"{message.rstrip('.')}. See `{command} --help`."
