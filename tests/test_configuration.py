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
"""Configurations: defaults, parts, files, validation."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from tiny import tiny_config
from transformers import (
    AutoConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    WhisperConfig,
)

import flow_omni  # noqa: F401  (registers the classes)
from flow_omni.modeling_flow_omni.configuration_flow_omni import (
    FlowOmniConfig,
    FlowOmniSpeechConfig,
    FlowOmniVocoderConfig,
)


CONFIG_CLASSES = (FlowOmniConfig, FlowOmniSpeechConfig, FlowOmniVocoderConfig)


def test_defaults_are_small_enough_to_build():
    config = FlowOmniConfig()
    assert config.text_config.hidden_size * config.text_config.vocab_size < 2_000_000
    assert config.audio_config.d_model * config.audio_config.encoder_layers < 2_000
    assert config.vocoder_config is None
    assert config.tie_word_embeddings is True


def test_parts_are_given_as_configs_or_as_fields():
    for text_config in (
        Qwen2Config(vocab_size=50),
        Qwen3Config(vocab_size=50),
        LlamaConfig(),
        {"model_type": "llama"},
    ):
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
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "FlowOmniConfig"


def test_every_key_of_a_saved_config_is_declared_and_documented():
    for config_class in CONFIG_CLASSES:
        fields = set(config_class.__dataclass_fields__)
        assert set(config_class().to_diff_dict()) <= fields | {"model_type"}
        own = fields - set(PreTrainedConfig.__dataclass_fields__)
        assert not {name for name in own if f"\n        {name} (`" not in config_class.__doc__}


def test_names_of_transformers_do_not_count_as_misspelled():
    names = [*GenerationConfig._get_default_generation_params(), "quantization_config", "auto_map", "torch_dtype"]
    for config_class in CONFIG_CLASSES:
        config_class(**dict.fromkeys(names))


def test_geometry_is_derived():
    speech = FlowOmniSpeechConfig(frames_per_step=4)
    assert speech.patch_size == 400
    assert speech.steps_per_second == pytest.approx(23.4375)


def test_bad_fields_are_refused_with_a_remedy():
    for config_class, fields, message in (
        (FlowOmniConfig, {"audio_token": 3}, "did you mean `audio_token_id`"),
        (FlowOmniConfig, {"speech_config": {"frame_per_step": 2}}, "did you mean `frames_per_step`"),
        (FlowOmniSpeechConfig, {"num_mel_bins": 0}, "num_mel_bins"),
        (FlowOmniSpeechConfig, {"frames_per_step": "4"}, "frames_per_step"),
        (FlowOmniSpeechConfig, {"patch_dropout": 1.5}, "smaller or equal to 1.0, got 1.5"),
        (FlowOmniSpeechConfig, {"speech_delay": -1}, "greater or equal to 0, got -1"),
        (FlowOmniSpeechConfig, {"initial_mel_std": 0.0}, "greater than 0.0, got 0.0"),
        (FlowOmniSpeechConfig, {"head_type": "gan"}, "head_type"),
        (FlowOmniSpeechConfig, {"min_time_to_data": 2.0}, "smaller or equal to 1.0"),
        (FlowOmniSpeechConfig, {"intermediate_size": 0}, "intermediate_size"),
        (FlowOmniSpeechConfig, {"time_embedding_size": 7}, "must be even"),
        (FlowOmniConfig, {"adapter_hidden_size": 0}, "adapter_hidden_size"),
        (FlowOmniConfig, {"text_config": {"model_type": "nonsense"}}, "Unrecognized model type"),
        (
            FlowOmniConfig,
            {"text_config": {"model_type": "gpt2"}},
            "`gpt2` are not supported: choose one of llama, mistral",
        ),
        (FlowOmniConfig, {"audio_config": {"model_type": "wav2vec2"}}, "pass a `WhisperConfig`"),
        (FlowOmniConfig, {"audio_token_id": -1}, "pass the id of"),
        (FlowOmniConfig, {"ctc_blank_token_id": 10**9}, "outside the vocabulary"),
        (FlowOmniConfig, {"state_class_weights": "high"}, "state_class_weights"),
        (FlowOmniConfig, {"state_class_weights": [1.0, 2.0]}, "four numbers"),
        (FlowOmniConfig, {"state_class_weights": [1.0, float("nan"), 1.0, 1.0]}, "at least 0"),
        (FlowOmniConfig, {"vocoder_config": {"hop_length": 300}}, "`hop_length` of the mel-spectrogram differs"),
        (FlowOmniConfig, {"text_loss_weight": -1.0}, "greater or equal to 0.0, got -1.0"),
        (FlowOmniVocoderConfig, {"n_fft": 1023}, r"`n_fft` \(1023\) must be even"),
        (FlowOmniVocoderConfig, {"hop_length": 513}, r"`hop_length` \(513\) may be at most half of `n_fft` \(1024\)"),
        (FlowOmniVocoderConfig, {"hop_length": 255, "padding": "same"}, r"`hop_length` \(255\) must be even"),
        (FlowOmniVocoderConfig, {"kernel_size": 4}, "need `causal=True`"),
        (FlowOmniVocoderConfig, {"num_lookahead_frames": 2}, "need `causal=True`"),
        (FlowOmniVocoderConfig, {"num_lookahead_frames": 7, "causal": True}, r"must be below `kernel_size`"),
        (FlowOmniVocoderConfig, {"num_lookahead_frames": -1, "causal": True}, "greater or equal to 0"),
        (FlowOmniVocoderConfig, {"hidden_size": 0}, "hidden_size"),
        (FlowOmniVocoderConfig, {"padding": "valid"}, "padding"),
        (FlowOmniVocoderConfig, {"hiden_size": 64}, "did you mean `hidden_size`"),
    ):
        with pytest.raises((ValueError, StrictDataclassError), match=message):
            config_class(**fields)


def test_checkpoint_with_an_unknown_field_loads_but_with_a_misspelled_one_does_not(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"written_by_the_future": 1}))
    assert FlowOmniConfig.from_pretrained(tmp_path).written_by_the_future == 1
    path.write_text(json.dumps(fields | {"adapter_stacksize": 8}))
    with pytest.raises(ValueError, match="did you mean `adapter_stack_size`"):
        FlowOmniConfig.from_pretrained(tmp_path)


def test_checkpoint_of_another_type_is_refused_by_its_name(tmp_path):
    Qwen2Config(vocab_size=50).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a checkpoint of type `qwen2`, not `flow_omni`"):
        FlowOmniConfig.from_pretrained(tmp_path)
