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
"""The moving average of the weights: what it averages, and that it comes and goes without a trace."""

import pytest
import torch
from tiny import tiny_model
from torch import nn
from training_runs import assert_same_weights, encoded_examples, make_trainer, weights_of

from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.training.ema import ExponentialMovingAverage


def test_it_is_the_average_by_its_formula():
    layer = nn.Linear(2, 2)
    ema = ExponentialMovingAverage(0.5)
    ema.start(layer)
    expected = layer.weight.detach().clone()
    for step in range(1, 5):
        with torch.no_grad():
            layer.weight.normal_()
        ema.update(layer)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    torch.testing.assert_close(ema.averages["weight"], expected)


def test_it_moves_where_bf16_would_not():
    """A change of one part in ten thousand is rounded away in bf16: the average would stand still for ever."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(layer.weight)
    ema = ExponentialMovingAverage(0.9999)
    ema.start(layer)
    ema.num_updates = 1_000_000
    nn.init.constant_(layer.weight, 2.0)
    ema.update(layer)
    assert ema.averages["weight"].item() == pytest.approx(1.0001, abs=1e-6)


def test_the_models_own_weights_come_back_to_the_bit():
    model = tiny_model()
    ema = ExponentialMovingAverage(0.9)
    ema.start(model)
    with torch.no_grad():
        model.state_head.weight.add_(1.0)
    before = weights_of(model)
    with ema.applied_to(model):
        assert not torch.equal(model.state_head.weight, before["state_head.weight"])
    assert_same_weights(weights_of(model), before)


def test_what_is_frozen_is_not_kept_twice():
    model = tiny_model().requires_grad_(False)
    model.state_head.requires_grad_(True)
    ema = ExponentialMovingAverage(0.9)
    ema.start(model)
    assert set(ema.averages) == {"state_head.weight", "state_head.bias"}


def test_the_final_model_and_the_evaluation_are_the_average(tmp_path):
    trainer = make_trainer(tmp_path, ema_decay=0.9, eval_dataset=encoded_examples(1), learning_rate=1e-2)
    trainer.train()
    averaged = trainer.evaluate()["eval_loss"]
    trainer.save_final()
    loaded = FlowOmniForSpeechGeneration.from_pretrained(tmp_path)
    for name, average in trainer.ema.averages.items():
        assert torch.equal(loaded.get_parameter(name), average), name
    assert not torch.equal(loaded.state_head.weight, trainer.model.state_head.weight)
    trainer.ema = None
    assert trainer.evaluate()["eval_loss"] != averaged


def test_resuming_without_its_file_is_refused(tmp_path):
    make_trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    with pytest.raises(FileNotFoundError, match="kept no moving average"):
        make_trainer(tmp_path, ema_decay=0.9).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_a_decay_out_of_range_is_refused(tmp_path, decay):
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_trainer(tmp_path, ema_decay=decay)
