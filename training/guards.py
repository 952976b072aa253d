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
"""A loss that is no number stops the run before it reaches the weights, and leaves what brought it about for a look."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .checkpoints import NOT_WRITTEN, last_checkpoint


class TrainingDivergedError(RuntimeError):
    """The loss or the gradient was not finite. The message names the rows and the file with the batch."""


def diverged(
    loss: torch.Tensor,
    batch: Mapping[str, torch.Tensor],
    losses: Mapping[str, torch.Tensor],
    row_ids: Sequence[str] | None,
    step: int,
    folder: Path,
) -> TrainingDivergedError:
    """Saves the batch whose loss is not finite to `folder`, and makes the error that tells of it."""
    value, losses = loss.item(), {name: part.item() for name, part in losses.items()}
    saved = _saved_in_words(batch, {"step": step, "loss": value, **losses, "rows": row_ids}, folder)
    culprits = inputs_that_are_not_finite(batch)
    if culprits:
        remedy = f"Its {', '.join(culprits)} hold values that are not finite: take these rows out of the data."
    else:
        remedy = (
            "Its inputs are finite, so the weights or the learning rate are at fault: resume from an earlier checkpoint with a "
            "lower `learning_rate`, more `warmup_steps` or a lower `max_grad_norm`."
        )
    num_rows = next(len(tensor) for tensor in batch.values())
    rows = f" of the rows {', '.join(map(str, row_ids))}" if row_ids else f" of {num_rows} rows"
    return TrainingDivergedError(
        f"The loss at step {step} is {value}{_in_words(losses)}. The batch{rows} {saved}. {remedy} "
        f"The step was not taken. {_left_in(folder.parent)}"
    )


def _saved_in_words(batch: Mapping[str, torch.Tensor], facts: Mapping[str, Any], folder: Path) -> str:
    """Saves a batch. A disk that has no room for it must not hide what is wrong with it."""
    try:
        return f"was saved to '{save_batch(batch, facts, folder)}'"
    except NOT_WRITTEN as error:
        shutil.rmtree(folder, ignore_errors=True)
        return f"could not be saved ({type(error).__name__}: {error})"


def _left_in(run_folder: Path) -> str:
    last = last_checkpoint(run_folder)
    return f"'{last}' is whole." if last else "There is no checkpoint yet, so the run begins anew."


def check_finite_gradient(norm: Any, step: int) -> None:
    """Raises [`TrainingDivergedError`] where the norm of the gradient is not finite: the next weights would not be."""
    if norm is None or torch.isfinite(torch.as_tensor(float(norm))):
        return
    raise TrainingDivergedError(
        f"The norm of the gradient at step {step} is {float(norm)} though the loss was finite: the step was not taken. Resume "
        "from the last checkpoint with a lower `learning_rate`, or in bf16 or fp32 if this was fp16."
    )


def save_batch(batch: Mapping[str, torch.Tensor], facts: Mapping[str, Any], folder: Path) -> Path:
    """Writes the tensors of a batch, and what is known of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "batch.pt"
    torch.save({name: tensor.cpu() for name, tensor in batch.items() if isinstance(tensor, torch.Tensor)}, path)
    (folder / "facts.json").write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")
    return path


def inputs_that_are_not_finite(batch: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        f"`{name}`"
        for name, tensor in batch.items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]


def _in_words(losses: Mapping[str, float]) -> str:
    return f" ({', '.join(f'{name} {value:g}' for name, value in losses.items())})" if losses else ""
