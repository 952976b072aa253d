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
"""Interrupted runs: killed at any moment, a run resumes and ends as if it had not been, to the bit."""

import errno
import json
import os
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import training_tools as tools
from safetensors.torch import load_file
from tiny import tiny_model
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from flow_omni.training.callbacks import EMA_FILE
from flow_omni.training.trainer import STAGING, save_final


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    tools.run_to_the_end(str(folder))
    return folder


def flat(value) -> list:
    if isinstance(value, dict):
        return [item for key in value for item in (key, *flat(value[key]))]
    if isinstance(value, list | tuple):
        return [item for element in value for item in flat(element)]
    return [value.tolist()] if hasattr(value, "tolist") else [value]


def assert_same_end(folder: Path, expected: Path, num_processes: int = 1) -> None:
    """The last checkpoints agree to the bit: weights, their average, optimizer, scheduler, random numbers, loss log."""
    first, second = folder / "checkpoint-6", expected / "checkpoint-6"
    for name in ("model.safetensors", EMA_FILE):
        tools.assert_same_weights(load_file(first / name), load_file(second / name))
    rng = ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{rank}.pth" for rank in range(num_processes)]
    for name in ("optimizer.pt", "scheduler.pt", *rng):
        loaded = [torch.load(path / name, weights_only=False) for path in (first, second)]
        assert flat(loaded[0]) == flat(loaded[1]), name
    states = [json.loads((path / "trainer_state.json").read_text()) for path in (first, second)]
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
    assert losses[0] == losses[1] and len(losses[0]) == 6


