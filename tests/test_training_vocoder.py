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
"""The vocoder's losses, discriminators, segments and Trainer."""

import shutil

import pytest
import torch
import training_tools as tools
from safetensors.torch import load_file
from tiny import tiny_config, tiny_model

from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from flow_omni.training.arguments import FlowOmniTrainingArguments
from flow_omni.training.callbacks import TrainingDivergedError
from flow_omni.training.train import train_recipe
from flow_omni.training.vocoder import (
    VocoderSegments,
    VocoderTrainer,
    VocoderWithLosses,
    discriminator_hinge_loss,
    feature_matching_loss,
    multi_resolution_stft_loss,
)


FLOOR = -7.0


def arguments(folder, **options) -> FlowOmniTrainingArguments:
    defaults = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    return FlowOmniTrainingArguments(str(folder), discriminator_channels=2, **(defaults | options))


def with_losses(folder, **options) -> VocoderWithLosses:
    torch.manual_seed(0)
    return VocoderWithLosses(FlowOmniVocoder(tiny_config().vocoder_config), arguments(folder, **options), FLOOR)


def waveforms(seconds: float = 0.3) -> torch.Tensor:
    return torch.stack([torch.from_numpy(tools.tone(seconds, 8000, frequency)) for frequency in (300, 500)])


def test_the_stft_loss_is_zero_for_equal_sounds_and_measures_loudness():
    target = waveforms()
    assert multi_resolution_stft_loss(target, target) == 0
    quieter, softer = (multi_resolution_stft_loss(target * scale, target) for scale in (0.9, 0.5))
    assert 0 < quieter < softer
    silence = torch.zeros(1, 4000, requires_grad=True)
    multi_resolution_stft_loss(silence, target[:1, :2400].repeat(1, 2)[:, :4000]).backward()
    assert torch.isfinite(silence.grad).all()
    with pytest.raises(ValueError, match="Segments of 100 samples .* raise `segment_seconds`"):
        multi_resolution_stft_loss(target[:, :100], target[:, :100])


def test_the_hinge_loss_ends_at_the_margin():
    real, fake = torch.tensor([[1.0, 3.0]]), torch.tensor([[-1.0, -4.0]])
    assert discriminator_hinge_loss([real], [fake]) == 0
    assert discriminator_hinge_loss([real - 1], [fake]) == pytest.approx(0.5)
    assert feature_matching_loss([[real]], [[real]]) == 0 and feature_matching_loss([[real]], [[real + 1]]) == 1


def test_the_gradients_of_vocoder_and_discriminators_do_not_mix(tmp_path):
    model, target = with_losses(tmp_path, adversarial_loss_weight=1.0), waveforms()
    for name, moved, kept in (
        ("discriminator_loss", model.discriminators, model.vocoder),
        ("adversarial_loss", model.vocoder, model.discriminators),
        ("feature_loss", model.vocoder, model.discriminators),
    ):
        model.zero_grad()
        model(target, is_adversarial=True)[name].backward()
        assert any(weight.grad is not None for weight in moved.parameters()), name
        assert all(weight.grad is None for weight in kept.parameters()), name
    assert set(model(target)) == {"loss", "mel_loss", "stft_loss"}
    assert len(with_losses(tmp_path).discriminators) == 0


def test_the_vocoder_reads_mels_as_a_speech_model_writes_them(tmp_path, monkeypatch):
    model, lowest = with_losses(tmp_path), []
    forward = model.vocoder.forward
    monkeypatch.setattr(model.vocoder, "forward", lambda mel: lowest.append(mel.min().item()) or forward(mel))
    model(torch.zeros(1, 2400))
    assert lowest == [FLOOR]


