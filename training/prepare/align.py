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
"""The times of words and characters in recordings, by a model's own CTC: any voice and any corpus serve the timed layout."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...processing.audio_io import load_audio
from ...processing.forced_alignment import AlignmentError, align_letters
from ..data import audio_of, has, spec_of, write_rows
from ..examples import UNREADABLE
from .speak import rows_with_paths
from .synthesis import word_onsets


@dataclass
class AlignmentReport:
    """The number of rows in the manifest, how many others were left out for which reason, and the first of them."""

    num_rows: int = 0
    left_out: Counter = field(default_factory=Counter)
    first_error: str = ""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in self.left_out.most_common())
        first = f" The first: {self.first_error}" if self.first_error else ""
        return f"{self.num_rows} rows. Left out: {reasons or 'none'}.{first}"


def align_rows(
    model: Any,
    processor: Any,
    source: Any,
    manifest: str | os.PathLike,
    name: str = "",
    progress: Callable[[int], Any] | None = None,
    voice: str | None = None,
) -> AlignmentReport:
    """
    Writes the rows of `source` (as for [`load_rows`]) with the times of the words and characters of the speech that the
    task `say` takes from them: `answer_word_times` and `answer_character_times`, or of a recording with its transcript
    `question_word_times` and `question_character_times`. Rows that have times keep them; those that cannot be aligned are
    left out. A `voice` is written to all rows. An interrupted run continues if the model has the same `name`.
    """
    if model.config.adapter_compression != "ctc":
        raise ValueError("The model's audio adapter does not spell: align with one of `adapter_compression='ctc'`.")
    manifest, report = Path(manifest).expanduser(), AlignmentReport()
    manifest.parent.mkdir(parents=True, exist_ok=True)
    # beside the manifest, which is written when all is done
    journal_path = manifest.with_name(f".{manifest.name}.progress")
    done = _read_journal(journal_path)

    def aligned() -> Iterator[dict]:
        with open(journal_path, "a", encoding="utf-8") as journal:
            for row in rows_with_paths(source):
                key = hashlib.blake2b(json.dumps([name, row]).encode(), digest_size=12).hexdigest()
                try:
                    if key not in done:
                        done[key] = _times(model, processor, row)
                        journal.write(json.dumps([key, done[key]]) + "\n")
                        journal.flush()
                    report.num_rows += 1
                    yield row | done[key] | ({"voice": voice} if voice else {})
                except AlignmentError as error:
                    report.left_out[error.reason] += 1
                    report.first_error = report.first_error or f"{row.get('id')}: {error}"
                if progress is not None:
                    progress(1)
        if report.num_rows == 0:
            raise ValueError(f"No row of '{source}' could be aligned. {report}")

    write_rows(manifest, aligned())
    journal_path.unlink()
    return report


def _read_journal(path: Path) -> dict[str, dict]:
    """The times that an interrupted run found. A last line that was cut off is removed."""
    if not path.exists():
        return {}
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    path.write_bytes(b"".join(lines))
    return dict(json.loads(line) for line in lines)


def _times(model: Any, processor: Any, row: Mapping) -> dict[str, list[float]]:
    """The columns of a row's times, or nothing if it has them. Raises [`AlignmentError`]."""
    spec, rate = spec_of(row, "say"), processor.feature_extractor.sampling_rate
    side = (spec.answer_audio or "").removesuffix("_audio")
    words, characters = f"{side}_word_times", f"{side}_character_times"
    if has(row, words) and has(row, characters):
        return {}
    if not all(has(row, name) for name in spec.needs):
        missing = f"There is no `{spec.answer_audio}` with its `{spec.answer_text}`."
        raise AlignmentError(missing, "no speech and its text")
    try:
        waveform = load_audio(audio_of(row, spec.answer_audio), rate, max_seconds=processor.max_audio_seconds)
    except UNREADABLE as error:
        raise AlignmentError(str(error), "an audio that cannot be read") from error
    text = row[spec.answer_text]
    said = [(place, start) for place, start, _ in align_letters(model, processor, waveform, text, sampling_rate=rate)]
    # what has no letter, such as a space or a comma, is said between those around it
    places, seconds = zip(*said, (len(text), len(waveform) / rate))
    times = {
        words: row.get(words) or word_onsets(text, said),
        characters: np.interp(range(len(text)), places, seconds),
    }
    return {column: [round(float(time), 3) for time in values] for column, values in times.items()}
