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
"""A loss that is the mean over all targets of an optimizer step, whatever batches and processes they are spread over."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .batch_trainer import BatchTrainer
from .loss_shares import shares_of


class TargetMeanTrainer(BatchTrainer):
    """
    Trains a model whose loss is the mean over the targets of a batch. Subclasses say what it makes of a batch
    (`outputs_of`), and how many targets that has (`num_targets`).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # A model that takes any keyword would be told by how many targets to divide. Ours are not, and the Trainer would add
        # up the batches of a step where it has to take their mean.
        self.model_accepts_loss_kwargs = False
        self._shares: deque[float] = deque()
        self._evaluated = torch.zeros(2, dtype=torch.float64)

    def outputs_of(self, model: nn.Module, batch: Mapping[str, Any]) -> Any:
        """What the model makes of a batch, the `loss` among it."""
        raise NotImplementedError

    def num_targets(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Of how many targets the `loss` of a batch is the mean."""
        raise NotImplementedError

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The batches of the next optimizer step; what each of their losses counts for is worked out here."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            counts = torch.stack([self.num_targets(batch) for batch in batches]).double()
            total = self._sum_over_processes(counts.sum())
            self._shares = deque(share.item() for share in shares_of(counts, total, self.args.world_size))
        return batches, num_items

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **kwargs: Any):
        outputs = self.outputs_of(model, inputs)
        loss = outputs.loss
        if model.training:
            self._check_finite(loss, inputs)
            if self._shares:  # there are none outside of a training
                loss = loss * self._shares.popleft()
        else:
            num_targets = float(self.num_targets(inputs))
            self._evaluated += torch.tensor([float(loss) * num_targets, num_targets], dtype=torch.float64)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any):
        """The Trainer's, with the loss as a mean over all targets and not over batches, which depend on budget and processes."""
        self._evaluated.zero_()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        total, num_targets = self._sum_over_processes(self._evaluated).tolist()
        if num_targets:
            output.metrics[f"{metric_key_prefix}_loss"] = total / num_targets
        return output
