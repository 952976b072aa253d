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
"""The Trainers: transformers' own, with length batching, losses weighted by their targets, and atomic checkpoints."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from ..modeling_flow_omni.modeling_flow_omni import IGNORE_INDEX, MODULE_GROUPS, shift_patches, text_logits
from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration as Model
from ..modeling_flow_omni.speech_decoder import advance_labels
from .arguments import FlowOmniTrainingArguments
from .batching import LengthBatchSampler, StreamedBatches, TrainingCollator
from .callbacks import EMACallback, MelStatisticsCallback, SetEpochCallback, StopOnNaNCallback, check_finite
from .examples import ExampleDataset


# The parts of the loss, as the model's outputs and its config (with `_weight`) name them.
LOSSES = (
    "text_loss",
    "distillation_loss",
    "state_loss",
    "speech_loss",
    "auxiliary_loss",
    "ctc_loss",
    "letter_loss",
    "advance_loss",
)
NEW_MODULES = ("audio_adapter", "speech_inputs", "speech_decoder")
STAGING = ".unfinished"  # nothing that looks for checkpoints finds one that is being written


class AtomicTrainer(Trainer):
    """
    What the Trainers of the speech model and of the vocoder share: checkpoints that are whole or absent, `losses` as means
    in the log, and the stop on a loss that is not finite.
    """

    def __init__(self, model: nn.Module, args: FlowOmniTrainingArguments, loss_names: Sequence[str], **kwargs: Any):
        super().__init__(model, args, **kwargs)
        self.losses = LossMeans(loss_names)
        if args.stop_on_nan:
            self.add_callback(StopOnNaNCallback())

    def add_losses(self, loss: torch.Tensor, losses: Mapping, counts: Mapping, ids: Sequence | None = None) -> None:
        """Notes the losses of a batch for the log, and raises if their sum `loss` is not finite."""
        self.losses.add(losses, counts)
        if self.model.training and self.args.stop_on_nan:
            check_finite(loss, losses, ids, self.state.global_step + 1)

    def sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.args.world_size == 1:
            return tensor
        return self.accelerator.reduce(tensor.to(self.args.device), reduction="sum").to(tensor.device)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with each part of the loss as a mean over its targets."""
        if "loss" in logs and "learning_rate" in logs:
            logs |= self.losses.pop_means(self.sum_over_processes)
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """
        The Trainer's, written to a folder aside and renamed when it is complete: a run that is killed at any moment leaves
        whole checkpoints only. Old ones are then deleted, each renamed first.
        """
        args, state = self.args, self.state
        run_folder, name = Path(args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        staging, final = run_folder / STAGING, run_folder / name
        if args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._get_output_dir = lambda trial: os.fspath(staging)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            del self._get_output_dir
        # on every process: each loads the best one at the end
        if state.best_model_checkpoint == os.fspath(staging / name):
            state.best_model_checkpoint = os.fspath(final)
        self.accelerator.wait_for_everyone()
        if args.should_save:
            state.save_to_json(os.fspath(staging / name / TRAINER_STATE_NAME))
            discard(final, staging)
            publish(staging / name, final)
            limit, checkpoints = args.save_total_limit or 0, sort_checkpoints(os.fspath(run_folder))
            kept = {checkpoints[-1], state.best_model_checkpoint}
            surplus = [path for path in checkpoints if path not in kept]
            for path in surplus[: max(0, len(checkpoints) - max(limit, len(kept - {None})))] if limit > 0 else []:
                discard(Path(path), staging)
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()


class FlowOmniTrainer(AtomicTrainer):
    """
    [`~transformers.Trainer`] for the speech model. `processing_class` is the processor; a dataset is an [`ExampleDataset`],
    [`StreamedBatches`], or has items that `processor.encode_training_example` returned. `generation_metrics(model, step,
    trainer)` is called at each evaluation and returns metrics of generated answers.
    """

    # each loss is a mean over the targets of the whole optimizer step: there is nothing left to divide
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Model,
        args: FlowOmniTrainingArguments,
        generation_metrics: Callable[..., dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        if args.trainable_modules is not None:
            freeze(model, args.trainable_modules)
        if kwargs.get("data_collator") is None and kwargs.get("processing_class") is not None:
            kwargs["data_collator"] = TrainingCollator(kwargs["processing_class"], args.all_modalities)
        super().__init__(model, args, LOSSES, **kwargs)
        self.generation_metrics, self.num_targets = generation_metrics, None
        self.skipped, self.num_rows = set(), 0
        self.ema = EMACallback(args.ema_decay) if args.ema_decay is not None else None
        for callback in (SetEpochCallback(), MelStatisticsCallback(self), *([self.ema] if self.ema else [])):
            self.add_callback(callback)
        if self.is_fsdp_enabled:
            if self.ema is not None or has_lora(model):
                raise ValueError("FSDP shards the weights that `ema_decay` and `lora` need whole: leave them out.")
            speech = model.speech_transformer if model.speech_decoder is None else model.speech_decoder
            stacks = (model.model.audio_encoder, model.model.language_model, speech)
            names = {type(layer).__name__ for stack in stacks for layer in stack.layers}
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(names)

    @property
    def flow_omni(self) -> Model:
        """The model without the wrappers of DDP and FSDP."""
        return self.accelerator.unwrap_model(self.model)

    def get_train_dataloader(self) -> DataLoader:
        if isinstance(self.train_dataset, StreamedBatches):
            # each process batches its own part of the stream; a worker without a part would have nothing to do
            num_workers = min(self.args.dataloader_num_workers, self.train_dataset.rows.num_shards)
            return DataLoader(self.train_dataset, batch_size=None, num_workers=num_workers)
        return self._length_batches(self.train_dataset) or super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._length_batches(dataset, shuffle=False) or super().get_eval_dataloader(eval_dataset)

    def _length_batches(self, dataset: Any, shuffle: bool = True) -> DataLoader | None:
        if not isinstance(dataset, ExampleDataset):
            return None
        args = self.args
        sampler = LengthBatchSampler(dataset, args.max_positions_per_batch, args.world_size, shuffle)
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's, with groups of their own for the new modules if these have a learning rate."""
        optimizer, rate = super().create_optimizer(model), self.args.new_module_learning_rate
        if rate is not None:
            prefixes = tuple(prefix for name in NEW_MODULES for prefix in MODULE_GROUPS[name])
            new = {parameter for name, parameter in self.flow_omni.named_parameters() if name.startswith(prefixes)}
            set_learning_rate(optimizer, new, rate)
        return optimizer

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The batches of the next optimizer step. Their targets are counted here, over all processes."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            counts = torch.stack([count_targets(batch, self.flow_omni) for batch in batches]).sum(dim=0)
            self.num_targets = self.sum_over_processes(counts)
        return batches, num_items

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **kwargs: Any):
        """
        The weighted sum of the losses. In training each is a mean over its targets in all micro-batches and processes of
        the optimizer step: a mean of means would weigh a target more the fewer others its batch has.
        """
        inputs, config = dict(inputs), self.flow_omni.config
        ids, skipped = inputs.pop("ids", None), inputs.pop("skipped", ())
        counts = total = count_targets(inputs, self.flow_omni)
        if model.training:
            inputs = self._without_frozen_losses(inputs)
        if "teacher_input_ids" in inputs:
            inputs["teacher_logits"] = self._teacher_logits(inputs)
        if model.training:
            self._check_skipped(ids or (), skipped)
            if self.args.scheduled_sampling > 0 and "mel_labels" in inputs:
                inputs |= self._sampled_inputs(inputs)
            if self.num_targets is not None:
                total = self.num_targets / self.args.world_size  # DDP takes the mean over processes
        outputs = model(**inputs)
        losses = {name: outputs[name] for name in LOSSES if outputs.get(name) is not None}
        shares = dict(zip(LOSSES, torch.where(total > 0, counts / total, 0.0).tolist()))
        loss = sum(getattr(config, f"{name}_weight") * shares[name] * value for name, value in losses.items())
        self.add_losses(loss, losses, dict(zip(LOSSES, counts.tolist())), ids)
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _teacher_logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        """What the language model scores at the text targets when it reads the transcripts instead of the audio."""
        model, names = self.flow_omni, ("input_ids", "attention_mask", "labels")
        input_ids, attention_mask, labels = (inputs.pop(f"teacher_{name}") for name in names)
        output = model.model.language_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return text_logits(model.lm_head, output.last_hidden_state, labels)[0]

    def _without_frozen_losses(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """
        Beside a speech decoder that trains alone: the inputs without the labels of text and audio, whose losses reach
        nothing that trains, so that the language model runs only where its hidden states are read.
        """
        model = self.flow_omni
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        is_alone = all(name.startswith(MODULE_GROUPS["speech_decoder"]) for name in trained)
        if model.speech_decoder is None or not is_alone or "mel_labels" not in inputs:
            return inputs
        labels = ("labels", "audio_labels", "letter_labels", "teacher_")
        return {name: value for name, value in inputs.items() if not name.startswith(labels)}

    def _sampled_inputs(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """
        Scheduled sampling: the previous patches, some of them predicted by the model from the true ones; and beside a
        speech decoder that trains alone the hidden states of the language model, which need not run again.
        """
        model, states = self.flow_omni, inputs["speech_states"]
        with torch.no_grad():
            targets = shift_patches(model.prepare_patches(inputs["mel_labels"], states))
            outputs = model(**inputs, use_cache=False)
            predicted = shift_patches(model.predict_patches(outputs.condition, states)).to(targets)
        # the weights that autocast has cast without a graph must not serve the pass with one
        torch.clear_autocast_cache()
        fraction = torch.rand(len(targets), 1, 1, device=targets.device) * self.args.scheduled_sampling
        is_predicted = torch.rand(*targets.shape[:2], 1, device=targets.device) < fraction
        sampled = {"previous_patches": torch.where(is_predicted, predicted, targets)}
        if model.speech_decoder is not None and "labels" not in inputs and outputs.last_hidden_state is not None:
            sampled["text_hidden_states"] = outputs.last_hidden_state
        return sampled

    def _check_skipped(self, ids: Sequence[str], skipped: Sequence[str]) -> None:
        """Counts the rows whose audio turned out to be broken when it was decoded."""
        self.num_rows += len(ids) + len(skipped)
        self.skipped.update(skipped)
        is_stream = isinstance(self.train_dataset, StreamedBatches)
        num_rows = max(self.num_rows, self.train_dataset.window) if is_stream else len(self.train_dataset)
        limit = getattr(self.train_dataset, "max_skipped_fraction", 1.0)
        if self.skipped and len(self.skipped) > max(1, limit * num_rows):
            raise ValueError(f"Too many rows could not be read, see `max_skipped_fraction`: {', '.join(self.skipped)}")

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.skipped and "loss" in logs:
            logs["skipped_rows"] = len(self.skipped)
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any):
        """
        The Trainer's, with the averaged weights if there are, losses as means over all targets, and metrics of generated
        answers. Its random numbers are the same at each evaluation, and training continues as if there had been none.
        """
        training_losses, self.losses = self.losses, LossMeans(LOSSES)
        devices = [] if self.args.device.type == "cpu" else [self.args.device]
        with torch.random.fork_rng(devices), self._averaged_weights():
            torch.manual_seed(self.args.seed + self.args.process_index)
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            generated = {}
            if self.generation_metrics is not None:
                generated = self.generation_metrics(self.flow_omni, self.state.global_step, self)
        means, self.losses = self.losses.pop_means(self.sum_over_processes), training_losses
        if means:
            config = self.flow_omni.config
            means["loss"] = sum(getattr(config, f"{name}_weight") * mean for name, mean in means.items())
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in (means | generated).items()})
        return output

    def _averaged_weights(self):
        return self.ema.applied_to(self.flow_omni) if self.ema is not None and self.ema.averages else nullcontext()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The Trainer's. A checkpoint holds the weights to continue with, a final model their average if there is one."""
        is_checkpoint = Path(output_dir or "").name.startswith(PREFIX_CHECKPOINT_DIR)
        model, wrapped = self.flow_omni, type(self.flow_omni)
        if self.is_fsdp_enabled:
            model.__class__ = wrapped.__bases__[-1]  # FSDP makes a class of its own, whose code would be saved
        with nullcontext() if is_checkpoint else self._averaged_weights():
            super().save_model(output_dir, _internal_call)
        model.__class__ = wrapped
        if is_checkpoint and self.ema is not None and self.args.should_save:
            self.ema.save(Path(output_dir))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raises instead: a run that continues with some fresh weights is not the same run."""
        missing = set(load_result.missing_keys) - set(self.flow_omni.all_tied_weights_keys)
        if not any(parameter.requires_grad for parameter in self.flow_omni.model.language_model.parameters()):
            # checkpoints of an adapter do not hold the language model, which is frozen
            missing = {name for name in missing if not name.startswith(MODULE_GROUPS["language_model"])}
        if missing or load_result.unexpected_keys:
            names = sorted(missing | set(load_result.unexpected_keys))
            raise ValueError(
                f"The checkpoint does not fit the model: {len(names)} weights are missing or unexpected, such as {names[0]}. "
                "Resume with the model and the LoRA options of the run, or use `--fresh`."
            )


def set_learning_rate(optimizer: torch.optim.Optimizer, parameters: set[nn.Parameter], rate: float) -> None:
    """Gives some of the optimizer's parameters a learning rate of their own."""
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if parameter in parameters]
        group["params"] = [parameter for parameter in group["params"] if parameter not in parameters]
        if moved:
            optimizer.add_param_group({**group, "params": moved, "lr": rate})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def freeze(model: Model, trainable_modules: Sequence[str]) -> None:
    """Sets `requires_grad` of every parameter by its group. Of a language model with LoRA, the adapters alone are trained."""
    trained = tuple(prefix for name in trainable_modules for prefix in MODULE_GROUPS[name])
    frozen = ["model.audio_encoder.embed_positions."]  # fixed sinusoids
    if model.config.speech_config.condition_dropout == 0:
        frozen.append("speech_head.empty_condition")  # not used, which DDP would wait for
    is_adapted = has_lora(model)
    for name, parameter in model.named_parameters():
        is_trained = name.startswith(trained) and not name.startswith(tuple(frozen))
        if is_adapted and name.startswith(MODULE_GROUPS["language_model"]):
            is_trained = ".lora_" in name
        parameter.requires_grad_(is_trained)


