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
"""The arguments of the Trainer: those of transformers, with what this model needs as defaults, and a few more."""

from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import get_int_from_env
from transformers import TrainingArguments

from .stages import STAGES


@dataclass
class FlowOmniTrainingArguments(TrainingArguments):
    r"""
    [`~transformers.TrainingArguments`], and:

    Args:
        stage (`str`, *optional*):
            `"align"`, `"finetune"`, `"understand"`, `"listen"` or `"speak"`: what trains. `None` leaves it as the parameters'
            `requires_grad` says.
        new_parts_learning_rate (`float`, *optional*):
            Learning rate of the adapter, the speech transformer and the heads, which begin at random; `learning_rate` is then
            that of the language model and the encoder. `None` gives all the same.
        muon (`bool`, *optional*, defaults to `False`):
            Trains the matrices inside the model by Muon, and the rest by AdamW, unless the Trainer is given another optimizer.
            Steps take longer, and each goes further. Torch has it from 2.9 on.
        ema_decay (`float`, *optional*):
            Keeps a moving average of the weights, for example with 0.999; evaluation and the final model use it.
        mel_statistics_batches (`int`, *optional*, defaults to 200):
            Batches over which the mel statistics are measured before the first step, unless the model has some; of one that
            has, only those of bands that were silent so far. 0 leaves all as they are.
        stop_on_nan (`bool`, *optional*, defaults to `True`):
            Whether a loss or gradient that is not finite stops the run, with the batch saved.
    """

    stage: str | None = field(default=None, metadata={"help": f"What trains: {', '.join(STAGES)}."})
    new_parts_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of what no pretrained model has brought."}
    )
    muon: bool = field(default=False, metadata={"help": "Train matrices by Muon, and the rest by AdamW."})
    ema_decay: float | None = field(default=None, metadata={"help": "Decay of the moving average of the weights."})
    mel_statistics_batches: int = field(default=200, metadata={"help": "Batches to measure the mel statistics on."})
    stop_on_nan: bool = field(default=True, metadata={"help": "Stop where the loss is not finite."})

    # The collator makes the model's inputs: there are no columns to remove.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep as it is."})
    # All rows have text labels. Of those that the Trainer would find by itself, text answers have no `mel_labels`, and it
    # would take their batches for unlabelled.
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Keep as it is."})
    # Logits of all steps of all batches would fill the memory, for metrics that need generation anyway.
    prediction_loss_only: bool = field(default=True, metadata={"help": "Keep as it is."})
    # `stop_on_nan` looks at every loss; the filter would hide it behind the mean of those before.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    # Every batch reaches every module (`unused_modules.py`), so that DDP need not look for those it does not.
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Keep as it is."})

    def __post_init__(self):
        if not torch.accelerator.is_available():
            # else a recipe that says `bf16` would be refused on a CPU, which can do it well
            self.use_cpu = True
        if self.use_cpu and self.ddp_backend is None and num_processes_launched() > 1:
            # a process by itself would wait for others if it were told how to talk to them
            self.ddp_backend = "gloo"
        super().__post_init__()
        if self.accelerator_config.dispatch_batches is None:
            # A stream of examples: each process makes its own batches. One that makes them for all cuts them in pieces, and ours,
            # whose tensors have as many rows as they have sounds, cannot be cut.
            self.accelerator_config.dispatch_batches = False
        if self.n_gpu > 1:
            raise ValueError(
                f"This one process sees {self.n_gpu} GPUs, and would cut each batch in as many pieces, which parts questions from their "
                f"sound. Start a process for each: `accelerate launch --num_processes {self.n_gpu} -m flow_omni.training …`, or let it "
                "see one: `CUDA_VISIBLE_DEVICES=0`."
            )
        if self.stage is not None and self.stage not in STAGES:
            raise ValueError(f"`stage` is {self.stage!r}: it must be one of {', '.join(map(repr, STAGES))}, or None.")
        if self.new_parts_learning_rate is not None and self.new_parts_learning_rate <= 0:
            raise ValueError(
                f"`new_parts_learning_rate` is {self.new_parts_learning_rate}: it must be positive, or None for `learning_rate`."
            )
        if self.muon:
            self._check_muon()
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` is {self.ema_decay}: it must lie between 0 and 1, for example 0.999.")
        if self.mel_statistics_batches < 0:
            raise ValueError(
                f"`mel_statistics_batches` is {self.mel_statistics_batches}: it must be a number of batches, 0 or more."
            )

    def _check_muon(self) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"torch {torch.__version__} has no Muon: install 2.9 or newer, or leave `muon` out.")
        if self.optim_args is not None or self.optim != type(self).optim:
            raise ValueError(
                f"`muon` brings an AdamW of its own, and `optim` is {str(self.optim.value)!r}, `optim_args` {self.optim_args!r}: "
                "leave either `muon` or these out."
            )

    def loader_options(self) -> dict[str, Any]:
        """Who makes the batches of this process, and how far ahead, as `BatchOptions` has it."""
        options = {"num_workers": self.dataloader_num_workers}
        if self.dataloader_prefetch_factor is not None:
            options["prefetch_factor"] = self.dataloader_prefetch_factor
        return options | {"pin_memory": self.dataloader_pin_memory and self.device.type == "cuda"}


def num_processes_launched() -> int:
    """How many processes a launcher (torchrun, accelerate, MPI) has started, by what it tells them; 1 without any."""
    return get_int_from_env(["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"], 1)
