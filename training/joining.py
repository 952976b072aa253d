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
Puts the ears that one run trained and the voice that another did into one model.

    python -m flow_omni.training.joining runs/listen runs/speak runs/both
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from ..processing.processing_flow_omni import FlowOmniProcessor
from .stages import EARS, VOICE


def join_sides(
    listener: FlowOmniForSpeechGeneration, speaker: FlowOmniForSpeechGeneration
) -> FlowOmniForSpeechGeneration:
    """`speaker` with the ears of `listener`. Both must come of one checkpoint: what neither trained must be the same."""
    heard, said = listener.state_dict(), speaker.state_dict()
    # a voice that trained may have measured the scale of its mel anew
    sides = (*EARS, *VOICE, "mel_normalizer.")
    other = [name for name in heard.keys() | said.keys() if not name.startswith(sides)]
    differ = [name for name in sorted(other) if not _are_equal(heard.get(name), said.get(name))]
    if differ:
        others = f", nor are {len(differ) - 1} more" if len(differ) > 1 else ""
        raise ValueError(
            f"`{differ[0]}` is not the same in both models{others}: sides are joined that were trained, with "
            "`stage=listen` and `stage=speak`, from one checkpoint."
        )
    ears = {name: weight for name, weight in heard.items() if name.startswith(EARS)}
    speaker.load_state_dict(ears, strict=False)
    return speaker


def _are_equal(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def join(
    listener: Annotated[
        Path, typer.Argument(help="What `stage=listen` made.", exists=True, file_okay=False, show_default=False)
    ],
    speaker: Annotated[
        Path, typer.Argument(help="What `stage=speak` made.", exists=True, file_okay=False, show_default=False)
    ],
    output: Annotated[Path, typer.Argument(help="The folder to create.", show_default=False)],
):
    """Join the ears of one model with the voice of another."""
    models = [FlowOmniForSpeechGeneration.from_pretrained(folder, dtype="float32") for folder in (listener, speaker)]
    try:
        joined = join_sides(*models)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # the weights come last: where they are, all is
    FlowOmniProcessor.from_pretrained(speaker).save_pretrained(output)
    joined.save_pretrained(output)


if __name__ == "__main__":
    typer.run(join)
