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
"""The configuration: it knows its fields, checks them, and comes back from a file as it was."""

import json

import pytest
from tiny import tiny_config
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config, WhisperConfig

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig
from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniVocoderConfig


CONFIG_CLASSES = (FlowOmniConfig, FlowOmniSpeechConfig, FlowOmniVocoderConfig)


def test_defaults_are_small_enough_to_build():
    config = FlowOmniConfig()
    assert config.text_config.hidden_size * config.text_config.vocab_size < 2_000_000
    assert config.vocoder_config is None
    assert config.tie_word_embeddings is True


@pytest.mark.parametrize(
    "text_config",
    [Qwen2Config(vocab_size=50), Qwen3Config(vocab_size=50), LlamaConfig(vocab_size=50), {"model_type": "llama"}],
)
def test_parts_are_given_as_configs_or_as_fields(text_config):
    config = FlowOmniConfig(text_config=text_config, audio_config={"d_model": 64, "encoder_attention_heads": 2})
    model_type = text_config["model_type"] if isinstance(text_config, dict) else text_config.model_type
    assert config.text_config.model_type == model_type
    assert isinstance(config.audio_config, WhisperConfig) and config.audio_config.d_model == 64
    assert config.audio_token_id == config.text_config.vocab_size - 1
    assert config.get_text_config() is config.text_config


def test_round_trip_through_a_file_keeps_every_field(tmp_path):
    config = tiny_config(
        speech={"head_type": "residual_vq", "mel_floor": -6.5},
        text={"model_type": "qwen3"},
        state_class_weights=[1, 2, 3, 4],
        adapter_hidden_act="silu",
    )
    config.save_pretrained(tmp_path)
    loaded = FlowOmniConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.speech_config, FlowOmniSpeechConfig)
    assert isinstance(loaded.vocoder_config, FlowOmniVocoderConfig)
    # a part alone is found inside the whole
    assert FlowOmniSpeechConfig.from_pretrained(tmp_path).mel_floor == -6.5
    assert FlowOmniVocoderConfig.from_pretrained(tmp_path).to_dict() == config.vocoder_config.to_dict()


def test_auto_config_finds_it(tmp_path):
    import flow_omni  # noqa: F401  (registers the classes)

    tiny_config().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "FlowOmniConfig"


@pytest.mark.parametrize("config_class", CONFIG_CLASSES)
def test_every_key_of_a_saved_config_is_declared_and_documented(config_class):
    own = set(config_class.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)
    known = set(config_class.__dataclass_fields__) | {"model_type"}
    assert set(config_class().to_diff_dict()) <= known
    undocumented = {name for name in own if f"\n        {name} (`" not in config_class.__doc__}
    assert not undocumented


def test_geometry_is_derived():
    speech = FlowOmniSpeechConfig(frames_per_step=4)
    assert speech.patch_size == 400
    assert speech.steps_per_second == pytest.approx(23.4375)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FlowOmniConfig(frames=3), "`frames=3` is no field of FlowOmniConfig: remove it"),
        (lambda: FlowOmniConfig(audio_token=3), "did you mean `audio_token_id`"),
        (lambda: FlowOmniConfig(speech_config={"frame_per_step": 2}), "did you mean `frames_per_step`"),
        (lambda: FlowOmniSpeechConfig(num_mel_bins=0), "num_mel_bins"),
        (lambda: FlowOmniSpeechConfig(frames_per_step="4"), "frames_per_step"),
        (lambda: FlowOmniSpeechConfig(patch_dropout=1.5), "between 0 and 1, got 1.5"),
        (lambda: FlowOmniSpeechConfig(speech_delay=-1), "at least 0, got -1"),
        (lambda: FlowOmniSpeechConfig(initial_mel_std=0.0), "above 0, got 0.0"),
        (lambda: FlowOmniSpeechConfig(head_type="gan"), "head_type"),
        (lambda: FlowOmniSpeechConfig(min_time_to_data=2.0), "at most 1"),
        (lambda: FlowOmniSpeechConfig(intermediate_size=0), "intermediate_size"),
        (lambda: FlowOmniConfig(adapter_hidden_size=0), "adapter_hidden_size"),
        (lambda: FlowOmniConfig(state_class_weights=[1.0, float("nan"), 1.0, 1.0]), "at least 0"),
        (lambda: FlowOmniSpeechConfig(hop_length=2048), "Lower `hop_length`"),
        (lambda: FlowOmniSpeechConfig(time_embedding_size=7), "must be even"),
        (lambda: FlowOmniConfig(text_config={"model_type": "nonsense"}), "unknown to the installed transformers"),
        (lambda: FlowOmniConfig(audio_config={"model_type": "wav2vec2"}), "Pass a `WhisperConfig`"),
        (lambda: FlowOmniConfig(audio_token_id=10**9), "outside the vocabulary"),
        (lambda: FlowOmniConfig(stop_state_id=2), "in some order"),
        (lambda: FlowOmniConfig(state_class_weights="high"), "state_class_weights"),
        (lambda: FlowOmniConfig(state_class_weights=[1.0, 2.0]), "four numbers"),
        (lambda: FlowOmniConfig(vocoder_config={"hop_length": 300}), "differs from `vocoder_config.hop_length` "),
        (lambda: FlowOmniConfig(text_loss_weight=-1.0), "at least 0, got -1.0"),
    ],
)
def test_bad_field_is_refused_with_a_remedy(build, message):
    with pytest.raises(Exception, match=message):
        build()


def test_checkpoint_with_an_unknown_field_loads_but_one_with_a_slip_of_the_pen_does_not(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"written_by_the_future": 1}))
    assert FlowOmniConfig.from_pretrained(tmp_path).written_by_the_future == 1
    path.write_text(json.dumps(fields | {"adapter_stacksize": 8}))
    with pytest.raises(ValueError, match="did you mean `adapter_stack_size`"):
        FlowOmniConfig.from_pretrained(tmp_path)


def test_checkpoint_of_another_kind_is_named(tmp_path):
    Qwen2Config(vocab_size=50).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a checkpoint of the type `qwen2`, not `flow_omni`"):
        FlowOmniConfig.from_pretrained(tmp_path)
