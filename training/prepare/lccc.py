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

from ..manifest import open_text
from ..rows import CJK
from .json_streams import stream_array


SPLITS = ("train", "valid", "test")
# As distributed by the authors, in one file or in three, and on the Hub, one dialogue per line.
WHOLE = "LCCC-base.json"
LAYOUTS = (
    "LCCC-base_{split}.json",
    "LCCC-base-split/LCCC-base_{split}.json",
    "lccc_base_{split}.jsonl.gz",
    "lccc_base_{split}.jsonl",
    WHOLE,
)

MARKS = "。．.！!？?，,、；;：:~～…"
DOTS = re.compile(r"[.。．…](?:\s*[.。．…])+|…")
REPEATED_MARKS = re.compile(rf"([{MARKS}])(?:\s*[{MARKS}])+")
REPEATED = re.compile(r"([^\w\s])(?:\s*\1)+")
INNER_SPACE = re.compile(rf"(?<=[{CJK}{MARKS}])\s+|\s+(?=[{CJK}{MARKS}])")
SPOKEN = re.compile(rf"[{CJK}]|[^\W_]+")


def lccc_rows(
    source: str | os.PathLike,
    split: str = "train",
    min_words: int = 5,
    with_history: bool = True,
    counts: Counter | None = None,
) -> Iterator[dict[str, Any]]:
    """
    Pairs of a question and its answer. A dialogue of four turns gives two: the first is the history of the second.

    Args:
        source (`str`):
            The folder of LCCC-base, or one of its files (`.json`, `.jsonl`, gzipped or not).
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, `"valid"` or `"test"`.
        min_words (`int`, *optional*, defaults to 5):
            Pairs with fewer words are left out. The corpus separates words by spaces.
        with_history (`bool`, *optional*, defaults to `True`):
            Whether rows include the earlier turns.
        counts (`Counter`, *optional*):
            Receives the number of `rows`, and of pairs left out by reason.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}: LCCC-base has {', '.join(SPLITS)}.")
    counts = Counter() if counts is None else counts
    path = source = Path(source).expanduser()
    if not source.is_file():
        names = [layout.format(split=split) for layout in LAYOUTS]
        path = next((source / name for name in names if (source / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"There is no LCCC-base in '{source}': it must hold one of {', '.join(names)}.")
    is_lines = path.name.removesuffix(".gz").endswith(".jsonl")
    dialogues = _json_lines(path) if is_lines else stream_array(path, split if path.name == WHOLE else None)
    for number, dialogue in enumerate(dialogues):
        if isinstance(dialogue, dict):
            dialogue = next((value for value in dialogue.values() if isinstance(value, list)), None)
        if not isinstance(dialogue, list) or not all(isinstance(turn, str) for turn in dialogue):
            shown = str(dialogue)[:80]
            raise ValueError(f"Dialogue {number} of '{path}' is {shown!r}: it must be a list of strings, the turns.")
        yield from _pairs(dialogue, f"lccc-{split}-{number}", min_words, with_history, counts)


def clean(utterance: str) -> str:
    """The utterance without repeated punctuation and without the spaces between Chinese words."""
    text = REPEATED.sub(r"\1", DOTS.sub("…", utterance.strip()))
    text = INNER_SPACE.sub("", REPEATED_MARKS.sub(r"\1", text))
    return " ".join(text.split()).lstrip(MARKS)


def _pairs(
    dialogue: list[str], name: str, min_words: int, with_history: bool, counts: Counter
) -> Iterator[dict[str, Any]]:
    history: list[dict[str, str]] = []
    for turn in range(0, len(dialogue) - 1, 2):
        question, answer = map(clean, dialogue[turn : turn + 2])
        if not (SPOKEN.search(question) and SPOKEN.search(answer)):
            counts["without words"] += 1
            return  # the next answer would refer to a question that is missing
        words = " ".join(dialogue[turn : turn + 2]).split()
        if sum(1 for word in words if SPOKEN.search(word)) < min_words:
            counts["too few words"] += 1
        else:
            counts["rows"] += 1
            row = {"id": f"{name}-{turn // 2}", "question_text": question, "answer_text": answer, "language": "zh"}
            yield row | ({"history": list(history)} if with_history and history else {})
        history += [{"role": "user", "text": question}, {"role": "assistant", "text": answer}]


def _json_lines(path: Path) -> Iterator[Any]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not a line of JSON ({error.msg}): download it again.") from error
