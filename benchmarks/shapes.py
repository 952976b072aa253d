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
"""What is measured: models of two sizes with random weights, built in seconds, and the weights that a step must read."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers import initialization as init

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# What a size does not name is the package's default; the vocoder's default is the published Vocos.
SIZES = {
    "tiny": {
        "vocoder_config": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "causal": True},
    },
    "qwen2-0.5b": {
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        "audio_config": {
            "model_type": "whisper",
            "d_model": 768,
            "encoder_layers": 12,
            "encoder_attention_heads": 12,
            "encoder_ffn_dim": 3072,
        },
        "vocoder_config": {"causal": True},
    },
}

# Sizes whose training is measured: the one that `make tiny` trains, and one where the language model outweighs all else.
TRAINING_SIZES = {
    "tinytalk": {
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 260,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
        },
        "speech_config": {"num_hidden_layers": 1},
    },
    "qwen2-0.5b": {name: part for name, part in SIZES["qwen2-0.5b"].items() if name != "vocoder_config"},
}


def build_config(size: str, **fields) -> FlowOmniConfig:
    return FlowOmniConfig(**SIZES[size], **fields)


def training_config(size: str, **speech_fields) -> FlowOmniConfig:
    """The config of a size to train, with changes to its speech side. It carries no vocoder, which is trained apart."""
    parts = TRAINING_SIZES[size]
    return FlowOmniConfig(**parts | {"speech_config": {**parts.get("speech_config", {}), **speech_fields}})


def build_model(config: FlowOmniConfig, dtype: torch.dtype) -> FlowOmniForSpeechGeneration:
    """
    A model with random weights. The usual initialisation, which would take most of a minute, is skipped for plain normal
    noise, also where layers start at zero: a benchmark of silent layers would be one of multiplications by zero.
    """
    with init.no_init_weights():
        model = FlowOmniForSpeechGeneration._from_config(config, dtype=dtype)
    return _with_random_weights(model)


def build_language_model(config: FlowOmniConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The language model inside such a model, alone, with a text head of its own."""
    with init.no_init_weights():
        model = AutoModelForCausalLM.from_config(config.text_config, dtype=dtype)
    return _with_random_weights(model)


def _with_random_weights(model: PreTrainedModel) -> PreTrainedModel:
    model.tie_weights()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return model.eval()


def parameter_counts(model: FlowOmniForSpeechGeneration) -> dict[str, int]:
    """Parameters of each part. A text head tied to the token embeddings has none of its own."""
    backbone, llm = model.model, model.model.language_model
    is_tied = model.lm_head.weight is llm.get_input_embeddings().weight
    counts = {
        "Whisper encoder": _count(backbone.audio_encoder),
        "adapter": _count(backbone.audio_adapter),
        "LLM: token embeddings": _count(llm.get_input_embeddings()),
        "LLM: layers": _count(llm) - _count(llm.get_input_embeddings()),
        "state and patch embeddings": _count(backbone.state_embedding) + _count(backbone.patch_proj),
        "text head": 0 if is_tied else _count(model.lm_head),
        "state head": _count(model.state_head),
        "speech transformer": _count(model.speech_transformer),
        "speech head": _count(model.speech_head),
        "vocoder": _count(model.vocoder),
    }
    return counts | {"total": _count(model)}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def step_bytes(model: FlowOmniForSpeechGeneration) -> dict[str, int]:
    """
    Bytes of the weights that a decode step must read, each counted once. Of the token embeddings that is one row, unless
    they serve as the text head.
    """
    llm = model.model.language_model
    llm_layers = _num_bytes(llm.layers) + _num_bytes(llm.norm)
    text_head = _num_bytes(model.lm_head)
    speaking = [model.model.patch_proj, model.speech_transformer, model.state_head, model.speech_head, model.vocoder]
    # the linear guess serves training only
    speech = sum(_num_bytes(module) for module in speaking) - _num_bytes(model.speech_head.linear_guess)
    return {
        "LLM alone, without text head": llm_layers,
        "LLM alone, with text head": llm_layers + text_head,
        "whole step, speaking": llm_layers + speech,
        "whole step, speaking and writing": llm_layers + speech + text_head,
    }


def _num_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
