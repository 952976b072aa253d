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
"""
Muon: the step of a matrix goes equally far in all its directions, however much larger the gradient is in some. Embeddings, what
makes outputs, and all that is no matrix stay with AdamW.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .lora import plain_name


# Their rows are looked up, or belong to one output each: they are lists of vectors rather than maps.
NO_MAPS = ("lm_head.", "state_head.", "speech_head.output.", "speech_head.outputs.", "speech_head.linear_guess.")
# In each group, whether Muon trains it.
USES_MUON = "uses_muon"


class MuonAndAdamW(torch.optim.Optimizer):
    """
    One optimizer for the Trainer, of torch's two.

    Args:
        params (`Iterable[dict]`):
            Groups of parameters.
        matrices (`Iterable[nn.Parameter]`):
            Those that Muon trains, as [`inner_matrices`] finds them.
        lr (`float`):
            Of both: Muon's steps are made as large as AdamW's are.
        betas, eps (`tuple[float, float]`, `float`):
            AdamW's.
        weight_decay (`float`, *optional*, defaults to 0.0):
            Of both, in groups without their own.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        matrices: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        matrices = {id(parameter) for parameter in matrices}
        placeholder = [nn.Parameter(torch.zeros(1, 1))]
        options = {"lr": lr, "weight_decay": weight_decay}
        self.muon = torch.optim.Muon(placeholder, **options, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(placeholder, **options, betas=betas, eps=eps)
        groups = []
        for group in params:
            for optimizer in (self.muon, self.adamw):
                uses_muon = optimizer is self.muon
                mine = [one for one in group["params"] if (id(one) in matrices) == uses_muon]
                if mine:
                    groups.append({**optimizer.defaults, **group, "params": mine, USES_MUON: uses_muon})
        super().__init__(groups, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in (self.muon, self.adamw):
            # groups and state are kept here alone, where they are saved, resumed and given other rates
            optimizer.state = self.state
            optimizer.param_groups = [g for g in self.param_groups if g[USES_MUON] == (optimizer is self.muon)]
            optimizer.step()
        return loss


def inner_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of a model's linear maps, but for those that make its outputs."""
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not f"{plain_name(name)}.".startswith(NO_MAPS)
    ]
