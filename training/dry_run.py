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
"""What a run would train, on how much data, for how long, and in how much memory: told before it begins."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from .batches import Batches
from .lora import named_parameters_in_use
from .muon import inner_matrices
from .stages import count_parameters


# The parts of the model in the order in which speech passes through it, by the names of their modules.
PARTS = {
    "Whisper encoder": "model.audio_encoder",
    "adapter": "model.audio_adapter",
    "language model": "model.language_model",
    "state embedding": "model.state_embedding",
    "patch projection": "model.patch_proj",
    "text head": "lm_head",
    "speech transformer": "speech_transformer",
    "state head": "state_head",
    "speech head": "speech_head",
    "vocoder": "vocoder",
}
GIB = 2**30


def describe_parameters(model: nn.Module) -> str:
    """
    A table of the parts: parameters that train, and that do not. Weights that are shared count once, and those that peft
    keeps aside unchanged, of what it trains a copy of, not at all.
    """
    rows, counted = [("part", "trained", "frozen")], set()
    for part, (trained, frozen) in parameters_of_parts(model, counted).items():
        rows.append((part, f"{trained:,}", f"{frozen:,}"))
    trained = sum(parameter.numel() for parameter in _in_use(model) if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in _in_use(model)) - trained
    rows.append(("all", f"{trained:,}", f"{frozen:,}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        f"{part:<{widths[0]}}  {trained:>{widths[1]}}  {frozen:>{widths[2]}}" for part, trained, frozen in rows
    )


def _in_use(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for _, parameter in named_parameters_in_use(module)]


def parameters_of_parts(model: nn.Module, counted: set[int]) -> Mapping[str, tuple[int, int]]:
    """For each part the numbers of its trained and frozen parameters."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    parts = {}
    for part, name in PARTS.items():
        module = base
        for step in name.split("."):
            module = getattr(module, step, None)
        if module is None:
            continue
        trained = frozen = 0
        for parameter in _in_use(module):
            if id(parameter) in counted:
                continue
            counted.add(id(parameter))
            trained += parameter.numel() * parameter.requires_grad
            frozen += parameter.numel() * (not parameter.requires_grad)
        parts[part] = (trained, frozen)
    return parts


def describe_data(batches: Batches) -> str:
    """Rows, tasks, batches and padding of an epoch, from the lengths alone; of a stream, nothing is known."""
    if not hasattr(batches, "plan"):
        return "rows: a stream, which is not counted"
    plan = batches.plan()
    num_rows = sum(map(len, plan))
    is_mixed = getattr(batches.rows, "mix", None) is not None
    used = f"from which {num_rows:,} are drawn in" if is_mixed else f"of which {num_rows:,} are used in"
    hours = {side: recorded_hours(batches.rows, side) for side in ("question", "answer")}
    return "\n".join(
        [
            f"rows: {len(batches.rows):,}, {used} an epoch",
            f"speech: {hours['question']} of questions, {hours['answer']} of answers",
            f"batches: {len(plan):,} in an epoch, {num_rows / len(plan):.1f} rows each on average",
        ]
    )


def recorded_hours(rows: Any, side: str) -> str:
    """Hours of recorded questions, or of recorded answers; and how many cannot be read, which a training skips."""
    from .lengths import audio_seconds
    from .rows import has

    seconds, num_broken = 0.0, 0
    for row in rows:
        if not has(row, f"{side}_audio"):
            continue
        try:
            seconds += audio_seconds(row, side)
        except (ValueError, TypeError, OSError, RuntimeError):
            num_broken += 1
    return f"{seconds / 3600:.2f} h" + (f" (without {num_broken:,} that cannot be read)" if num_broken else "")


def describe_steps(args: Any, batches: Batches) -> str:
    """Optimizer steps, and what one of them sees."""
    lines = [f"optimizer steps: {args.max_steps:,}"]
    if hasattr(batches, "plan"):
        epochs = args.max_steps * args.gradient_accumulation_steps / len(batches)
        lines[0] += f", {epochs:.2f} epochs"
    steps = batches.options.max_steps_per_batch
    total = steps * args.gradient_accumulation_steps * args.world_size
    lines.append(
        f"each sees at most {total:,} steps of sequences: {steps:,} in a batch, {args.gradient_accumulation_steps} batches, "
        f"{args.world_size} processes"
    )
    num_warmup_steps = args.get_warmup_steps(args.max_steps)
    if num_warmup_steps > args.max_steps / 2:
        lines.append(
            f"warning: the learning rate still rises for {num_warmup_steps:,} steps, more than half of all. Set "
            "`training.warmup_steps=0.03`, a share, or train for more epochs"
        )
    return "\n".join(lines)