def test_it_learns_a_sound_before_and_with_discriminators(tmp_path):
    options = {"adversarial_loss_weight": 1.0, "adversarial_start": 4}
    args = arguments(tmp_path, max_steps=18, learning_rate=3e-3, per_device_train_batch_size=2, **options)
    segments = VocoderSegments([{"id": "a", "answer_audio": tools.sound(0.5)}], 8000, 2048)
    trainer = VocoderTrainer(with_losses(tmp_path, **options), args, train_dataset=segments)
    trainer.train()
    losses = [entry["mel_loss"] for entry in trainer.state.log_history if "mel_loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    steps = [entry["step"] for entry in trainer.state.log_history if "discriminator_loss" in entry]
    assert steps == list(range(5, 19))


def test_segments_are_cut_at_places_that_depend_on_seed_and_index_alone(tmp_path, caplog):
    rows = [
        {"id": "written", "question_text": "a", "answer_text": "b"},
        {"id": "long", "answer_audio": tools.sound(2.0)},
        {"id": "broken", "answer_audio": str(tmp_path / "nowhere.wav")},
        {"id": "short", "answer_audio": tools.sound(0.1)},
    ]
    segments, again = (VocoderSegments(rows, 16000, 8000, seed=1, segments_per_recording=5) for _ in range(2))
    assert len(segments) == 10
    cut = [segments[index]["waveform"] for index in range(10)]
    assert all(torch.equal(one, again[index]["waveform"]) for index, one in enumerate(cut))
    assert len({one[0].item() for one in cut[:5]}) == 5
    assert {len(one) for one in cut} == {8000} and not cut[9][1600:].any()
    assert "Skipped the recording of row broken" in caplog.text
    with pytest.raises(ValueError, match="None of 1 rows has a readable `answer_audio`"):
        VocoderSegments(rows[:1], 16000, 8000)


def recipe(material, output, **changes) -> list[str]:
    settings = {"eval_data": material / "eval.jsonl", "eval_steps": 2, "segment_seconds": 0.1}
    settings |= {"per_device_train_batch_size": 2, "discriminator_channels": 2}
    return tools.overrides(material, output, **(settings | changes))


def test_the_recipe_trains_the_vocoder_of_a_model_and_nothing_else(material, tmp_path):
    result = train_recipe("vocoder", recipe(material, tmp_path, adversarial_loss_weight=1.0))
    before, after = (
        FlowOmniForSpeechGeneration.from_pretrained(f).state_dict() for f in (material / "model", tmp_path)
    )
    assert set(before) == set(after)
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vocoder"}
    assert {"loss", "mel_loss", "stft_loss", "adversarial_loss", "feature_loss"} <= set(result.state.log_history[0])
    assert result.state.log_history[-1]["eval_loss"] > 0 and (tmp_path / "processor_config.json").is_file()


def test_a_vocoder_alone_trains_and_resumes_to_the_bit(material, tmp_path):
    torch.manual_seed(0)
    FlowOmniVocoder(tiny_config().vocoder_config).save_pretrained(tmp_path / "alone")
    weights = []
    for _ in range(2):
        train_recipe("vocoder", recipe(material, tmp_path / "run", model=tmp_path / "alone"))
        weights.append(load_file(tmp_path / "run" / "model.safetensors"))
        (tmp_path / "run" / "trainer_state.json").unlink()
        shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    tools.assert_same_weights(*weights)
    FlowOmniVocoder.from_pretrained(tmp_path / "run")


def test_models_without_a_vocoder_and_losses_that_are_not_finite_are_refused(material, tmp_path):
    tiny_model(vocoder=None).save_pretrained(tmp_path / "mute")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(material / "model" / name, tmp_path / "mute" / name)
    with pytest.raises(ValueError, match="has no vocoder: assemble it with one"):
        train_recipe("vocoder", recipe(material, tmp_path / "run", model=tmp_path / "mute"))
    broken = with_losses(tmp_path)
    torch.nn.init.constant_(next(broken.vocoder.parameters()), torch.nan)
    rows = [{"id": "a", "answer_audio": tools.sound(0.5)}]
    trainer = VocoderTrainer(broken, arguments(tmp_path, max_steps=2), train_dataset=VocoderSegments(rows, 8000, 2048))
    with pytest.raises(TrainingDivergedError, match="The loss at step 1 is nan"):
        trainer.train()
