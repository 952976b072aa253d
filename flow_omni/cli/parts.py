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
"""What a model consists of: its parameters by part, counted in the headers of safetensors files, without the weights."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UserError, one_line


# Prefixes of weights' names -> the part they belong to, and where it comes from when a model is assembled.
PARTS = {
    "model.audio_encoder.": ("speech encoder", "pretrained"),
    "model.language_model.": ("language model", "pretrained"),
    "lm_head.": ("text head", "pretrained"),
    "vocoder.": ("vocoder", "pretrained"),
    "model.audio_adapter.": ("speech adapter", "new"),
    "model.state_embedding.": ("state embedding", "new"),
    "model.patch_proj.": ("patch embedding", "new"),
    "speech_transformer.": ("speech transformer", "new"),
    "speech_head.": ("speech head", "new"),
    "state_head.": ("state head", "new"),
}
# Nobody counts these as parameters.
BUFFERS = ("mel_normalizer.mean", "mel_normalizer.std", "vocoder.head.istft.window")


@dataclass
class Weights:
    """How many numbers there are under each name, and the types they are saved in."""

    sizes: dict[str, int] = field(default_factory=dict)
    dtypes: set[str] = field(default_factory=set)

    def add(self, name: str, shape: Iterable[int], dtype: str) -> None:
        self.sizes[name] = math.prod(shape)
        self.dtypes.add(dtype)


def part_of(name: str) -> str:
    """The part that a weight belongs to."""
    return next((part for prefix, (part, _) in PARTS.items() if name.startswith(prefix)), "other")


def parameters_by_part(sizes: dict[str, int]) -> dict[str, int]:
    """The number of parameters of each part that has any, in the order of `PARTS`, from those under each name."""
    counts = {part: 0 for part, _ in PARTS.values()} | {"other": 0}
    for name, size in sizes.items():
        if name not in BUFFERS:
            counts[part_of(name)] += size
    return {part: count for part, count in counts.items() if count > 0}


def saved_weights(folder: Path) -> Weights:
    """What the headers of the safetensors files in a folder say, once it is sure that none of them is truncated."""
    from safetensors import SafetensorError, safe_open

    weights = Weights()
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    entry = file.get_slice(name)
                    weights.add(name, entry.get_shape(), entry.get_dtype())
        except SafetensorError as error:
            raise UserError(
                f"'{path}' is damaged or truncated ({one_line(error)}): copy or download it again."
            ) from error
    return weights


def remote_weights(repo_id: str) -> Weights:
    """The same of a repository on the Hub, from which only the headers are read."""
    from huggingface_hub import get_safetensors_metadata

    from .checkpoints import hub_errors

    weights = Weights()
    with hub_errors(repo_id):
        metadata = get_safetensors_metadata(repo_id)
    for file in metadata.files_metadata.values():
        for name, tensor in file.tensors.items():
            weights.add(name, tensor.shape, tensor.dtype)
    return weights


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"'{index}' is no index of weights: it is damaged. Copy or download it again.") from error
    missing = [name for name in sorted(names) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"'{folder}' lacks {', '.join(missing)}: its weights are incomplete. Copy or download it again."
        )
    return [folder / name for name in sorted(names)]


def parts_table(sizes: dict[str, int]) -> list[tuple[str, str]]:
    """A row for each part and for their sum."""
    counts = parameters_by_part(sizes)
    width = len(f"{sum(counts.values()):,}")
    rows = [(part, f"{count:>{width},}") for part, count in counts.items()]
    return [*rows, ("all parameters", f"{sum(counts.values()):>{width},}")]


def columns(rows: list[tuple[str, str]]) -> str:
    """Rows of two texts, the second ones below each other."""
    width = max(len(first) for first, _ in rows)
    return "\n".join(f"{first:<{width}}  {second}".rstrip() for first, second in rows)
