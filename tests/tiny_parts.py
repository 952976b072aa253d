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
"""Tiny random parts in the formats in which pretrained ones are published."""

import torch
import yaml
from tiny import AUDIO_FIELDS, TEXT_FIELDS, byte_level_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, WhisperConfig, WhisperForConditionalGeneration
from vocos import Vocos


def save_whisper(folder):
    torch.manual_seed(0)
    config = WhisperConfig(**AUDIO_FIELDS, vocab_size=100, pad_token_id=0)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def save_llm(folder, model_type="qwen2", num_embeddings=264, tokenizer=None, **fields):
    """A causal language model and its tokenizer in a folder, as they are published."""
    torch.manual_seed(2)
    fields = {**TEXT_FIELDS, "vocab_size": num_embeddings, **fields}
    fields.pop("model_type")
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**fields)).save_pretrained(folder)
    (tokenizer or byte_level_tokenizer()).save_pretrained(folder)
    return folder


def vocos_config(padding="center"):
    """`config.yaml` of the published layout, at a tiny size."""
    mel = {"sample_rate": 16000, "n_fft": 64, "hop_length": 16, "n_mels": 12, "padding": padding}
    backbone = {"input_channels": 12, "dim": 16, "intermediate_dim": 24, "num_layers": 2}
    head = {"dim": 16, "n_fft": 64, "hop_length": 16, "padding": padding}
    return {
        "feature_extractor": {"class_path": "vocos.feature_extractors.MelSpectrogramFeatures", "init_args": mel},
        "backbone": {"class_path": "vocos.models.VocosBackbone", "init_args": backbone},
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": head},
    }


def save_vocos(folder, config=None):
    """Writes a Vocos with random weights in the published layout; returns it as the `vocos` package loads it."""
    folder.mkdir(exist_ok=True)
    config_path = folder / "config.yaml"
    config_path.write_text(yaml.safe_dump(config or vocos_config()))
    torch.manual_seed(0)
    vocos = Vocos.from_hparams(str(config_path)).eval()
    with torch.no_grad():
        for parameter in vocos.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    torch.save(vocos.state_dict(), folder / "pytorch_model.bin")
    return vocos
