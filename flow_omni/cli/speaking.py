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
"""The commands of one turn: `ask`, `say` and `transcribe`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import write
from .errors import UserError, users_mistakes
from .files import AUDIO_SUFFIXES, PICTURE_SUFFIXES, URLS, check_output, heard
from .options import (
    ANSWER_PANEL,
    AnswerOptions,
    Mode,
    ModeOption,
    OutputOption,
    PictureOption,
    SpeechOptions,
    with_shared_options,
)


# No sample above this, three steps of 16 bits, is silence.
SILENCE = 1e-4


@with_shared_options
def ask(
    question: Annotated[str, typer.Argument(help="An audio file (wav, flac, ogg, mp3), or words with `--text`.")],
    text: Annotated[bool, typer.Option("--text", "-t", help="QUESTION is the question itself, in writing.")] = False,
    output: OutputOption = None,
    picture: PictureOption = None,
    mode: ModeOption = Mode.speech,
    *,
    options: SpeechOptions,
):
    """
    Answer a spoken or written question, in text and speech.

    The text is printed as it comes; the speech goes into a file. Text alone goes to stdout, all else to stderr.

    Examples:

        flow-omni ask question.wav
        flow-omni ask question.wav --output answer.flac --picture answer.png
        flow-omni ask --text "What is the capital of France?" --mode text
        flow-omni ask question.wav --model ./my-model --seed 1 --temperature 0.7
    """
    if mode is Mode.text:
        if output is not None or picture is not None:
            raise UserError("With `--mode text` nothing is spoken: leave out `--output` and `--picture`, or the mode.")
    else:
        output = output or Path("answer.wav")
    asked = {"text": question} if text else {"audio": _heard_question(question)}
    _speak(("ask", asked), options, mode, output, picture)


@with_shared_options
def say(
    text: Annotated[str, typer.Argument(help="What to say.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Where to write the speech.", rich_help_panel=ANSWER_PANEL),
    ] = Path("speech.wav"),
    picture: PictureOption = None,
    *,
    options: SpeechOptions,
):
    """
    Read a text aloud into a file.

    The words are printed as the model says them.

    Examples:

        flow-omni say "Good morning." --output morning.wav
        flow-omni say "Good morning." --num-flow-steps 8 --seed 3
        flow-omni say "$(cat letter.txt)" -o letter.mp3 --model ./my-model
    """
    if not text.strip():
        raise UserError('The text to say is empty: pass some words, as in `flow-omni say "Good morning."`.')
    _speak(("say", {"text": text}), options, Mode.speech, output, picture)


@with_shared_options
def transcribe(
    files: Annotated[list[str], typer.Argument(help="Audio files (wav, flac, ogg, mp3).", show_default=False)],
    as_json: Annotated[
        bool, typer.Option("--json", help='Print one object a line: {"file": …, "text": …, "seconds": …}.')
    ] = False,
    *,
    options: AnswerOptions,
):
    """
    Write down what is said in audio files.

    The text of one file is printed alone; of several files, each line begins with the name of its file. It ends at the
    latest where the sound can hold no more words, or after `--max-new-tokens`. Of mere silence nothing is written.

    Examples:

        flow-omni transcribe speech.wav
        flow-omni transcribe recordings/*.flac > recordings.txt
        flow-omni transcribe *.wav --json --model ./my-model
    """
    from .loading import load_model

    sounds = [heard(file) for file in files]
    loaded = load_model(*options.source)
    for file, sound in zip(files, sounds):
        text = _transcript(loaded, sound, None if as_json else f"{file}: " if len(files) > 1 else "", options)
        if as_json:
            seconds = round(len(sound["array"]) / sound["sampling_rate"], 3)
            write(json.dumps({"file": file, "text": text, "seconds": seconds}, ensure_ascii=False) + "\n")


def _transcript(loaded: Any, sound: dict[str, Any], prefix: str | None, options: AnswerOptions) -> str:
    """What is said in a sound, printed after `prefix` while it is written. Of silence a model would guess something."""
    from ..processing.transcript_limit import transcript_limit
    from .answering import answer, prepare

    if abs(sound["array"]).max(initial=0.0) < SILENCE:
        if prefix is not None:
            write(f"{prefix}\n")
        return ""
    inputs = prepare(loaded, loaded.processor.make_conversation("transcribe", audio=sound))
    of_generate = options.of_generate(Mode.text)
    if options.max_new_tokens is None:
        of_generate["stopping_criteria"] = transcript_limit(loaded.processor, inputs["input_ids"])
    result = answer(loaded, inputs, prefix, **of_generate)
    return loaded.processor.decode(result.token_ids, skip_special_tokens=True)


def _heard_question(question: str) -> dict[str, Any]:
    """The sound of a question. Words are never guessed to be meant: a mistyped path would be answered."""
    if not question.startswith(URLS) and not Path(question).expanduser().exists():
        raise UserError(
            f"There is no audio file '{question}': check the path, or ask in writing with `flow-omni ask --text \"…\"`."
        )
    return heard(question)


def _speak(
    task: tuple[str, dict], options: SpeechOptions, mode: Mode, output: Path | None, picture: Path | None
) -> None:
    """Carries out a task whose answer is spoken (or only written, without `output`), and writes its files."""
    output = check_output(output, AUDIO_SUFFIXES)
    picture = check_output(picture, PICTURE_SUFFIXES)
    if picture is not None:
        from ..picture import check_matplotlib

        with users_mistakes():
            check_matplotlib()
    from .answering import answer, check_can_speak, prepare, save_picture, save_speech
    from .loading import load_model

    loaded = load_model(*options.source)
    if output is not None:
        check_can_speak(loaded)
    name, arguments = task
    inputs = prepare(loaded, loaded.processor.make_conversation(name, **arguments))
    result = answer(loaded, inputs, **options.of_generate(mode))
    if output is not None:
        save_speech(loaded, result, output)
    if picture is not None:
        save_picture(loaded, result, picture)
