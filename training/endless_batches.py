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
"""Ready batches as the Trainer reads them: epoch after epoch without end, and taken up again where a checkpoint left them."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from .batches import Batches
from .checkpoints import check_num_processes


class EndlessBatches:
    """
    The Trainer divides steps into epochs of one length. Ours are not: each draws other tasks, which make other batches. So
    it gets one endless epoch, and the position in the data is saved with each checkpoint, instead of being reckoned
    from the number of steps.
    """

    def __init__(self, batches: Batches):
        self.batches = batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        is_empty = False
        while not is_empty:
            batches = iter(self.batches)
            # A data loader draws a seed as it begins. A run that is resumed begins it once more than one that was not.
            with torch.random.fork_rng(devices=[]):
                first = next(batches, None)
            is_empty = first is None
            if not is_empty:
                yield first
                yield from batches

    @property
    def epoch(self) -> float | None:
        """Epochs gone through so far; `None` of a stream, whose length nobody knows."""
        if not hasattr(self.batches, "position"):
            return None
        return self.batches.epoch + self.batches.position / len(self.batches)

    def save(self, folder: str | os.PathLike, rank: int) -> None:
        """Writes the position of this process into a checkpoint."""
        torch.save(self.batches.state_dict(), _file(folder, rank))

    def load(self, folder: str | os.PathLike, rank: int) -> None:
        num_found, world_size = len(list(Path(folder).glob("batches_*.pt"))), self.batches.options.world_size
        if num_found == 0:
            raise FileNotFoundError(
                f"'{folder}' holds weights alone (`save_only_model`), from which no run can be resumed. Begin a new one with it "
                "as `model`, in another `output_dir`."
            )
        check_num_processes(folder, num_found, world_size)
        state = torch.load(_file(folder, rank), weights_only=True)
        was_streamed, is_streamed = "lanes" in state, not hasattr(self.batches, "position")
        if was_streamed != is_streamed:
            raise ValueError(
                f"'{folder}' is of a run with `data.streaming={str(was_streamed).lower()}`: a place among rows that are streamed is none "
                "among rows that are counted. Resume with the same, or begin anew (`--fresh`)."
            )
        self.batches.load_state_dict(state)


def _file(folder: str | os.PathLike, rank: int) -> Path:
    return Path(folder) / f"batches_{rank}.pt"
