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
"""Imports a published Vocos (`config.yaml` and `pytorch_model.bin`) as a vocoder of ours that sounds the same."""

import os
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    StrictDataclassError,
)
from safetensors import SafetensorError

from .configuration_flow_omni_vocoder import FlowOmniVocoderConfig
from .inverse_stft import hann_window
from .modeling_flow_omni_vocoder import FlowOmniVocoder


CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "pytorch_model.bin"

# The one kind of Vocos that reads a mel, and each part's arguments with the defaults that Vocos gives them.
# An argument that is not among them would change what the network computes.
REQUIRED = object()
SUPPORTED_PARTS = {
    "feature_extractor": (
        "MelSpectrogramFeatures",
        {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": "center"},
    ),
    "backbone": (
        "VocosBackbone",
        {
            "input_channels": REQUIRED,
            "dim": REQUIRED,
            "intermediate_dim": REQUIRED,
            "num_layers": REQUIRED,
            "layer_scale_init_value": None,
            "adanorm_num_embeddings": None,
        },
    ),
    "head": ("ISTFTHead", {"dim": REQUIRED, "n_fft": REQUIRED, "hop_length": REQUIRED, "padding": "same"}),
}


def load_vocos(name_or_path: str | os.PathLike, revision: str | None = None) -> FlowOmniVocoder:
    """
    Loads a vocoder from a local folder or the Hub, ready to use: a published Vocos, or one of our own as
    `save_pretrained` wrote it.
    """
    paths = find_vocos(name_or_path, revision)
    return load_own_vocoder(name_or_path, revision) if paths is None else import_vocos(*paths)


def find_vocos(name_or_path: str | os.PathLike, revision: str | None = None) -> tuple[Path, Path] | None:
    """The two files of a published Vocos on this machine (downloaded if need be), or `None` where there are none."""
    if os.path.isdir(name_or_path):
        paths = Path(name_or_path, CONFIG_FILE), Path(name_or_path, WEIGHTS_FILE)
        return paths if all(path.is_file() for path in paths) else None
    if os.path.exists(name_or_path):
        raise ValueError(f"{name_or_path} is a file: pass the folder with `{CONFIG_FILE}` and `{WEIGHTS_FILE}` in it.")
    try:
        config_path = hf_hub_download(str(name_or_path), CONFIG_FILE, revision=revision)
        weights_path = hf_hub_download(str(name_or_path), WEIGHTS_FILE, revision=revision)
    except EntryNotFoundError:  # no Vocos, or none on this machine and the Hub is out of reach
        return None
    except (HFValidationError, HfHubHTTPError) as error:
        raise OSError(
            f"{name_or_path} is neither a folder here nor a model on the Hub that can be read: check the name, or "
            "log in if the model is private."
        ) from error
    return Path(config_path), Path(weights_path)


def load_own_vocoder(name_or_path: str | os.PathLike, revision: str | None = None) -> FlowOmniVocoder:
    """Loads what `save_pretrained` wrote, and raises where `from_pretrained` would fill a gap with random weights."""
    try:
        config, _ = FlowOmniVocoderConfig.get_config_dict(name_or_path, revision=revision)
        if not config:
            raise OSError("There is no `config.json`.")
    except OSError as error:
        raise OSError(
            f"There is no vocoder at {name_or_path}, or its configuration is damaged, or the Hub cannot be reached. "
            f"Pass a folder or a Hub id with `{CONFIG_FILE}` and `{WEIGHTS_FILE}` (Vocos), or with `config.json` and "
            "`model.safetensors` (ours)."
        ) from error
    if config.get("model_type") != FlowOmniVocoderConfig.model_type:
        raise ValueError(
            f"{name_or_path} is a model of the type {config.get('model_type')!r}, not "
            f"{FlowOmniVocoderConfig.model_type!r}: pass a vocoder."
        )
    try:
        vocoder, loading_info = FlowOmniVocoder.from_pretrained(
            name_or_path, revision=revision, use_safetensors=True, output_loading_info=True
        )
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise ValueError(
            f"The vocoder at {name_or_path} could not be loaded: save or copy it again. {error}"
        ) from error
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise ValueError(f"The vocoder at {name_or_path} lacks {', '.join(missing[:5])}: save or copy it again.")
    return vocoder.eval()


def import_vocos(config_path: Path, weights_path: Path) -> FlowOmniVocoder:
    """Builds the vocoder that the two files of a published Vocos describe."""
    vocoder = FlowOmniVocoder(read_vocos_config(config_path))
    state_dict = read_vocos_weights(weights_path)
    check_state_dict(state_dict, vocoder, weights_path)
    vocoder.load_state_dict(state_dict)
    return vocoder.eval()


def read_vocos_config(path: Path) -> FlowOmniVocoderConfig:
    """Translates `config.yaml`. The mel's geometry is the feature extractor's, and the head must agree with it."""
    try:
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML ({error}): it is damaged, copy it again.") from error
    if not isinstance(parts, dict):
        raise ValueError(f"{path} holds {type(parts).__name__}, not the parts of a Vocos: is it another model's file?")
    features, backbone, head = (_read_part(parts, name, path) for name in SUPPORTED_PARTS)
    if backbone["adanorm_num_embeddings"] is not None:
        raise ValueError(
            f"{path} describes a backbone that is conditioned on a bandwidth (adanorm_num_embeddings="
            f"{backbone['adanorm_num_embeddings']}), which goes with EnCodec tokens: use a Vocos for "
            "mel-spectrograms, such as charactr/vocos-mel-24khz."
        )
    _check_agreement(
        path,
        {
            ("feature_extractor.n_mels", "backbone.input_channels"): (features["n_mels"], backbone["input_channels"]),
            ("backbone.dim", "head.dim"): (backbone["dim"], head["dim"]),
            ("feature_extractor.n_fft", "head.n_fft"): (features["n_fft"], head["n_fft"]),
            ("feature_extractor.hop_length", "head.hop_length"): (features["hop_length"], head["hop_length"]),
            ("feature_extractor.padding", "head.padding"): (features["padding"], head["padding"]),
        },
    )
    try:
        return FlowOmniVocoderConfig(
            num_mel_bins=features["n_mels"],
            hidden_size=backbone["dim"],
            intermediate_size=backbone["intermediate_dim"],
            num_hidden_layers=backbone["num_layers"],
            kernel_size=7,
            sampling_rate=features["sample_rate"],
            n_fft=features["n_fft"],
            hop_length=features["hop_length"],
            padding=features["padding"],
            causal=False,
        )
    except StrictDataclassError as error:
        raise ValueError(f"{path} describes a vocoder that cannot be built. {error}") from error


def _read_part(parts: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The arguments of one part, completed with Vocos's defaults, if it is of the one kind that is supported."""
    class_name, defaults = SUPPORTED_PARTS[name]
    part = parts.get(name)
    if not isinstance(part, dict) or not isinstance(part.get("class_path"), str):
        raise ValueError(f"{path} names no class for its `{name}`: is it another model's file?")
    if part["class_path"].rsplit(".", 1)[-1] != class_name:
        raise ValueError(
            f"The `{name}` in {path} is a {part['class_path']}: only {class_name} is supported. Use a Vocos for "
            "mel-spectrograms, such as charactr/vocos-mel-24khz."
        )
    arguments = part.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise ValueError(f"The arguments of `{name}` in {path} are no mapping ({arguments!r}): the file is damaged.")
    unknown = sorted(set(arguments) - set(defaults))
    if unknown:
        raise ValueError(
            f"The `{name}` in {path} sets {', '.join(unknown)}, which Vocos's {class_name} does not have: it is a "
            "variant that would sound different here. Use the published layout."
        )
    arguments = defaults | arguments
    missing = [argument for argument, value in arguments.items() if value is REQUIRED]
    if missing:
        raise ValueError(f"The `{name}` in {path} does not say its {', '.join(missing)}: the file is incomplete.")
    return arguments


def _check_agreement(path: Path, pairs: dict[tuple[str, str], tuple[Any, Any]]) -> None:
    for (first_name, second_name), (first, second) in pairs.items():
        if first != second:
            raise ValueError(
                f"In {path}, `{first_name}` is {first!r} but `{second_name}` is {second!r}: they must agree. Correct "
                "the file."
            )


def read_vocos_weights(path: Path) -> dict[str, torch.Tensor]:
    """
    Reads `pytorch_model.bin` without running any code in it. What belongs to the feature extractor is left out: its
    window and its filters follow from the configuration.
    """
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises nearly anything: KeyError, IndexError, struct.error, ...
        raise ValueError(
            f"{path} could not be read as the weights of a Vocos, a plain dictionary of tensors: it is truncated, "
            "damaged, or holds something else. Download it again."
        ) from error
    is_state_dict = isinstance(state_dict, dict) and all(isinstance(x, torch.Tensor) for x in state_dict.values())
    if not is_state_dict:
        raise ValueError(
            f"{path} holds more than a plain dictionary of tensors: if it is a training checkpoint, save its "
            "`state_dict` alone."
        )
    return {name: tensor for name, tensor in state_dict.items() if not name.startswith("feature_extractor.")}


def check_state_dict(state_dict: dict[str, torch.Tensor], vocoder: FlowOmniVocoder, path: Path) -> None:
    """Raises unless the weights are, name by name and shape by shape, those of the vocoder."""
    expected = {name: tuple(tensor.shape) for name, tensor in vocoder.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not a part of it" for name in found if name not in expected]
    problems += [
        f"{name} has the shape {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"The weights in {path} do not fit the `{CONFIG_FILE}` beside them: {shown}.")
    window = state_dict["head.istft.window"].float()
    if not torch.allclose(window, hann_window(window.shape[0]), atol=1e-3):
        raise ValueError(f"The window in {path} is not Hann's, which Vocos uses: this is another kind of vocoder.")


__all__ = ["load_vocos"]
