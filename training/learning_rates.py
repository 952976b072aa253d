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
Two learning rates: parts that no pretrained model has brought begin at random and bear a higher one than those that could
forget what they know.
"""

from collections.abc import Iterable

import torch

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from .stages import FROZEN_IN_STAGE


# `align` freezes what comes pretrained
PRETRAINED = FROZEN_IN_STAGE["align"]


def new_parameters(model: FlowOmniForSpeechGeneration) -> list[torch.nn.Parameter]:
    """Those of the adapter, the speech transformer, the heads and what embeds states and patches."""
    return [parameter for name, parameter in model.named_parameters() if not name.startswith(PRETRAINED)]


def set_learning_rate(
    optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter], learning_rate: float
) -> None:
    """
    Moves parameters to groups of their own, behind all others, which differ from their old ones by the learning rate only.
    Groups that are left empty go: the Trainer logs the rate of the first one.
    """
    chosen = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if moved:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            optimizer.add_param_group({**group, "params": moved, "lr": learning_rate})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
