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

from .json_streams import stream_array


# 10,000, 1,000 and 100 hours; weak labels; development and test
SUBSETS = ("L", "M", "S", "W", "DEV", "TEST_NET", "TEST_MEETING")


def wenetspeech_rows(
    folder: str | os.PathLike,
    subset: str = "L",
    min_seconds: float = 0.5,
    max_seconds: float = 30.0,
    min_confidence: float = 0.0,
    counts: Counter | None = None,
) -> Iterator[dict]:
    """
    Segments with their transcripts. `folder` holds `WenetSpeech.json` and `audio/`. Recordings are not cut: a row has the
    start and the end of its segment, and only this part is decoded in training. `counts` receives the number of `rows`, and
    of segments left out by reason.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` is {subset!r}: WenetSpeech has {', '.join(SUBSETS)}.")
    counts = Counter() if counts is None else counts
    metadata = Path(folder).expanduser() / "WenetSpeech.json"
    if not metadata.is_file():
        raise FileNotFoundError(f"There is no '{metadata}': pass the folder that the corpus was extracted to.")
    for recording in stream_array(metadata, "audios"):
        try:
            path = metadata.parent / recording["path"]
            segments = [segment for segment in recording["segments"] if subset in segment["subsets"]]
            rows = [_row(segment, path) for segment in segments]
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


def _row(segment: dict, path: Path) -> dict:
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
