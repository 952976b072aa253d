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
"""LCCC-base: 6.8 million Chinese dialogues from the Internet, as written pairs of a question and its answer."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data import CJK, open_text
from .json_streams import stream_array


SPLITS = ("train", "valid", "test")
WHOLE = "LCCC-base.json"
# As distributed by the authors, in three files or in one, and on the Hub, one dialogue per line.
LAYOUTS = (
    "LCCC-base_{}.json", "LCCC-base-split/LCCC-base_{}.json", WHOLE, "lccc_base_{}.jsonl.gz", "lccc_base_{}.jsonl"
)  # fmt: skip
MIN_WORDS = 5  # of a pair; the corpus separates words by spaces

MARKS = "。．.！!？?，,、；;：:~～…"
DOTS = re.compile(r"[.。．…](?:\s*[.。．…])+|…")
REPEATED_MARKS = re.compile(rf"([{MARKS}])(?:\s*[{MARKS}])+")
REPEATED = re.compile(r"([^\w\s])(?:\s*\1)+")
INNER_SPACE = re.compile(rf"(?<=[{CJK}{MARKS}])\s+|\s+(?=[{CJK}{MARKS}])")
WORD = re.compile(rf"[{CJK}]|[^\W_]+")


def lccc_rows(source: str | os.PathLike, split: str = "train", counts: Counter | None = None) -> Iterator[dict]:
    """
    Pairs of a question and its answer with at least `MIN_WORDS` words. A dialogue of four turns gives two pairs, and the
    first is the history of the second. `source` is the folder of the corpus or one of its files. `counts` receives the
    number of `rows`, and of pairs left out by reason.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}: LCCC-base has {', '.join(SPLITS)}.")
    counts = Counter() if counts is None else counts
    source = Path(source).expanduser()
    paths = [source, *(source / layout.format(split) for layout in LAYOUTS)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        names = ", ".join(layout.format(split) for layout in LAYOUTS)
        raise FileNotFoundError(f"There is no LCCC-base in '{source}': it must hold one of {names}.")
    is_lines = path.name.removesuffix(".gz").endswith(".jsonl")
    dialogues = _json_lines(path) if is_lines else stream_array(path, split if path.name == WHOLE else None)
    for number, dialogue in enumerate(dialogues):
        if isinstance(dialogue, dict):
            dialogue = next((value for value in dialogue.values() if isinstance(value, list)), None)
        if not isinstance(dialogue, list) or not all(isinstance(turn, str) for turn in dialogue):
            shown = str(dialogue)[:80]
            raise ValueError(f"Dialogue {number} of '{path}' is {shown!r}: it must be a list of strings, the turns.")
        yield from _pairs(dialogue, f"lccc-{split}-{number}", counts)


def clean(utterance: str) -> str:
    """The utterance without repeated punctuation and without the spaces between Chinese words."""
    text = REPEATED.sub(r"\1", DOTS.sub("…", utterance.strip()))
    text = INNER_SPACE.sub("", REPEATED_MARKS.sub(r"\1", text))
    return " ".join(text.split()).lstrip(MARKS)


def _pairs(dialogue: list[str], name: str, counts: Counter) -> Iterator[dict]:
    history: list[dict[str, str]] = []
    for turn in range(0, len(dialogue) - 1, 2):
        question, answer = map(clean, dialogue[turn : turn + 2])
        if not (WORD.search(question) and WORD.search(answer)):
            counts["without words"] += 1
            return  # the next answer would refer to a question that is missing
        words = " ".join(dialogue[turn : turn + 2]).split()
        if sum(1 for word in words if WORD.search(word)) < MIN_WORDS:
            counts["too few words"] += 1
        else:
            counts["rows"] += 1
            row = {"id": f"{name}-{turn // 2}", "question_text": question, "answer_text": answer, "language": "zh"}
            yield row | ({"history": list(history)} if history else {})
        history += [{"role": "user", "text": question}, {"role": "assistant", "text": answer}]


def _json_lines(path: Path) -> Iterator[Any]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not a line of JSON ({error.msg}): download it again.") from error
