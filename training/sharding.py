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
"""Weights in shards, each process a part of them (FSDP, through accelerate): what is gathered at once, and where it works."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration


def check_sharding(is_sharded: bool, device: Any) -> None:
    """Raises where accelerate was told to shard and does not: it would train on whole weights without a word."""
    is_wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if is_wanted and not is_sharded:
        raise ValueError(
            f"The config of `accelerate launch` asks for FSDP, and this run is on the device `{device}`, where accelerate does not "
            "shard: launch it with `ddp.yaml`, or on the CPU with `python -m torch.distributed.run`."
        )


def shard_by_layers(plugin: Any, model: FlowOmniForSpeechGeneration) -> None:
    """
    Names the layers whose weights are gathered one by one, unless the config of accelerate does. By itself accelerate looks for
    all that transformers says must stay together, and fails: the decoder of Whisper is not in this model.
    """
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "`fsdp_cpu_ram_efficient_loading` is true: it loads parameters alone, and the statistics of the mel are none. Say false "
            "in the config of `accelerate launch`, as `fsdp.yaml` does."
        )
    if plugin.transformer_cls_names_to_wrap is None:
        stacks = (model.model.audio_encoder, model.model.language_model, model.speech_transformer)
        layers = {type(layer).__name__ for stack in stacks for layer in stack.layers}
        plugin.transformer_cls_names_to_wrap = sorted(layers)


@contextmanager
def under_its_own_class(model: nn.Module) -> Iterator[None]:
    """
    Within it a sharded model is of the class that it was of. FSDP makes a class of its own in the file of torch, and saved under
    that, a checkpoint would name it, and bring torch's code in the place of ours.
    """
    sharded = type(model)
    if issubclass(sharded, FSDPModule):
        model.__class__ = next(base for base in sharded.__bases__ if base is not FSDPModule)
    try:
        yield
    finally:
        model.__class__ = sharded
