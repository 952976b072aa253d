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
"""Assembling a model from pretrained parts, and importing Whisper and Vocos from their own formats."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
import yaml
from huggingface_hub.errors import StrictDataclassError
from tiny import SPEECH_FIELDS, VOCODER_FIELDS, byte_level_tokenizer, spoken_prompt
from tiny_parts import save_llm, save_vocos, save_whisper, vocos_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    WhisperModel,
)

from flow_omni.modeling_flow_omni.configuration_flow_omni import LANGUAGE_MODEL_FAMILIES, FlowOmniVocoderConfig
from flow_omni.modeling_flow_omni.convert_flow_omni import load_vocos
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from flow_omni.processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor


SPEECH_CONFIG = {name: SPEECH_FIELDS[name] for name in ("frames_per_step", "num_hidden_layers", "head_hidden_size")}


def tokenizer_without_audio_token() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")


def assemble(whisper, llm, **kwargs) -> FlowOmniForSpeechGeneration:
    return FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=whisper, llm=llm, **kwargs).eval()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a Whisper, a language model and a Vocos, and the Vocos itself."""
    folder = tmp_path_factory.mktemp("parts")
    vocos = save_vocos(folder / "vocos")
    return save_whisper(folder / "whisper"), save_llm(folder / "llm"), folder / "vocos", vocos


@pytest.fixture(scope="module")
def assembled(parts):
    return assemble(*parts[:2], vocoder=parts[2], speech_config=SPEECH_CONFIG)


@pytest.fixture(scope="module")
def openai_whisper(tmp_path_factory):
    """A checkpoint as openai-whisper downloads it, and its model in that package."""
    torch.manual_seed(1)
    dims = whisper.ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=32, n_audio_head=4, n_audio_layer=2,
        n_vocab=100, n_text_ctx=16, n_text_state=32, n_text_head=4, n_text_layer=1,
    )  # fmt: skip
    model = whisper.model.Whisper(dims).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("openai") / "tiny.pt"
    torch.save({"dims": dataclasses.asdict(dims), "model_state_dict": model.state_dict()}, path)
    return path, model


# --- assembling


def test_encoder_of_a_transformers_whisper_keeps_its_output(assembled, parts):
    features = torch.randn(1, 80, 3000)
    with torch.no_grad():
        expected = WhisperModel.from_pretrained(parts[0]).eval().encoder(features).last_hidden_state
        output = assembled.model.audio_encoder(features).last_hidden_state
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_encoder_of_an_openai_whisper_keeps_its_output_from_the_waveform_on(openai_whisper, parts, monkeypatch):
    path, original = openai_whisper
    waveform = np.random.default_rng(0).standard_normal(480_000).astype(np.float32) * 0.1
    features = FlowOmniFeatureExtractor()(waveform, sampling_rate=16_000, return_tensors="pt")
    monkeypatch.setattr(whisper, "load_model", lambda name, device: original)
    for source in (path, "tiny"):
        encoder = assemble(source, parts[1]).model.audio_encoder
        with torch.no_grad():
            expected = original.encoder(whisper.log_mel_spectrogram(waveform)[None])
            output = encoder(features["input_features"], attention_mask=features["input_features_mask"])
        torch.testing.assert_close(output.last_hidden_state, expected, atol=1e-5, rtol=0)


def test_text_logits_equal_the_language_models_exactly_in_every_family(parts, tmp_path):
    input_ids = torch.randint(0, 250, (2, 17))
    for index, model_type in enumerate(LANGUAGE_MODEL_FAMILIES):
        tied = index % 2 == 0
        llm = save_llm(tmp_path / model_type, model_type, tie_word_embeddings=tied, bos_token_id=0)
        model, original = assemble(parts[0], llm), AutoModelForCausalLM.from_pretrained(llm).eval()
        assert torch.equal(model(input_ids).logits, original(input_ids).logits), model_type
        assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == tied


def test_encoded_audio_is_as_large_as_text_at_first(assembled):
    """Without a norm it outgrew the language model's embeddings a hundredfold in training, which then ignored it."""
    with torch.no_grad():
        audio = assembled.get_audio_features(torch.randn(1, 80, 400)).pooler_output
    text = assembled.get_input_embeddings().weight
    sizes = [embeddings.float().square().mean().sqrt() for embeddings in (audio, text)]
    torch.testing.assert_close(*sizes, rtol=0.01, atol=0.0)


