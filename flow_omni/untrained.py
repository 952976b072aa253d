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
"""The model that needs no download: the bundled checkpoint, or until there is one a tiny untrained model."""

from pathlib import Path

import torch

from .modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from .modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from .processing.byte_level_tokenizer import byte_level_tokenizer
from .processing.processing_flow_omni import FlowOmniProcessor


BUNDLED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "tiny"
EXAMPLE_QUESTION = Path(__file__).parent / "assets" / "question.wav"
SEED = 4
# An untrained text hardly ever ends by itself: cut after a few words, and less than three seconds of noise.
MAX_NEW_TOKENS = 64

AUDIO_FIELDS = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 128,
}
TEXT_FIELDS = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
SPEECH_FIELDS = {"num_hidden_layers": 1, "head_hidden_size": 64, "head_num_layers": 2, "time_embedding_size": 32}
VOCODER_FIELDS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "causal": True,
    "num_lookahead_frames": 2,
}


def load_bundled() -> tuple[FlowOmniForSpeechGeneration, FlowOmniProcessor, bool]:
    """The model and its processor that come with the package, and whether they were trained."""
    if has_bundled_checkpoint():
        # saved in half of that, to be small: few processors are fast in it
        model = FlowOmniForSpeechGeneration.from_pretrained(BUNDLED_CHECKPOINT, dtype=torch.float32)
        return model.eval(), FlowOmniProcessor.from_pretrained(BUNDLED_CHECKPOINT), True
    return *untrained(), False


def has_bundled_checkpoint() -> bool:
    return (BUNDLED_CHECKPOINT / "config.json").is_file()


def untrained() -> tuple[FlowOmniForSpeechGeneration, FlowOmniProcessor]:
    """
    A tiny model that nobody trained, always the same one, and its processor. Its mel-spectrograms have the geometry of
    real models; what it writes and says is noise.
    """
    tokenizer = byte_level_tokenizer()
    text_fields = TEXT_FIELDS | {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = FlowOmniConfig(
        audio_config=AUDIO_FIELDS,
        text_config=text_fields,
        speech_config=SPEECH_FIELDS,
        vocoder_config=VOCODER_FIELDS,
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio|>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = FlowOmniForSpeechGeneration(config).eval()
        _draw_zeros(model)
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=MAX_NEW_TOKENS,
        return_dict_in_generate=True,
        # letters and spaces only: the bytes at random are mostly no text at all
        suppress_tokens=_ids_of_no_letter(tokenizer),
    )
    return model, FlowOmniProcessor.from_parts(tokenizer, config)


@torch.no_grad()
def _draw_zeros(model: FlowOmniForSpeechGeneration) -> None:
    """Moves every parameter at random: of those that start at zero, every patch would be the same, and silence."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)


def _ids_of_no_letter(tokenizer) -> list[int]:
    letters = tokenizer("abcdefghijklmnopqrstuvwxyz ").input_ids
    return [token_id for token_id in range(len(tokenizer)) if token_id not in {*letters, tokenizer.eos_token_id}]
