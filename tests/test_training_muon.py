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
"""Muon for the matrices inside the model, AdamW for the rest, behind one optimizer."""

import pytest
import torch
from tiny import tiny_model
from training_runs import assert_same_weights, make_trainer, weights_of
from transformers import Trainer

from flow_omni.training.arguments import FlowOmniTrainingArguments
from flow_omni.training.dry_run import estimate_memory
from flow_omni.training.lora import LoraOptions, add_lora, plain_name
from flow_omni.training.muon import USES_MUON, MuonAndAdamW, inner_matrices


pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")


def test_muon_trains_the_linear_maps_and_adamw_what_is_looked_up_or_comes_out(tmp_path):
    trainer = make_trainer(tmp_path, muon=True, learning_rate=1e-3, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    is_muons = {id(parameter): group[USES_MUON] for group in groups for parameter in group["params"]}
    parts = {name: is_muons[id(p)] for name, p in trainer.flow_omni.named_parameters() if p.requires_grad}
    muons, adamws = (sorted(name for name, muon in parts.items() if muon == wanted) for wanted in (True, False))
    assert {name.rpartition(".")[2] for name in muons} == {"weight"}
    for name in (
        "model.language_model.layers.0.mlp.up_proj.weight",
        "model.audio_encoder.layers.0.fc1.weight",
        "model.patch_proj.weight",
        "speech_head.condition_proj.weight",
    ):
        assert name in muons
    for name in (
        "model.language_model.embed_tokens.weight",
        "model.audio_encoder.conv1.weight",
        "model.state_embedding.weight",
        "state_head.weight",
        "speech_head.linear_guess.weight",
    ):
        assert name in adamws
    # both kinds keep to what the Trainer says of weight decay
    assert {group["weight_decay"] for group in groups if group[USES_MUON]} == {0.1}
    assert {group["weight_decay"] for group in groups if not group[USES_MUON]} == {0.0, 0.1}


def test_a_step_goes_equally_far_in_all_directions_of_a_matrix():
    matrix, vector = torch.nn.Parameter(torch.zeros(8, 4)), torch.nn.Parameter(torch.zeros(4))
    optimizer = MuonAndAdamW([{"params": [matrix, vector]}], [matrix], lr=0.1)
    # a thousand times as steep in one direction as in another
    (matrix * torch.diag(torch.tensor([1000.0, 100.0, 10.0, 1.0])).repeat(2, 1) + vector).sum().backward()
    optimizer.step()
    strengths = torch.linalg.svdvals(matrix.detach())
    assert strengths.max() < 2 * strengths.min()
    assert vector.detach().abs() == pytest.approx(0.1)


def test_a_step_is_as_large_as_one_of_adamws_whatever_the_shape():
    for shape in ((16, 256), (256, 16), (64, 64)):
        matrix = torch.nn.Parameter(torch.zeros(shape))
        optimizer = MuonAndAdamW([{"params": [matrix]}], [matrix], lr=0.1)
        matrix.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        # AdamW's are a fifth of the learning rate as a rule, but for the first ones
        assert matrix.detach().square().mean().sqrt() == pytest.approx(0.02, rel=0.4)


def test_it_keeps_to_the_schedule_and_to_learning_rates_of_their_own(tmp_path):
    options = {"learning_rate": 1e-4, "new_parts_learning_rate": 1e-3, "lr_scheduler_type": "linear", "max_steps": 4}
    trainer = make_trainer(tmp_path, muon=True, **options)
    trainer.create_optimizer_and_scheduler(4)
    assert {group[USES_MUON] for group in trainer.optimizer.param_groups} == {True, False}
    for _ in range(2):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert {round(group["lr"], 9) for group in trainer.optimizer.param_groups} == {5e-5, 5e-4}


def test_a_resumed_run_ends_as_if_it_had_not_stopped(tmp_path):
    options = {"muon": True, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(tmp_path, **options)
    whole.train()
    resumed = make_trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_same_weights(weights_of(resumed.model), weights_of(whole.model))


@pytest.mark.parametrize("before, after", [(True, False), (False, True)])
def test_a_run_does_not_go_on_with_another_optimizer(tmp_path, before, after):
    options = {"save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, muon=before, **options).train()
    with pytest.raises(ValueError, match="resume with .* `muon` and `new_parts_learning_rate` set or unset as"):
        make_trainer(tmp_path, muon=after, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_matrices_in_shards_are_refused(tmp_path, monkeypatch):
    prepare = Trainer.create_accelerator_and_postprocess

    def prepare_for_deepspeed(trainer):
        prepare(trainer)
        trainer.is_deepspeed_enabled = True

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", prepare_for_deepspeed)
    with pytest.raises(ValueError, match="`muon` needs whole matrices.*leave one of the two out"):
        make_trainer(tmp_path, muon=True)


def test_a_torch_that_has_none_is_told_of(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match="2.9 or newer, or leave `muon` out"):
        FlowOmniTrainingArguments(output_dir=tmp_path, muon=True)


@pytest.mark.parametrize("options", [{"optim": "adafactor"}, {"optim_args": "a=1"}])
def test_another_optimizer_beside_it_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="`muon` brings an AdamW of its own.*leave either"):
        FlowOmniTrainingArguments(output_dir=tmp_path, muon=True, **options)


@pytest.mark.parametrize("head_type", ["flow", "residual_vq"])
@pytest.mark.parametrize("has_lora", [False, True])
def test_outputs_are_no_inner_matrices(head_type, has_lora):
    model = tiny_model(speech={"head_type": head_type}, text={"tie_word_embeddings": False})
    if has_lora:
        model = add_lora(model, "align", LoraOptions(rank=2))
    inner = {id(weight) for weight in inner_matrices(model)}
    names = {plain_name(name) for name, weight in model.named_parameters() if id(weight) in inner}
    outputs = ("lm_head", "state_head", "speech_head.output", "speech_head.linear_guess")
    assert [name for name in names if name.startswith(outputs)] == []
    assert {"speech_transformer.layers.0.mlp.up_proj.weight", "speech_head.condition_proj.weight"} <= names


def test_a_dry_run_counts_one_moment_of_what_muon_trains(tmp_path):
    model = tiny_model()
    batch = {"input_ids": torch.zeros(1, 4, dtype=torch.long), "labels": torch.zeros(1, 4, dtype=torch.long)}
    memory = {
        muon: estimate_memory(model, FlowOmniTrainingArguments(output_dir=tmp_path, muon=muon, bf16=False), batch)
        for muon in (False, True)
    }
    inner = sum(weight.numel() for weight in inner_matrices(model) if weight.requires_grad)
    assert memory[False]["optimizer"] - memory[True]["optimizer"] == 4 * inner > 0
