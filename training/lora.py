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
"""LoRA on the language model alone, through peft: adapters beside it, while the modules that are new train in full."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from .extras import needs
from .stages import PAPER_STAGES, frozen_prefixes


# the projections of attention and MLP, as Llama, Qwen2, Qwen3 and their kind name them
DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Where peft writes what it trained, and names the model that it belongs to.
ADAPTER_CONFIG = "adapter_config.json"
# The modules that train in full beside the adapters, by name. The statistics of the mel are no parameters, but what was
# trained means nothing under others.
NEW_MODULES = (
    "model.audio_adapter",
    "model.state_embedding",
    "model.patch_proj",
    "speech_transformer",
    "speech_head",
    "state_head",
    "mel_normalizer",
)


@dataclass
class LoraOptions:
    """
    Args:
        rank (`int`, *optional*, defaults to 16):
            Rank of the adapters.
        alpha (`float`, *optional*, defaults to 32):
            Their scale is `alpha / rank`.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout of what they read.
        target_modules (`tuple[str, ...]`, *optional*):
            Names of the linear layers of the language model that get adapters; by default those of attention and MLP.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = DEFAULT_TARGETS


def add_lora(
    model: FlowOmniForSpeechGeneration, stage: str, options: LoraOptions, base: str | os.PathLike | None = None
) -> nn.Module:
    """
    The model with adapters on its language model, as a `PeftModel`: they train, and what the stage trains outside of the
    language model does. Nothing else.

    Args:
        base (`str`, *optional*):
            Where the checkpoint of this very model lies: written into the adapters' config, so that [`load_lora`] finds it.
    """
    if stage not in PAPER_STAGES:
        raise ValueError(
            f"The stage is {stage!r}: adapters change what the language model says, so it must be one of "
            f"{', '.join(map(repr, PAPER_STAGES))}."
        )
    peft = needs("peft")
    if base is not None:
        model.name_or_path = os.fspath(base)
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=target_pattern(model, options.target_modules),
        modules_to_save=list(modules_in_full(stage)),
    )
    adapted = peft.get_peft_model(model, config)
    freeze_inside(adapted, stage)
    return adapted


def target_pattern(model: FlowOmniForSpeechGeneration, names: tuple[str, ...]) -> str:
    """
    The pattern that peft matches whole module names against. A list of names would match their ends, and with them the
    layers of the speech transformer, which are of the same class.
    """
    layers = {
        name.rsplit(".", 1)[-1]
        for name, module in model.model.language_model.named_modules()
        if type(module) is nn.Linear
    }
    unknown = sorted(set(names) - layers)
    if unknown or not names:
        raise ValueError(
            f"`lora.target_modules` names {', '.join(unknown) or 'nothing'}: the linear layers of this language model are "
            f"{', '.join(sorted(layers))}."
        )
    return rf"model\.language_model\..*\.({'|'.join(names)})"


def modules_in_full(stage: str) -> tuple[str, ...]:
    """The modules that peft copies, trains in full and saves. In `finetune` Whisper trains, too."""
    return NEW_MODULES + (("model.audio_encoder",) if stage == "finetune" else ())


def freeze_inside(adapted: nn.Module, stage: str) -> None:
    """Freezes what the stage freezes within the modules that peft trains as wholes."""
    frozen = frozen_prefixes(adapted.get_base_model(), stage)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and plain_name(name).startswith(frozen) and ".lora_" not in name:
            parameter.requires_grad_(False)


def named_parameters_in_use(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters without the originals that peft keeps, frozen and unused, beside the modules that it trains in full."""
    for name, parameter in module.named_parameters():
        if "original_module" not in name.split("."):
            yield name, parameter


def plain_name(name: str) -> str:
    """The name that a parameter had before peft wrapped its module."""
    name = name.removeprefix("base_model.model.")
    head, wrapper, tail = name.partition(".modules_to_save.")
    return f"{head}.{tail.partition('.')[2]}" if wrapper else name


def is_lora_checkpoint(folder: str | os.PathLike) -> bool:
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def load_plain(source: str | os.PathLike, **kwargs: Any) -> FlowOmniForSpeechGeneration:
    """
    The model of a checkpoint, adapters merged in if that is what it holds. Left to itself, transformers would put them
    into the model as adapters, whose place those of the next run would then take.
    """
    if is_lora_checkpoint(source):
        return merge_lora(load_lora(source, **kwargs))
    return FlowOmniForSpeechGeneration.from_pretrained(source, **kwargs)


def load_lora(
    folder: str | os.PathLike,
    base: FlowOmniForSpeechGeneration | None = None,
    is_trainable: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """
    The model of a LoRA checkpoint, as a `PeftModel`. Checks that every weight of the checkpoint found its place, and that
    every place got its weight: peft itself would go on with fresh ones.

    Args:
        base (`FlowOmniForSpeechGeneration`, *optional*):
            The model that the adapters were trained on; by default it is loaded from where their config says.
        kwargs:
            Passed to `from_pretrained` of the base. The base may be a LoRA checkpoint itself, whose adapters are merged in.
    """
    peft = needs("peft")
    config = peft.PeftConfig.from_pretrained(os.fspath(folder))
    if base is None:
        base = load_plain(base_of(folder, config), **kwargs)
    adapted = peft.get_peft_model(base, config)
    try:
        result = adapted.load_adapter(os.fspath(folder), "default", is_trainable=is_trainable)
    except (KeyError, RuntimeError) as error:
        raise ValueError(_misfit(folder, config, str(error))) from error
    # peft lists as missing the whole of the base model, which is not the checkpoint's to bring
    missing = [name for name in result.missing_keys if ".lora_" in name or ".modules_to_save." in name]
    if missing or result.unexpected_keys:
        raise ValueError(_misfit(folder, config, ", ".join([*missing, *result.unexpected_keys][:3])))
    return adapted


def _misfit(folder: str | os.PathLike, config: Any, what: str) -> str:
    return (
        f"The LoRA checkpoint '{folder}' does not fit the model it is loaded onto ({what} …): it was trained on "
        f"'{config.base_model_name_or_path}'. Pass that one."
    )


def base_of(folder: str | os.PathLike, config: Any) -> str:
    """Where the base of a LoRA checkpoint lies: as its config says, or relative to the checkpoint."""
    base = config.base_model_name_or_path
    if not base:
        raise ValueError(
            f"The `{ADAPTER_CONFIG}` in '{folder}' names no `base_model_name_or_path`: pass the model that the adapters were "
            "trained on as `base`."
        )
    beside = Path(folder) / base
    return os.fspath(beside) if beside.is_dir() else base


def merge_lora(adapted: nn.Module) -> FlowOmniForSpeechGeneration:
    """A plain model, with the adapters added into the weights that they adapt. It needs neither peft nor the base."""
    merged = adapted.merge_and_unload(safe_merge=True)
    # peft copied these layers, and with them the config through which the attention of all layers is switched
    layers = merged.speech_transformer.layers
    for module in layers.modules():
        if getattr(module, "config", None) is not None:
            module.config = merged.config.text_config
    return merged
