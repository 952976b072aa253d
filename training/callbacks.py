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
"""What happens around the optimizer steps: epochs, mel statistics, the moving average of weights, the stop on NaN."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback


EMA_FILE = "ema.safetensors"
# A band that hardly varies (silence above the voice's range) would be divided by almost nothing.
MIN_STD = 0.05
# A band is silent if it is this close to the floor and stays there; with speech in it, its std is 1 to 3.
SILENT_ABOVE_FLOOR, SILENT_STD = 1.0, 0.5


class SetEpochCallback(TrainerCallback):
    """Sets the epoch of the batch sampler, which the Trainer does not reach below the samplers that resume and shard."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        sampler = getattr(train_dataloader, "batch_sampler", None)
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(int(state.epoch or 0))


class EMACallback(TrainerCallback):
    """
    Keeps `average = decay * average + (1 - decay) * weight` of every weight that trains, in fp32 (in bf16 small changes
    round to nothing). The decay is lower in the first steps, so that the start is soon forgotten.
    """

    def __init__(self, decay: float):
        self.decay, self.num_updates, self.averages = decay, 0, {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step > 0:
            self.load(Path(args.output_dir) / f"checkpoint-{state.global_step}", model)
        else:
            self.num_updates, self.averages = 0, {name: weight.float().clone() for name, weight in _trained(model)}

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, weight in _trained(model):
            self.averages[name].lerp_(weight.float(), 1 - decay)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.load(state.best_model_checkpoint, model)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within it the model has the averages as its weights; then its own again, to the bit."""
        own = {name: weight.clone() for name, weight in _trained(model)}
        self.copy_to(model)
        try:
            yield
        finally:
            self.copy_to(model, own)

    def copy_to(self, model: nn.Module, values: Mapping[str, torch.Tensor] | None = None) -> None:
        for name, weight in _trained(model):
            weight.copy_((values or self.averages)[name])

    def save(self, folder: Path) -> None:
        metadata = {"num_updates": str(self.num_updates)}
        save_file({name: average.contiguous() for name, average in self.averages.items()}, folder / EMA_FILE, metadata)

    def load(self, folder: str | Path, model: nn.Module) -> None:
        path, weights = Path(folder) / EMA_FILE, dict(_trained(model))
        averages = load_file(path) if path.is_file() else {}
        if averages.keys() != weights.keys():
            raise ValueError(
                f"There is no `{EMA_FILE}` in '{folder}', or it averages other weights: resume with the `ema_decay` and "
                "`trainable_modules` of the run, or use `--fresh`."
            )
        self.averages = {name: average.to(weights[name].device) for name, average in averages.items()}
        with safe_open(path, framework="pt") as file:
            self.num_updates = int(file.metadata()["num_updates"])


def _trained(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad)


class TrainingDivergedError(RuntimeError):
    """The loss or the gradient was not finite."""


class StopOnNaNCallback(TrainerCallback):
    """Stops before an optimizer step with a gradient that is not finite."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        # the loss scaling of fp16 meets infinite gradients, and skips these steps itself
        if not args.fp16 and not torch.isfinite(nn.utils.get_total_norm(gradients)):
            raise TrainingDivergedError(
                f"The gradient at step {state.global_step + 1} is not finite though the loss was: the step was not taken. "
                "Resume with a lower `learning_rate`, or in bf16."
            )


def check_finite(loss: torch.Tensor, losses: Mapping[str, Any], ids: Sequence[str] | None, step: int) -> None:
    """Raises where the loss of a batch is not finite."""
    if not torch.isfinite(loss):
        parts = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
        raise TrainingDivergedError(
            f"The loss at step {step} is {loss.item()} ({parts}), in the batch of the rows {', '.join(ids or ['(no ids)'])}. The "
            "step was not taken. Look at these rows, or resume with a lower `learning_rate`."
        )


class MelStatisticsCallback(TrainerCallback):
    """
    Measures the mean and std of the mel bands over some batches before the first step, and fits the codebooks of a
    residual-VQ head. A model that has statistics keeps them, except in bands that were silent so far.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    @torch.no_grad()
    def on_train_begin(self, args, state, control, **kwargs):
        model = self.trainer.flow_omni
        normalizer, num_batches = model.mel_normalizer, args.mel_statistics_batches
        bands = bands_to_measure(normalizer)
        is_trained = any(parameter.requires_grad for parameter in model.speech_head.parameters())
        if state.global_step > 0 or not bands.any() or not is_trained:
            return
        sums = torch.zeros(3, len(normalizer.mean), dtype=torch.float64)  # the std is a difference of large sums
        for patches in self._patches(num_batches):
            frames = patches.flatten(0, 1).cpu().double().clamp(min=normalizer.config.mel_floor)
            sums += torch.stack([torch.full_like(sums[0], len(frames)), frames.sum(dim=0), frames.square().sum(dim=0)])
        count, total, squares = self.trainer.sum_over_processes(sums)
        if count[0] == 0:
            return
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=MIN_STD)
        normalizer.mean[bands], normalizer.std[bands] = mean.to(normalizer.mean)[bands], std.to(normalizer.std)[bands]
        quantizer = getattr(model.speech_head, "quantizer", None)
        if quantizer is not None and bands.all():
            patches = torch.cat([normalizer.normalize(patches).flatten(1) for patches in self._patches(num_batches)])
            quantizer.fit(patches, generator=torch.Generator().manual_seed(0))
            broadcast(quantizer.codebooks.data)  # each process has measured its own batches

    def _patches(self, num_batches: int) -> Iterator[torch.Tensor]:
        """The target patches of the first batches, read without a trace in the state of training."""
        loader, state_id = self.trainer.get_train_dataloader(), self.trainer.flow_omni.config.generating_state_id
        if loader.batch_sampler is not None:
            indices = list(islice(loader.batch_sampler, num_batches))
            options = {"collate_fn": loader.collate_fn, "num_workers": loader.num_workers}
            loader = DataLoader(loader.dataset, batch_sampler=indices, **options)
        with torch.random.fork_rng(devices=[]):
            for batch in islice(loader, num_batches):
                if "mel_labels" in batch:
                    num_patches = (batch["speech_states"] == state_id).sum(dim=-1)
                    is_patch = torch.arange(batch["mel_labels"].shape[1]) < num_patches[:, None]
                    yield batch["mel_labels"][is_patch]


def bands_to_measure(normalizer: nn.Module) -> torch.Tensor:
    """All bands of a new model; of one that has statistics, those that were silent in everything it was trained on."""
    mean, std, config = normalizer.mean, normalizer.std, normalizer.config
    if (mean == config.initial_mel_mean).all() and (std == config.initial_mel_std).all():
        return torch.ones_like(mean, dtype=torch.bool)
    return (mean < config.mel_floor + SILENT_ABOVE_FLOOR) & (std < SILENT_STD)
