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
"""Assembling a model from a pretrained Whisper, LLM and Vocos, so that none of them loses anything."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from .configuration_flow_omni import FlowOmniConfig
from .importing_vocos import load_vocos
from .importing_whisper import check_complete, first_line, load_whisper_encoder


AUDIO_TOKEN = "<|audio|>"
# the beginnings of the names of what comes pretrained
PRETRAINED_PARTS = ("model.audio_encoder.", "model.language_model.", "lm_head.", "vocoder.")


def assemble_from_pretrained_parts(
    model_class: type[PreTrainedModel],
    whisper: str | os.PathLike,
    llm: str | os.PathLike,
    vocoder: str | os.PathLike | None = None,
    dtype: torch.dtype | str | None = None,
    **config_fields: Any,
) -> PreTrainedModel:
    """The work of [`FlowOmniForSpeechGeneration.from_pretrained_parts`], which documents the arguments."""
    with _naming("Whisper", whisper):
        audio_config, encoder_weights = load_whisper_encoder(whisper)
    with _naming("language model", llm):
        precision = {"dtype": dtype} if dtype is not None else {}
        language_model, info = AutoModelForCausalLM.from_pretrained(llm, output_loading_info=True, **precision)
        check_complete(llm, list(info["missing_keys"]))
        tokenizer = AutoTokenizer.from_pretrained(llm)
    with _naming("vocoder", vocoder):
        vocos = load_vocos(vocoder) if vocoder is not None else None
    audio_token_id = _make_room_for_audio_token(language_model, tokenizer)

    config = FlowOmniConfig(
        audio_config=audio_config,
        # a copy: the composite config sets the attention implementation of its parts, also under a model that is running
        text_config=copy.deepcopy(language_model.config),
        vocoder_config=vocos.config if vocos is not None else None,
        audio_token_id=audio_token_id,
        **_with_geometry_of(vocos, config_fields),
    )
    _forget_folders(config)
    weights = {f"model.audio_encoder.{name}": weight for name, weight in encoder_weights.items()}
    backbone = language_model.base_model.state_dict()
    weights |= {f"model.language_model.{name}": weight for name, weight in backbone.items()}
    weights["lm_head.weight"] = language_model.get_output_embeddings().weight
    # what is heard comes in at the size of what is read
    embeddings = language_model.get_input_embeddings().weight
    size = embeddings.detach().float().square().mean().sqrt()
    weights["model.audio_adapter.norm.weight"] = size.repeat(embeddings.shape[1])
    if vocos is not None:
        weights |= {f"vocoder.{name}": weight for name, weight in vocos.state_dict().items()}

    model = _load_quietly(model_class, config, weights, language_model.dtype)
    _check_text(model, language_model)
    model.generation_config = language_model.generation_config
    model.generation_config.return_dict_in_generate = True
    model.generation_config.eos_token_id = _ends_of_answers(model.generation_config, tokenizer)
    if model.generation_config.pad_token_id is None:
        pad_token_id = tokenizer.pad_token_id
        model.generation_config.pad_token_id = tokenizer.eos_token_id if pad_token_id is None else pad_token_id
    return model


@contextmanager
def _naming(part: str, source: str | os.PathLike | None) -> Iterator[None]:
    """Says which part could not be found: the Hub's own message may name none."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"The {part} could not be loaded from {os.fspath(source)!r}: {first_line(error)} Pass a folder, or the id of a repository on "
            "the Hub that this machine can reach."
        ) from error


def _make_room_for_audio_token(language_model: PreTrainedModel, tokenizer) -> int:
    """The id of `<|audio|>`: the tokenizer's, or the next free one, for which the embeddings grow if they must."""
    num_embeddings = language_model.get_input_embeddings().num_embeddings
    if len(tokenizer) < num_embeddings // 2:
        raise ValueError(
            f"The tokenizer knows {len(tokenizer)} tokens, the language model {num_embeddings}: it is not this model's. Put "
            "the model's own tokenizer files beside it."
        )
    audio_token_id = tokenizer.get_vocab().get(AUDIO_TOKEN, len(tokenizer))
    if audio_token_id >= num_embeddings:
        language_model.resize_token_embeddings(audio_token_id + 1, mean_resizing=False)
    return audio_token_id


def _with_geometry_of(vocos: PreTrainedModel | None, config_fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of the config, those of the mel-spectrogram as the vocoder has them where nothing else is said."""
    if vocos is None or not isinstance(config_fields.get("speech_config", {}), dict):
        return config_fields
    geometry = {name: getattr(vocos.config, name) for name in ("sampling_rate", "n_fft", "hop_length", "num_mel_bins")}
    geometry["mel_padding"] = vocos.config.padding
    return config_fields | {"speech_config": geometry | (config_fields.get("speech_config") or {})}


def _forget_folders(config: FlowOmniConfig) -> None:
    """Where a part came from is worth keeping if it is a Hub id; the path of a folder on this machine is nobody's business."""
    for part in (config.audio_config, config.text_config, config.vocoder_config):
        if part is not None and os.path.exists(part.name_or_path):
            part.name_or_path = ""


def _ends_of_answers(generation_config, tokenizer) -> list[int]:
    """Every token that may end an answer. A base model's generation config may not know the chat's end of turn."""
    known = generation_config.eos_token_id
    ends = [_end_of_turn(tokenizer)] + (list(known) if isinstance(known, list) else [known]) + [tokenizer.eos_token_id]
    return list(dict.fromkeys(end for end in ends if end is not None))


def _end_of_turn(tokenizer) -> int | None:
    """The control token that the tokenizer's chat template writes after an assistant's message; ChatML's without one."""
    if tokenizer.chat_template is None:
        return tokenizer.get_vocab().get("<|im_end|>")
    marker = "ANSWER"
    conversation = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": marker}]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False)
    ids = tokenizer(rendered.rpartition(marker)[-1], add_special_tokens=False)["input_ids"]
    control_tokens = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    return next((token_id for token_id in ids if token_id in control_tokens), None)


def _load_quietly(
    model_class: type[PreTrainedModel], config: FlowOmniConfig, weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> PreTrainedModel:
    """
    The model with these weights, the others freshly initialised, which is meant and so not worth a warning. A pretrained
    part that came incomplete is not: it would be filled up with noise.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, info = model_class.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)
    lost = sorted(name for name in info["missing_keys"] if name.startswith(PRETRAINED_PARTS))
    lost += sorted(info["unexpected_keys"])
    if lost:
        raise ValueError(
            f"{len(lost)} weights of the pretrained parts do not fit, such as `{lost[0]}`: the checkpoint that it belongs to is "
            "incomplete, or of an architecture that is not known here."
        )
    return model


@torch.no_grad()
def _check_text(model: PreTrainedModel, language_model: PreTrainedModel) -> None:
    """The assembled model must write what the language model wrote. Some families scale their logits in ways of their own."""
    input_ids = torch.arange(8)[None] % language_model.config.vocab_size
    expected = language_model.eval()(input_ids).logits.float()
    difference = (model.eval()(input_ids).logits.float() - expected).abs().max()
    if difference > 1e-2 * expected.abs().max():
        raise ValueError(
            f"The text logits of the assembled model differ from those of {type(language_model).__name__} by up to "
            f"{float(difference):.3g}: this family changes them after its head, which is not supported. Choose another language "
            "model, such as a Qwen2, Qwen3 or Llama."
        )