def has_lora(model: nn.Module) -> bool:
    return any(".lora_" in name for name, _ in model.named_parameters())


def count_targets(batch: Mapping[str, torch.Tensor], model: Model) -> torch.Tensor:
    """
    What each of `LOSSES` is a mean over: text tokens (twice), weights of the states, patches (twice), tokens and letters
    of transcripts, decisions whether a word is due: (8,)
    """
    counts = torch.zeros(len(LOSSES), dtype=torch.float64)
    names = ("labels", "state_labels", "audio_labels", "letter_labels")
    is_target = {name: batch[name] != IGNORE_INDEX for name in names if name in batch}
    if "labels" in batch:
        counts[0] = is_target["labels"][:, 1:].sum()
    if "teacher_labels" in batch:
        counts[1] = (batch["teacher_labels"][:, 1:] != IGNORE_INDEX).sum()
    if "state_labels" in batch:
        weights = torch.tensor(model.config.state_class_weights, dtype=torch.float64)
        counts[2] = weights[batch["state_labels"][:, 1:][is_target["state_labels"][:, 1:]].cpu()].sum()
    if "mel_labels" in batch:
        # the row of silence that fills up a batch has states but no state labels
        is_patch = batch["speech_states"] == model.config.generating_state_id
        counts[3:5] = (is_patch & is_target.get("state_labels", is_patch)).sum()
    for index, name in ((5, "audio_labels"), (6, "letter_labels")):
        if name in batch:
            counts[index] = is_target[name].sum()
    if "byte_steps" in batch and "state_labels" in batch:
        counts[7] = (advance_labels(batch["byte_steps"], batch["state_labels"]) != IGNORE_INDEX).sum()
    return counts


