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
"""Who listens to the answers: the recognisers that were asked for, or openai-whisper where it can be had."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..training.recognisers import Recogniser, recogniser_of


NONE = "none"
# Without a connection the default must not keep anybody waiting.
CONNECTION_SECONDS = 10.0
LOADING_ERRORS = (ImportError, OSError, RuntimeError, ValueError, KeyError)
REMEDY = (
    "Name another with `--recogniser`: `own` (the model's own ears, which flatter), `ctc:FOLDER`, `whisper:NAME`, or the "
    "folder or Hub id of any model for speech recognition."
)


def listeners(
    names: Sequence[str], model: Any, processor: Any, language: str = "en"
) -> tuple[dict[str, Recogniser], list[str]]:
    """
    The recognisers by the names that figures are given under, and what a reader should know about them. The first decides
    what the figures with one recogniser say. Without names openai-whisper is tried; `none` listens to nothing.
    """
    if list(names) == [NONE]:
        return {}, ["Nobody listened to the spoken answers (`--recogniser none`)."]
    if not names:
        return _default(model, processor, language)
    found: dict[str, Recogniser] = {}
    for name in names:
        label = label_of(name)
        if name == NONE or label in found:
            problem = "stands alone, or is left out" if name == NONE else f"would be the second one called {label!r}"
            raise ValueError(f"The recogniser {name!r} {problem}: name each once.")
        try:
            found[label] = recogniser_of(name, model, processor, language)
        except LOADING_ERRORS as error:
            raise ValueError(f"The recogniser {name!r} cannot be loaded ({_one_line(error)}). {REMEDY}") from error
    return found, []


def label_of(name: str) -> str:
    """The name of a recogniser in reports, which are shared: of a folder only the last part."""
    kind, colon, place = name.rpartition(":")
    return f"{kind}{colon}{Path(place).name}" if "/" in place and Path(place).expanduser().exists() else name


def default_name(language: str) -> str:
    return "whisper:base.en" if language == "en" else "whisper:base"


def _default(model: Any, processor: Any, language: str) -> tuple[dict[str, Recogniser], list[str]]:
    name = default_name(language)
    try:
        with _impatiently():
            return {name: recogniser_of(name, model, processor, language)}, []
    except LOADING_ERRORS as error:
        reason = _one_line(error)
        return {}, [f"Nobody listened to the spoken answers: {name} could not be loaded ({reason}). {REMEDY}"]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


@contextmanager
def _impatiently() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECTION_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
