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
"""A learning rate of their own for the parts that no pretrained model has brought."""

import pytest
import torch
from tiny import tiny_model
from training_runs import assert_same_weights, make_trainer, weights_of

from flow_omni.training.learning_rates import PRETRAINED
from flow_omni.training.lora import LoraOptions, add_lora


def rates_of(trainer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter that trains, by its name."""
    groups = trainer.create_optimizer().param_groups
    options = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {name: options[id(p)] for name, p in trainer.flow_omni.named_parameters() if p.requires_grad}


def test_new_parts_have_theirs_and_pretrained_ones_the_common_one(tmp_path):
    common = rates_of(make_trainer(tmp_path, learning_rate=1e-4, weight_decay=0.1))
    apart = rates_of(make_trainer(tmp_path, learning_rate=1e-4, weight_decay=0.1, new_parts_learning_rate=1e-3))
    assert {rate for rate, _ in common.values()} == {1e-4}
    assert {decay for _, decay in common.values()} == {0.0, 0.1}
    for name, (rate, decay) in apart.items():
        assert rate == (1e-4 if name.startswith(PRETRAINED) else 1e-3), name
        assert decay == common[name][1], name
    assert apart["model.language_model.embed_tokens.weight"][0] == 1e-4
    assert apart["model.patch_proj.weight"][0] == apart["state_head.weight"][0] == 1e-3


def test_adapters_belong_to_the_language_model(tmp_path):
    model = add_lora(tiny_model(), "align", LoraOptions(rank=2))
    rates = rates_of(make_trainer(tmp_path, model, learning_rate=1e-4, new_parts_learning_rate=1e-3))
    adapters = {rate for name, (rate, _) in rates.items() if "lora_" in name}
    assert adapters == {1e-4}
    assert {rate for name, (rate, _) in rates.items() if "lora_" not in name} == {1e-3}


def test_both_rates_are_logged(tmp_path):
    options = {"learning_rate": 1e-4, "new_parts_learning_rate": 1e-3, "lr_scheduler_type": "constant", "max_steps": 1}
    trainer = make_trainer(tmp_path / "all", **options)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert (logged["learning_rate"], logged["new_parts_learning_rate"]) == (1e-4, 1e-3)
    # of new parts alone there is but one rate, and it is not that of nothing
    trainer = make_trainer(tmp_path / "new", stage="align", **options)
    trainer.train()
    assert trainer.state.log_history[0]["learning_rate"] == 1e-3


def test_the_schedule_scales_both(tmp_path):
    trainer = make_trainer(
        tmp_path, learning_rate=1e-4, new_parts_learning_rate=1e-3, lr_scheduler_type="linear", max_steps=4
    )
    trainer.create_optimizer_and_scheduler(4)
    for _ in range(2):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert {round(group["lr"], 9) for group in trainer.optimizer.param_groups} == {5e-5, 5e-4}


def test_a_resumed_run_ends_as_if_it_had_not_stopped(tmp_path):
    options = {"learning_rate": 1e-3, "new_parts_learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(tmp_path, **options)
    whole.train()
    resumed = make_trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_same_weights(weights_of(resumed.model), weights_of(whole.model))


def test_a_given_optimizer_is_left_alone(tmp_path):
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = make_trainer(tmp_path, model, optimizers=(optimizer, None), new_parts_learning_rate=1e-3)
    assert [group["lr"] for group in trainer.create_optimizer().param_groups] == [0.5]


@pytest.mark.parametrize("rate", [0.0, -1e-3])
def test_a_rate_that_teaches_nothing_is_refused(tmp_path, rate):
    with pytest.raises(ValueError, match="`new_parts_learning_rate` is .*must be positive"):
        make_trainer(tmp_path, new_parts_learning_rate=rate)
