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
"""What tells a model, a recogniser or a recording from another of the same name: an answer to one is none to the other."""

import json
import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import torch

from ..processing.audio_io import read_audio
from ..training.recognisers import Recogniser
from ..training.rows import COLUMNS, file_of, has


def digest_of(model: torch.nn.Module) -> str:
    """Tells a model's weights and options from those of another, wherever they are stored."""
    digest = blake2b(digest_size=12)
    for name in ("config", "generation_config"):
        options = getattr(model, name, None)
        if hasattr(options, "to_json_string"):
            digest.update(options.to_json_string().encode())
    for name, tensor in model.state_dict().items():
        numbers = tensor.detach().float().flatten()
        # the sum of some as well: that of all does not mind their order
        digest.update(f"{name} {float(numbers.sum())} {float(numbers[::7].sum())}".encode())
    return digest.hexdigest()


def digest_of_recogniser(recogniser: Recogniser) -> str:
    """
    Tells a recogniser from another that reports call the same, by its kind, its weights, and the texts and options that
    it was told. Bare numbers are not among them: most count what it has heard.
    """
    digest = blake2b(type(recogniser).__qualname__.encode(), digest_size=12)
    for name, value in sorted(vars(recogniser).items()):
        # the pipeline of a model has the weights one step further in
        module = value if isinstance(value, torch.nn.Module) else getattr(value, "model", None)
        if isinstance(module, torch.nn.Module):
            digest.update(f"{name} {digest_of(module)}".encode())
        elif isinstance(value, str | list):
            digest.update(f"{name} {value}".encode())
        elif isinstance(value, dict) and value:
            # an object that has no text of its own would be told by where in memory it lies
            told = json.dumps(value, sort_keys=True, default=lambda one: type(one).__qualname__)
            digest.update(f"{name} {told}".encode())
    return digest.hexdigest()


def digest_of_questions(questions: Iterable[Any]) -> str:
    """Tells questions (`AskedRow`) from others of the same ids and texts, by all columns and by what the sounds are."""
    digest = blake2b(digest_size=12)
    for asked in questions:
        cells = {name: asked.row[name] for name, column in COLUMNS.items() if has(asked.row, name)}
        for name in cells:
            if COLUMNS[name].kind == "audio":
                cells[name] = identity_of_sound(cells[name])
        digest.update(json.dumps([asked.task, asked.number, cells], default=str).encode())
    return digest.hexdigest()


def identity_of_sound(source: Any) -> str:
    """
    Tells a recording from another: a file by where it lies, its size and its date, which need no reading, an address by
    itself, and samples with their rate or the bytes of a file by what they are. Of a file the name can be read, the folder
    cannot: answers are shared.
    """
    is_samples = isinstance(source, Mapping) and source.get("array") is not None
    file = None if is_samples else file_of(source)
    if isinstance(file, str):
        path = os.path.abspath(file)
        state = os.stat(path) if os.path.isfile(path) else None
        told = (path, *((state.st_size, state.st_mtime_ns) if state is not None else ()))
        return f"{os.path.basename(path)} {_hash(repr(told).encode())}"
    if file is not None:
        return _hash(file.getvalue())
    address = source.get("path") if isinstance(source, Mapping) and not is_samples else source
    if isinstance(address, str):
        return address
    samples, rate = read_audio(source)
    return _hash(samples.tobytes()) + (f" {rate}" if rate is not None else "")


def _hash(told: bytes) -> str:
    return blake2b(told, digest_size=12).hexdigest()
