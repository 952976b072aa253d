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
"""From the name of a checkpoint to a model ready to answer, or to the reason why not."""

from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from ..processing.processing_flow_omni import FlowOmniProcessor
from ..untrained import load_bundled
from .checkpoints import check_processor, find_checkpoint
from .console import note, progress
from .errors import UserError, one_line
from .options import DType


# What a damaged checkpoint, or one of an impossible configuration, may raise.
LOADING_ERRORS = (ValueError, TypeError, KeyError, OSError, RuntimeError, SafetensorError, StrictDataclassError)


@dataclass
class LoadedModel:
    """A model, its processor, and what the user calls them."""

    model: FlowOmniForSpeechGeneration
    processor: FlowOmniProcessor
    name: str


def load_model(name: str | None, device: str | None = None, dtype: DType = DType.auto) -> LoadedModel:
    """The model of a folder or of the Hub, or without a name the bundled one, on its device."""
    device = choose_device(device)
    folder = find_checkpoint(name) if name is not None else None
    with progress(f"Loading {name or 'the bundled model'} …"):
        if folder is None:
            name = "the bundled model"
            model, processor, is_trained = load_bundled()
            if not is_trained:
                note(
                    "Note: this is a tiny UNTRAINED model, there to try the commands: its words and its voice are noise."
                )
        else:
            model, processor = load_checkpoint(folder, name)
        if dtype is not DType.auto:
            model = model.to(getattr(torch, dtype))
        return LoadedModel(model.to(device).eval(), processor, name)


def load_checkpoint(folder: Path, name: str) -> tuple[FlowOmniForSpeechGeneration, FlowOmniProcessor]:
    """Model and processor of a folder that holds all of both."""
    check_processor(folder)
    try:
        processor = FlowOmniProcessor.from_pretrained(folder)
        model, info = FlowOmniForSpeechGeneration.from_pretrained(
            folder, dtype="auto", use_safetensors=True, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        raise UserError(
            f"The checkpoint '{name}' cannot be loaded ({one_line(error)}): it is damaged or incomplete. Copy, download or "
            "assemble it again."
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"The checkpoint '{name}' lacks {len(missing)} weights ({', '.join(missing[:3])}, …): it is incomplete. Copy, "
            "download or assemble it again."
        )
    return model, processor


def choose_device(name: str | None) -> torch.device:
    """The device of that name, if it is there; without a name a graphics card if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        # reading a value back shows that it computes; `meta` cannot
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"`--device {name}` cannot be used here: choose one of: {', '.join(devices())}.") from error
    return device


def devices() -> list[str]:
    """The names of the devices of this machine."""
    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*names, "mps"] if torch.backends.mps.is_available() else names