def test_new_audio_token_leaves_the_vocabulary_and_every_logit_as_they_are(parts, tmp_path):
    tokenizer = tokenizer_without_audio_token()
    num_tokens = len(AutoTokenizer.from_pretrained(save_llm(tmp_path, tokenizer=tokenizer)))
    llm = save_llm(tmp_path, num_embeddings=num_tokens, tokenizer=tokenizer, eos_token_id=0, pad_token_id=1)
    model = assemble(parts[0], llm)
    assert model.config.audio_token_id == num_tokens == model.config.text_config.vocab_size
    assert model.config.ctc_blank_token_id < num_tokens
    input_ids = torch.randint(0, 250, (2, 17))
    expected = AutoModelForCausalLM.from_pretrained(llm).eval()(input_ids).logits
    assert torch.equal(model(input_ids).logits, expected)


def test_vocoder_keeps_its_output_and_sets_the_mel_geometry(assembled, parts):
    assert assembled.config.speech_config.hop_length == 16
    assert assembled.config.sampling_rate == 16000
    mel = torch.randn(1, 30, 12)
    with torch.no_grad():
        expected = parts[3].decode(mel.transpose(1, 2))
        torch.testing.assert_close(assembled.vocoder(mel), expected, atol=1e-5, rtol=0)


def test_assembled_model_answers_saves_and_loads(assembled, tmp_path):
    inputs = spoken_prompt([24], [3])
    expected = assembled.generate(**inputs, max_new_tokens=8, seed=0)
    assert expected.audio[0].numel() > 0
    assembled.save_pretrained(tmp_path)
    # no path of this machine travels with it
    assert str(tmp_path.parent) not in (tmp_path / "config.json").read_text()
    output = FlowOmniForSpeechGeneration.from_pretrained(tmp_path).generate(**inputs, max_new_tokens=8, seed=0)
    torch.testing.assert_close(output.mel, expected.mel)
    assert torch.equal(output.sequences, expected.sequences)


def test_generation_config_of_the_language_model_is_kept_and_knows_the_end_of_a_turn(parts, tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|im_start|>{% endfor %}"
    llm = save_llm(tmp_path, tokenizer=tokenizer)
    original = AutoModelForCausalLM.from_pretrained(llm)
    original.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8)
    original.generation_config.save_pretrained(llm)
    config = assemble(parts[0], llm).generation_config
    assert (config.do_sample, config.temperature, config.top_p) == (True, 0.7, 0.8)
    # that of the template, of the generation config, of the tokenizer
    assert config.eos_token_id == [257, 258]


