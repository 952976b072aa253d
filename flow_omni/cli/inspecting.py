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
"""The command `info`: what a checkpoint is made of, or what this installation is."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from .checkpoints import download, local_checkpoint
from .console import progress, write
from .errors import UserError, one_line
from .parts import Weights, columns, parts_table, remote_weights, saved_weights


PACKAGES = ("flow-omni", "torch", "transformers", "huggingface_hub", "safetensors", "soundfile", "soxr", "matplotlib")


def info(
    model: Annotated[
        str | None,
        typer.Argument(help="Folder of a checkpoint, or its id on the Hub.", show_default=False),
    ] = None,
):
    """
    Describe a checkpoint, or without one this installation.

    The weights are not loaded: their numbers are read from the headers of the files, on the Hub as well.

    Examples:

        flow-omni info
        flow-omni info ./my-model
        flow-omni info owner/name
    """
    rows = _describe_installation() if model is None else _describe_checkpoint(model)
    write(columns(rows) + "\n")


def _describe_installation() -> list[tuple[str, str]]:
    from ..untrained import BUNDLED_CHECKPOINT, EXAMPLE_QUESTION, has_bundled_checkpoint
    from .loading import devices

    rows = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    bundled = str(BUNDLED_CHECKPOINT) if has_bundled_checkpoint() else "none yet: a tiny untrained one is used"
    return [
        *rows,
        ("devices", ", ".join(devices())),
        ("bundled model", bundled),
        ("example question", str(EXAMPLE_QUESTION)),
    ]


def _describe_checkpoint(name: str) -> list[tuple[str, str]]:
    from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig

    with progress(f"Reading {name} …"):
        fields, weights = _read_checkpoint(name)
    try:
        config = FlowOmniConfig.from_dict(fields)
    except Exception as error:  # a bad config raises nearly anything, and nothing of it is a fault of ours
        raise UserError(f"The `config.json` of '{name}' cannot be used: {one_line(error)}") from error
    saved_as = ("saved as", ", ".join(sorted(weights.dtypes)))
    return [("checkpoint", name), *_describe_config(config), ("", ""), *parts_table(weights.sizes), saved_as]


def _read_checkpoint(name: str) -> tuple[dict[str, Any], Weights]:
    """The fields of a checkpoint's config, and what is said of its weights."""
    folder = local_checkpoint(name)
    if folder is None:
        folder, weights = download(name, ["config.json"]), remote_weights(name)
    else:
        weights = saved_weights(folder)
    return json.loads((folder / "config.json").read_text(encoding="utf-8")), weights


def _describe_config(config: Any) -> list[tuple[str, str]]:
    audio, text = config.audio_config, config.text_config
    speech, vocoder = config.speech_config, config.vocoder_config
    names = ("pad", "start", "generating", "stop")
    sound = "none: it returns mel-spectrograms only"
    if vocoder is not None:
        sound = f"Vocos, {vocoder.num_hidden_layers} layers, {'causal' if vocoder.causal else 'not causal'}"
    return [
        ("speech encoder", f"Whisper, {audio.encoder_layers} layers of width {audio.d_model}"),
        ("language model", f"{text.model_type}, {text.num_hidden_layers} layers of width {text.hidden_size}"),
        ("vocabulary", f"{text.vocab_size:,} tokens, of which {config.audio_token_id} is <|audio|>"),
        ("speech head", f"{speech.head_type}, {speech.head_num_layers} layers of width {speech.head_hidden_size}"),
        ("vocoder", sound),
        ("speech", f"{speech.sampling_rate} Hz, {speech.num_mel_bins} mel bands, hop of {speech.hop_length} samples"),
        ("steps", f"{speech.steps_per_second:.4g} a second, each of {speech.frames_per_step} mel frames"),
        ("speech delay", f"{speech.speech_delay} text tokens"),
        ("speech states", ", ".join(f"{name} {state_id}" for name, state_id in zip(names, config.state_ids))),
    ]
