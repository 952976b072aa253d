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
"""A card as a file: written whole, signed so that an edit is noticed, and never written over after one."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


CARD_NAME = "README.md"
# The last line of every card. The digest is that of the card before it: a card that was edited since has another.
SIGNATURE = re.compile(r"<!-- Written by flow-omni \(([0-9a-f]{16})\)[^\n]*-->\n?\Z")


def as_list(values: Iterable[Any] | Any | None) -> list:
    """One value, several or none as a list."""
    if values is None:
        return []
    return [values] if isinstance(values, str | os.PathLike) else list(values)


def digest_of(text: str) -> str:
    """A digest that does not depend on how lines end."""
    lines = "\n".join(text.splitlines()).strip()
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def signed(text: str) -> str:
    text = text.rstrip() + "\n"
    return f"{text}\n<!-- Written by flow-omni ({digest_of(text)}). An edited card is not overwritten. -->\n"


def unsigned(text: str) -> str:
    """A card without its last line, if that is a signature."""
    return SIGNATURE.sub("", text)


def is_untouched(text: str) -> bool:
    """Whether a card is as this module wrote it."""
    text = "\n".join(text.splitlines()) + "\n"
    signature = SIGNATURE.search(text)
    return signature is not None and signature[1] == digest_of(text[: signature.start()])


def check_replaceable(path: Path) -> None:
    if path.is_file() and not is_untouched(path.read_text(encoding="utf-8", errors="replace")):
        raise FileExistsError(
            f"'{path}' was edited, or written by somebody else, and is left as it is: pass `overwrite=True` to replace it, or "
            "delete it first."
        )


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there complete or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
