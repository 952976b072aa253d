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
The mean of the weights of models that were trained on from one another: it can have the better of each.

    python -m flow_omni.training.averaging runs/before runs/after runs/mean --share 1 --share 2
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from ..processing.processing_flow_omni import FlowOmniProcessor


# Patches are in its units, and so are all weights that read or make them. A run measures bands that were silent anew, which
# moved those of the bundled model by .001.
SCALE, SAME_SCALE = "mel_normalizer.", 0.005


def average(models: Iterable[FlowOmniForSpeechGeneration], shares: Sequence[float]) -> FlowOmniForSpeechGeneration:
    """The last model, with its own scale and the mean of all weights, each as much of it as its share says."""
    first, mean, total = None, {}, sum(shares)
    for model, share in zip(models, shares, strict=True):
        weights = model.state_dict()
        form = {name: weight.clone() if name.startswith(SCALE) else weight.shape for name, weight in weights.items()}
        first = first or form
        _check_same_form(first, form)
        for name, weight in weights.items():
            if not name.startswith(SCALE):
                mean[name] = mean.get(name, 0.0) + weight.float() * (share / total)
    model.load_state_dict(mean, strict=False)
    return model


def _check_same_form(first: dict[str, torch.Size | torch.Tensor], other: dict[str, torch.Size | torch.Tensor]) -> None:
    for name in sorted(first.keys() | other.keys()):
        ours, theirs = first.get(name), other.get(name)
        if name.startswith(SCALE) and ours is not None and theirs is not None:
            if not torch.allclose(ours, theirs, rtol=0.0, atol=SAME_SCALE):
                raise ValueError(
                    f"`{name}` is not the same in all models: one of them has measured its mel anew, and weights in two scales "
                    "have no mean. Train on from one checkpoint with the scale that it has."
                )
        elif ours != theirs:
            raise ValueError(
                f"`{name}` is {_told(ours)} in one model and {_told(theirs)} in another: a mean is of models of the same form, "
                "trained on from one another."
            )


def _told(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(tuple(shape))


def main(
    folders: Annotated[
        list[Path], typer.Argument(help="The models, and last the folder to create.", show_default=False)
    ],
    shares: Annotated[
        list[float] | None,
        typer.Option("--share", help="How much of each model, in their order.", show_default="as much of each"),
    ] = None,
):
    """Write the mean of several models."""
    *sources, output = folders
    shares = shares or [1.0] * len(sources)
    if len(sources) < 2 or len(shares) != len(sources) or min(shares) < 0 or not 0 < sum(shares) < math.inf:
        raise typer.BadParameter(
            f"{len(sources)} models with the shares {', '.join(f'{share:g}' for share in shares)} cannot be averaged: name two "
            "models or more, then the folder to create, and no `--share` or one for each model, none below 0 and not all 0."
        )
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise typer.BadParameter(f"'{output}' is there already, and not empty: name last a folder to create.")
    try:
        mean = average((_loaded(folder) for folder in sources), shares)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    # the weights come last: where they are, all is
    FlowOmniProcessor.from_pretrained(sources[-1]).save_pretrained(output)
    mean.save_pretrained(output)


def _loaded(folder: Path) -> FlowOmniForSpeechGeneration:
    if not folder.is_dir():
        raise ValueError(f"There is no folder '{folder}': name folders of models, such as `flow-omni train` writes.")
    return FlowOmniForSpeechGeneration.from_pretrained(folder, dtype="float32")


if __name__ == "__main__":
    typer.run(main)
