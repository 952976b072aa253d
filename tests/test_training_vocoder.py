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
"""The vocoder's stage: losses that are what they say, discriminators that learn apart, and a vocoder that learns a sound."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from sounds import file_bytes, tone
from test_training_run import run_command
from tiny import VOCODER_FIELDS, tiny_model, tiny_processor

from flow_omni.modeling_flow_omni.configuration_flow_omni_vocoder import FlowOmniVocoderConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from flow_omni.training.discriminators import Discriminators
from flow_omni.training.guards import TrainingDivergedError
from flow_omni.training.mixing import MixedRows
from flow_omni.training.recipe import load_recipe
from flow_omni.training.vocoder_losses import (
    MultiResolutionSTFTLoss,
    feature_distance,
    hinge_of_discriminator,
    hinge_of_vocoder,
)
from flow_omni.training.vocoder_options import VocoderOptions
from flow_omni.training.vocoder_run import make_run, mel_floor_of
from flow_omni.training.vocoder_segments import VocoderSegments
from flow_omni.training.vocoder_trainer import VocoderInTraining


def tones(num_samples: int = 2048) -> torch.Tensor:
    return torch.stack([torch.from_numpy(tone(1, 8000, frequency))[:num_samples] for frequency in (220, 440, 660)])


def vocoder_in_training(**options) -> VocoderInTraining:
    vocoder = FlowOmniVocoder(FlowOmniVocoderConfig(**VOCODER_FIELDS))
    return VocoderInTraining(vocoder, VocoderOptions(**{"discriminator_channels": 2} | options), mel_floor=-7.0)


def test_the_stft_loss_of_a_sound_with_itself_is_zero():
    assert MultiResolutionSTFTLoss()(tones(), tones()) == 0.0


def test_the_stft_loss_minds_loudness_in_both_of_its_parts():
    """At half the loudness the magnitudes are off by half, and their logarithms by log 2."""
    waveform = torch.randn(2, 2048)
    loss = MultiResolutionSTFTLoss((256,))(waveform / 2, waveform)
    assert loss.item() == pytest.approx(0.5 + math.log(2), abs=1e-3)


def test_the_stft_loss_of_silence_has_a_gradient():
    said = torch.zeros(1, 2048, requires_grad=True)
    MultiResolutionSTFTLoss()(said, torch.zeros(1, 2048)).backward()
    assert torch.isfinite(said.grad).all()


def test_the_hinge_losses_end_at_the_margin():
    good, bad = [torch.full((2,), 3.0)], [torch.full((2,), -3.0)]
    assert hinge_of_discriminator(good, bad) == 0.0
    assert hinge_of_discriminator(bad, good) == 8.0
    assert hinge_of_vocoder(good) == 0.0
    assert hinge_of_vocoder(bad) == 4.0


def test_features_of_the_same_sound_are_the_same():
    critics = Discriminators(periods=(2,), resolutions=(256,), channels=2)
    _, features = critics(tones())
    assert feature_distance(features, features) == 0.0


def test_the_gradients_of_vocoder_and_discriminators_do_not_mix():
    """With one backward pass for both: neither's loss may reach the other's weights."""
    model = vocoder_in_training(adversarial_weight=1.0)
    outputs = model(tones(), is_adversarial=True)
    critics, vocoder = list(model.discriminators.parameters()), list(model.vocoder.parameters())

    def gradients(loss, weights):
        return torch.autograd.grad(outputs[loss], weights, retain_graph=True, allow_unused=True)

    assert all(gradient is None for gradient in gradients("discriminator_loss", vocoder))
    assert any(gradient is not None for gradient in gradients("discriminator_loss", critics))
    for loss in ("adversarial_loss", "mel_loss", "stft_loss"):
        assert all(gradient is None for gradient in gradients(loss, critics)), loss
        assert any(gradient is not None for gradient in gradients(loss, vocoder)), loss
    assert any(gradient is not None for gradient in gradients("feature_loss", vocoder))


def test_it_reads_silence_as_a_speech_model_says_it():
    """One that knew true silence only hissed wherever a model held its mel at the floor."""
    model, read = vocoder_in_training(), []
    model.vocoder.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    waveform = torch.nn.functional.pad(tones(), (2048, 2048))
    model(waveform)
    mel = model.mel_spectrogram(waveform)
    assert mel.min() < -7.0
    assert torch.equal(read[0], mel.clamp(min=-7.0))


def test_the_floor_is_that_of_the_speech_model():
    assert mel_floor_of(tiny_model(speech={"mel_floor": -5.0})) == -5.0
    assert mel_floor_of(None) == -7.0


def test_before_their_time_the_discriminators_cost_nothing():
    model = vocoder_in_training(adversarial_weight=1.0)
    assert "discriminator_loss" not in model(tones())


def test_it_learns_a_sound():
    torch.manual_seed(0)
    model = vocoder_in_training()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.8, 0.99))
    before = model(tones())["mel_loss"].item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(tones())["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    assert model(tones())["mel_loss"].item() < 0.2 * before


def test_against_discriminators_it_learns_as_well():
    torch.manual_seed(0)
    model = vocoder_in_training(adversarial_weight=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.8, 0.99))
    before = model(tones(), is_adversarial=True)
    for _ in range(30):
        optimizer.zero_grad()
        outputs = model(tones(), is_adversarial=True)
        outputs["loss"].backward()
        optimizer.step()
    assert outputs["mel_loss"] < 0.8 * before["mel_loss"]
    assert outputs["discriminator_loss"] < before["discriminator_loss"]


# Pieces


def test_pieces_are_cut_elsewhere_and_always_alike():
    rows = [{"answer_audio": file_bytes(tone(1.0, 8000), 8000)}]
    one, other = (VocoderSegments(rows, 8000, 640, seed=3) for _ in range(2))
    assert len(one) == 50
    assert all(torch.equal(one[index]["waveform"], other[index]["waveform"]) for index in range(5))
    assert not torch.equal(one[0]["waveform"], one[1]["waveform"])


def test_of_a_mix_each_recording_gives_as_many_times_the_pieces():
    quiet, loud = ({"answer_audio": file_bytes(level * tone(1.0, 8000), 8000)} for level in (0.1, 1.0))
    rows = MixedRows([[quiet], [{"answer_text": "hm"}, loud]], [2, 0.5])
    pieces = VocoderSegments(rows, 8000, 640, pieces=4)
    peaks = [float(pieces[index]["waveform"].abs().max()) for index in range(len(pieces))]
    assert len(peaks) == 10
    assert max(peaks[:8]) < 0.5 * min(peaks[8:])


def test_short_recordings_are_padded_and_broken_ones_passed_over():
    rows = [{"answer_audio": b"no sound"}, {"answer_audio": file_bytes(tone(0.05, 8000), 8000)}]
    piece = VocoderSegments(rows, 8000, 640)[0]["waveform"]
    assert piece.shape == (640,)
    assert piece[:300].abs().max() > 0.1
    assert (piece[400:] == 0).all()


def test_rows_without_spoken_answers_are_refused():
    with pytest.raises(ValueError, match="None of 1 rows has an `answer_audio`"):
        VocoderSegments([{"answer_text": "hm"}], 8000, 640)


# The run


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocoder")
    model = tiny_model()
    model.save_pretrained(folder / "model")
    tiny_processor(model.config).save_pretrained(folder / "model")
    model.vocoder.save_pretrained(folder / "vocoder")
    rows = []
    for index in range(3):
        (folder / f"{index}.wav").write_bytes(file_bytes(tone(0.6, 8000, 300 + 100 * index), 8000))
        rows.append({"answer_text": "la", "answer_audio": f"{index}.wav"})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def overrides(material, output, **changes) -> list[str]:
    settings = {
        "model": material / "model",
        "data.train": material / "train.jsonl",
        "data.eval": material / "train.jsonl",
        "vocoder.segment_seconds": 0.3,
        "vocoder.batch_size": 2,
        "vocoder.discriminator_channels": 2,
        "training.output_dir": output,
        "training.max_steps": 4,
        "training.save_steps": 2,
        "training.logging_steps": 1,
        "training.dataloader_num_workers": 0,
        "training.report_to": "none",
        "training.use_cpu": "true",
        "training.disable_tqdm": "true",
    } | changes
    return [f"{key}={value}" for key, value in settings.items()]


def test_the_stage_trains_the_vocoder_of_a_model_and_nothing_else(material, tmp_path):
    result = run_command("vocoder", *overrides(material, tmp_path))
    assert "eval_loss" in result.output
    before, after = (load_file(folder / "model.safetensors") for folder in (material / "model", tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("vocoder.") for name in changed)
    FlowOmniForSpeechGeneration.from_pretrained(tmp_path)


def test_a_vocoder_run_resumes(material, tmp_path):
    """With discriminators, which come in between."""
    import shutil

    options = {"vocoder.adversarial_weight": 1.0, "vocoder.adversarial_start": 1, "model": material / "vocoder"}
    for name in ("whole", "cut"):
        run_command("vocoder", *overrides(material, tmp_path / name, **options))
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    run_command("vocoder", *overrides(material, tmp_path / "cut", **options))
    whole, cut = (load_file(tmp_path / name / "checkpoint-4" / "model.safetensors") for name in ("whole", "cut"))
    assert any(name.startswith("discriminators.") for name in whole)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    FlowOmniVocoder.from_pretrained(tmp_path / "cut")


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_its_batch(material, tmp_path):
    run = make_run(load_recipe("vocoder", overrides(material, tmp_path)))
    torch.nn.init.constant_(next(run.vocoder.parameters()), torch.nan)
    with pytest.raises(
        TrainingDivergedError, match=r"step 1 is nan \(mel_loss nan, stft_loss nan\). The batch of 2 rows"
    ):
        run.train()
    batch = torch.load(tmp_path / "diverged-step-1-process-0" / "batch.pt")
    assert len(batch["waveform"]) == 2


def test_a_vocoder_run_notices_other_recordings_and_refuses_another_number_of_processes(material, tmp_path, caplog):
    run_command("vocoder", *overrides(material, tmp_path, **{"training.max_steps": 2}))
    longer = {"data.train": material / "fewer.jsonl"}
    lines = (material / "train.jsonl").read_text().splitlines()
    (material / "fewer.jsonl").write_text("\n".join(lines[:2]))
    run_command("vocoder", *overrides(material, tmp_path, **longer))
    assert [message for message in caplog.messages if "(3 then, 2 now)" in message]
    place = tmp_path / "checkpoint-2" / "data.json"
    place.write_text(place.read_text().replace('"num_processes": 1', '"num_processes": 2'))
    (tmp_path / "checkpoint-4").rename(tmp_path / "later")
    with pytest.raises(ValueError, match="is of a run on 2 processes, and this one is on 1"):
        run_command("vocoder", *overrides(material, tmp_path))


def test_every_part_of_its_loss_is_logged(material, tmp_path):
    run = make_run(load_recipe("vocoder", overrides(material, tmp_path, **{"vocoder.adversarial_weight": 1.0})))
    run.train()
    entry = next(entry for entry in run.trainer.state.log_history if "loss" in entry)
    assert {"mel_loss", "stft_loss", "adversarial_loss", "feature_loss", "discriminator_loss"} <= set(entry)


def test_a_dry_run_tells_of_the_vocoder(material, tmp_path):
    rows = [json.loads(line) for line in (material / "train.jsonl").read_text().splitlines()]
    rows = [row | {"answer_audio": str(material / row["answer_audio"]), "answer_seconds": 1800} for row in rows]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.train": tmp_path / "long.jsonl", "vocoder.adversarial_weight": 1.0}
    output = run_command("vocoder", *overrides(material, tmp_path, **changes), "--dry-run").output
    assert "recordings: 3, 1.50 h" in output
    assert re.search(r"memory of a process: about .* GiB \(weights .*, activations [\d.]+\)", output)
    assert "optimizer steps: 4, each on 2 pieces of 0.3 s" in output


def test_a_dry_run_counts_the_recordings_that_cannot_be_read(material, tmp_path):
    rows = [{"answer_text": "la", "answer_audio": name} for name in (str(material / "0.wav"), "nowhere.wav")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.train": tmp_path / "train.jsonl"}
    output = run_command("vocoder", *overrides(material, tmp_path / "run", **changes), "--dry-run").output
    assert "recordings: 2, 0.00 h (without 1 that cannot be read)" in output


def test_its_options_alone_say_how_large_a_batch_is(material, tmp_path):
    """Also beside the Trainer's own default, which is not refused."""
    settings = overrides(material, tmp_path, **{"training.per_device_train_batch_size": 8})
    args = make_run(load_recipe("vocoder", settings)).args
    assert (args.per_device_train_batch_size, args.per_device_eval_batch_size) == (2, 2)


def test_a_vocoder_alone_gets_no_card(material, tmp_path):
    changes = {"model": material / "vocoder", "card.license": "mit"}
    with pytest.raises(ValueError, match="`card` is {'license': 'mit'}, and a vocoder alone gets none: leave it out"):
        run_command("vocoder", *overrides(material, tmp_path, **changes))


def test_a_model_without_a_vocoder_is_refused(material, tmp_path):
    model = tiny_model(vocoder=None)
    model.save_pretrained(tmp_path / "mute")
    tiny_processor(model.config).save_pretrained(tmp_path / "mute")
    with pytest.raises(ValueError, match="has no vocoder to train"):
        run_command("vocoder", *overrides(material, tmp_path / "run", model=tmp_path / "mute"))
