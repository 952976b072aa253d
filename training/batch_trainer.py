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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from .batches import Batches
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
        if eval_batches is not None and kwargs.get("eval_dataset") is None:
            kwargs["eval_dataset"] = eval_batches.rows  # asked for where evaluation is
        super().__init__(model, args, **kwargs)
        self.train_batches = EndlessBatches(train_batches) if train_batches is not None else None
        self.eval_batches = eval_batches
        if self.train_batches is not None:
            self.add_callback(_Epochs(self.train_batches))

    def train(self, *args: Any, **kwargs: Any):
        with fastest_attention(self.model, self.args.device, self.args.bf16):
            return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with the rows that were skipped so far, if any: broken data must not go unnoticed for days."""
        if self.train_batches is not None and "loss" in logs and "learning_rate" in logs:
            num_skipped = torch.tensor(self.train_batches.batches.report.num_skipped)
            num_skipped = int(self._sum_over_processes(num_skipped))
            logs = logs | ({"skipped_rows": num_skipped} if num_skipped else {})
        super().log(logs, *args, **kwargs)

    def get_train_dataloader(self) -> Iterable[dict[str, torch.Tensor]]:
        return self.train_batches if self.train_batches is not None else super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset=None) -> Iterable[dict[str, torch.Tensor]]:
        is_own = eval_dataset is None or eval_dataset is self.eval_dataset
        if self.eval_batches is None or not is_own:
            return super().get_eval_dataloader(eval_dataset)
        # every evaluation on the same tasks
        self.eval_batches.set_epoch(0)
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
    """Puts the true epoch in the place of the Trainer's, which thinks there is only one."""

    def __init__(self, batches: EndlessBatches):
        self.batches = batches

    def on_step_end(self, args, state, control, **kwargs):
        if self.batches.epoch is not None:
            state.epoch = self.batches.epoch


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
