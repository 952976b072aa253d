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
"""Tiny models with random weights, their inputs, and a tokenizer of bytes: under a million parameters."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.processing.processing_flow_omni import FlowOmniProcessor


VOCAB_SIZE = 264
AUDIO_TOKEN_ID = 259
EOS_TOKEN_ID = 258
PAD_TOKEN_ID = 256

AUDIO_FIELDS = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 80,
}
TEXT_FIELDS = {
    "model_type": "qwen2",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "pad_token_id": PAD_TOKEN_ID,
    "eos_token_id": EOS_TOKEN_ID,
}
SPEECH_FIELDS = {
    "sampling_rate": 8000,
    "n_fft": 256,
    "hop_length": 64,
    "num_mel_bins": 20,
    "frames_per_step": 2,
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "head_hidden_size": 32,
    "head_num_layers": 2,
    "time_embedding_size": 16,
    "num_codebooks": 3,
    "codebook_size": 16,
}
VOCODER_FIELDS = {
    "sampling_rate": 8000,
    "n_fft": 256,
    "hop_length": 64,
    "num_mel_bins": 20,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "causal": True,
    "num_lookahead_frames": 2,
}


def tiny_config(audio=(), text=(), speech=(), vocoder=(), **fields) -> FlowOmniConfig:
    """A tiny configuration, with changes to any of its parts; `vocoder=None` leaves the vocoder out."""
    return FlowOmniConfig(
        audio_config={**AUDIO_FIELDS, **dict(audio)},
        text_config={**TEXT_FIELDS, **dict(text)},
        speech_config={**SPEECH_FIELDS, **dict(speech)},
        vocoder_config=None if vocoder is None else {**VOCODER_FIELDS, **dict(vocoder)},
        **{"audio_token_id": AUDIO_TOKEN_ID, **fields},
    )


def tiny_model(seed: int = 0, **changes) -> FlowOmniForSpeechGeneration:
    """A tiny model in which all parameters are random: those that start at zero would hide mistakes."""
    torch.manual_seed(seed)
    model = FlowOmniForSpeechGeneration(tiny_config(**changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def tiny_speech_decoder(seed: int = 0, speech=(), **changes) -> FlowOmniForSpeechGeneration:
    """A tiny model whose speech decoder runs the speech, with two layers, two voices, and the tokens of bytes."""
    # of sizes whose matrix products give a row of a larger batch the same bits
    speech = {"num_hidden_layers": 2, "intermediate_size": 64, "voices": ["alpha", "beta"], **dict(speech)}
    model = tiny_model(seed, speech_loop="speech_decoder", speech=speech, **changes)
    model.speech_decoder.spelling.set_tokenizer(byte_level_tokenizer())
    return model


def spoken_prompt(num_frames: list[int], num_text_tokens: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """
    Left-padded inputs of rows with one audio of so many feature frames and so many text tokens after it, for an
    `adapter_stack_size` of 4.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, features = [], []
    for frames, num_tokens in zip(num_frames, num_text_tokens):
        num_placeholders = -(-((frames + 1) // 2) // 4)
        text = torch.randint(0, 250, (num_tokens,), generator=generator)
        rows.append(torch.cat([torch.full((num_placeholders,), AUDIO_TOKEN_ID), text]))
        features.append(torch.randn(80, frames, generator=generator))
    return collate(rows, features)


def collate(rows: list[torch.Tensor], features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Left-pads token ids and right-pads features, with their masks."""
    length, num_frames = max(map(len, rows)), max(feature.shape[-1] for feature in features)
    input_ids = torch.full((len(rows), length), PAD_TOKEN_ID)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
    input_features = torch.zeros(len(features), 80, num_frames)
    features_mask = torch.zeros(len(features), num_frames, dtype=torch.long)
    for index, row in enumerate(rows):
        input_ids[index, length - len(row) :] = row
        attention_mask[index, length - len(row) :] = 1
    for index, feature in enumerate(features):
        input_features[index, :, : feature.shape[-1]] = feature
        features_mask[index, : feature.shape[-1]] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "input_features": input_features,
        "input_features_mask": features_mask,
    }


def training_batch(config: FlowOmniConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Two spoken answers to spoken questions: 5 text tokens, 3 and 2 patches, transcripts of 2 and 1 tokens."""
    inputs = spoken_prompt([24, 16], [2, 3], seed)
    generator = torch.Generator().manual_seed(seed + 1)
    pad, start, generating, stop = config.state_ids
    answer = torch.randint(0, 250, (2, 8), generator=generator)
    answer[:, 5:] = PAD_TOKEN_ID
    answer_states = torch.tensor(
        [
            [pad, pad, start, generating, generating, generating, stop, pad],
            [pad, pad, start, generating, generating, stop, pad, pad],
        ]
    )
    prompt_states = torch.full_like(inputs["input_ids"], pad)
    ignored = torch.full_like(inputs["input_ids"], -100)
    speech = config.speech_config
    return inputs | {
        "input_ids": torch.cat([inputs["input_ids"], answer], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(answer)], dim=1),
        "speech_states": torch.cat([prompt_states, answer_states], dim=1),
        "labels": torch.cat([ignored, torch.where(answer == PAD_TOKEN_ID, -100, answer)], dim=1),
        "state_labels": torch.cat([ignored, answer_states], dim=1),
        "audio_labels": torch.tensor([[7, 9], [11, -100]]),
        "mel_labels": torch.randn(2, 3, speech.frames_per_step, speech.num_mel_bins, generator=generator),
    }


def tiny_processor(config: FlowOmniConfig | None = None) -> FlowOmniProcessor:
    """The processor of a tiny model, around a tokenizer of bytes."""
    return FlowOmniProcessor.from_parts(byte_level_tokenizer(), config or tiny_config())


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Ids 0 to 255 are the bytes of UTF-8, 256 to 259 the control tokens. Turns are written in ChatML."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # byte-level tokenizers write a printable character for each byte: itself, or the next one from 256 on
    printable = [byte for byte in range(256) if chr(byte) in alphabet]
    others = [byte for byte in range(256) if byte not in printable]
    vocabulary = {chr(byte): byte for byte in printable}
    vocabulary |= {chr(256 + index): byte for index, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        model_input_names=["input_ids", "attention_mask"],
    )
