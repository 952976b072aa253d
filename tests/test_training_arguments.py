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
"""The arguments of training: who talks to whom, and what is refused."""

import pytest
import torch
from tiny import tiny_model
from training_runs import encoded_examples, make_trainer, text_batches
from transformers import TrainingArguments

from flow_omni.training.arguments import FlowOmniTrainingArguments
from flow_omni.training.dry_run import describe_steps


@pytest.mark.parametrize("launched, backend", [({}, None), ({"WORLD_SIZE": "1"}, None), ({"WORLD_SIZE": "2"}, "gloo")])
def test_only_one_of_several_processes_is_told_how_to_talk_to_others(tmp_path, monkeypatch, launched, backend):
    """A process by itself that is told so takes itself for one of many, and fails for want of a group."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    # which would look for the others
    monkeypatch.setattr(TrainingArguments, "_setup_devices", torch.device("cpu"))
    monkeypatch.setattr(TrainingArguments, "_n_gpu", 0, raising=False)
    assert FlowOmniTrainingArguments(str(tmp_path), use_cpu=True).ddp_backend == backend


@pytest.mark.parametrize(
    "wrong", [{"ema_decay": 1.0}, {"ema_decay": 0.0}, {"mel_statistics_batches": -1}, {"stage": "aline"}]
)
def test_what_cannot_be_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` is"):
        FlowOmniTrainingArguments(str(tmp_path), **wrong)


def test_one_process_does_not_cut_its_batches_for_several_gpus(tmp_path, monkeypatch):
    """`nn.DataParallel` would cut the tensors one by one: of four rows, of which two are heard, it mixes up who heard what."""

    def see_two_gpus(self):
        self._n_gpu = 2
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(see_two_gpus))
    with pytest.raises(ValueError, match="sees 2 GPUs.*accelerate launch --num_processes 2.*CUDA_VISIBLE_DEVICES=0"):
        FlowOmniTrainingArguments(str(tmp_path))


@pytest.mark.parametrize(
    ("said", "dispatches"),
    [(None, False), ({"split_batches": True}, False), ({"dispatch_batches": True}, True)],
)
def test_each_process_makes_its_own_batches_of_a_stream_unless_told_otherwise(tmp_path, said, dispatches):
    """One that makes them for all has to cut them up, and failed at the first batch with sound."""
    args = FlowOmniTrainingArguments(str(tmp_path), use_cpu=True, accelerator_config=said)
    assert args.accelerator_config.dispatch_batches is dispatches


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"compute_loss_func": lambda outputs, labels, **kwargs: outputs.loss},
            "`compute_loss_func` is given.*weight",
        ),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is 0.1: no part of the loss is smoothed"),
        ({"model_init": tiny_model}, "`model_init` is given, or no `model`.*Pass `model`"),
    ],
)
def test_what_the_loss_would_make_no_use_of_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **options)


def test_metrics_of_ones_own_are_computed(tmp_path):
    """Under the default that predictions are not kept they never were."""
    examples = encoded_examples(1)
    trainer = make_trainer(tmp_path, eval_dataset=examples, compute_metrics=lambda predictions: {"answer": 42.0})
    assert trainer.evaluate()["eval_answer"] == 42.0


def test_all_stages_with_ready_batches_read_the_same_options_of_workers(tmp_path):
    args = FlowOmniTrainingArguments(
        str(tmp_path), use_cpu=True, dataloader_num_workers=2, dataloader_prefetch_factor=7
    )
    assert args.loader_options() == {"num_workers": 2, "prefetch_factor": 7, "pin_memory": False}


@pytest.mark.parametrize(("num_warmup_steps", "warns"), [(500, True), (0.03, False), (40, False)])
def test_a_dry_run_warns_where_the_learning_rate_would_hardly_rise(tmp_path, num_warmup_steps, warns):
    args = FlowOmniTrainingArguments(str(tmp_path), use_cpu=True, max_steps=95, warmup_steps=num_warmup_steps)
    said = describe_steps(args, text_batches())
    assert ("warning: the learning rate still rises for 500 steps" in said) is warns
