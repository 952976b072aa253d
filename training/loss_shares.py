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
"""Means over a whole optimizer step: what one big batch would give, however many small batches and processes it is cut into."""

from collections.abc import Mapping, Sequence

import torch

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from ..modeling_flow_omni.modeling_flow_omni import IGNORE_INDEX as IGNORED


# The parts of the loss, as the model's output and its config (with `_weight`) name them.
PARTS = ("text_loss", "state_loss", "speech_loss", "auxiliary_loss", "ctc_loss")


def count_targets(batch: Mapping[str, torch.Tensor], config: FlowOmniConfig) -> torch.Tensor:
    """
    By what each part of the loss of a batch is divided: text tokens, the weights of the speech states, and (for both
    losses of speech) patches, and the tokens of transcripts: (5,)
    """
    counts = torch.zeros(len(PARTS), dtype=torch.float64)
    if "labels" in batch:
        counts[0] = (batch["labels"][:, 1:] != IGNORED).sum()
    if "state_labels" in batch:
        targets = batch["state_labels"][:, 1:].flatten()
        weights = torch.tensor(config.state_class_weights, dtype=torch.float64)
        counts[1] = weights[targets[targets != IGNORED].cpu()].sum()
    if "mel_labels" in batch:
        counts[2:4] = (batch["speech_states"] == config.generating_state_id).sum()
    if "audio_labels" in batch:
        counts[4] = (batch["audio_labels"] != IGNORED).sum()
    return counts


def shares_of(counts: Sequence[torch.Tensor], total: torch.Tensor, num_processes: int) -> list[torch.Tensor]:
    """
    The factors (5,) of the losses of each batch of a step, of which `counts` (5,) tells the targets and `total` (5,) those
    of all batches of all processes: with them the mean over batches and processes, which the Trainer and DDP take, is the
    mean over all targets. A mean of means would give a token in a batch of few more weight than one in a batch of many.
    """
    num_batches = len(counts) * num_processes
    return [torch.where(total > 0, count * num_batches / total.clamp(min=1e-12), 0.0) for count in counts]


def loss_of_parts(outputs: Mapping[str, torch.Tensor], config: FlowOmniConfig, shares: torch.Tensor) -> torch.Tensor:
    """The weighted sum of the parts of the loss, each multiplied by its share."""
    terms = [
        getattr(config, f"{name}_weight") * share * outputs[name]
        for name, share in zip(PARTS, shares.tolist())
        if outputs.get(name) is not None
    ]
    if not terms:
        raise ValueError(
            f"The batch has no targets: the model returned none of {', '.join(PARTS)}. Pass `labels`, `state_labels` or "
            "`mel_labels`."
        )
    return torch.stack(terms).sum()


class LossParts:
    """The parts of the loss, averaged over their targets between two reports."""

    def __init__(self):
        self.sums = self.counts = None
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(len(PARTS), dtype=torch.float64)
        self.counts = torch.zeros(len(PARTS), dtype=torch.float64)

    def add(self, outputs: Mapping[str, torch.Tensor], counts: torch.Tensor) -> None:
        losses = [outputs[name].detach() if outputs.get(name) is not None else torch.tensor(0.0) for name in PARTS]
        losses = torch.stack([loss.to("cpu", torch.float64) for loss in losses])
        # a loss without targets may be anything; it counts for nothing
        self.sums += torch.where(counts > 0, losses * counts, 0.0)
        self.counts += counts

    def means(self, reduce=lambda tensor: tensor) -> dict[str, float]:
        """The means of the parts that had targets, after `reduce` has summed sums and counts over all processes."""
        sums, counts = reduce(torch.stack([self.sums, self.counts])).unbind()
        return {name: float(sum_ / count) for name, sum_, count in zip(PARTS, sums, counts) if count > 0}
