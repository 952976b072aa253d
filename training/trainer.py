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
"""The Trainer: transformers' own, whose losses are means over a whole step, and whose checkpoints survive being killed."""

import os
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from . import mel_statistics
from .arguments import FlowOmniTrainingArguments
from .checkpoints import clear_staging, not_written, publish, publish_files, staging_folder
from .ema import ExponentialMovingAverage
from .guards import check_finite_gradient, diverged
from .lora import freeze_inside
from .loss_shares import PARTS, LossParts, count_targets, loss_of_parts, shares_of
from .stages import freeze_for
from .unused_modules import with_all_modalities


logger = logging.get_logger(__name__)

# The key under which a batch may name its rows, for messages; the model does not see it.
ROW_IDS = "example_ids"


class FlowOmniTrainer(Trainer):
    """
    Args:
        train_batches, eval_batches (`DataLoader`, *optional*):
            Loaders of ready batches, which each process reads its own share of, in the place of `train_dataset` and
            `eval_dataset`: what `training.batches.make_batches` makes.
        generation_metrics (`Callable`, *optional*):
            Called with the model, the step and this Trainer at each evaluation, returns what it measured by generation
            (`training.generation_metrics.GenerationMetrics`).
        kwargs:
            As [`~transformers.Trainer`] has them. `processing_class` is the [`FlowOmniProcessor`]; `train_dataset` holds
            examples as `processor.encode_training_example` makes them.
    """

    def __init__(
        self,
        model: nn.Module,
        args: FlowOmniTrainingArguments,
        train_batches: DataLoader | None = None,
        eval_batches: DataLoader | None = None,
        generation_metrics: Callable[..., dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        processor = kwargs.get("processing_class")
        if kwargs.get("data_collator") is None and processor is not None:
            kwargs["data_collator"] = _Collator(processor)
        if args.stage is not None:
            _freeze(model, args.stage)
        super().__init__(model, args, **kwargs)
        self.train_batches, self.eval_batches = train_batches, eval_batches
        self.generation_metrics = generation_metrics
        self.parts, self._shares, self._staged_run = LossParts(), deque(), None
        self.ema = ExponentialMovingAverage(args.ema_decay) if args.ema_decay is not None else None
        if self.ema is not None and self.is_fsdp_enabled:
            raise ValueError("`ema_decay` needs whole weights, and FSDP shards them: leave one of the two out.")
        self.add_callback(_Epochs())
        if self.ema is not None:
            self.add_callback(_AverageWeights(self.ema))

    @property
    def flow_omni(self) -> FlowOmniForSpeechGeneration:
        """The model itself, without what DDP, FSDP or peft have put around it."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "peft_config") else model

    # Data

    def get_train_dataloader(self) -> DataLoader:
        return self.train_batches if self.train_batches is not None else super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        if eval_dataset is None and self.eval_batches is not None:
            return self.eval_batches
        return super().get_eval_dataloader(eval_dataset)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        if self.args.should_save:
            clear_staging(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        if not resume_from_checkpoint:
            self.measure_mel_statistics()
            if self.ema is not None:
                self.ema.start(self.model)
        return super().train(resume_from_checkpoint, **kwargs)

    def measure_mel_statistics(self) -> None:
        """Measures the mel statistics over some batches, unless the model has been trained under others."""
        normalizer = self.flow_omni.mel_normalizer
        num_batches = self.args.mel_statistics_batches
        if num_batches == 0 or mel_statistics.are_measured(normalizer):
            return
        state_id, quantizer = (
            self.flow_omni.config.generating_state_id,
            getattr(self.flow_omni.speech_head, "quantizer", None),
        )
        with torch.random.fork_rng(devices=[]):
            batches = islice(self.get_train_dataloader(), num_batches)
            statistics = mel_statistics.measure(batches, normalizer, state_id)
            statistics.reduce(self._sum_over_processes)
            mel_statistics.store(statistics, normalizer)
            logger.info(f"Measured the mel statistics on {int(statistics.count):,} frames.")
            if quantizer is not None:
                batches = islice(self.get_train_dataloader(), num_batches)
                mel_statistics.fit_codebooks(quantizer, batches, normalizer, state_id)
                # each process has seen its own share: all go on with the first one's
                broadcast(quantizer.codebooks.data)

    # The loss

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The batches of the next optimizer step; what each of their losses counts for is worked out here."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            counts = [count_targets(batch, self.flow_omni.config) for batch in batches]
            total = self._sum_over_processes(torch.stack(counts).sum(dim=0))
            self._shares = deque(zip(counts, shares_of(counts, total, self.args.world_size)))
        return batches, num_items

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **kwargs: Any):
        config, batch = self.flow_omni.config, dict(inputs)
        row_ids = batch.pop(ROW_IDS, None)
        if model.training and self._shares:
            counts, shares = self._shares.popleft()
        else:
            counts = count_targets(batch, config)
            shares = (counts > 0).double()
        if self.args.world_size > 1:
            batch = with_all_modalities(batch, config)
        outputs = model(**batch)
        loss = loss_of_parts(outputs, config, shares)
        self.parts.add(outputs, counts)
        if model.training and self.args.stop_on_nan:
            self._check_finite(loss, batch, outputs, row_ids)
        return (loss, outputs) if return_outputs else loss

    def _check_finite(self, loss: torch.Tensor, batch: dict, outputs: Mapping, row_ids: list[str] | None) -> None:
        if torch.isfinite(loss):
            return
        step = self.state.global_step + 1
        losses = {name: outputs[name].item() for name in PARTS if outputs.get(name) is not None}
        folder = Path(self.args.output_dir) / f"diverged-step-{step}-process-{self.args.process_index}"
        raise diverged(loss, batch, losses, row_ids, step, folder)

    def _get_grad_norm(self, model: nn.Module, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # the scaler of fp16 meets infinite gradients on its way, and skips these steps itself
        if self.args.stop_on_nan and getattr(self.accelerator, "scaler", None) is None:
            check_finite_gradient(norm, self.state.global_step + 1)
        return norm

    def _sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.args.world_size == 1:
            return tensor
        return self.accelerator.reduce(tensor.to(self.args.device), reduction="sum").to(tensor.device)

    # What is logged

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and "learning_rate" in logs:
            logs = logs | self.parts.means(self._sum_over_processes)
            self.parts.reset()
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self.ema is None or not self.ema.averages:
            return super().evaluate(*args, **kwargs)
        with self.ema.applied_to(self.model):
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any):
        """The Trainer's, with every part of the loss as a mean over all its targets, and what generation shows."""
        training_parts, self.parts = self.parts, LossParts()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = self.parts.means(self._sum_over_processes)
        self.parts = training_parts
        config = self.flow_omni.config
        if means:
            loss = sum(getattr(config, f"{name}_weight") * mean for name, mean in means.items())
            means = {"loss": loss} | means
        if self.generation_metrics is not None:
            means |= self.generation_metrics(self.flow_omni, self.state.global_step, self)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    # Checkpoints

    def _get_output_dir(self, trial) -> str:
        return self._staged_run or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        """The Trainer's, written aside and published when it is whole."""
        run_folder = self._get_output_dir(trial)
        staged = staging_folder(run_folder) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        final = Path(run_folder) / staged.name
        self._staged_run = os.fspath(staged.parent)
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._correct_best_checkpoint(staged, final)
                publish(staged, final)
        except (OSError, RuntimeError) as error:
            clear_staging(run_folder)
            raise not_written(self.state.global_step, run_folder, error) from error
        finally:
            self._staged_run = None
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(os.fspath(final))
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(run_folder, self.args.save_total_limit, best, use_mtime=True)

    def _correct_best_checkpoint(self, staged: Path, final: Path) -> None:
        """If this checkpoint is the best one, its state names the place where it was written."""
        if self.state.best_model_checkpoint == os.fspath(staged):
            self.state.best_model_checkpoint = os.fspath(final)
            self.state.save_to_json(os.fspath(staged / "trainer_state.json"))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staged_run is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.ema is not None and self.args.should_save:
            self.ema.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.ema is not None and checkpoint is not None:
            self.ema.load(checkpoint, self.model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.args.stage is not None:
            # peft lets everything train that it loads
            _freeze(self.model, self.args.stage)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.ema is not None:
            self.ema.load(self.state.best_model_checkpoint, self.model)

    def save_final(self, folder: str | os.PathLike | None = None) -> None:
        """Saves the trained model (its average, if one was kept) and its processor, to `output_dir` by default."""
        folder = Path(folder or self.args.output_dir)
        staged = staging_folder(folder) / "final"
        if self.ema is not None and self.ema.averages:
            with self.ema.applied_to(self.model):
                self.save_model(os.fspath(staged), _internal_call=True)
        else:
            self.save_model(os.fspath(staged), _internal_call=True)
        if self.args.should_save:
            publish_files(staged, folder)
            clear_staging(folder)
        self.accelerator.wait_for_everyone()


class _Collator:
    """`processor.collate` as an object that worker processes can be given."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        return dict(self.processor.collate(examples))


class _Epochs(TrainerCallback):
    """Tells the loader of ready batches which epoch begins; for its own loaders the Trainer does."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if hasattr(train_dataloader, "set_epoch"):
            train_dataloader.set_epoch(int(state.epoch or 0))


class _AverageWeights(TrainerCallback):
    def __init__(self, ema: ExponentialMovingAverage):
        self.ema = ema

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.ema.update(model)


def _freeze(model: nn.Module, stage: str) -> None:
    if hasattr(model, "peft_config"):
        freeze_inside(model, stage)
    else:
        freeze_for(model, stage)
