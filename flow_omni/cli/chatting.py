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
"""The command `chat`: a conversation of many turns, line by line."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import note
from .errors import UserError, report
from .files import check_parent, heard
from .options import ANSWER_PANEL, Mode, SpeechOptions, with_shared_options


HELP = """\
Write a line and press Enter. Lines that begin with / are commands:
  /file PATH   say what is in an audio file
  /reset       forget the conversation
  /help        show this
  /quit        leave (as does Ctrl-D)"""

SaveAudioOption = Annotated[
    Path | None,
    typer.Option(
        "--save-audio",
        help="Also speak the answers, into numbered files in this folder. Without it the model only writes.",
        rich_help_panel=ANSWER_PANEL,
        show_default=False,
    ),
]
SystemOption = Annotated[
    str | None,
    typer.Option(
        "--system",
        help='What the model should know first, such as "Answer in one sentence."',
        rich_help_panel=ANSWER_PANEL,
        show_default=False,
    ),
]


@with_shared_options
def chat(
    save_audio: SaveAudioOption = None,
    system: SystemOption = None,
    *,
    options: SpeechOptions,
):
    """
    Talk with a model over several turns.

    Each line you enter is a message. `/file question.wav` says what is in a file, `/reset` begins anew, `/quit` or
    Ctrl-D ends. What was said is remembered, and not computed again.

    Examples:

        flow-omni chat --model ./my-model
        flow-omni chat --save-audio answers --system "Answer in one sentence."
        printf 'Hello.\\n/file question.wav\\n' | flow-omni chat
    """
    if save_audio is not None:
        save_audio = _check_folder(save_audio)
    from .answering import check_can_speak
    from .conversation import Conversation
    from .loading import load_model

    loaded = load_model(*options.source)
    if save_audio is not None:
        check_can_speak(loaded)
        save_audio.mkdir(exist_ok=True)
    mode = Mode.text if save_audio is None else Mode.speech
    _talk(Conversation(loaded, system), save_audio, options.of_generate(mode))


def _talk(conversation: Any, save_audio: Path | None, options: dict[str, Any]) -> None:
    """Takes turns until there are no more lines."""
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        note(HELP)
    for line in _lines(is_interactive):
        try:
            if not _take_turn(conversation, line.strip(), save_audio, options):
                return
        except UserError as error:
            # who sits in front of it can try again; a script should not go on with half of its conversation
            if not is_interactive:
                raise
            report(error)


def _take_turn(conversation: Any, line: str, save_audio: Path | None, options: dict[str, Any]) -> bool:
    """Does what a line says. Returns whether to go on."""
    command, _, argument = line.partition(" ")
    if command == "/quit":
        return False
    if command == "/reset":
        conversation.reset()
        note("The conversation begins anew.")
    elif command == "/help":
        note(HELP)
    elif command == "/file":
        if not argument.strip():
            raise UserError("`/file` needs the path of an audio file, as in `/file question.wav`.")
        _answer(conversation, {"audio": heard(argument.strip())}, save_audio, options)
    elif command.startswith("/"):
        raise UserError(f"`{command}` is no command: there are /file, /reset, /help and /quit.")
    elif line:
        _answer(conversation, {"text": line}, save_audio, options)
    return True


def _answer(conversation: Any, message: dict[str, Any], save_audio: Path | None, options: dict[str, Any]) -> None:
    from .answering import save_speech

    result = conversation.answer(message, options)
    if save_audio is not None:
        save_speech(conversation.loaded, result, _next_file(save_audio))


def _lines(is_interactive: bool) -> Iterator[str]:
    """The lines that the user enters, to the end of the input."""
    if not is_interactive:
        yield from sys.stdin
        return
    try:
        import readline  # noqa: F401  # arrow keys and history, where the system has it
    except ImportError:
        note("(This system has no line editing.)")
    while True:
        try:
            yield input("> ")
        except EOFError:
            note("")
            return


def _check_folder(folder: Path) -> Path:
    folder = folder.expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"Cannot save answers in '{folder}': it is a file. Name a folder.")
    check_parent(folder / "answer-001.wav" if folder.is_dir() else folder)
    return folder


def _next_file(folder: Path) -> Path:
    """The first free one of answer-001.wav, answer-002.wav, …: earlier conversations stay."""
    number = 1
    while (path := folder / f"answer-{number:03}.wav").exists():
        number += 1
    return path