class LossMeans:
    """Losses as means over their targets, between two entries of the log."""

    def __init__(self, names: Sequence[str]):
        self.names, self.sums = names, torch.zeros(2, len(names), dtype=torch.float64)

    def add(self, losses: Mapping[str, torch.Tensor], counts: Mapping[str, float]) -> None:
        for index, name in enumerate(self.names):
            if name in losses and counts[name] > 0:
                self.sums[0, index] += losses[name].item() * counts[name]
                self.sums[1, index] += counts[name]

    def pop_means(self, sum_over_processes: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        sums, counts = sum_over_processes(self.sums).tolist()
        self.sums = torch.zeros_like(self.sums)
        return {name: total / count for name, total, count in zip(self.names, sums, counts) if count > 0}


def publish(staged: Path, final: Path) -> None:
    """Renames a complete file or folder, after its content has reached the disk."""
    for path in (*staged.rglob("*"), staged) if staged.is_dir() else (staged,):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    os.replace(staged, final)


def discard(folder: Path, staging: Path) -> None:
    """Removes a checkpoint from view at once, and then its files."""
    if folder.exists():
        os.replace(folder, staging / f"removed-{folder.name}")
        shutil.rmtree(staging / f"removed-{folder.name}", ignore_errors=True)


def save_final(trainer: Trainer, model: Any = None) -> None:
    """Saves the trained model and its processor to `output_dir`; each file appears when it is complete."""
    folder = Path(trainer.args.output_dir)
    staged = folder / STAGING / "final"
    if trainer.args.should_save:
        shutil.rmtree(staged, ignore_errors=True)
    if model is None:
        trainer.save_model(os.fspath(staged), _internal_call=True)
    if trainer.args.should_save:
        for part in () if model is None else (model, trainer.processing_class):
            if part is not None:
                part.save_pretrained(staged)
        for path in sorted(staged.rglob("*")):
            if path.is_file():
                (folder / path.relative_to(staged)).parent.mkdir(parents=True, exist_ok=True)
                publish(path, folder / path.relative_to(staged))
        shutil.rmtree(folder / STAGING, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
