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
"""WenetSpeech: 10,000 hours of Mandarin from the Internet, as transcribed segments of long recordings."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .json_streams import stream_array


SUBSETS = ("L", "M", "S", "W", "DEV", "TEST_NET", "TEST_MEETING")


def wenetspeech_rows(
    folder: str | os.PathLike,
    subset: str = "L",
    min_seconds: float = 0.5,
    max_seconds: float = 30.0,
    min_confidence: float = 0.0,
    counts: Counter | None = None,
) -> Iterator[dict[str, Any]]:
    """
    Segments with their transcripts. Recordings are not cut: a row has the path of the recording and the start and end of
    its segment, and only this part is decoded in training.

    Args:
        folder (`str`):
            Holds `WenetSpeech.json` and `audio/` (`audio/train/youtube/B00000/….opus`); or the path of the JSON file.
        subset (`str`, *optional*, defaults to `"L"`):
            `"L"` (10,000 hours), `"M"` (1,000), `"S"` (100), `"W"` (weak labels), `"DEV"`, `"TEST_NET"` or
            `"TEST_MEETING"`.
        min_seconds, max_seconds, min_confidence (`float`, *optional*, default to 0.5, 30.0 and 0.0):
            Other segments are left out.
        counts (`Counter`, *optional*):
            Receives the number of `rows`, and of segments left out by reason.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` is {subset!r}: WenetSpeech has {', '.join(SUBSETS)}.")
    folder = Path(folder).expanduser()
    metadata = folder if folder.is_file() else folder / "WenetSpeech.json"
    if not metadata.is_file():
        raise FileNotFoundError(f"There is no '{metadata}': pass the folder that the corpus was extracted to.")
    counts = Counter() if counts is None else counts
    for recording in stream_array(metadata, "audios"):
        try:
            path, segments = metadata.parent / recording["path"], recording["segments"]
            segments = [segment for segment in segments if subset in segment["subsets"]]
            rows = [_row(segment, path) for segment in segments]
        except (KeyError, TypeError, ValueError) as error:
            name = str(recording)[:80]
            raise ValueError(
                f"'{metadata}' is not WenetSpeech's metadata ({error!r} in {name}…): download it again."
            ) from error
        if segments and not path.is_file():
            counts["recording missing"] += len(segments)
            continue
        for segment, row in zip(segments, rows):
            if not row["question_text"]:
                counts["without text"] += 1
            elif segment.get("confidence", 1.0) < min_confidence:
                counts["low confidence"] += 1
            elif row["question_seconds"] < min_seconds:
                counts["too short"] += 1
            elif row["question_seconds"] > max_seconds:
                counts["too long"] += 1
            else:
                counts["rows"] += 1
                yield row


def _row(segment: dict, path: Path) -> dict[str, Any]:
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
