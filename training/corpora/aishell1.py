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
"""AISHELL-1: 178 hours of Mandarin read aloud, from openslr.org/33."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..lengths import source_seconds


SPLITS = ("train", "dev", "test")
TRANSCRIPT = "transcript/aishell_transcript_v0.8.txt"


def read_aishell1(
    folder: str | os.PathLike, split: str = "train", counts: Counter | None = None
) -> Iterator[dict[str, Any]]:
    """
    Recordings with their transcripts. Those without one (325 of the corpus) and those that cannot be read are left out
    and counted.

    Args:
        folder (`str`):
            `data_aishell`, or the folder that holds it, with the archives of its speakers extracted:
            `wav/train/S0002/BAC009S0002W0122.wav`.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, `"dev"` or `"test"`.
        counts (`Counter`, *optional*):
            Gets the number of `rows`, and of the recordings left out, by reason.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}: AISHELL-1 has {', '.join(SPLITS)}.")
    root = _root_of(Path(folder).expanduser())
    transcripts = read_transcripts(root / TRANSCRIPT)
    counts = Counter() if counts is None else counts
    files = sorted((root / "wav" / split).glob("*/*.wav"))
    if not files:
        packed = len(list((root / "wav").glob("*.tar.gz")))
        remedy = (
            f"extract the {packed} archives in '{root / 'wav'}' there: `for f in *.tar.gz; do tar xzf $f; done`"
            if packed
            else "download data_aishell.tgz again and extract it, and the archives in its `wav` folder"
        )
        raise FileNotFoundError(f"There is no '{root / 'wav' / split}/S*/*.wav': {remedy}.")
    for file in files:
        text = transcripts.get(file.stem)
        if text is None:
            counts["without transcript"] += 1
            continue
        try:
            seconds = source_seconds(str(file))
        except (ValueError, OSError):
            counts["unreadable"] += 1
            continue
        counts["rows"] += 1
        yield {
            "id": file.stem,
            "question_audio": str(file),
            "question_seconds": round(seconds, 4),
            "question_text": text,
            "language": "zh",
            "speaker": file.parent.name,
        }


def read_transcripts(path: Path) -> dict[str, str]:
    """The sentences by recording. The corpus separates words by spaces, which Chinese does not write."""
    transcripts = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            name, *words = line.split()
            if not words:
                raise ValueError(
                    f"{path}:{number}: {line.strip()!r} is no transcript: it must be the name of a recording and its words."
                )
            transcripts[name] = "".join(words)
    return transcripts


def _root_of(folder: Path) -> Path:
    for root in (folder, folder / "data_aishell"):
        if (root / TRANSCRIPT).is_file():
            return root
    raise FileNotFoundError(
        f"There is no '{TRANSCRIPT}' in '{folder}' or in its `data_aishell`: pass the folder into which data_aishell.tgz of "
        "openslr.org/33 was extracted."
    )