def estimate_memory(
    model: nn.Module, args: Any, batch: Mapping[str, Any], max_steps: int | None = None, num_shards: int = 1
) -> dict[str, float]:
    """
    Bytes that a process needs: weights, gradients, the moments of the optimizer, the average if one is kept, and what a batch
    leaves behind for the backward pass. The last is measured on one batch, and scaled up to a full one of `max_steps` if that
    is given. DDP needs no more: its buckets are where the gradients lie. FSDP divides all that has to do with weights among
    `num_shards` processes, and brings only the layer at work together, in the precision that it works in.
    """
    # those that peft keeps aside are not in use, but in memory
    trained, frozen = count_parameters(model)
    size = next(model.parameters()).element_size()
    memory = {
        "weights": (trained + frozen) * size,
        "gradients": trained * size,
        "optimizer": _optimizer_bytes(model, args, trained),
    }
    if getattr(args, "ema_decay", None) is not None:
        memory["average"] = trained * 4
    memory = {name: num_bytes / num_shards for name, num_bytes in memory.items()}
    with _checkpointing(model, args):
        kept = kept_for_backward(model, batch, args.bf16)
    if kept["weights in bf16"] and num_shards == 1:
        memory["weights in bf16"] = kept["weights in bf16"]
    scale = 1.0 if max_steps is None else max_steps / _num_steps(batch)
    memory["activations"] = kept["activations"] * scale
    return memory


def _optimizer_bytes(model: nn.Module, args: Any, num_trained: int) -> int:
    """Adam has two moments of each weight, Muon one of those that it trains."""
    if "adam" not in str(args.optim).lower():
        return 0
    matrices = inner_matrices(model) if getattr(args, "muon", False) else []
    return 8 * num_trained - 4 * sum(weight.numel() for weight in matrices if weight.requires_grad)


def _num_steps(batch: Mapping[str, Any]) -> int:
    """Steps in all sequences of a batch, padding included; where all is heard and nothing written, those of the encoder."""
    if "input_ids" in batch:
        return batch["input_ids"].numel()
    num_rows, _, num_frames = batch["input_features"].shape
    return num_rows * num_frames // 2


@contextmanager
def _checkpointing(model: nn.Module, args: Any) -> Iterator[None]:
    """Within it activations are checkpointed if the Trainer will do that: it only turns it on as it begins to train."""
    if not args.activation_checkpointing:
        yield
        return
    options = dict(args.activation_checkpointing_kwargs or {})
    # where activations wait is nothing that is counted here
    options.pop("offload", None)
    every_n_layers = options.pop("every_n_layers", 1)
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs=options or None, every_n_layers=every_n_layers
    )
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


def kept_for_backward(model: nn.Module, batch: Mapping[str, Any], is_bf16: bool = False) -> dict[str, int]:
    """
    Bytes that a forward pass keeps for the backward pass beside the weights: `activations`, which grow with the batch, and the
    `weights in bf16` that autocast made copies of, which do not.
    """
    weights = {_storage(parameter) for parameter in model.parameters()}
    copies, kept = _Copies(weights), {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in weights:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    was_training = model.training
    device = next(model.parameters()).device
    batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        copies,
    ):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16):
            model.train()(**batch)
    model.train(was_training)
    num_bytes = {"weights in bf16": 0, "activations": 0}
    for storage, size in kept.items():
        num_bytes["weights in bf16" if storage in copies.found else "activations"] += size
    return num_bytes


def _storage(tensor: torch.Tensor) -> StorageWeakRef:
    """What tensors that share memory have in common. Unlike an address it is never another's, once that has been freed."""
    return StorageWeakRef(tensor.untyped_storage())


class _Copies(TorchDispatchMode):
    """Within it the storages are found that weights are copied to in another precision."""

    def __init__(self, weights: set[StorageWeakRef]):
        super().__init__()
        self.weights, self.found = weights, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and _storage(args[0]) in self.weights:
            self.found.add(_storage(result))
        return result


def describe_memory(trainer: Any, batch: Mapping[str, Any], max_steps: int | None = None) -> str:
    """The estimate of a run in one line."""
    num_shards = trainer.args.world_size if trainer.is_fsdp_enabled else 1
    memory = estimate_memory(trainer.model, trainer.args, batch, max_steps, num_shards)
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in memory.items())
    return f"memory of a process: about {sum(memory.values()) / GIB:.2f} GiB ({parts})"


def describe(run: Any) -> str:
    """All of it."""
    batch = next(iter(run.train_batches))
    return "\n\n".join(
        [
            f"stage {run.recipe.stage} of {run.recipe.model}",
            describe_parameters(run.trainer.model),
            describe_data(run.train_batches),
            describe_steps(run.args, run.train_batches),
            describe_memory(run.trainer, batch, run.train_batches.options.max_steps_per_batch),
        ]
    )
