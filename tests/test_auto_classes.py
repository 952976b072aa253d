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
"""Hugging Face's entry points: the Auto classes, pipelines, and a checkpoint that brings its own code."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_config, tiny_model, tiny_processor
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoModelForTextToWaveform,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

import flow_omni


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder as it would lie on the Hub."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny_model()
    model.generation_config.max_new_tokens = 12
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture
def conversation(tmp_path):
    path = tmp_path / "question.wav"
    soundfile.write(path, np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1, 16000)
    return [{"role": "user", "content": [{"type": "audio", "path": str(path)}]}]


def test_public_names_are_these():
    assert sorted(flow_omni.__all__) == [
        "FlowOmniConfig",
        "FlowOmniFeatureExtractor",
        "FlowOmniForSpeechGeneration",
        "FlowOmniGenerateOutput",
        "FlowOmniModel",
        "FlowOmniProcessor",
        "FlowOmniSpeechConfig",
        "FlowOmniStep",
        "FlowOmniVocoder",
        "FlowOmniVocoderConfig",
    ]
    for name in flow_omni.__all__:
        assert getattr(flow_omni, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'FlowOmni'"):
        _ = flow_omni.FlowOmni


def test_auto_classes_find_our_classes(checkpoint):
    for auto_class, expected in (
        (AutoConfig, flow_omni.FlowOmniConfig),
        (AutoModel, flow_omni.FlowOmniForSpeechGeneration),
        (AutoModelForTextToWaveform, flow_omni.FlowOmniForSpeechGeneration),
        (AutoModelForMultimodalLM, flow_omni.FlowOmniForSpeechGeneration),
        (AutoProcessor, flow_omni.FlowOmniProcessor),
        (AutoFeatureExtractor, flow_omni.FlowOmniFeatureExtractor),
    ):
        assert type(auto_class.from_pretrained(checkpoint)) is expected
    assert AutoTokenizer.from_pretrained(checkpoint).convert_tokens_to_ids("<|audio|>") == 259


def test_vocoder_alone_is_found_by_auto_model(checkpoint, tmp_path):
    vocoder = AutoModel.from_pretrained(checkpoint).vocoder
    vocoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is flow_omni.FlowOmniVocoder
    mel = torch.randn(1, 9, 20)
    assert torch.equal(loaded(mel), vocoder(mel))


def prepare(processor, conversation):
    return processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def test_any_to_any_pipeline_writes_and_speaks(checkpoint, conversation):
    pipe = pipeline("any-to-any", model=str(checkpoint))
    (written,) = pipe(conversation, return_full_text=False)
    assert isinstance(written["generated_text"], str)
    (spoken,) = pipe(conversation, generation_mode="audio")
    assert spoken["generated_audio"].ndim == 1 and len(spoken["generated_audio"]) > 0
    full = pipe(conversation)[0]["generated_text"]
    assert [message["role"] for message in full] == ["user", "assistant"]


def test_text_to_audio_pipeline_speaks_texts_and_conversations(checkpoint):
    pipe = pipeline("text-to-audio", model=str(checkpoint))
    conversation = [{"role": "user", "content": [{"type": "text", "text": "Read aloud: hello"}]}]
    for outputs in ([pipe("hello")], pipe(["hello", "good day"]), [pipe(conversation)]):
        for output in outputs:
            assert output["sampling_rate"] == 8000
            assert output["audio"].ndim == 1 and len(output["audio"]) > 0


def test_checkpoint_holds_the_code_and_says_where(checkpoint):
    auto_map = json.loads((checkpoint / "config.json").read_text())["auto_map"]
    assert auto_map["AutoConfig"] == "configuration_flow_omni.FlowOmniConfig"
    for name in ("AutoModel", "AutoModelForTextToWaveform", "AutoModelForMultimodalLM"):
        assert auto_map[name] == "modeling_flow_omni.FlowOmniForSpeechGeneration"
    for entry in auto_map.values():
        assert (checkpoint / f"{entry.split('.')[0]}.py").is_file()
    assert not list(checkpoint.glob("*.bin")) and not list(checkpoint.glob("*.pt"))


def test_checkpoint_speaks_in_a_process_that_cannot_import_the_package(checkpoint, conversation, tmp_path):
    """The claim behind `trust_remote_code=True`: the folder is enough."""
    program = f"""
        import sys
        sys.path = [path for path in sys.path if path]
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "flow_omni":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Refuse())
        try:
            import flow_omni
        except ModuleNotFoundError:
            print("no package")
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForMultimodalLM, AutoProcessor, pipeline
        folder = {str(checkpoint)!r}
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        assert type(AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)) is type(model)
        assert type(AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)).__name__ == "FlowOmniFeatureExtractor"
        conversation = {conversation!r}
        inputs = processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        output = model.generate(**inputs, seed=0)
        print("samples", len(output.audio[0]), float(output.audio[0].double().sum()))
        spoken = pipeline("any-to-any", model=folder, trust_remote_code=True)(conversation, generation_mode="audio")
        print("pipeline", len(spoken[0]["generated_audio"]))
        model.save_pretrained({str(tmp_path / "again")!r})
        processor.save_pretrained({str(tmp_path / "again")!r})
        again = AutoModel.from_pretrained({str(tmp_path / "again")!r}, trust_remote_code=True)
        print("again", len(again.generate(**inputs, seed=0).audio[0]))
        assert "flow_omni" not in sys.modules
    """
    environment = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())

    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    expected = model.generate(**prepare(processor, conversation), seed=0).audio[0]
    length, total = lines["samples"].split()
    assert int(length) == len(expected) and float(total) == pytest.approx(float(expected.double().sum()), abs=1e-4)
    assert lines["no"] == "package"
    assert int(lines["pipeline"]) > 0 and int(lines["again"]) == len(expected)


def test_saving_overwrites_nothing_of_the_processor_that_it_should_keep(checkpoint):
    """Model and processor share a folder: either's `save_pretrained` leaves the other's files whole."""
    names = {path.name for path in checkpoint.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    } <= names
    assert AutoConfig.from_pretrained(checkpoint).speech_config.to_dict() == tiny_config().speech_config.to_dict()
