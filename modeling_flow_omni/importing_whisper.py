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
"""Importing a Whisper: from transformers' format, from an openai-whisper `.pt` file, or by openai-whisper's name."""

import os

import torch
from transformers import AutoConfig, WhisperConfig, WhisperModel


# openai-whisper's name of each module of a layer -> transformers' name
_OPENAI_LAYER_NAMES = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}


_OPENAI_DIMS = {
    *("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer"),
    *("n_vocab", "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer"),
}


def load_whisper_encoder(whisper: str | os.PathLike) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
    """The config of a Whisper and the weights of its encoder, under transformers' names."""
    whisper = os.fspath(whisper)
    if os.path.isfile(whisper):
        return _from_openai_checkpoint(_load_openai_file(whisper))
    if not os.path.isdir(whisper) and "/" not in whisper:
        return _from_openai_checkpoint(_load_openai_model(whisper))
    config = AutoConfig.from_pretrained(whisper)
    if config.model_type != "whisper":
        raise ValueError(
            f"{whisper!r} is a checkpoint of the type `{config.model_type}`, not `whisper`: pass a Whisper as `whisper=`."
        )
    model, info = WhisperModel.from_pretrained(whisper, output_loading_info=True)
    check_complete(whisper, [name for name in info["missing_keys"] if name.startswith("encoder.")])
    return config, model.encoder.state_dict()


def check_complete(source: str | os.PathLike, missing: list[str]) -> None:
    """Raises for a checkpoint that lacks weights: transformers fills them up with noise, and says so in a warning only."""
    if missing:
        raise ValueError(
            f"{os.fspath(source)!r} lacks {len(missing)} weights, such as `{sorted(missing)[0]}`: the checkpoint is incomplete. "
            "Download or save it again."
        )


def first_line(error: Exception) -> str:
    """What an error says, without the lines that follow."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _load_openai_file(path: str) -> dict:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # a damaged pickle raises nearly anything: KeyError, UnicodeDecodeError, struct.error, ...
        raise ValueError(
            f"{path!r} cannot be read as an openai-whisper checkpoint ({first_line(error)}): it is damaged, or another kind "
            "of file."
        ) from error
    entries = checkpoint if isinstance(checkpoint, dict) else {}
    if not all(isinstance(entries.get(name), dict) for name in ("dims", "model_state_dict")):
        raise ValueError(
            f"{path!r} holds no openai-whisper checkpoint: such a file has the entries `dims` and `model_state_dict`."
        )
    return checkpoint


def _load_openai_model(name: str) -> dict:
    try:
        import whisper
    except ImportError as error:
        raise ValueError(
            f"{name!r} is neither a folder, a file nor a Hub id. If it names one of openai-whisper's models, install that "
            "package first: pip install openai-whisper."
        ) from error
    if name not in whisper.available_models():
        raise ValueError(
            f"{name!r} is neither a folder, a file, a Hub id (`owner/name`) nor one of openai-whisper's models: "
            f"{', '.join(whisper.available_models())}."
        )
    model = whisper.load_model(name, device="cpu")
    return {"dims": vars(model.dims), "model_state_dict": model.state_dict()}


def _from_openai_checkpoint(checkpoint: dict) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
    dims = checkpoint["dims"]
    missing = sorted(_OPENAI_DIMS - set(dims))
    if missing:
        raise ValueError(
            f"The `dims` of the openai-whisper checkpoint lack {', '.join(missing)}: it is damaged, or of a version that is not "
            "known here."
        )
    config = WhisperConfig(
        vocab_size=dims["n_vocab"],
        num_mel_bins=dims["n_mels"],
        d_model=dims["n_audio_state"],
        encoder_layers=dims["n_audio_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        max_source_positions=dims["n_audio_ctx"],
        decoder_layers=dims["n_text_layer"],
        decoder_attention_heads=dims["n_text_head"],
        decoder_ffn_dim=4 * dims["n_text_state"],
        max_target_positions=dims["n_text_ctx"],
    )
    weights = checkpoint["model_state_dict"]
    encoder = {
        _transformers_name(name.removeprefix("encoder.")): weight.float()
        for name, weight in weights.items()
        if name.startswith("encoder.")
    }
    return config, encoder


def _transformers_name(name: str) -> str:
    """`blocks.3.attn.query.weight` -> `layers.3.self_attn.q_proj.weight`, and so on."""
    if name == "positional_embedding":
        return "embed_positions.weight"
    if not name.startswith("blocks."):
        return name.replace("ln_post", "layer_norm")
    _, index, rest = name.split(".", 2)
    module, parameter = rest.rsplit(".", 1)
    # a module that no Whisper has keeps its name, and is refused when the weights are loaded
    return f"layers.{index}.{_OPENAI_LAYER_NAMES.get(module, module)}.{parameter}"
