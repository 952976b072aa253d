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
"""Epochs of ready batches are the Trainer's: what it does after each is done after each, and callbacks see the true ones."""

import pytest
from batch_sources import stream
from tiny import tiny_config, tiny_processor
from training_runs import assert_same_weights, make_trainer, text_batches, weights_of
from transformers import TrainerCallback

from flow_omni.training.batches import make_batches
from flow_omni.training.examples import ExampleBuilder


BY_EPOCH = {"save_strategy": "epoch", "eval_strategy": "epoch", "logging_strategy": "epoch"}


def three_batches():
    return text_batches(6, max_rows_per_batch=2)


def run_of(folder, **options):
    """Three epochs of three batches each, with an evaluation and a checkpoint after each."""
    options = {"max_steps": -1, "num_train_epochs": 3, **BY_EPOCH} | options
    eval_batches = text_batches(4, max_rows_per_batch=1, shuffle=False)
    return make_trainer(folder, train_batches=three_batches(), eval_batches=eval_batches, **options)


def steps_with(trainer, name):
    return [entry["step"] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(("accumulation", "ends"), [(1, [3, 6, 9]), (2, [2, 3, 5])])
def test_what_is_to_happen_after_each_epoch_does(tmp_path, accumulation, ends):
    """The Trainer took all of them for one: a checkpoint, an evaluation and a loss at the very end."""
    trainer = run_of(tmp_path, gradient_accumulation_steps=accumulation)
    trainer.train()
    assert trainer.state.global_step == ends[-1]
    assert steps_with(trainer, "loss") == ends
    assert steps_with(trainer, "eval_loss") == ends
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{step}" for step in ends]


def test_a_run_that_is_resumed_after_an_epoch_ends_with_the_same_weights(tmp_path):
    whole = run_of(tmp_path / "whole")
    whole.train()
    resumed = run_of(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert_same_weights(weights_of(whole.model), weights_of(resumed.model))
    assert steps_with(resumed, "eval_loss") == [3, 6, 9]


def test_whether_something_happens_after_an_epoch_changes_no_weights(tmp_path):
    with_epochs, without = run_of(tmp_path), run_of(tmp_path, **dict.fromkeys(BY_EPOCH, "no"))
    with_epochs.train()
    without.train()
    assert_same_weights(weights_of(with_epochs.model), weights_of(without.model))


def test_callbacks_see_the_epoch_that_is_logged(tmp_path):
    """Theirs was the share of the whole run."""
    seen, events = [], []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.epoch)

        def on_epoch_begin(self, args, state, control, **kwargs):
            events.append("begin")

        def on_epoch_end(self, args, state, control, **kwargs):
            events.append("end")

    trainer = run_of(tmp_path, callbacks=[Watch()], logging_strategy="steps", save_strategy="no")
    trainer.train()
    logged = [entry["epoch"] for entry in trainer.state.log_history if "loss" in entry]
    assert seen == logged == pytest.approx([step / 3 for step in range(1, 10)])
    assert events == ["begin", "end"] * 3
    assert trainer.state.num_train_epochs == 3


def test_a_run_that_is_over_takes_no_step_when_it_is_resumed(tmp_path):
    first = run_of(tmp_path)
    first.train()
    again = run_of(tmp_path)
    assert again.train(resume_from_checkpoint=True).global_step == 9
    assert again.state.global_step == 9
    assert_same_weights(weights_of(first.model), weights_of(again.model))


@pytest.mark.parametrize("name", BY_EPOCH)
def test_a_stream_has_no_epochs_to_do_something_after(tmp_path, name):
    batches = make_batches(stream(), ExampleBuilder(tiny_processor(tiny_config())), max_steps_per_batch=400)
    with pytest.raises(ValueError, match=f'`{name}` is "epoch", and a stream has no epochs: set it to "steps"'):
        run = {"train_batches": batches, "eval_batches": text_batches(2), "max_steps": 2}
        make_trainer(tmp_path, **run, **{name: "epoch"})


def test_speeds_are_of_the_rows_that_went_by(tmp_path):
    """Whatever `per_device_train_batch_size` says, which ready batches have nothing to do with."""
    trainer = run_of(tmp_path, per_device_train_batch_size=7, per_device_eval_batch_size=7, save_strategy="no")
    metrics = trainer.train().metrics
    assert metrics["train_samples_per_second"] * metrics["train_runtime"] == pytest.approx(18, rel=0.02)
    metrics = trainer.evaluate()
    assert metrics["eval_samples_per_second"] * metrics["eval_runtime"] == pytest.approx(4, rel=0.02)
