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
"""WenetSpeech: 10,000 hours of Mandarin from the Internet, long recordings of which segments are transcribed."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .json_streams import stream_array


METADATA = "WenetSpeech.json"
SUBSETS = ("L", "M", "S", "W", "DEV", "TEST_NET", "TEST_MEETING")


def read_wenetspeech(
    folder: str | os.PathLike,
    subset: str = "L",
    min_seconds: float = 0.5,
    max_seconds: float = 30.0,
    min_confidence: float = 0.0,
    counts: Counter | None = None,
) -> Iterator[dict[str, Any]]:
    """
    Segments with their transcripts. No sound is cut: a row names its recording and where the segment begins and ends,
    and only that part is decoded when an example is made of it.

    Args:
        folder (`str`):
            Holds `WenetSpeech.json` and `audio/`, with paths such as `audio/train/youtube/B00000/Y0000000000_….opus`.
        subset (`str`, *optional*, defaults to `"L"`):
            `"L"` (10,000 hours), `"M"` (1,000), `"S"` (100), `"W"` (weak labels), `"DEV"`, `"TEST_NET"` or
            `"TEST_MEETING"`.
        min_seconds, max_seconds (`float`, *optional*, default to 0.5 and 30.0):
            Shorter and longer segments are left out and counted.
        min_confidence (`float`, *optional*, defaults to 0.0):
            So are segments whose transcript is less sure than this.
        counts (`Counter`, *optional*):
            Gets the number of `rows`, and of the segments left out, by reason.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` is {subset!r}: WenetSpeech has {', '.join(SUBSETS)}.")
    folder = Path(folder).expanduser()
    metadata = folder if folder.is_file() else folder / METADATA
    if not metadata.is_file():
        raise FileNotFoundError(
            f"There is no '{metadata}': pass the folder into which the corpus was extracted, or the path of its JSON file."
        )
    counts = Counter() if counts is None else counts
    for recording in stream_array(metadata, "audios"):
        segments = _chosen(recording, subset)
        path = metadata.parent / recording["path"]
        # asked once for each recording, and not at all for those of other subsets
        if segments and not path.is_file():
            counts["recording missing"] += len(segments)
            continue
        for segment in segments:
            row = _row(segment, path)
            reason = _reason_to_leave_out(segment, row, min_seconds, max_seconds, min_confidence)
            counts[reason or "rows"] += 1
            if reason is None:
                yield row


def _chosen(recording: Mapping, subset: str) -> list[Mapping]:
    for name in ("path", "segments"):
        if name not in recording:
            raise ValueError(
                f"The recording {recording.get('aid')!r} has no `{name}` (it has {', '.join(recording)}): this is not the "
                "metadata of WenetSpeech as published. Download it again."
            )
    return [segment for segment in recording["segments"] if subset in segment.get("subsets", [])]


def _row(segment: Mapping, path: Path) -> dict[str, Any]:
    begin, end = float(segment["begin_time"]), float(segment["end_time"])
    return {
        "id": segment["sid"],
        "question_audio": str(path),
        "question_start": begin,
        "question_end": end,
        "question_seconds": round(end - begin, 4),
        "question_text": segment.get("text", "").strip(),
        "language": "zh",
    }


def _reason_to_leave_out(
    segment: Mapping, row: Mapping, min_seconds: float, max_seconds: float, min_confidence: float
) -> str | None:
    if not row["question_text"]:
        return "without text"
    if segment.get("confidence", 1.0) < min_confidence:
        return "unsure"
    if row["question_seconds"] < min_seconds:
        return "too short"
    return "too long" if row["question_seconds"] > max_seconds else None
