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
"""The model that needs no download: there in no time, always the same, and honest about being untrained."""

import pytest
import torch

from flow_omni import untrained as untrained_module
from flow_omni.untrained import BUNDLED_CHECKPOINT, EXAMPLE_QUESTION, load_bundled, untrained


@pytest.fixture
def no_bundled_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setattr(untrained_module, "BUNDLED_CHECKPOINT", tmp_path / "none")


def ask(model, processor, **options):
    conversation = processor.make_conversation("ask", audio=str(EXAMPLE_QUESTION))
    inputs = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return model.generate(**inputs, **options)


def test_it_is_tiny_and_says_that_it_is_untrained(no_bundled_checkpoint):
    model, _, is_trained = load_bundled()
    assert not is_trained
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000


def test_it_is_always_the_same_and_leaves_the_seed_of_others_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, _ = untrained()
    assert torch.equal(torch.rand(1), expected)
    second, _ = untrained()
    for name, parameter in first.state_dict().items():
        assert torch.equal(parameter, second.state_dict()[name]), name


def test_its_speech_has_the_geometry_of_real_models():
    model, processor = untrained()
    speech = model.config.speech_config
    assert (speech.sampling_rate, speech.n_fft, speech.hop_length, speech.num_mel_bins) == (24000, 1024, 256, 100)
    assert speech.frames_per_step == processor.frames_per_step == 4
    assert model.config.vocoder_config.causal


def test_it_answers_the_example_question_in_letters_and_sound_though_its_text_never_ends():
    model, processor = untrained()
    output = ask(model, processor, seed=0)
    answer = processor.post_process_generation(output)[0]
    assert set(answer["text"]) <= set("abcdefghijklmnopqrstuvwxyz ")
    assert 1 < len(answer["audio"]) / answer["sampling_rate"] < 4
    assert answer["audio"].std() > 1e-3
    assert output.mel.std() > 0.5


def test_a_bundled_checkpoint_takes_its_place(monkeypatch, tmp_path):
    model, processor = untrained()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr(untrained_module, "BUNDLED_CHECKPOINT", tmp_path)
    loaded, loaded_processor, is_trained = load_bundled()
    assert is_trained
    # not bit for bit: products round otherwise where the weights lie otherwise in memory
    torch.testing.assert_close(
        ask(loaded, loaded_processor, seed=0).mel, ask(model, processor, seed=0).mel, atol=1e-3, rtol=1e-3
    )


def test_the_bundled_model_hears_the_example_question_and_says_what_it_writes():
    model, processor, is_trained = load_bundled()
    assert is_trained
    assert model.dtype == torch.float32
    answer = processor.post_process_generation(ask(model, processor, seed=0))[0]
    assert answer["text"].startswith("The capital of France is")
    assert 1 < len(answer["audio"]) / answer["sampling_rate"] < 4


def test_the_bundled_checkpoint_is_small_and_brings_no_code():
    files = list(BUNDLED_CHECKPOINT.iterdir())
    assert sum(path.stat().st_size for path in files) < 40e6
    assert {path.suffix for path in files} == {".json", ".jinja", ".md", ".safetensors"}
