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
"""Whisper in the format of CTranslate2, as faster-whisper uses it. This file does not travel with checkpoints."""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.tokenization_whisper import LANGUAGES


MODEL_FILE = "model.bin"
SPECIFICATION = "WhisperSpec"
# the floating-point and integer types of CTranslate2, by their numbers in the file
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def read_ctranslate2(path: str | Path) -> dict[str, np.ndarray]:
    """
    The variables of a `model.bin` by name. It holds a header (version, specification, revision), each variable with
    its shape and type, and aliases of shared variables. Integers are little-endian, strings begin with their length.
    """
    data, position = Path(path).read_bytes(), 0

    def number(code: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(f"<{code}", data, position)
        position += struct.calcsize(code)
        return value

    def string() -> str:
        nonlocal position
        length = number("H")
        text = data[position : position + length].rstrip(b"\0").decode("utf-8")
        position += length
        return text

    try:
        version, specification, _ = number("I"), string(), number("I")
        if specification != SPECIFICATION:
            raise ValueError(f"it holds a {specification!r} of version {version}")
        variables = {}
        for _ in range(number("I")):
            name, rank = string(), number("B")
            shape = [number("I") for _ in range(rank)]
            dtype, num_bytes = DTYPES[number("B")], number("I")
            values = np.frombuffer(data, dtype, num_bytes // np.dtype(dtype).itemsize, position)
            variables[name] = values.reshape(shape)
            position += num_bytes
        for _ in range(number("I")):
            alias, name = string(), string()
            variables[alias] = variables[name]
    except (struct.error, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read as a Whisper of CTranslate2 ({type(error).__name__}: {error}): it is damaged, or "
            "another kind of file. Quantised weights (int8) are not supported: convert with `--quantization float16`."
        ) from error
    return variables


def load_ctranslate2_whisper(folder: str | Path) -> WhisperForConditionalGeneration:
    """The Whisper of a folder with a `model.bin` and its `config.json`, in fp32, as a model of transformers."""
    variables = read_ctranslate2(Path(folder, MODEL_FILE))
    if quantised := [name for name in variables if name.endswith("weight_scale")]:
        raise ValueError(
            f"{folder} holds quantised weights, such as `{quantised[0]}`: convert with `--quantization float16`."
        )
    weights = {name: torch.from_numpy(values.astype(np.float32)) for name, values in variables.items()}
    settings = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    try:
        model = WhisperForConditionalGeneration(_config_of(weights))
        # the projection is the embedding of the tokens
        model.load_state_dict({"proj_out.weight": weights["decoder/embeddings/weight"], **dict(_rename(weights))})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{folder} does not hold a whole Whisper ({error}): convert it again.") from error
    model.generation_config = _generation_config_of(model.config, settings)
    return model.eval()


def _config_of(weights: dict[str, torch.Tensor]) -> WhisperConfig:
    size, num_mel_bins, _ = weights["encoder/conv1/weight"].shape
    vocab_size = len(weights["decoder/embeddings/weight"])
    # English models have one special token less, and no languages
    end_of_text = 50257 if vocab_size >= 51865 else 50256
    num_layers = {
        side: sum(name.startswith(f"{side}/layer_") and name.endswith("ffn/linear_0/weight") for name in weights)
        for side in ("encoder", "decoder")
    }
    return WhisperConfig(
        vocab_size=vocab_size,
        num_mel_bins=num_mel_bins,
        d_model=size,
        encoder_layers=num_layers["encoder"],
        decoder_layers=num_layers["decoder"],
        encoder_attention_heads=int(weights["encoder/num_heads"]),
        decoder_attention_heads=int(weights["decoder/num_heads"]),
        encoder_ffn_dim=weights["encoder/layer_0/ffn/linear_0/bias"].numel(),
        decoder_ffn_dim=weights["decoder/layer_0/ffn/linear_0/bias"].numel(),
        max_source_positions=len(weights["encoder/position_encodings/encodings"]),
        max_target_positions=len(weights["decoder/position_encodings/encodings"]),
        pad_token_id=end_of_text,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        decoder_start_token_id=end_of_text + 1,
    )


def _generation_config_of(config: WhisperConfig, settings: dict) -> GenerationConfig:
    """
    What Whisper's `generate` needs. The vocabulary ends in a fixed order: end and start of the text, the languages,
    translate, transcribe, three tokens more, no timestamps, and 1,501 timestamps.
    """
    no_timestamps, start = config.vocab_size - 1502, config.decoder_start_token_id
    translate, transcribe = no_timestamps - 5, no_timestamps - 4
    multilingual = {}
    if start > 50257:
        languages = zip(LANGUAGES, range(start + 1, translate))
        multilingual = {
            "lang_to_id": {f"<|{language}|>": token_id for language, token_id in languages},
            "task_to_id": {"translate": translate, "transcribe": transcribe},
        }
    return GenerationConfig(
        **{name: getattr(config, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
        decoder_start_token_id=start,
        max_length=config.max_target_positions,
        suppress_tokens=settings.get("suppress_ids"),
        begin_suppress_tokens=settings.get("suppress_ids_begin"),
        no_timestamps_token_id=no_timestamps,
        is_multilingual=bool(multilingual),
        **multilingual,
    )


def _rename(weights: dict[str, torch.Tensor]):
    """Each weight under transformers' name. CTranslate2 joins the projections of queries, keys and values."""
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", weights[f"{side}/position_encodings/encodings"]
        yield from _norm(weights, f"{side}/layer_norm", f"model.{side}.layer_norm")
    yield "model.decoder.embed_tokens.weight", weights["decoder/embeddings/weight"]
    for name in ("conv1", "conv2"):
        yield from _linear(weights, f"encoder/{name}", f"model.encoder.{name}")
    for name in weights:
        side, layer, *rest = name.split("/")
        if not layer.startswith("layer_") or rest[1:] != ["layer_norm", "gamma"]:
            continue
        ours, block = f"model.{side}.layers.{layer.removeprefix('layer_')}", f"{side}/{layer}/{rest[0]}"
        if rest[0] == "ffn":
            yield from _norm(weights, f"{block}/layer_norm", f"{ours}.final_layer_norm")
            yield from _linear(weights, f"{block}/linear_0", f"{ours}.fc1")
            yield from _linear(weights, f"{block}/linear_1", f"{ours}.fc2")
        else:
            attention = f"{ours}.{'self_attn' if rest[0] == 'self_attention' else 'encoder_attn'}"
            yield from _norm(weights, f"{block}/layer_norm", f"{attention}_layer_norm")
            yield from _attention(weights, block, attention)


def _norm(weights: dict[str, torch.Tensor], theirs: str, ours: str):
    yield f"{ours}.weight", weights[f"{theirs}/gamma"]
    yield f"{ours}.bias", weights[f"{theirs}/beta"]


def _linear(weights: dict[str, torch.Tensor], theirs: str, ours: str):
    yield f"{ours}.weight", weights[f"{theirs}/weight"]
    yield f"{ours}.bias", weights[f"{theirs}/bias"]


def _attention(weights: dict[str, torch.Tensor], theirs: str, ours: str):
    is_cross = f"{theirs}/linear_2/weight" in weights
    names = [f"{theirs}/linear_{index}" for index in range(3 if is_cross else 2)]
    # all projections but the last one are of the inputs: queries, keys and values, one below another
    projections = torch.cat([weights[f"{name}/weight"] for name in names[:-1]]).chunk(3)
    biases = torch.cat([weights[f"{name}/bias"] for name in names[:-1]]).chunk(3)
    for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), projections, biases):
        yield f"{ours}.{name}.weight", weight
        if name != "k_proj":  # Whisper's keys have no bias
            yield f"{ours}.{name}.bias", bias
    yield from _linear(weights, names[-1], f"{ours}.out_proj")


__all__ = ["load_ctranslate2_whisper", "read_ctranslate2"]
