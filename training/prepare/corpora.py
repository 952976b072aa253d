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
"""The corpora of the paper as rows: AISHELL-1, WenetSpeech and LCCC-base, read in their published layouts."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import soundfile

from ..data import CJK, open_text


TRANSCRIPTS = "transcript/aishell_transcript_v0.8.txt"
AISHELL1_SPLITS, LCCC_SPLITS = ("train", "dev", "test"), ("train", "valid", "test")
# 10,000, 1,000 and 100 hours; weak labels; development and test
WENETSPEECH_SUBSETS = ("L", "M", "S", "W", "DEV", "TEST_NET", "TEST_MEETING")
# LCCC-base as distributed by the authors, in three files or in one, and on the Hub, one dialogue per line
WHOLE = "LCCC-base.json"
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

CHUNK_CHARACTERS = 2**20
SEPARATORS = re.compile(r"[\s,]*")
ITEM_END = re.compile(r"\s*[,\]]")


def aishell1_rows(folder: str | os.PathLike, split: str = "train", counts: Counter | None = None) -> Iterator[dict]:
    """
    AISHELL-1: 178 hours of read Mandarin with transcripts (openslr.org/33). `folder` is `data_aishell` or its parent, with
    the archives of the speakers extracted (`wav/train/S0002/….wav`). `counts` receives the number of `rows`, and of
    recordings left out by reason: 325 have no transcript.
    """
    _check_split("AISHELL-1", split, AISHELL1_SPLITS)
    counts = Counter() if counts is None else counts
    folder = Path(folder).expanduser()
    root = folder if (folder / TRANSCRIPTS).is_file() else folder / "data_aishell"
    if not (root / TRANSCRIPTS).is_file():
        raise FileNotFoundError(
            f"There is no '{TRANSCRIPTS}' in '{folder}': pass the folder that data_aishell.tgz was extracted to."
        )
    files = sorted((root / "wav" / split).glob("*/*.wav"))
    if not files:
        raise FileNotFoundError(
            f"There is no '{root / 'wav' / split}/S*/*.wav': extract the archives of the speakers in '{root / 'wav'}' "
            "(`for f in *.tar.gz; do tar xzf $f; done`)."
        )
    transcripts = _transcripts(root / TRANSCRIPTS)
    for file in files:
        if file.stem not in transcripts:
            counts["without transcript"] += 1
            continue
        try:
            seconds = soundfile.info(str(file)).duration
        except soundfile.LibsndfileError:
            counts["unreadable"] += 1
            continue
        counts["rows"] += 1
        yield {
            "id": file.stem,
            "question_audio": str(file),
            "question_seconds": round(seconds, 4),
            "question_text": transcripts[file.stem],
            "language": "zh",
            "speaker": file.parent.name,
        }


def _transcripts(path: Path) -> dict[str, str]:
    """Transcripts by recording, without the spaces that the corpus puts between words."""
    transcripts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, *words = line.split() or [""]
        if not words:
            raise ValueError(f"{path}:{number}: {line!r} must be the name of a recording and its words.")
        transcripts[name] = "".join(words)
    return transcripts


def wenetspeech_rows(
    folder: str | os.PathLike,
    subset: str = "L",
    min_seconds: float = 0.5,
    max_seconds: float = 30.0,
    min_confidence: float = 0.0,
    counts: Counter | None = None,
) -> Iterator[dict]:
    """
    WenetSpeech: 10,000 hours of Mandarin from the Internet, as transcribed segments of long recordings. `folder` holds
    `WenetSpeech.json` and `audio/`. Recordings are not cut: a row has the start and the end of its segment, and only this
    part is decoded in training. `counts` receives the number of `rows`, and of segments left out by reason.
    """
    _check_split("WenetSpeech", subset, WENETSPEECH_SUBSETS)
    counts = Counter() if counts is None else counts
    metadata = Path(folder).expanduser() / "WenetSpeech.json"
    if not metadata.is_file():
        raise FileNotFoundError(f"There is no '{metadata}': pass the folder that the corpus was extracted to.")
    for recording in stream_array(metadata, "audios"):
        try:
            path = metadata.parent / recording["path"]
            segments = [segment for segment in recording["segments"] if subset in segment["subsets"]]
            rows = [_segment_row(segment, path) for segment in segments]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"'{metadata}' is not the metadata of WenetSpeech ({error!r} in {str(recording)[:80]}…): download it again."
            ) from error
        if segments and not path.is_file():
            counts["recording missing"] += len(segments)
            continue
        for segment, row in zip(segments, rows):
            if not row["question_text"]:
                counts["without text"] += 1
            elif segment.get("confidence", 1.0) < min_confidence:
                counts["low confidence"] += 1
            elif not min_seconds <= row["question_seconds"] <= max_seconds:
                counts["too short or too long"] += 1
            else:
                counts["rows"] += 1
                yield row


def _segment_row(segment: dict, path: Path) -> dict:
    start, end = float(segment["begin_time"]), float(segment["end_time"])
    return {
        "id": segment["sid"],
        "question_audio": str(path),
        "question_start": start,
        "question_end": end,
        "question_seconds": round(end - start, 4),
        "question_text": segment.get("text", "").strip(),
        "language": "zh",
    }


def lccc_rows(source: str | os.PathLike, split: str = "train", counts: Counter | None = None) -> Iterator[dict]:
    """
    LCCC-base: 6.8 million Chinese dialogues from the Internet, as written pairs of a question and its answer with at least
    `MIN_WORDS` words. A dialogue of four turns gives two pairs, and the first is the history of the second. `source` is the
    folder of the corpus or one of its files. `counts` receives the number of `rows`, and of pairs left out by reason.
    """
    _check_split("LCCC-base", split, LCCC_SPLITS)
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


def _check_split(corpus: str, split: str, splits: Sequence[str]) -> None:
    if split not in splits:
        raise ValueError(f"The split is {split!r}: {corpus} has {', '.join(splits)}.")
