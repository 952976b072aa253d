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
"""A Trainer whose checkpoints are there whole or not at all, and that stops where a loss or a gradient is no number."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedDataParallelKwargs
from huggingface_hub import HfApi
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy

from .checkpoints import (
    NOT_UPLOADED,
    clear_staging,
    end_of_run,
    forget_end,
    last_checkpoint,
    note_end,
    publish,
    publish_files,
    rotate,
    set_aside,
    staging_folder,
    writing,
)
from .guards import check_finite_gradient, diverged
from .sharding import check_sharding, under_its_own_class


class WholeCheckpointTrainer(Trainer):
    """What the Trainer of the speech model and that of the vocoder have in common."""

    _staged_run: str | None = None

    def __init__(self, model: nn.Module, args: TrainingArguments, **kwargs: Any):
        check_what_is_pushed(args)
        super().__init__(model, args, **kwargs)
        check_sharding(self.is_fsdp_enabled, self.args.device)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments = super()._build_accelerator_args(**kwargs)
        for handler in arguments["kwargs_handlers"]:
            if isinstance(handler, DistributedDataParallelKwargs):
                # gradients lie in the buckets that DDP exchanges: else a process would hold each of them twice
                handler.gradient_as_bucket_view = True
        return arguments

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        if self.args.should_save:
            clear_staging(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        return super().train(resume_from_checkpoint, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """
        The Trainer's, with noise of its own: the same at each evaluation, so that they compare, and training goes on as if there
        had been none.
        """
        devices = [] if self.args.device.type == "cpu" else [self.args.device]
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.args.seed + self.args.process_index)
            return super().evaluate(*args, **kwargs)

    def train_to_the_end(self, is_fresh: bool = False) -> None:
        """
        Trains from the last checkpoint of `output_dir` on, if it has one; of a run that had come to its end, the weights that it
        ended with are only loaded. With `is_fresh` it begins anew.
        """
        folder = self.args.output_dir
        if is_fresh:
            if self.args.should_save:
                set_aside(folder)
            self.accelerator.wait_for_everyone()
        end = end_of_run(folder, self.args.max_steps, self.args.load_best_model_at_end)
        if end is not None:
            self.load_end(*end)
            return
        # all have looked by now
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            forget_end(folder)
        self.train(resume_from_checkpoint=last_checkpoint(folder))
        if self.args.should_save:
            note_end(folder, self.state)

    def _get_grad_norm(self, model: nn.Module, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # the scaler of fp16 meets infinite gradients on its way, and skips these steps itself
        if self.args.stop_on_nan and getattr(self.accelerator, "scaler", None) is None:
            check_finite_gradient(norm, self.state.global_step + 1)
        return norm

    def _check_finite(
        self, loss: torch.Tensor, batch: Mapping[str, torch.Tensor], losses: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Stops the run where the loss of a batch, of which `losses` are the parts, is no number."""
        if not self.args.stop_on_nan or torch.isfinite(loss):
            return
        step = self.state.global_step + 1
        folder = Path(self.args.output_dir) / f"diverged-step-{step}-process-{self.args.process_index}"
        raise diverged(loss, batch, losses or {}, self._row_ids_of(batch), step, folder)

    def _row_ids_of(self, batch: Mapping[str, torch.Tensor]) -> Sequence[str] | None:
        """The ids of the rows in a batch, where they are known."""
        return None

    def _sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.args.world_size == 1:
            return tensor
        return self.accelerator.reduce(tensor.to(self.args.device), reduction="sum").to(tensor.device)

    @property
    def is_writing_checkpoint(self) -> bool:
        return self._staged_run is not None

    def _get_output_dir(self, trial) -> str:
        return self._staged_run or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        """The Trainer's, written aside and published when it is whole."""
        run_folder = self._get_output_dir(trial)
        staged = staging_folder(run_folder) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        final = Path(run_folder) / staged.name
        self._staged_run = os.fspath(staged.parent)
        try:
            with writing(final.name, run_folder, run_folder):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self._correct_best_checkpoint(staged, final)
                    publish(staged, final)
        finally:
            self._staged_run = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            rotate(run_folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.is_fsdp_enabled and state_dict is not None:
            # gathered, tied weights are two
            tied = getattr(self.model, "all_tied_weights_keys", {})
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        with under_its_own_class(self.model):
            super()._save(output_dir, state_dict)

    def _correct_best_checkpoint(self, staged: Path, final: Path) -> None:
        """If this checkpoint is the best one, its state names the place where it was written."""
        if self.state.best_model_checkpoint == os.fspath(staged):
            self.state.best_model_checkpoint = os.fspath(final)
            self.state.save_to_json(os.fspath(staged / TRAINER_STATE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """
        The Trainer's, with the learning rate, the weight decay, the intervals and so on of this run: the checkpoint holds those
        that it was written with, and who resumes with others, as after a loss that was no number, means them.
        """
        rates = list(getattr(self.lr_scheduler, "base_lrs", []))
        names = options_of(self.optimizer)
        options = [{name: group[name] for name in names & group.keys()} for group in self.optimizer.param_groups]
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:
            if "parameter group" not in str(error):
                raise
            raise ValueError(
                f"In '{checkpoint}' other weights were trained than are now, or in other groups: resume with the stage, the LoRA "
                "options, `muon` and `new_parts_learning_rate` set or unset as it was written, or go on from it in another `output_dir` "
                "(`model=`), or begin anew (`--fresh`)."
            ) from error
        if checkpoint is None:
            return
        # how often to save, evaluate and log: shares are of the steps that this run takes
        self.state.compute_steps(self.args, self.state.max_steps)
        for group, own in zip(self.optimizer.param_groups, options):
            group.update(own)
        if isinstance(self.lr_scheduler, LambdaLR):
            self._set_rates(rates)

    def _set_rates(self, rates: Sequence[float]) -> None:
        """
        Goes on along the schedule of this run, at its rates. The rate of the next step is worked out anew: that of the checkpoint
        is of the schedule it was written under, and 0 where that had come to its end.
        """
        scheduler = self.lr_scheduler
        scheduler.base_lrs = list(rates)
        for group, rate, share in zip(self.optimizer.param_groups, rates, scheduler.lr_lambdas):
            group["initial_lr"], group["lr"] = rate, rate * share(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def load_checkpoint(self, checkpoint: str | os.PathLike) -> None:
        """The weights and the log of a checkpoint, to evaluate or save them without training on."""
        self._load_from_checkpoint(os.fspath(checkpoint))
        self.state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))

    def load_end(self, checkpoint: str | os.PathLike, state: TrainerState) -> None:
        """What a run ended with, as [`end_of_run`] tells it: the weights of a checkpoint, and the log of all steps."""
        self.load_checkpoint(checkpoint)
        self.state = state

    def save_final(self, folder: str | os.PathLike | None = None) -> None:
        """Saves the trained model and its processor, to `output_dir` by default."""
        folder = Path(folder or self.args.output_dir)
        staged = staging_folder(folder) / "final"
        if self.is_fsdp_enabled:
            # whatever its checkpoints hold, the model is saved whole
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        with writing("The trained model", folder, self.args.output_dir):
            self.save_model(os.fspath(staged), _internal_call=True)
            if self.args.should_save:
                publish_files(staged, folder)
                clear_staging(folder)
        self.accelerator.wait_for_everyone()

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ):
        """The Trainer's, without what training left in `output_dir`: other checkpoints, logs and batches, with texts of rows."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_final()
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        return HfApi().upload_folder(
            repo_id=self.hub_model_id,
            folder_path=self.args.output_dir,
            commit_message=commit_message,
            token=token,
            run_as_future=not blocking,
            ignore_patterns=NOT_UPLOADED,
            revision=revision if revision is not None else self.args.hub_revision,
        )


def check_what_is_pushed(args: TrainingArguments) -> None:
    """Raises where the Trainer would push checkpoints: the weights of one step and not their average, without a card."""
    if args.push_to_hub and args.hub_strategy != HubStrategy.END:
        raise ValueError(
            f"`push_to_hub` with `hub_strategy='{args.hub_strategy.value}'` would show unfinished checkpoints as the model. Say "
            "`hub_strategy='end'` and call `push_to_hub()` after `train()`, or leave both out and upload the finished model with "
            "`flow-omni push FOLDER OWNER/NAME`."
        )


def options_of(optimizer: torch.optim.Optimizer) -> set[str]:
    """
    The names of what an optimizer was told when it was made, but for its rate. What else its groups hold it may count in
    itself, as schedule-free optimizers do, and a count that began anew would spoil the run.
    """
    kind = type(getattr(optimizer, "optimizer", optimizer))  # within what accelerate puts around it
    names = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
    return names - {"params", "lr"}
