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
"""The Trainer: transformers' own, with losses that are means over a whole step, and every part of them logged."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from ..hub_card import name_model_card, write_model_card
from ..hub_card.card_files import CARD_NAME
from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from . import mel_statistics
from .arguments import FlowOmniTrainingArguments
from .batch_trainer import BatchTrainer
from .batches import Batches, TrainingCollator
from .ema import ExponentialMovingAverage
from .learning_rates import new_parameters, set_learning_rate
from .lora import freeze_inside
from .loss_shares import PARTS, LossParts, count_targets, loss_of_parts, shares_of
from .muon import MuonAndAdamW, inner_matrices
from .sharding import shard_by_layers
from .stages import freeze_for
from .unused_modules import with_all_modalities


logger = logging.get_logger(__name__)


class FlowOmniTrainer(BatchTrainer):
    """
    Args:
        train_batches, eval_batches ([`Batches`], *optional*):
            Ready batches in the place of `train_dataset` and `eval_dataset`, as `training.batches.make_batches` makes
            them: under a budget of steps, each process its own share.
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
        train_batches: Batches | None = None,
        eval_batches: Batches | None = None,
        generation_metrics: Callable[..., dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        check_what_is_passed(model, args, kwargs)
        processor = kwargs.get("processing_class")
        if kwargs.get("data_collator") is None and processor is not None:
            kwargs["data_collator"] = TrainingCollator(processor)
        if args.stage is not None:
            _freeze(model, args.stage)
        super().__init__(model, args, train_batches, eval_batches, **kwargs)
        self.generation_metrics = generation_metrics
        self.parts, self._shares = LossParts(), deque()
        self.ema = ExponentialMovingAverage(args.ema_decay) if args.ema_decay is not None else None
        if self.is_fsdp_enabled:
            shard_by_layers(self.accelerator.state.fsdp_plugin, self.flow_omni)
        if self.ema is not None and self.is_fsdp_enabled:
            raise ValueError("`ema_decay` needs whole weights, and FSDP shards them: leave one of the two out.")
        if args.muon and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "`muon` needs whole matrices, and FSDP and DeepSpeed cut them in shards: leave one of the two out."
            )
        if self.ema is not None:
            self.add_callback(_AverageWeights(self.ema))

    @property
    def flow_omni(self) -> FlowOmniForSpeechGeneration:
        """The model itself, without what DDP, FSDP or peft have put around it."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "peft_config") else model

    # Data

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        if not resume_from_checkpoint:
            self.measure_mel_statistics()
            if self.ema is not None:
                self.ema.start(self.model)
        return super().train(resume_from_checkpoint, **kwargs)

    def measure_mel_statistics(self) -> None:
        """
        Measures the mel statistics over some batches. A model that has been trained under others keeps them, but for bands that
        were silent; a voice that does not train keeps them all.
        """
        normalizer = self.flow_omni.mel_normalizer
        num_batches, bands = self.args.mel_statistics_batches, mel_statistics.bands_to_measure(normalizer)
        trains_voice = any(parameter.requires_grad for parameter in self.flow_omni.speech_head.parameters())
        if num_batches == 0 or not bands.any() or not trains_voice:
            return
        state_id, quantizer = (
            self.flow_omni.config.generating_state_id,
            getattr(self.flow_omni.speech_head, "quantizer", None),
        )
        with self._first_batches(num_batches) as batches:
            statistics = mel_statistics.measure(batches, normalizer, state_id)
        statistics.reduce(self._sum_over_processes)
        mel_statistics.store(statistics, normalizer, bands)
        logger.info(f"Measured {int(bands.sum())} mel bands on {int(statistics.count):,} frames.")
        if quantizer is not None and bands.all():
            with self._first_batches(num_batches) as batches:
                mel_statistics.fit_codebooks(quantizer, batches, normalizer, state_id)
            # each process has seen its own share: all go on with the first one's
            broadcast(quantizer.codebooks.data)

    @contextmanager
    def _first_batches(self, num_batches: int) -> Iterator[Iterable[dict[str, torch.Tensor]]]:
        """Batches to look at before training, which then begins as if nobody had."""
        batches = self.train_batches.batches if self.train_batches is not None else None
        position = batches.state_dict() if batches is not None else None
        with torch.random.fork_rng(devices=[]):
            # of ready batches one epoch at the most, not the endless one
            yield islice(self.get_train_dataloader() if batches is None else batches, num_batches)
        if batches is not None:
            batches.load_state_dict(position)

    # The optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's, or Muon; with a learning rate of their own for the new parts, if one was given."""
        is_given, rate = self.optimizer is not None, self.args.new_parts_learning_rate
        if self.args.muon and self.optimizer_cls_and_kwargs is None:
            self.optimizer_cls_and_kwargs = (
                MuonAndAdamW,
                {
                    "matrices": inner_matrices(self.flow_omni),
                    "lr": self.args.learning_rate,
                    "betas": (self.args.adam_beta1, self.args.adam_beta2),
                    "eps": self.args.adam_epsilon,
                },
            )
        optimizer = super().create_optimizer(model)
        if rate is not None and not is_given:
            set_learning_rate(optimizer, new_parameters(self.flow_omni), rate)
        return optimizer

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
        if model.training:
            losses = {name: outputs[name] for name in PARTS if outputs.get(name) is not None}
            self._check_finite(loss, inputs, losses)
        return (loss, outputs) if return_outputs else loss

    # What is logged

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and "learning_rate" in logs:
            logs = logs | self.parts.means(self._sum_over_processes)
            self.parts.reset()
            if self.args.new_parts_learning_rate is not None:
                logs["new_parts_learning_rate"] = self.lr_scheduler.get_last_lr()[-1]
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any):
        """The Trainer's, with every part of the loss as a mean over all its targets, and what generation shows."""
        training_parts, self.parts = self.parts, LossParts()
        with self._averaged():
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            generated = {}
            if self.generation_metrics is not None:
                generated = self.generation_metrics(self.flow_omni, self.state.global_step, self)
        means = self.parts.means(self._sum_over_processes)
        self.parts = training_parts
        config = self.flow_omni.config
        if means:
            loss = sum(getattr(config, f"{name}_weight") * mean for name, mean in means.items())
            means = {"loss": loss} | means
        means |= generated
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def _averaged(self) -> AbstractContextManager[None]:
        """Within it the weights are their moving average, if one is kept."""
        is_kept = self.ema is not None and self.ema.averages
        return self.ema.applied_to(self.model) if is_kept else nullcontext()

    # What is saved

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        The Trainer's, with the moving average as the weights, if one is kept. Checkpoints have both: the weights to go on with,
        and their average in a file beside them.
        """
        if not self.is_writing_checkpoint:
            with self._averaged():
                super().save_model(output_dir, _internal_call)
            return
        super().save_model(output_dir, _internal_call)
        if self.ema is not None and self.args.should_save:
            self.ema.save(output_dir)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Flow-Omni's own, where the Trainer's would take its place. One that is there, edited perhaps, only gets the model's id."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        if not (folder / CARD_NAME).is_file():
            write_model_card(folder, is_trained=True)
        if self.hub_model_id is not None:
            name_model_card(folder, self.hub_model_id)

    # Checkpoints

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.ema is not None and checkpoint is not None:
            self.ema.load(checkpoint, self.model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"The weights in '{resume_from_checkpoint}' do not fit the model ({reason} …): resume with the model and the "
                "LoRA options that it was written with, or begin anew (`--fresh`)."
            ) from error
        if self.args.stage is not None:
            # peft lets everything train that it loads
            _freeze(self.model, self.args.stage)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # a tied text head is not saved twice, and its absence is no reason to worry anybody
        tied = set(self.flow_omni.all_tied_weights_keys)
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.ema is not None:
            self.ema.load(self.state.best_model_checkpoint, self.model)

    def load_checkpoint(self, checkpoint: str | os.PathLike) -> None:
        super().load_checkpoint(checkpoint)
        if self.ema is not None:
            self.ema.load(checkpoint, self.model)


def check_what_is_passed(model: nn.Module | None, args: FlowOmniTrainingArguments, options: Mapping[str, Any]) -> None:
    """Raises for options of the Trainer that it would take, and that our own losses make no use of."""
    if model is None or options.get("model_init") is not None:
        raise ValueError(
            "`model_init` is given, or no `model`: what is frozen, and the mel statistics, are of one model. Pass `model`, and make "
            "a Trainer for each trial of a search."
        )
    if options.get("compute_loss_func") is not None:
        raise ValueError(
            "`compute_loss_func` is given, and the loss has parts that it would not see: weight these in the model's config "
            "(`speech_loss_weight` and so on), or override `compute_loss`."
        )
    if args.label_smoothing_factor != 0:
        raise ValueError(
            f"`label_smoothing_factor` is {args.label_smoothing_factor}: no part of the loss is smoothed. Leave it at 0."
        )
    if options.get("compute_metrics") is not None:
        # else there are no predictions to call it with; see `FlowOmniTrainingArguments` for what they cost
        args.prediction_loss_only = False


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
