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
"""The items of an array in a JSON file, one by one: the metadata of large corpora does not fit in memory."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from ..manifest import open_text


CHUNK_CHARACTERS = 2**20
SEPARATORS = re.compile(r"[\s,]*")
ITEM_END = re.compile(r"\s*[,\]]")


def stream_array(path: str | os.PathLike, key: str | None = None) -> Iterator[Any]:
    """
    Items of the array under `key` of the object that the file holds, or, without a key, of the array that it holds.
    The file may be gzipped.
    """
    start = re.compile(r"\s*\[" if key is None else rf"{re.escape(json.dumps(key))}\s*:\s*\[")
    with open_text(path) as file:
        buffer = ""
        while (found := start.match(buffer) if key is None else start.search(buffer)) is None:
            chunk = file.read(CHUNK_CHARACTERS)
            if not chunk:
                what = "an array" if key is None else f"an object with an array under {key!r}"
                raise ValueError(f"'{path}' holds no such JSON as expected: {what}. Check that the download is whole.")
            # of what holds no beginning, only the end can be part of one
            buffer = (buffer if key is None else buffer[-len(key) - 64 :]) + chunk
        yield from _items(file, buffer[found.end() :], path)


def _items(file: Any, buffer: str, path: str | os.PathLike) -> Iterator[Any]:
    """The items of an array that has been entered."""
    decoder, position = json.JSONDecoder(), 0
    while True:
        position = SEPARATORS.match(buffer, position).end()
        if buffer.startswith("]", position):
            return
        try:
            item, end = decoder.raw_decode(buffer, position)
            # without what comes after it, an item may be half of one: -1 of -1.5
            is_whole = ITEM_END.match(buffer, end) is not None
        except json.JSONDecodeError:
            is_whole = False
        if is_whole:
            yield item
            position = end
            continue
        chunk = file.read(max(CHUNK_CHARACTERS, len(buffer) - position))
        if not chunk:
            raise ValueError(f"'{path}' ends in the middle of an array: download it again, it is not whole.")
        buffer, position = buffer[position:] + chunk, 0
