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
"""What a checkpoint's folder says about itself: its parts, their sizes, the geometry of its speech. No weight is read."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import GENERATION_CONFIG_NAME

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from ..modeling_flow_omni.generation_flow_omni import GENERATION_DEFAULTS


# Where the names of a part's weights begin; what begins otherwise connects the parts.
PART_PREFIXES = {
    "encoder": ("model.audio_encoder.",),
    "language model": ("model.language_model.", "lm_head."),
    "speech transformer": ("speech_transformer.",),
    "speech head": ("speech_head.",),
    "vocoder": ("vocoder.",),
}
CONNECTIONS = "connections"
# statistics and windows, which are no parameters
BUFFERS = ("mel_normalizer.", "vocoder.head.istft.")


@dataclass
class CheckpointPart:
    """One row of the card's table: a part, what it is, and its number of parameters (`None` without weights to count)."""

    name: str
    description: str
    num_parameters: int | None


@dataclass
class CheckpointFacts:
    """A checkpoint's configuration, its parts, and how it generates unless told otherwise."""

    config: FlowOmniConfig
    parts: list[CheckpointPart]
    generation: dict[str, Any]

    @property
    def num_parameters(self) -> int | None:
        """Parameters of all parts, or `None` where the folder holds no weights."""
        counts = [part.num_parameters for part in self.parts]
        return None if None in counts else sum(counts)


def read_checkpoint(folder: str | os.PathLike) -> CheckpointFacts:
    """The facts of a Flow-Omni checkpoint, from its `config.json` and the headers of its safetensors."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"There is no `config.json` in '{folder}': pass the folder that `save_pretrained` wrote."
        )
    fields, _ = FlowOmniConfig.get_config_dict(folder)
    if fields.get("model_type") != FlowOmniConfig.model_type:
        raise ValueError(
            f"'{folder}' holds a model of the type {fields.get('model_type')!r}: a card is written for `flow_omni` alone."
        )
    config = FlowOmniConfig.from_pretrained(folder)
    counts = count_parameters(folder)
    parts = [
        CheckpointPart(name, description, counts[name] if counts else None)
        for name, description in describe_parts(config).items()
    ]
    return CheckpointFacts(config, parts, read_generation(folder))


def read_generation(folder: Path) -> dict[str, Any]:
    """The options of speech that a checkpoint generates with, its own before those of all."""
    path = folder / GENERATION_CONFIG_NAME
    own = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: value if own.get(name) is None else own[name] for name, value in GENERATION_DEFAULTS.items()}


def count_parameters(folder: Path) -> Counter:
    """The parameters of every part; empty where the folder holds no weights."""
    counts = Counter()
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with safe_open(path, framework="pt") as weights:
                for name in weights.keys():
                    if not name.startswith(BUFFERS):
                        counts[part_of(name)] += prod(weights.get_slice(name).get_shape())
        except SafetensorError as error:
            raise ValueError(f"'{path}' is damaged ({error}): save or copy the checkpoint again.") from error
    return counts


def part_of(weight_name: str) -> str:
    """The part that a weight belongs to."""
    owners = (part for part, prefixes in PART_PREFIXES.items() if weight_name.startswith(prefixes))
    return next(owners, CONNECTIONS)


def describe_parts(config: FlowOmniConfig) -> dict[str, str]:
    """Each part in a few words."""
    audio, text, speech, vocoder = config.audio_config, config.text_config, config.speech_config, config.vocoder_config
    num_layers = speech.num_hidden_layers
    if speech.head_type == "flow":
        head = f"flow matching, {speech.head_num_layers} blocks of width {speech.head_hidden_size}"
    else:
        head = f"residual vector quantiser, {speech.num_codebooks} codebooks of {speech.codebook_size} codes"
    parts = {
        "encoder": f"of Whisper, {audio.encoder_layers} layers of width {audio.d_model}",
        "language model": f"`{text.model_type}`, {text.num_hidden_layers} layers of width {text.hidden_size}, "
        f"{text.vocab_size} tokens",
        CONNECTIONS: f"adapter (a step hears {20 * config.adapter_stack_size} ms), embeddings of the speech streams, state head",
        "speech transformer": f"{num_layers} more layer{'s' if num_layers > 1 else ''} of the language model's kind",
        "speech head": head,
    }
    if vocoder is not None:
        kind = "causal Vocos" if vocoder.causal else "Vocos"
        parts["vocoder"] = f"{kind}, {vocoder.num_hidden_layers} blocks of width {vocoder.hidden_size}"
    return parts
