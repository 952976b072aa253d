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
"""An exponential moving average of the weights that train: smoother than any step's, and often better."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


EMA_FILE = "ema.safetensors"
NUM_UPDATES = "num_updates"


class ExponentialMovingAverage:
    """
    Keeps `average = decay * average + (1 - decay) * weight` of every weight that trains, in fp32: in bf16 a change of one
    part in ten thousand would be rounded away.

    Args:
        decay (`float`):
            Between 0 and 1: an average over about `1 / (1 - decay)` steps. In the first steps it is lower, so that where
            training began is soon forgotten.
    """

    def __init__(self, decay: float):
        if not 0.0 < decay < 1.0:
            raise ValueError(f"`ema_decay` is {decay}: it must lie between 0 and 1, for example 0.999.")
        self.decay = decay
        self.num_updates = 0
        self.averages: dict[str, torch.Tensor] = {}

    def start(self, model: nn.Module) -> None:
        """Begins with the weights as they are."""
        self.num_updates = 0
        self.averages = {name: weight.detach().float().clone() for name, weight in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights after a step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, weight in _trained(model):
            self.averages[name].lerp_(weight.detach().float(), 1 - decay)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within it the model has the averages as its weights, after it its own again, to the bit."""
        own = {name: weight.detach().clone() for name, weight in _trained(model)}
        self._copy_into(model, self.averages)
        try:
            yield
        finally:
            self._copy_into(model, own)

    @torch.no_grad()
    def _copy_into(self, model: nn.Module, values: dict[str, torch.Tensor]) -> None:
        for name, weight in _trained(model):
            weight.copy_(values[name])

    def save(self, folder: str | Path) -> None:
        weights = {name: average.contiguous() for name, average in self.averages.items()}
        save_file(weights, Path(folder) / EMA_FILE, metadata={NUM_UPDATES: str(self.num_updates)})

    def load(self, folder: str | Path, model: nn.Module) -> None:
        """The averages of a checkpoint, for the weights that train in `model`."""
        path = Path(folder) / EMA_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no `{EMA_FILE}` in '{folder}': the run it is of kept no moving average. Resume with "
                "`ema_decay=null`, or start anew."
            )
        devices = {name: weight.device for name, weight in _trained(model)}
        averages = load_file(path)
        if set(averages) != set(devices):
            differing = sorted(set(averages) ^ set(devices))
            raise ValueError(
                f"`{EMA_FILE}` in '{folder}' averages other weights than those that train now ({len(differing)} differ, such as "
                f"{differing[0]}): resume with the stage and the LoRA options that it was written with."
            )
        self.averages = {name: average.to(devices[name]) for name, average in averages.items()}
        self.num_updates = _num_updates_in(path)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _num_updates_in(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return int(file.metadata()[NUM_UPDATES])
