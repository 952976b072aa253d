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
"""Faults: a run that is killed goes on as if it had not been; a full disk, or a loss that is no number, loses nothing."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model
from training_process import run
from training_runs import assert_same_weights, encoded_examples, make_trainer, text_batches, weights_of

from flow_omni.training.checkpoints import FINISHED, STAGING, CheckpointNotWrittenError, last_checkpoint, rotate
from flow_omni.training.guards import TrainingDivergedError


@pytest.fixture(scope="module")
def run_process():
    """Runs a training run in a process of its own, forked from one that has imported everything, and gives its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_process"])
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11 forgets `sys.path` on the way to the process that imports
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()

    def run_to_its_end(*arguments: str) -> int:
        process = context.Process(target=run, args=arguments)
        process.start()
        process.join(timeout=600)
        return process.exitcode

    return run_to_its_end


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(str(folder))
    return folder


def assert_same_end(folder: Path, expected: Path) -> None:
    """The last checkpoints agree to the bit: weights, their average, optimizer, scheduler, random numbers, and the log."""
    first, second = folder / "checkpoint-6", expected / "checkpoint-6"
    for name in ("model.safetensors", "ema.safetensors"):
        assert_same_weights(load_file(first / name), load_file(second / name))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        loaded = [torch.load(path / name, weights_only=False) for path in (first, second)]
        assert _flat(loaded[0]) == _flat(loaded[1]), name
    states = [json.loads((path / "trainer_state.json").read_text()) for path in (first, second)]
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
    assert losses[0] == losses[1]


def _flat(value) -> list:
    if isinstance(value, dict):
        return [item for key in value for item in (key, *_flat(value[key]))]
    if isinstance(value, list | tuple):
        return [item for element in value for item in _flat(element)]
    return [value.tolist()] if hasattr(value, "tolist") else [value]


# The kills at all other places are slow tests.
PLACES = [
    "step-3",
    "optimizer.pt@4",
    *(
        pytest.param(place, marks=pytest.mark.slow)
        for place in (
            "step-1",
            "step-2",
            "step-4",
            "step-5",
            "scheduler.pt@2",
            "rng_state.pth@4",
            "training_args.bin@6",
        )
    ),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_resumes_and_ends_as_if_it_had_not_been(tmp_path, uninterrupted, run_process, place):
    """The data is shuffled, gradients accumulated, the second epoch begun; the kill may hit a half-written checkpoint."""
    assert run_process(str(tmp_path), place) == -signal.SIGKILL
    assert not (tmp_path / "checkpoint-6").exists()
    run(str(tmp_path))
    assert_same_end(tmp_path, uninterrupted)
    assert not (tmp_path / STAGING / "checkpoint-4").exists()


def test_a_checkpoint_that_is_being_written_is_not_taken_for_one(tmp_path, run_process):
    assert run_process(str(tmp_path), "optimizer.pt@4") == -signal.SIGKILL
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert (tmp_path / STAGING / "checkpoint-4" / "optimizer.pt").read_bytes() == b"half of a file"


def test_a_full_disk_stops_the_run_and_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    original = torch.save

    def save(value, path, *args, **kwargs):
        if os.path.basename(os.fspath(path)) == "optimizer.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
        return original(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save)
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2)
    with pytest.raises(CheckpointNotWrittenError, match="No space left.*checkpoint-2' is whole: make room"):
        trainer.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    assert not (tmp_path / STAGING).exists()
    monkeypatch.undo()
    resumed = make_trainer(tmp_path, save_strategy="steps", save_steps=2)
    resumed.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert (tmp_path / "checkpoint-4").is_dir()


