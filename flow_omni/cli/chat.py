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
"""The command `chat`: a conversation of several turns."""

import functools
import itertools
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from .ask import Answer, GenerationOptions, ModelOption, check_vocoder, generate, option, save_speech, with_options
from .common import LoadedModel, UserError, check_parent, note, read_audio, report


HELP = """\
Write a message and press Enter. Lines that start with / are commands:
  /file PATH   send an audio file
  /reset       start a new conversation
  /help        show this
  /quit        leave (as does Ctrl-D)"""


@with_options
def chat(
    save_audio: Annotated[
        Path | None, option(help="Generate speech too, into numbered files in this folder. Default: text only.")
    ] = None,
    system: Annotated[str | None, option(help='System message, such as "Answer in one sentence."')] = None,
    model: ModelOption = None,
    *,
    options: GenerationOptions,
):
    """
    Chat over several turns.

    Each line is a message. `/file question.wav` sends an audio file, `/reset` starts again, `/quit` or Ctrl-D ends.

    Examples:

        flow-omni chat --model ./my-model
        flow-omni chat --save-audio answers --system "Answer in one sentence."
        printf 'Hello.\\n/file question.wav\\n' | flow-omni chat
    """
    folder = save_audio.expanduser() if save_audio is not None else None
    if folder is not None and not folder.is_dir():
        if folder.exists():
            raise UserError(f"Cannot save answers in '{folder}': it is a file. Name a folder.")
        check_parent(folder)
    loaded = options.load(model)
    mode = "text" if folder is None else "speech"
    check_vocoder(loaded, mode)
    if folder is not None:
        folder.mkdir(exist_ok=True)
    kwargs = options.generation_kwargs() | {"generation_mode": mode}
    opening = [] if system is None else [{"role": "system", "content": system}]
    conversation, answer = list(opening), None
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        note(HELP)
    for line in _lines(is_interactive):
        try:
            if line == "/reset":
                conversation, answer = list(opening), None
                note("A new conversation.")
            elif line == "/help":
                note(HELP)
            else:
                messages = [*conversation, *loaded.processor.make_conversation("ask", **_message(line))]
                cache_of = functools.partial(_shared_cache, loaded, answer)
                answer = generate(loaded, messages, kwargs_of=cache_of, **kwargs)
                if folder is not None:
                    save_speech(loaded, answer, _next_file(folder))
                text = loaded.processor.decode(answer.token_ids, skip_special_tokens=True)
                conversation = [*messages, {"role": "assistant", "content": text}]
        except UserError as error:
            # a script must not go on with half of its conversation
            if not is_interactive:
                raise
            report(error)


def _lines(is_interactive: bool) -> Iterator[str]:
    """The lines of the user, up to `/quit` or the end of the input."""
    if is_interactive:
        with suppress(ImportError):
            import readline  # noqa: F401  # arrow keys and history, where the system has it
    while True:
        try:
            line = input("> " if is_interactive else "").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if line:
            yield line


def _message(line: str) -> dict[str, Any]:
    """The text or the audio that a line sends."""
    command, _, path = line.partition(" ")
    if command == "/file":
        if not path.strip():
            raise UserError("`/file` needs the path of an audio file, as in `/file question.wav`.")
        return {"audio": read_audio(path.strip())}
    if command.startswith("/"):
        raise UserError(f"Unknown command `{command}`: there are /file, /reset, /help and /quit.")
    return {"text": line}


def _shared_cache(loaded: LoadedModel, last: Answer | None, prompt_ids: Any) -> dict[str, Any]:
    """The cache of the last answer, cropped to what its prompt shares with the next one: the history has no speech."""
    config = loaded.model.config
    if last is None or (config.adapter_compression is not None and (prompt_ids == config.audio_token_id).any()):
        # how many positions of the cache an audio has taken up, only its adapter knows
        return {}
    length = min(last.prompt_ids.shape[1], prompt_ids.shape[1])
    is_shared = (last.prompt_ids[0, :length] == prompt_ids[0, :length]).long().cumprod(dim=0)
    cache = last.steps[-1].cache
    try:
        cache.crop(min(0, int(is_shared.sum()) - cache.get_seq_length()))
    except RuntimeError:
        # layers with a sliding window have lost the start: the whole prompt is read again
        return {}
    return {"cache": cache}


def _next_file(folder: Path) -> Path:
    """The first of the numbered files that does not exist."""
    return next(path for n in itertools.count(1) if not (path := folder / f"answer-{n:03}.wav").exists())
