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
"""Assembling: nothing that was pretrained is lost, whatever format it comes in. The parts are random, the formats real."""

import dataclasses

import numpy as np
import pytest
import torch
import whisper
from test_importing_vocos import publish
from tiny import AUDIO_FIELDS, SPEECH_FIELDS, TEXT_FIELDS, byte_level_tokenizer, spoken_prompt
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor


SPEECH_SIDE = {name: SPEECH_FIELDS[name] for name in ("frames_per_step", "num_hidden_layers", "head_hidden_size")}


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whisper")
    WhisperForConditionalGeneration(WhisperConfig(**AUDIO_FIELDS, vocab_size=100, pad_token_id=0)).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def whisper_file(tmp_path_factory):
    """A checkpoint as openai-whisper downloads it, with a model of that package."""
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


def save_llm(folder, model_type: str = "qwen2", num_embeddings: int = 264, with_audio_token: bool = True, **fields):
    """A causal language model and its tokenizer in a folder, as they are published."""
    torch.manual_seed(2)
    fields = {**TEXT_FIELDS, "vocab_size": num_embeddings, **fields}
    fields.pop("model_type")
    config = CONFIG_MAPPING[model_type](**fields)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = byte_level_tokenizer()
    if not with_audio_token:
        tokenizer = plain_tokenizer()
    tokenizer.save_pretrained(folder)
    return folder


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that has never heard of `<|audio|>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")


@pytest.fixture(scope="module")
def vocos_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocos")
    return folder, publish(folder)


@pytest.fixture(scope="module")
def assembled(whisper_folder, vocos_folder, tmp_path_factory):
    llm = save_llm(tmp_path_factory.mktemp("llm"))
    model = FlowOmniForSpeechGeneration.from_pretrained_parts(
        whisper=whisper_folder, llm=llm, vocoder=vocos_folder[0], speech_config=SPEECH_SIDE
    )
    return model.eval(), llm


def test_encoder_of_a_transformers_whisper_is_whole(assembled, whisper_folder):
    features = torch.randn(1, 80, 3000)
    with torch.no_grad():
        expected = WhisperModel.from_pretrained(whisper_folder).eval().encoder(features).last_hidden_state
        output = assembled[0].model.audio_encoder(features).last_hidden_state
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_encoder_of_an_openai_whisper_is_whole_from_the_waveform_on(whisper_file, tmp_path):
    path, original = whisper_file
    model = FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=path, llm=save_llm(tmp_path)).eval()
    waveform = np.random.default_rng(0).standard_normal(480_000).astype(np.float32) * 0.1
    with torch.no_grad():
        expected = original.encoder(whisper.log_mel_spectrogram(waveform)[None])
        features = FlowOmniFeatureExtractor()(waveform, sampling_rate=16_000, return_tensors="pt")
        output = model.model.audio_encoder(
            features["input_features"], attention_mask=features["input_features_mask"]
        ).last_hidden_state
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_text_logits_equal_the_language_models_exactly(whisper_folder, tmp_path, model_type, tied):
    llm = save_llm(tmp_path, model_type, tie_word_embeddings=tied, head_dim=8)
    model = FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=whisper_folder, llm=llm).eval()
    original = AutoModelForCausalLM.from_pretrained(llm).eval()
    input_ids = torch.randint(0, 250, (2, 17))
    assert torch.equal(model(input_ids).logits, original(input_ids).logits)
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == tied


def test_heard_speech_is_as_large_as_text_at_first(assembled):
    """Without a norm it outgrew the language model's embeddings a hundredfold in training, which then stopped listening."""
    model = assembled[0] if isinstance(assembled, tuple) else assembled
    with torch.no_grad():
        heard = model.get_audio_features(torch.randn(1, 80, 400)).pooler_output
    text = model.get_input_embeddings().weight
    sizes = [embeddings.float().square().mean().sqrt() for embeddings in (heard, text)]
    torch.testing.assert_close(*sizes, rtol=0.01, atol=0.0)


def test_new_audio_token_makes_room_and_leaves_the_old_ones_as_they_were(whisper_folder, tmp_path):
    llm = save_llm(tmp_path, with_audio_token=False)
    num_tokens = len(AutoTokenizer.from_pretrained(llm))
    save_llm(tmp_path, num_embeddings=num_tokens, with_audio_token=False, eos_token_id=0, pad_token_id=1)
    model = FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=whisper_folder, llm=llm).eval()
    assert model.config.audio_token_id == num_tokens
    assert model.config.text_config.vocab_size == num_tokens + 1
    original = AutoModelForCausalLM.from_pretrained(llm).eval()
    input_ids = torch.randint(0, 250, (2, 17))
    expected = original(input_ids).logits
    torch.testing.assert_close(model(input_ids).logits[..., :num_tokens], expected, atol=1e-6, rtol=0)


def test_vocoder_is_whole_and_brings_its_mel_geometry(assembled, vocos_folder):
    model, vocos = assembled[0], vocos_folder[1]
    assert model.config.speech_config.hop_length == 16
    assert model.config.sampling_rate == 16000
    mel = torch.randn(1, 30, 12)
    with torch.no_grad():
        torch.testing.assert_close(model.vocoder(mel), vocos.decode(mel.transpose(1, 2)), atol=1e-5, rtol=0)


def test_assembled_model_answers_saves_and_loads(assembled, tmp_path):
    model, _ = assembled
    inputs = spoken_prompt([24], [3])
    expected = model.generate(**inputs, max_new_tokens=8, seed=0)
    assert expected.audio[0].numel() > 0
    model.save_pretrained(tmp_path)
    # no path of this machine travels with it
    assert str(tmp_path.parent) not in (tmp_path / "config.json").read_text()
    output = FlowOmniForSpeechGeneration.from_pretrained(tmp_path).generate(**inputs, max_new_tokens=8, seed=0)
    torch.testing.assert_close(output.mel, expected.mel)
    assert torch.equal(output.sequences, expected.sequences)


def test_generation_config_of_the_language_model_is_kept(whisper_folder, tmp_path):
    llm = save_llm(tmp_path)
    original = AutoModelForCausalLM.from_pretrained(llm)
    original.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8)
    original.generation_config.save_pretrained(llm)
    config = FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=whisper_folder, llm=llm).generation_config
    assert (config.do_sample, config.temperature, config.top_p) == (True, 0.7, 0.8)


def test_model_takes_the_precision_asked_for(whisper_folder, tmp_path):
    model = FlowOmniForSpeechGeneration.from_pretrained_parts(
        whisper=whisper_folder, llm=save_llm(tmp_path), dtype=torch.bfloat16
    )
    assert model.dtype == torch.bfloat16
    assert model.mel_normalizer.mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"not a checkpoint"), "damaged, or another kind of file"),
        (lambda path: path.write_bytes(b""), "damaged, or another kind of file"),
        (lambda path: torch.save({"dims": {"n_mels": 80}, "model_state_dict": {}}, path), "lack n_audio_ctx"),
        (lambda path: torch.save({"weights": torch.zeros(1)}, path), "`dims` and `model_state_dict`"),
    ],
)
def test_file_that_is_no_whisper_is_refused(write, message, tmp_path):
    path = tmp_path / "whisper.pt"
    write(path)
    with pytest.raises(ValueError, match=message):
        FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=path, llm=save_llm(tmp_path / "llm"))


def test_pickle_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("ran",))

    path = tmp_path / "whisper.pt"
    torch.save({"dims": Harmful(), "model_state_dict": {}}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=path, llm=save_llm(tmp_path / "llm"))


def test_checkpoint_of_another_kind_is_refused(whisper_folder, tmp_path):
    llm = save_llm(tmp_path)
    with pytest.raises(ValueError, match="is a checkpoint of the type `qwen2`, not `whisper`"):
        FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=llm, llm=llm)
    with pytest.raises(ValueError, match="nor one of openai-whisper's models: tiny"):
        FlowOmniForSpeechGeneration.from_pretrained_parts(whisper="enormous", llm=llm)
    with pytest.raises(OSError, match="no-such-llm"):
        FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=whisper_folder, llm="nobody/no-such-llm")


def test_incomplete_whisper_is_not_filled_up_with_noise(whisper_file, tmp_path):
    checkpoint = torch.load(whisper_file[0], weights_only=True)
    checkpoint["model_state_dict"].pop("encoder.conv1.weight")
    torch.save(checkpoint, tmp_path / "cut.pt")
    with pytest.raises(
        ValueError, match="1 weights of the pretrained parts do not fit, such as `model.audio_encoder.conv1"
    ):
        FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=tmp_path / "cut.pt", llm=save_llm(tmp_path / "llm"))


def test_language_model_whose_logits_would_be_lost_is_refused(whisper_folder, tmp_path):
    llm = save_llm(tmp_path, "granite", logits_scaling=8.0)
    with pytest.raises(ValueError, match="changes them after its head"):
        FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=whisper_folder, llm=llm)


def test_tokenizer_of_another_model_is_refused(whisper_folder, tmp_path):
    llm = save_llm(tmp_path, num_embeddings=2000)
    with pytest.raises(ValueError, match="The tokenizer knows 260 tokens, the language model 2000"):
        FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=whisper_folder, llm=llm)