@contextmanager
def room_for_files_of(num_bytes: int) -> Iterator[None]:
    """Within it no file can grow larger, as if the disk were full: whoever writes meets the error of the system itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_weights_that_the_disk_has_no_room_for_leave_the_earlier_checkpoint(tmp_path):
    """They are the largest file, and what writes them has errors of its own."""
    make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2)
    message = "could not be written to .* GiB are free .*checkpoint-2' is whole: make room"
    with room_for_files_of(100_000), pytest.raises(CheckpointNotWrittenError, match=f"checkpoint-4 {message}"):
        trainer.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    with room_for_files_of(100_000), pytest.raises(CheckpointNotWrittenError, match=f"The trained model {message}"):
        trainer.save_final()
    assert not (tmp_path / STAGING).exists() and not (tmp_path / "model.safetensors").exists()


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    (tmp_path / "checkpoint-2" / "stale").touch()
    make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    assert not (tmp_path / "checkpoint-2" / "stale").exists()


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_no_half_of_it(tmp_path, monkeypatch):
    """Touched last, the half would have stayed, and whole checkpoints gone in its place."""
    for step in range(1, 5):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (step * 100, step * 100))
    best = str(tmp_path / "checkpoint-1")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *args, **kwargs: None)  # as if killed there
        rotate(tmp_path, 3, best)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-1",
        "checkpoint-3",
        "checkpoint-4",
    ]
    rotate(tmp_path, 1, best)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-4"]
    rotate(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4"]


@pytest.mark.parametrize(
    ("files", "message"),
    [([], "holds weights alone"), (["batches_0.pt", "batches_1.pt"], "run on 2 processes, and this one is on 1")],
)
def test_a_checkpoint_that_lacks_the_place_in_the_data_is_not_resumed(tmp_path, files, message):
    """Of two processes, the first one's place is no place of a single one's: it would read rows twice."""
    make_trainer(tmp_path, train_batches=text_batches(), max_steps=2, save_strategy="steps", save_steps=2).train()
    checkpoint = tmp_path / "checkpoint-2"
    place = (checkpoint / "batches_0.pt").read_bytes()
    (checkpoint / "batches_0.pt").unlink()
    for name in files:
        (checkpoint / name).write_bytes(place)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make_trainer(tmp_path, train_batches=text_batches()).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize(("limit", "is_noted"), [(None, False), (1, True)])
def test_a_run_that_ended_with_its_best_model_stays_with_it(tmp_path, limit, is_noted):
    """The same command again loaded the last one; where that had been deleted, it trained on from the best."""

    def trained(max_steps: int = 4):
        trainer = make_trainer(
            tmp_path,
            max_steps=max_steps,
            eval_dataset=encoded_examples(1)[:1],
            generation_metrics=lambda model, step, trainer: {"score": -step},
            metric_for_best_model="score",
            greater_is_better=True,
            load_best_model_at_end=True,
            save_total_limit=limit,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
        )
        trainer.train_to_the_end()
        return trainer

    first = trained()
    if not is_noted:
        (tmp_path / FINISHED).unlink()
    again = trained()
    assert_same_weights(weights_of(again.model), weights_of(first.model))
    best = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert torch.equal(again.model.state_head.weight, best["state_head.weight"])
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (first, again)]
    assert losses[0] == losses[1] and again.state.global_step == 4
    assert trained(max_steps=6).state.global_step == 6


def test_only_as_many_checkpoints_stay_as_are_wanted(tmp_path):
    make_trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=2).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_input_that_is_not_finite_stops_the_run_and_is_saved_and_named(tmp_path):
    examples = [example for example in encoded_examples(1) if "mel_labels" in example]
    examples[1] = examples[1] | {"mel_labels": torch.full_like(examples[1]["mel_labels"], torch.nan)}
    model = tiny_model()
    trainer = make_trainer(tmp_path, model, examples)
    before = weights_of(model)
    with pytest.raises(
        TrainingDivergedError,
        match="step 1 is nan.*`mel_labels` hold values that are not finite.*There is no checkpoint yet",
    ):
        trainer.train()
    assert_same_weights(weights_of(model), before)
    batch = torch.load(tmp_path / "diverged-step-1-process-0" / "batch.pt")
    assert torch.isnan(batch["mel_labels"]).any()
    facts = json.loads((tmp_path / "diverged-step-1-process-0" / "facts.json").read_text())
    assert facts["loss"] != facts["loss"]
    assert facts["step"] == 1


def test_a_full_disk_does_not_hide_that_the_loss_is_no_number(tmp_path):
    model = tiny_model()
    torch.nn.init.constant_(model.state_head.weight, torch.nan)
    trainer = make_trainer(tmp_path, model)
    with room_for_files_of(100), pytest.raises(TrainingDivergedError, match="step 1 is nan.*could not be saved"):
        trainer.train()
    assert not list(tmp_path.glob("diverged-*"))


def test_the_rows_of_a_bad_batch_are_named(tmp_path):
    model = tiny_model()
    torch.nn.init.constant_(model.state_head.weight, torch.nan)
    trainer = make_trainer(tmp_path, model, train_batches=text_batches())
    with pytest.raises(
        TrainingDivergedError, match="rows (first|second), (first|second) .*the weights or the learning"
    ):
        trainer.train()


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(tmp_path):
    model = tiny_model()
    trainer = make_trainer(tmp_path, model)
    model.state_head.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = weights_of(model)
    with pytest.raises(TrainingDivergedError, match="norm of the gradient at step 1"):
        trainer.train()
    assert_same_weights(weights_of(model), before)


def test_the_guard_can_be_turned_off(tmp_path):
    model = tiny_model()
    torch.nn.init.constant_(model.state_head.weight, torch.nan)
    make_trainer(tmp_path, model, stop_on_nan=False, max_steps=1).train()
