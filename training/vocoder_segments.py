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
"""Pieces of recordings for the vocoder: always the same ones in the same order, wherever they are read."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..processing.audio_io import load_audio
from .examples import uniform
from .row_fingerprints import digest_of, fingerprint_of
from .rows import audio_of, has


logger = logging.getLogger(__name__)

# Pieces that a recording gives in an epoch, each cut elsewhere.
PIECES = 50
MAX_SUBSTITUTES = 100


class VocoderSegments(Dataset):
    """
    Pieces of `num_samples` from the spoken answers of rows, padded with silence where a recording is shorter. Where a piece
    is cut depends on the seed and its index alone, so a resumed run sees what the uninterrupted one would have. A row of a mix
    gives as many times the pieces as it comes in an epoch.
    """

    def __init__(
        self, rows: Sequence[dict], sampling_rate: int, num_samples: int, seed: int = 0, pieces: int = PIECES
    ):
        self.rows, self.seed = rows, seed
        self.sampling_rate, self.num_samples = sampling_rate, num_samples
        spoken = {index: digest_of([row]) for index, row in enumerate(rows) if has(row, "answer_audio")}
        self.indices = list(spoken)
        if not self.indices:
            raise ValueError(
                f"None of {len(rows)} rows has an `answer_audio`, which the vocoder learns from: give them one, or name the "
                "column with `data.columns={answer_audio: NAME}`."
            )
        mix = getattr(rows, "mix", None)
        # what tells these recordings from others
        self.fingerprint = fingerprint_of(len(spoken), spoken.values(), mix)
        times = np.ones(len(rows)) if mix is None else mix.times_of_rows()
        # the piece after the last one of each recording
        self.ends = np.cumsum(np.maximum(1, np.round(pieces * times[self.indices]).astype(int)))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        waveform = self._recording(index)
        missing = self.num_samples - len(waveform)
        if missing > 0:
            return {"waveform": torch.from_numpy(np.pad(waveform, (0, missing)))}
        start = int(uniform(self.seed, "piece", index) * (1 - missing))
        return {"waveform": torch.from_numpy(waveform[start : start + self.num_samples].copy())}

    def _recording(self, index: int) -> Any:
        """The recording of a piece, or where it cannot be read the next one that can."""
        recording = int(np.searchsorted(self.ends, index, side="right"))
        for offset in range(min(len(self.indices), MAX_SUBSTITUTES)):
            row = self.rows[self.indices[(recording + offset) % len(self.indices)]]
            try:
                return load_audio(audio_of(row, "answer_audio"), self.sampling_rate)
            except (ValueError, OSError) as error:
                logger.warning("Skipped the recording of row %s: %s", row.get("id"), error)
                last = error
        raise RuntimeError(
            f"None of {min(len(self.indices), MAX_SUBSTITUTES)} recordings can be read. The last: {last}"
        )
