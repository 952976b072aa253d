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
"""
The mean of the weights of models that were trained on from one another: often better than each.

    python -m flow_omni.training.averaging runs/before runs/after runs/mean --share 1 --share 2
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from ..processing.processing_flow_omni import FlowOmniProcessor


def average(models: Iterable[FlowOmniForSpeechGeneration], shares: Sequence[float]) -> FlowOmniForSpeechGeneration:
    """The last model with the mean of all their weights, each as often as its share says. Only two are held at a time."""
    total, mean, model = sum(shares), {}, None
    for index, (model, share) in enumerate(zip(models, shares)):
        weights = model.state_dict()
        if index > 0:
            _check_same_form(mean, weights)
        for name, weight in weights.items():
            mean[name] = mean.get(name, 0.0) + weight.double() * (share / total)
    model.load_state_dict(mean)
    return model


def _check_same_form(mean: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> None:
    for name in sorted(mean.keys() | weights.keys()):
        shapes = [tuple(one[name].shape) if name in one else None for one in (mean, weights)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`{name}` is {shapes[0]} in one model and {shapes[1]} in another: a mean is of models of the same form, "
                "trained on from one another."
            )


def main(
    folders: Annotated[
        list[Path], typer.Argument(help="The models, and last the folder to create.", show_default=False)
    ],
    shares: Annotated[
        list[float] | None,
        typer.Option(
            "--share", help="How much of each model, in their order.", min=0.0, show_default="as much of each"
        ),
    ] = None,
):
    """Write the mean of several models."""
    *sources, output = folders
    shares = shares or [1.0] * len(sources)
    if len(sources) < 2 or len(shares) != len(sources) or sum(shares) == 0:
        raise typer.BadParameter(
            f"{len(sources)} models with {len(shares)} shares cannot be averaged: name two models or more, then the folder to "
            "create, and no `--share` or one for each model, of which one is above 0."
        )
    for folder in sources:
        if not folder.is_dir():
            raise typer.BadParameter(f"There is no folder '{folder}'.")
    models = (FlowOmniForSpeechGeneration.from_pretrained(folder, dtype="float32") for folder in sources)
    try:
        mean = average(models, shares)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # the weights come last: where they are, all is
    FlowOmniProcessor.from_pretrained(sources[-1]).save_pretrained(output)
    mean.save_pretrained(output)


if __name__ == "__main__":
    typer.run(main)
