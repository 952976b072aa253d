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
"""A training run that can be told to kill its own process, for the tests of what comes after."""

import os
import signal
from pathlib import Path

import torch
from training_runs import make_trainer
from transformers import TrainerCallback

from flow_omni.training.checkpoints import last_checkpoint


class KillAfter(TrainerCallback):
    """Kills its own process after a step, as the kernel would: nothing gets a chance to tidy up."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_while_writing(name: str, step: int) -> None:
    """Kills the process in the middle of a checkpoint: before it writes the file of that name."""
    original = torch.save

    def save(value, path, *args, **kwargs):
        if os.path.basename(os.fspath(path)) == name and f"checkpoint-{step}" in os.fspath(path):
            Path(path).write_bytes(b"half of a file")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(value, path, *args, **kwargs)

    torch.save = save


def run(folder: str, kill_at: str = "", **options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    callbacks = []
    if kill_at.startswith("step-"):
        callbacks.append(KillAfter(int(kill_at.removeprefix("step-"))))
    elif kill_at:
        name, _, step = kill_at.partition("@")
        kill_while_writing(name, int(step))
    defaults = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.9,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "mel_statistics_batches": 10,
    }
    trainer = make_trainer(Path(folder), callbacks=callbacks, **(defaults | options))
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
