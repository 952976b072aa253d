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
"""LoRA adapters on the language model, by peft."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraModel
from safetensors.torch import save_file

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration


ADAPTER = "default"


def add_lora(model: FlowOmniForSpeechGeneration, fields: Mapping[str, Any], base: str | None = None) -> LoraModel:
    """
    Injects adapters into the language model, in place, by `fields` of [`peft.LoraConfig`]; on all linear layers by default.
    The Trainer trains and saves their weights together with those of the other modules. Returns the tuner that
    [`save_and_merge_lora`] takes. `base` names the checkpoint of the model in the config of the adapters.
    """
    try:
        config = LoraConfig(**{"target_modules": "all-linear", "base_model_name_or_path": base} | dict(fields))
    except TypeError as error:
        raise ValueError(f"`lora` has a field that peft.LoraConfig does not have: {error}.") from error
    return LoraModel(model.model.language_model, config, ADAPTER)


def save_and_merge_lora(model: FlowOmniForSpeechGeneration, tuner: LoraModel, folder: Path | None) -> None:
    """
    Writes the adapters to a folder in peft's format, for `PeftModel.from_pretrained(model.model.language_model, folder)`,
    and merges them into the weights of the model.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        weights = get_peft_model_state_dict(tuner, adapter_name=ADAPTER)
        weights = {f"base_model.{name}": weight.contiguous() for name, weight in weights.items()}
        save_file(weights, folder / "adapter_model.safetensors")
        tuner.peft_config[ADAPTER].save_pretrained(folder)
    model.model.language_model = tuner.merge_and_unload(safe_merge=True)
