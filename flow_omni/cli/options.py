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
"""The options that several commands share, and what they mean to `generate`."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Mode(StrEnum):
    speech = "speech"
    text = "text"
    auto = "auto"


class DType(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


MODEL_PANEL = "Model"
ANSWER_PANEL = "Answer"
SPEECH_PANEL = "Speech"


def columns_of(options: Iterable[str]) -> dict[str, str]:
    """Our names to theirs, of `question_text=sentence` and the like."""
    columns = {}
    for option in options:
        our, _, their = map(str.strip, option.partition("="))
        if not our or not their:
            raise ValueError(f"`--columns` is {option!r}: write OURS=THEIRS, such as question_text=sentence.")
        columns[our] = their
    return columns


def _at_least(minimum: float) -> Callable[[float | None], float | None]:
    """Checks a number, and says what is wrong with it; typer's own check does not name the value in every version."""

    def check(value: float | None) -> float | None:
        if value is not None and not minimum <= value < math.inf:
            raise typer.BadParameter(f"{value} is out of range: it must be a number of at least {minimum}.")
        return value

    return check


def _none_or_several(value: int | None) -> int | None:
    """Checks how often a phrase may stand."""
    if value == 1:
        raise typer.BadParameter("1 is out of range: every phrase stands once. It must be 2 or more, or 0 for never.")
    return _at_least(0)(value)


def _option(*names: str, help: str, panel: str, **kwargs: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **kwargs)


ModelOption = Annotated[
    str | None,
    _option(
        "--model",
        "-m",
        help="Folder of a checkpoint, or its id on the Hub. Default: the tiny model that comes with the package.",
        panel=MODEL_PANEL,
    ),
]
DeviceOption = Annotated[
    str | None,
    _option(
        "--device", help="cpu, cuda, cuda:1, mps … Default: cuda where there is one, else cpu.", panel=MODEL_PANEL
    ),
]
DTypeOption = Annotated[
    DType, _option("--dtype", help="Type of the weights. Default: auto, as they were saved.", panel=MODEL_PANEL)
]
OutputOption = Annotated[
    Path | None,
    _option("--output", "-o", help="Where to write the spoken answer. Default: answer.wav.", panel=ANSWER_PANEL),
]
ModeOption = Annotated[
    Mode,
    _option(
        "--mode",
        help="speech writes and speaks, text only writes, auto lets the model decide. Default: speech.",
        panel=ANSWER_PANEL,
    ),
]
PictureOption = Annotated[
    Path | None,
    _option(
        "--picture",
        help="Draw the mel-spectrogram and the two streams into this .png, .svg or .pdf (needs matplotlib).",
        panel=ANSWER_PANEL,
    ),
]
SeedOption = Annotated[
    int | None, _option("--seed", help="Makes the answer reproducible.", panel=ANSWER_PANEL, callback=_at_least(0))
]
MaxNewTokensOption = Annotated[
    int | None,
    _option(
        "--max-new-tokens",
        help="Steps of the answer at the most, of text and speech alike: `flow-omni info` says how many make a second.",
        panel=ANSWER_PANEL,
        callback=_at_least(1),
    ),
]
SampleOption = Annotated[
    bool, _option("--sample", help="Draw the words at random. Default: always the likeliest.", panel=ANSWER_PANEL)
]
TemperatureOption = Annotated[
    float | None,
    _option(
        "--temperature",
        help="How random: 0.7 is tame, 1.2 wild. Implies --sample.",
        panel=ANSWER_PANEL,
        callback=_at_least(0.01),
    ),
]
EndAfterRepeatsOption = Annotated[
    int | None,
    _option(
        "--end-after-repeats",
        help="End a text in which a phrase stands so many times in a row; 0 never does. Default: as the checkpoint says, else 0.",
        panel=ANSWER_PANEL,
        callback=_none_or_several,
    ),
]
NumFlowStepsOption = Annotated[
    int | None,
    _option(
        "--num-flow-steps",
        help="Steps of the flow for each patch. Default: 2.",
        panel=SPEECH_PANEL,
        callback=_at_least(1),
    ),
]
FlowTemperatureOption = Annotated[
    float | None,
    _option(
        "--flow-temperature",
        help="How much the voice varies; 0 is always the same. Default: 1.",
        panel=SPEECH_PANEL,
        callback=_at_least(0.0),
    ),
]
FlowGuidanceOption = Annotated[
    float | None,
    _option(
        "--flow-guidance-scale",
        help="Classifier-free guidance: above 1 clearer, and flatter. Default: 1, which is none.",
        panel=SPEECH_PANEL,
        callback=_at_least(0.0),
    ),
]


@dataclass(frozen=True)
class AnswerOptions:
    """What every command can be told whose model answers: which model, and how."""

    model: ModelOption = None
    device: DeviceOption = None
    dtype: DTypeOption = DType.auto
    seed: SeedOption = None
    max_new_tokens: MaxNewTokensOption = None
    sample: SampleOption = False
    temperature: TemperatureOption = None
    end_after_repeats: EndAfterRepeatsOption = None

    @property
    def source(self) -> tuple[str | None, str | None, DType]:
        """Arguments of `load_model`."""
        return self.model, self.device, self.dtype

    def of_generate(self, mode: Mode) -> dict[str, Any]:
        """Arguments of `generate`. What was not said is left to the model's generation config."""
        of_others = ("model", "device", "dtype", "sample")
        options = {name: value for name, value in asdict(self).items() if name not in of_others and value is not None}
        options["generation_mode"] = str(mode)
        if self.sample or self.temperature is not None:
            options["do_sample"] = True
        return options


@dataclass(frozen=True)
class SpeechOptions(AnswerOptions):
    """Those of commands whose model may speak."""

    num_flow_steps: NumFlowStepsOption = None
    flow_temperature: FlowTemperatureOption = None
    flow_guidance_scale: FlowGuidanceOption = None


def with_shared_options(command: Callable) -> Callable:
    """Gives a command, beside options of its own, those of the dataclass that its parameter `options` is annotated with."""
    parameters = dict(inspect.signature(command).parameters)
    group = parameters.pop("options").annotation
    shared = inspect.signature(group).parameters

    @functools.wraps(command)
    def call(**arguments: Any) -> Any:
        said = {name: arguments.pop(name) for name in shared if name in arguments}
        return command(**arguments, options=group(**said))

    # what typer reads
    call.__signature__ = inspect.Signature([*parameters.values(), *shared.values()])
    call.__annotations__ = {name: parameter.annotation for name, parameter in call.__signature__.parameters.items()}
    return call