def test_model_has_the_requested_precision(parts):
    model = assemble(*parts[:2], dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.mel_normalizer.mean.dtype == torch.float32


class Attack:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_files_that_are_not_an_openai_whisper_are_refused_and_not_run(parts, tmp_path):
    path, trace = tmp_path / "whisper.pt", tmp_path / "trace"
    for write in (
        lambda: path.write_bytes(b"not a checkpoint"),
        lambda: path.write_bytes(b""),
        lambda: torch.save({"dims": {"n_mels": 80}, "model_state_dict": {}}, path),
        lambda: torch.save({"weights": torch.zeros(1)}, path),
        lambda: torch.save({"dims": Attack(trace), "model_state_dict": {}}, path),
    ):
        write()
        with pytest.raises(ValueError, match="cannot be read as an openai-whisper checkpoint"):
            assemble(path, parts[1])
    assert not trace.exists()


def test_checkpoints_of_other_types_are_refused(parts, tmp_path):
    with pytest.raises(ValueError, match="is a checkpoint of the type `qwen2`, not `whisper`"):
        assemble(parts[1], parts[1])
    with pytest.raises(ValueError, match=r"nor one of openai-whisper's models \(tiny"):
        assemble("enormous", parts[1])
    with pytest.raises(OSError, match="no-such-llm"):
        assemble(parts[0], "nobody/no-such-llm")
    llm = save_llm(tmp_path, "granite", logits_scaling=8.0)
    with pytest.raises(StrictDataclassError, match="`granite` are not supported: choose one of llama, mistral"):
        assemble(parts[0], llm)


def test_incomplete_whisper_is_not_filled_up_with_noise(openai_whisper, parts, tmp_path):
    checkpoint = torch.load(openai_whisper[0], weights_only=True)
    checkpoint["model_state_dict"].pop("encoder.conv1.weight")
    torch.save(checkpoint, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match="1 weights .* do not fit, such as `model.audio_encoder.conv1"):
        assemble(tmp_path / "cut.pt", parts[1])


# --- Vocos


def test_imported_vocos_gives_the_samples_of_vocos(tmp_path):
    for padding in ("center", "same"):
        vocos = save_vocos(tmp_path / padding, vocos_config(padding))
        vocoder = load_vocos(tmp_path / padding)
        for num_frames in (2, 50):
            mel = torch.randn(2, num_frames, 12)
            torch.testing.assert_close(vocoder(mel), vocos.decode(mel.transpose(1, 2)), atol=1e-5, rtol=0)
        vocoder.save_pretrained(tmp_path / "own")
        assert torch.equal(load_vocos(tmp_path / "own")(mel), vocoder(mel))
        config = vocoder.config
        assert (config.sampling_rate, config.num_mel_bins, config.padding) == (16000, 12, padding)
        assert (config.n_fft, config.hop_length, config.causal) == (64, 16, False)


def test_defaults_of_vocos_hold_where_the_file_says_nothing(tmp_path):
    config = vocos_config()
    config["feature_extractor"]["init_args"] = {"n_fft": 64, "hop_length": 16, "n_mels": 12}
    save_vocos(tmp_path, config)
    assert (load_vocos(tmp_path).config.sampling_rate, load_vocos(tmp_path).config.padding) == (24000, "center")


def test_any_other_vocos_is_refused_by_its_configuration(tmp_path):
    save_vocos(tmp_path)

    def change(part, **arguments):
        config = vocos_config()
        config[part]["init_args"].update(arguments)
        return config

    def change_class(part, class_path):
        config = vocos_config()
        config[part]["class_path"] = class_path
        return config

    for config, message in (
        (
            change_class("feature_extractor", "vocos.feature_extractors.EncodecFeatures"),
            "EncodecFeatures, only MelSpec",
        ),
        (change_class("backbone", "vocos.models.VocosResNetBackbone"), "only VocosBackbone is supported"),
        (change_class("head", None), "AttributeError"),
        (change("backbone", adanorm_num_embeddings=4), "sets adanorm_num_embeddings"),
        (change("feature_extractor", f_max=8000), "sets f_max, which is not supported"),
        (change("head", padding="same"), "its parts do not fit"),
        (change("backbone", input_channels=80), "its parts do not fit"),
        (change("backbone", num_layers="two"), "num_hidden_layers"),
        ({}, "KeyError"),
        (["a", "list"], "TypeError"),
        (None, "TypeError"),
    ):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(ValueError, match=f"(?s)does not describe a supported Vocos.*{message}"):
            load_vocos(tmp_path)
    (tmp_path / "config.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="ConstructorError"):
        load_vocos(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    """Loaded leniently, a missing tensor stays random and the speech becomes noise."""
    save_vocos(tmp_path)
    path, trace = tmp_path / "pytorch_model.bin", tmp_path / "trace"
    weights, content = torch.load(path, weights_only=True), path.read_bytes()
    for write, message in (
        (
            lambda: torch.save({k: w for k, w in weights.items() if k != "backbone.norm.bias"}, path),
            "backbone.norm.bias",
        ),
        (lambda: torch.save(weights | {"extra": torch.zeros(1)}, path), "extra"),
        (lambda: torch.save(weights | {"head.out.bias": torch.zeros(3)}, path), "size mismatch for head.out.bias"),
        (lambda: torch.save(weights["head.out.bias"], path), "AttributeError"),
        (lambda: path.write_bytes(content[: len(content) // 2]), "download it again"),
        (lambda: path.write_bytes(b""), "download it again"),
        (lambda: torch.save({"head.out.bias": Attack(trace)}, path), "UnpicklingError"),
        (lambda: path.write_bytes(pickle.dumps({"head.out.bias": Attack(trace)}, 2)), "UnpicklingError"),
    ):
        write()
        with pytest.raises(ValueError, match=f"(?s)pytorch_model.bin could not be read.*{message}"):
            load_vocos(tmp_path)
    assert not trace.exists()


def test_incomplete_vocoder_of_our_own_is_refused(tmp_path):
    """`from_pretrained` warns and fills the gap with random weights."""
    vocoder = FlowOmniVocoder(FlowOmniVocoderConfig(**VOCODER_FIELDS))
    weights = vocoder.state_dict()
    del weights["head.out.weight"]
    vocoder.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"lacks 1 weights, such as `head\.out\.weight`"):
        load_vocos(tmp_path)


def test_folder_without_a_vocoder_is_refused(tmp_path, parts):
    with pytest.raises(OSError, match="no file named"):
        load_vocos(tmp_path)
    with pytest.raises(ValueError, match="a checkpoint of type `whisper`, not `flow_omni_vocoder`"):
        load_vocos(parts[0])
