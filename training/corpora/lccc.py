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
"""LCCC: millions of Chinese dialogues from the Internet, cleaned as the paper has it, as questions and answers."""

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
# As the corpus is handed out: by its authors in one file or in three, and on the Hub, a dialogue a line.
LAYOUTS = (
    "LCCC-base_{split}.json",
    "LCCC-base-split/LCCC-base_{split}.json",
    "lccc_base_{split}.jsonl.gz",
    "lccc_base_{split}.jsonl",
)
WHOLE = "LCCC-base.json"

SENTENCE_MARKS = "。．.！!？?，,、；;：:~～…"
DOTS = re.compile(r"[.。．…](?:\s*[.。．…])+|…")
MARKS = re.compile(rf"([{SENTENCE_MARKS}])(?:\s*[{SENTENCE_MARKS}])+")
REPEATED = re.compile(r"([^\w\s])(?:\s*\1)+")
INNER_SPACE = re.compile(rf"(?<=[{CJK}{SENTENCE_MARKS}])\s+|\s+(?=[{CJK}{SENTENCE_MARKS}])")
SPOKEN = re.compile(rf"[{CJK}]|[^\W_]+")


def read_lccc(
    source: str | os.PathLike,
    split: str = "train",
    min_words: int = 5,
    with_history: bool = True,
    counts: Counter | None = None,
) -> Iterator[dict[str, Any]]:
    """
    Pairs of a question and its answer, in writing. A dialogue of four turns makes two: the second has the first as its
    history.

    Args:
        source (`str`):
            The folder of LCCC-base, or one of its files (`.json`, `.jsonl`, gzipped or not).
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, `"valid"` or `"test"`.
        min_words (`int`, *optional*, defaults to 5):
            A pair of fewer words is left out. Words are what the corpus separates by spaces.
        with_history (`bool`, *optional*, defaults to `True`):
            Whether rows hold the turns before them.
        counts (`Counter`, *optional*):
            Gets the number of `rows`, and of the pairs left out, by reason.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}: LCCC-base has {', '.join(SPLITS)}.")
    counts = Counter() if counts is None else counts
    for number, dialogue in enumerate(_dialogues(Path(source).expanduser(), split)):
        if isinstance(dialogue, dict):
            dialogue = next((value for value in dialogue.values() if isinstance(value, list)), None)
        if not isinstance(dialogue, list) or not all(isinstance(turn, str) for turn in dialogue):
            raise ValueError(
                f"Dialogue {number} of '{source}' is {str(dialogue)[:80]!r}: it must be a list of what is said in turn. Is this LCCC?"
            )
        yield from _pairs(dialogue, f"lccc-{split}-{number}", min_words, with_history, counts)


def clean(utterance: str) -> str:
    """What is said, without repeated punctuation and without the spaces between Chinese words."""
    text = DOTS.sub("…", utterance.strip())
    text = MARKS.sub(r"\1", REPEATED.sub(r"\1", text))
    return " ".join(INNER_SPACE.sub("", text).split()).lstrip(SENTENCE_MARKS)


def num_words(utterance: str) -> int:
    """Words of an utterance as the corpus separates them, punctuation aside."""
    return sum(1 for word in utterance.split() if SPOKEN.search(word))


def _pairs(
    dialogue: list[str], name: str, min_words: int, with_history: bool, counts: Counter
) -> Iterator[dict[str, Any]]:
    history: list[dict[str, str]] = []
    for turn in range(0, len(dialogue) - 1, 2):
        raw_question, raw_answer = dialogue[turn : turn + 2]
        question, answer = clean(raw_question), clean(raw_answer)
        row = {"id": f"{name}-{turn // 2}", "question_text": question, "answer_text": answer, "language": "zh"}
        if not (SPOKEN.search(question) and SPOKEN.search(answer)):
            counts["nothing said"] += 1
            # what follows would answer a question that is not there
            return
        if num_words(raw_question) + num_words(raw_answer) < min_words:
            counts["too few words"] += 1
        else:
            counts["rows"] += 1
            yield row | ({"history": list(history)} if with_history and history else {})
        history += [{"role": "user", "text": question}, {"role": "assistant", "text": answer}]


def _dialogues(source: Path, split: str) -> Iterator[Any]:
    if source.is_file():
        return _dialogues_of(source, split)
    for layout in LAYOUTS:
        path = source / layout.format(split=split)
        if path.is_file():
            return _dialogues_of(path, split)
    if (source / WHOLE).is_file():
        return _dialogues_of(source / WHOLE, split)
    names = ", ".join([*(layout.format(split=split) for layout in LAYOUTS), WHOLE])
    raise FileNotFoundError(f"There is no LCCC in '{source}': it must hold one of {names}.")


def _dialogues_of(path: Path, split: str) -> Iterator[Any]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _json_lines(path)
    return stream_array(path, split if name == WHOLE else None)


def _json_lines(path: Path) -> Iterator[Any]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: the line is no JSON ({error.msg}): download the file again."
                ) from error
