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
"""AISHELL-1: 178 hours of read Mandarin with transcripts (openslr.org/33)."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import soundfile


SPLITS = ("train", "dev", "test")
TRANSCRIPTS = "transcript/aishell_transcript_v0.8.txt"


def aishell1_rows(folder: str | os.PathLike, split: str = "train", counts: Counter | None = None) -> Iterator[dict]:
    """
    Recordings with their transcripts. `folder` is `data_aishell` or its parent, with the archives of the speakers extracted
    (`wav/train/S0002/….wav`). `counts` receives the number of `rows`, and of recordings left out by reason: 325 have no
    transcript.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}: AISHELL-1 has {', '.join(SPLITS)}.")
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
    transcripts = _read_transcripts(root / TRANSCRIPTS)
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


def _read_transcripts(path: Path) -> dict[str, str]:
    """Transcripts by recording, without the spaces that the corpus puts between words."""
    transcripts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        name, *words = line.split() or [""]
        if not words:
            raise ValueError(f"{path}:{number}: {line!r} must be the name of a recording and its words.")
        transcripts[name] = "".join(words)
    return transcripts
