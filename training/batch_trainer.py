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
"""A Trainer that is fed ready batches, of whose position in the data its checkpoints know."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from .batches import Batches
from .checkpoints import end_of_run
from .cpu_attention import fastest_attention
from .endless_batches import EndlessBatches
from .whole_checkpoints import WholeCheckpointTrainer


class BatchTrainer(WholeCheckpointTrainer):
    """
    Args:
        train_batches, eval_batches ([`Batches`], *optional*):
            Ready batches in the place of `train_dataset` and `eval_dataset`, as `training.batches.make_batches` makes
            them: under a budget of steps, each process its own share.
        kwargs:
            As [`~transformers.Trainer`] has them.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train_batches: Batches | None = None,
        eval_batches: Batches | None = None,
        **kwargs: Any,
    ):
        if train_batches is not None:
            # it would count batches to skip; ours know where they are
            args.ignore_data_skip = True
            args.max_steps = max_steps_of(args, train_batches)
            check_strategies(args, train_batches)
        if eval_batches is not None and kwargs.get("eval_dataset") is None:
            kwargs["eval_dataset"] = eval_batches.rows  # asked for where evaluation is
        super().__init__(model, args, **kwargs)
        self.train_batches = EndlessBatches(train_batches) if train_batches is not None else None
        self.eval_batches = eval_batches
        self._num_rows_evaluated: int | None = None
        self._num_rows_trained = 0
        if self.train_batches is not None:
            # before all others, which are to see the true epoch
            self.callback_handler.callbacks.insert(0, _Epochs(self.train_batches))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """The Trainer's; where the run of the checkpoint had come to its end, its weights are loaded and no step is taken."""
        end = self._end_of(resume_from_checkpoint)
        if end is not None:
            self.load_end(*end)
            return TrainOutput(self.state.global_step, 0.0, {})
        self._num_rows_trained = 0
        with fastest_attention(self.model, self.args.device, self.args.bf16):
            return super().train(resume_from_checkpoint, **kwargs)

    def _end_of(self, checkpoint: str | os.PathLike | bool | None) -> tuple[str | os.PathLike, TrainerState] | None:
        """What the run of a checkpoint ended with, if it had taken all its steps. Of ready batches the Trainer would take one more."""
        if self.train_batches is None or not checkpoint:
            return None
        if checkpoint is True:
            return end_of_run(self.args.output_dir, self.args.max_steps, self.args.load_best_model_at_end)
        file = Path(checkpoint, TRAINER_STATE_NAME)
        state = TrainerState.load_from_json(os.fspath(file)) if file.is_file() else TrainerState()
        return (checkpoint, state) if state.global_step >= self.args.max_steps else None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """
        The Trainer's, with the rows that went by in a second, which it cannot know of ready batches, and the rows that an
        epoch had to skip, if any: broken data must not go unnoticed for days.
        """
        self._correct_speeds(logs)
        if self.train_batches is not None and "loss" in logs and "learning_rate" in logs:
            num_skipped = torch.tensor(self.train_batches.batches.report.num_skipped)
            num_skipped = int(self._sum_over_processes(num_skipped))
            logs = logs | ({"skipped_rows": num_skipped} if num_skipped else {})
        super().log(logs, *args, **kwargs)

    def _correct_speeds(self, logs: dict[str, float]) -> None:
        """In place, since what `train` and `evaluate` return is the same dictionary."""
        if self.train_batches is not None and "train_samples_per_second" in logs:
            num_rows = self._sum_over_processes(torch.tensor(self._num_rows_trained))
            logs["train_samples_per_second"] = _per_second(int(num_rows), logs["train_runtime"])
        if self._num_rows_evaluated is not None and "eval_samples_per_second" in logs:
            logs["eval_samples_per_second"] = _per_second(self._num_rows_evaluated, logs["eval_runtime"])

    def get_batch_samples(self, *args: Any, **kwargs: Any):
        """The Trainer's: the batches of the next optimizer step. Their rows are counted."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        if self.train_batches is not None:
            # of speech that is only heard there are no `input_ids`
            self._num_rows_trained += sum(len(batch.get("input_ids", batch.get("labels"))) for batch in batches)
        return batches, num_items

    def get_train_dataloader(self) -> Iterable[dict[str, torch.Tensor]]:
        # an iterator: the Trainer asks it again after every epoch, and it goes on where it is, its workers too
        return iter(self.train_batches) if self.train_batches is not None else super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset=None) -> Iterable[dict[str, torch.Tensor]]:
        is_own = eval_dataset is None or eval_dataset is self.eval_dataset
        self._num_rows_evaluated = None
        if self.eval_batches is None or not is_own:
            return super().get_eval_dataloader(eval_dataset)
        # every evaluation on the same tasks
        self.eval_batches.set_epoch(0)
        if hasattr(self.eval_batches, "plan"):
            self._num_rows_evaluated = sum(map(len, self.eval_batches.plan()))
        return self.eval_batches

    def _row_ids_of(self, batch: Mapping[str, torch.Tensor]) -> Sequence[str] | None:
        return self.train_batches.batches.ids_of(batch) if self.train_batches is not None else None

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.train_batches is not None:
            self.train_batches.save(output_dir, self.args.process_index)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.train_batches is not None and checkpoint is not None:
            self.train_batches.load(checkpoint, self.args.process_index)


class _Epochs(TrainerCallback):
    """
    Lets the Trainer, which takes the endless batches for one endless epoch, know the true epochs: at the end of each it does
    what it does at the end of an epoch, logging, evaluating and saving among it.
    """

    def __init__(self, batches: EndlessBatches):
        self.batches = batches
        self.number = 0

    def on_train_begin(self, args, state, control, **kwargs):
        if self.batches.epoch is not None:
            self.number = math.floor(self.batches.epoch)
            num_batches = args.max_steps * args.gradient_accumulation_steps
            state.num_train_epochs = math.ceil(num_batches / len(self.batches.batches))

    def on_step_end(self, args, state, control, **kwargs):
        if self.batches.epoch is None:
            return
        state.epoch = self.batches.epoch
        if math.floor(state.epoch) > self.number:
            self.number = math.floor(state.epoch)
            control.should_epoch_stop = True

    def on_train_end(self, args, state, control, train_dataloader=None, **kwargs):
        # its workers have nothing more to do
        train_dataloader.close()


def _per_second(number: int, seconds: float) -> float:
    return round(number / max(seconds, 1e-4), 3)


def check_strategies(args: TrainingArguments, batches: Batches) -> None:
    """Raises where something is to happen after every epoch of a stream, which has none."""
    for name in ("logging_strategy", "eval_strategy", "save_strategy"):
        if getattr(args, name) == "epoch" and not hasattr(batches, "__len__"):
            raise ValueError(
                f'`{name}` is "epoch", and a stream has no epochs: set it to "steps", and `{name.removesuffix("_strategy")}_steps`.'
            )


def max_steps_of(args: TrainingArguments, batches: Batches) -> int:
    """Optimizer steps to take: as said, or as many as the epochs make, reckoned by the length of the first."""
    if args.max_steps > 0:
        return args.max_steps
    if args.num_train_epochs <= 0:
        raise ValueError(
            f"`num_train_epochs` is {args.num_train_epochs:g}, and `max_steps` {args.max_steps}: one of them must be above 0."
        )
    if not hasattr(batches, "__len__"):
        raise ValueError("A stream has no length to make epochs of: say how long to train with `max_steps`.")
    return math.ceil(args.num_train_epochs * len(batches) / args.gradient_accumulation_steps)