PLACES = [
    "step-3",
    "optimizer.pt@4",
    *(
        pytest.param(place, marks=pytest.mark.slow)
        for place in (
            *("step-1", "step-2", "step-4", "step-5", "scheduler.pt@2", "rng_state.pth@4", "training_args.bin@6"),
            *("publish@2", "publish@6", "discard@2"),
        )
    ),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_resumes_and_ends_as_if_it_had_not_been(tmp_path, uninterrupted, place):
    """Rows are shuffled, gradients accumulated, later epochs begun; the kill may hit a half-written checkpoint."""
    assert tools.in_processes(tools.run_to_the_end, str(tmp_path), place) == [-signal.SIGKILL]
    assert place == "discard@2" or not (tmp_path / "checkpoint-6").exists()
    if place == "optimizer.pt@4":
        assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
        assert (tmp_path / STAGING / "checkpoint-4" / "optimizer.pt").read_bytes() == b"half of a file"
    save_final(tools.run_to_the_end(str(tmp_path)))
    assert_same_end(tmp_path, uninterrupted)
    average = load_file(uninterrupted / "checkpoint-6" / EMA_FILE)["state_head.weight"]
    assert torch.equal(load_file(tmp_path / "model.safetensors")["state_head.weight"], average)
    assert not (tmp_path / STAGING).exists()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


@pytest.fixture(scope="module")
def uninterrupted_together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    assert tools.in_processes(tools.run_together, str(folder), num_processes=2) == [0, 0]
    return folder


@pytest.mark.parametrize("place", ["step-5", pytest.param("rng_state_1.pth@4", marks=pytest.mark.slow)])
def test_two_processes_resume_after_one_was_killed(tmp_path, uninterrupted_together, place):
    assert -signal.SIGKILL in tools.in_processes(tools.run_together, str(tmp_path), place, num_processes=2)
    assert not (tmp_path / "checkpoint-6").exists()
    assert tools.in_processes(tools.run_together, str(tmp_path), num_processes=2) == [0, 0]
    assert_same_end(tmp_path, uninterrupted_together, num_processes=2)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_resumed_in_a_later_epoch_equals_the_uninterrupted_one(tmp_path, num_workers):
    """With dropout and gradient accumulation; no row is decoded only to be skipped."""
    runs, decoded = {}, {}
    for name, checkpoint in {"whole": None, "resumed": str(tmp_path / "whole" / "checkpoint-7")}.items():
        dataset = tools.rows_dataset()
        decoded[name] = []
        build = dataset.builder.build
        dataset.builder.build = lambda *args, build=build, name=name: (
            decoded[name].append(args[0]["id"]) or build(*args)
        )
        runs[name] = tools.make_trainer(
            tmp_path / name,
            tiny_model(**tools.DROPOUT),
            dataset,
            max_steps=9,
            save_strategy="steps",
            save_steps=7,
            gradient_accumulation_steps=2,
            max_positions_per_batch=200,
            dataloader_num_workers=num_workers,
        )
        runs[name].train(resume_from_checkpoint=checkpoint)
    assert runs["whole"].state.epoch > 2.5
    tools.assert_same_weights(tools.weights_of(runs["whole"].model), tools.weights_of(runs["resumed"].model))
    assert tools.losses_of(runs["whole"]) == tools.losses_of(runs["resumed"])
    if num_workers == 0:
        assert decoded["resumed"] == decoded["whole"][-len(decoded["resumed"]) :]
        assert len(decoded["resumed"]) < len(decoded["whole"]) / 2


@contextmanager
def room_for_files_of(num_bytes: int):
    """Within it no file can grow larger, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_checkpoint_and_the_same_step_is_replaced(tmp_path, monkeypatch):
    tools.make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    trainer = tools.make_trainer(tmp_path, save_strategy="steps", save_steps=2)
    with room_for_files_of(100_000), pytest.raises(Exception, match="too large|No space|IoError|os error"):
        trainer.train(resume_from_checkpoint=True)
    with room_for_files_of(100_000), pytest.raises(Exception, match="too large|No space|IoError|os error"):
        save_final(trainer)
    original = torch.save

    def save(value, path, *args, **kwargs):
        if os.path.basename(os.fspath(path)) == "optimizer.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
        return original(value, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(OSError, match="No space left"):
            tools.make_trainer(tmp_path, save_strategy="steps", save_steps=2).train(resume_from_checkpoint=True)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    assert not (tmp_path / "model.safetensors").exists()
    tools.make_trainer(tmp_path, save_strategy="steps", save_steps=2).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-4" / "stale").touch()
    tools.make_trainer(tmp_path, save_strategy="steps", save_steps=2).train(str(tmp_path / "checkpoint-2"))
    assert (tmp_path / "checkpoint-4").is_dir() and not (tmp_path / "checkpoint-4" / "stale").exists()


def test_the_last_checkpoints_and_the_best_one_are_kept(tmp_path):
    """The best one's state names the place where it is, not the one where it was written."""
    scores = {1: 0.5, 2: 1.0, 3: 0.2, 4: 0.1}
    trainer = tools.make_trainer(
        tmp_path,
        eval_dataset=tools.encoded_examples(1)[:1],
        generation_metrics=lambda model, step, trainer: {"score": scores.get(step, 0.0)},
        metric_for_best_model="score",
        greater_is_better=True,
        load_best_model_at_end=True,
        ema_decay=0.5,
        save_total_limit=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    for step in (2, 4):
        state = json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")
    best = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert torch.equal(trainer.model.state_head.weight, best["state_head.weight"])
    assert torch.equal(
        trainer.ema.averages["state_head.weight"], load_file(tmp_path / "checkpoint-2" / EMA_FILE)["state_head.weight"]
    )


def test_every_process_knows_where_the_best_checkpoint_is(tmp_path, monkeypatch):
    """Only the first one writes it, and all load it at the end."""
    trainer = tools.make_trainer(tmp_path)
    monkeypatch.setattr(type(trainer.args), "should_save", False)

    def save(self, model, trial):
        self.state.best_model_checkpoint = str(tmp_path / STAGING / "checkpoint-0")

    monkeypatch.setattr(Trainer, "_save_checkpoint", save)
    trainer._save_checkpoint(trainer.model, None)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-0")


@pytest.mark.parametrize("is_tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_resuming_raises_for_weights_that_do_not_fit_and_warns_of_nothing(tmp_path, caplog, is_tied):
    """Of a tied text head the Trainer would say that it is missing from the checkpoint."""

    def trainer(**changes):
        model = tiny_model(text={"tie_word_embeddings": is_tied}, **changes)
        return tools.make_trainer(tmp_path, model, save_strategy="steps", save_steps=2)

    trainer().train()
    caplog.clear()
    trainer().train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert "missing" not in caplog.text and "unexpected" not in caplog.text
    with pytest.raises(ValueError, match="does not fit the model: .* weights are missing or unexpected"):
        trainer(vocoder=None).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_resuming_with_an_average_that_was_not_kept_is_refused(tmp_path):
    tools.make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    with pytest.raises(ValueError, match=f"There is no `{EMA_FILE}` in .*resume with the `ema_decay`"):
        tools.make_trainer(tmp_path, ema_decay=0.9).train(resume_from_checkpoint=True)
