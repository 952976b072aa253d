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
"""Files that a command reads and writes: looked at before the minutes of work, and complete when they appear."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .checkpoints import is_checkpoint
from .errors import UserError, one_line


AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
PICTURE_SUFFIXES = (".png", ".svg", ".pdf")
HEARD_SAMPLING_RATE = 16000
URLS = ("http://", "https://")


def check_output(path: Path | None, suffixes: tuple[str, ...]) -> Path | None:
    """`path`, if a file of one of the kinds can be written there."""
    if path is None:
        return None
    path = path.expanduser()
    if path.is_dir():
        raise UserError(f"Cannot write '{path}': it is a folder. Name a file.")
    if path.suffix.lower() not in suffixes:
        raise UserError(f"Cannot write '{path}': its name must end in one of {', '.join(suffixes)}.")
    check_parent(path)
    return path


def check_parent(path: Path) -> None:
    """Raises unless something can be created at `path`."""
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UserError(f"Cannot write '{path}': the folder '{parent}' does not exist. Create it, or choose another.")
    if not os.access(parent, os.W_OK):
        raise UserError(f"Cannot write '{path}': the folder '{parent}' is read-only for you. Choose another.")


def heard(source: str) -> dict[str, Any]:
    """The sound in a file (or behind a URL), decoded now, so that it is read once and a bad file is found early."""
    from ..processing.audio_io import load_audio

    if not source.startswith(URLS) and not Path(source).expanduser().exists():
        raise UserError(f"There is no file '{source}': check the path of the audio file.")
    try:
        waveform = load_audio(source, HEARD_SAMPLING_RATE)
    except (ValueError, TypeError, OSError) as error:
        message = one_line(error)
        raise UserError(message if source in message else f"'{source}' cannot be heard: {message}") from error
    return {"array": waveform, "sampling_rate": HEARD_SAMPLING_RATE}


def check_new_folder(folder: Path, overwrite: bool) -> Path:
    """`folder`, if a checkpoint may be created there, or may take the place of one that is there."""
    folder = folder.expanduser().absolute()
    check_parent(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"Cannot create the folder '{folder}': a file has that name. Choose another.")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise UserError(f"The folder '{folder}' is not empty: choose another, or replace it with `--overwrite`.")
        if not is_checkpoint(folder):
            raise UserError(
                f"The folder '{folder}' holds something other than a Flow-Omni checkpoint, which `--overwrite` does not "
                "delete: choose another, or empty it yourself."
            )
    return folder


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` once it is complete, and is gone if it never is."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    unfinished.mkdir()
    try:
        yield unfinished
        _take_place(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _take_place(new: Path, folder: Path) -> None:
    """Renames `new` to `folder`. What was there is deleted last, and put back if anything goes wrong."""
    if not folder.exists():
        os.replace(new, folder)
        return
    replaced = folder.with_name(f".{folder.name}.{os.getpid()}.replaced")
    os.replace(folder, replaced)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(replaced, folder)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
