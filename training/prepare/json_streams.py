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
"""Streaming the array of a JSON file that does not fit in memory."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from ..data import open_text


CHUNK_CHARACTERS = 2**20
SEPARATORS = re.compile(r"[\s,]*")
ITEM_END = re.compile(r"\s*[,\]]")


def stream_array(path: str | os.PathLike, key: str | None = None) -> Iterator[Any]:
    """The items of the array under `key` of a JSON object, or of a file that is an array. The file may be gzipped."""
    start = re.compile(r"\s*\[" if key is None else rf"{re.escape(json.dumps(key))}\s*:\s*\[")
    decoder, buffer, position, is_inside = json.JSONDecoder(), "", 0, False
    with open_text(path) as file:
        # an item larger than the buffer doubles the buffer
        while chunk := file.read(max(CHUNK_CHARACTERS, len(buffer) - position)):
            buffer, position = buffer[position:] + chunk, 0
            if not is_inside:
                if (found := start.match(buffer) if key is None else start.search(buffer)) is None:
                    continue
                position, is_inside = found.end(), True
            while True:
                position = SEPARATORS.match(buffer, position).end()
                if buffer.startswith("]", position):
                    return
                try:
                    item, end = decoder.raw_decode(buffer, position)
                except json.JSONDecodeError:
                    break
                # an item without its separator may be cut off: -1 of -1.5
                if not ITEM_END.match(buffer, end):
                    break
                yield item
                position = end
    raise ValueError(
        f"'{path}' is not a complete JSON file with {'an array' if key is None else repr(key)}: download it again."
    )
