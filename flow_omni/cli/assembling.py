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
"""The command `init`: a model and its processor from a pretrained Whisper, language model and Vocos."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import note, progress, write
from .errors import UserError, one_line, users_mistakes
from .files import check_new_folder, new_folder
from .options import DType, DTypeOption
from .parts import PARTS, columns, parts_table


WhisperOption = Annotated[
    str,
    typer.Option(
        "--whisper",
        help="The ears: a folder, a Hub id, an openai-whisper .pt file, or the name of one of its models.",
        show_default=False,
    ),
]
LLMOption = Annotated[
    str, typer.Option("--llm", help="The mind: folder or Hub id of a causal language model.", show_default=False)
]
VocoderOption = Annotated[
    str | None,
    typer.Option(
        "--vocoder",
        help="The voice: folder or Hub id of a Vocos. Without it the model returns mel-spectrograms only.",
        show_default=False,
    ),
]


def _fields_option(name: str, fields: str) -> Any:
    return typer.Option(name, metavar="KEY=VALUE", help=f"{fields}. May be repeated.", show_default=False)


SpeechConfigOption = Annotated[
    list[str] | None, _fields_option("--speech-config", "A field of the speech side, such as frames_per_step=8")
]
ConfigOption = Annotated[
    list[str] | None, _fields_option("--config", "A field of the whole model's config, such as adapter_stack_size=2")
]


def init(
    whisper: WhisperOption,
    llm: LLMOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to create.", show_default=False)],
    vocoder: VocoderOption = None,
    speech_config: SpeechConfigOption = None,
    config: ConfigOption = None,
    dtype: DTypeOption = DType.auto,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the checkpoint that is in the folder.")
    ] = False,
):
    """
    Assemble a model from pretrained parts.

    None of the parts loses anything. What connects them is new, and wants training before the model can speak.

    Examples:

        flow-omni init --whisper openai/whisper-tiny \\
            --llm Qwen/Qwen2-0.5B-Instruct \\
            --vocoder charactr/vocos-mel-24khz --output my-model
        flow-omni init --whisper tiny.pt --llm ./llm --output my-model \\
            --speech-config frames_per_step=8 \\
            --speech-config head_num_layers=6
    """
    from ..hub_card import write_model_card

    folder = check_new_folder(output, overwrite)
    speech_fields = parse_fields("--speech-config", speech_config or [])
    fields = parse_fields("--config", config or [])
    check_config(fields, speech_fields)
    parts = {"whisper": whisper, "llm": llm, "vocoder": vocoder}
    with progress("Reading the parts …"):
        model, processor = assemble(parts, fields | {"speech_config": speech_fields}, dtype)
    with progress(f"Saving {output} …"), new_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        command = command_of(parts, speech_config or [], config or [], dtype)
        write_model_card(unfinished, base_models=parts, command=command)
    _describe(model, output)


def assemble(parts: dict[str, str | None], fields: dict[str, Any], dtype: DType) -> tuple[Any, Any]:
    """The model of these parts with these fields of its config, and its processor."""
    import torch
    from transformers import AutoTokenizer

    from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
    from ..processing.processing_flow_omni import FlowOmniProcessor
    from .loading import LOADING_ERRORS

    torch_dtype = None if dtype is DType.auto else getattr(torch, dtype)
    try:
        model = FlowOmniForSpeechGeneration.from_pretrained_parts(**parts, **fields, dtype=torch_dtype)
        processor = FlowOmniProcessor.from_parts(AutoTokenizer.from_pretrained(parts["llm"]), model.config)
    except LOADING_ERRORS as error:
        raise UserError(one_line(error)) from error
    align_special_tokens(model.generation_config, processor)
    return model, processor


def command_of(parts: dict[str, str | None], speech_config: list[str], config: list[str], dtype: DType) -> str:
    """The command that assembles these parts, for the model card."""
    words = ["flow-omni", "init"]
    for part, source in parts.items():
        words += [f"--{part}", source] if source is not None else []
    for option, assignments in (("--speech-config", speech_config), ("--config", config)):
        words += [word for assignment in assignments for word in (option, assignment)]
    if dtype is not DType.auto:
        words += ["--dtype", str(dtype)]
    return shlex.join(words)


def align_special_tokens(generation_config: Any, processor: Any) -> None:
    """Makes answers end where the chat template ends them, and rows be padded as the processor pads them."""
    ends = generation_config.eos_token_id
    ends = list(ends) if isinstance(ends, list) else [ends]
    ends = [processor.answer_end_token_id, *ends]
    generation_config.eos_token_id = list(dict.fromkeys(end for end in ends if end is not None))
    generation_config.pad_token_id = processor.tokenizer.pad_token_id
    # one that was derived from the model's config would be derived again, and forget this
    generation_config._from_model_config = False


def parse_fields(option: str, assignments: list[str]) -> dict[str, Any]:
    """`["frames_per_step=8", "head_type=flow"]` -> `{"frames_per_step": 8, "head_type": "flow"}`"""
    fields = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name.strip():
            raise UserError(f"`{option} {assignment}` is no KEY=VALUE: write it like `frames_per_step=8`.")
        try:
            fields[name.strip()] = json.loads(value)
        except ValueError:
            # a word, such as "flow"
            fields[name.strip()] = value
    return fields


def check_config(fields: dict[str, Any], speech_fields: dict[str, Any]) -> None:
    """Raises for fields that the configs do not have, or values that they cannot take: before the downloads."""
    from huggingface_hub.errors import StrictDataclassError

    from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig

    parts = sorted(
        fields.keys() & {"audio_config", "text_config", "speech_config", "vocoder_config", "audio_token_id"}
    )
    if parts:
        raise UserError(f"`--config {parts[0]}=…` is what the parts decide: leave it out.")
    try:
        with users_mistakes():
            FlowOmniSpeechConfig(**speech_fields)
            FlowOmniConfig(**fields)
    except StrictDataclassError as error:
        raise UserError(one_line(error)) from error


def _describe(model: Any, output: Path) -> None:
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    origins = dict(PARTS.values())
    rows = parts_table(sizes)
    rows = [(part, f"{count}  {origins[part]}" if part in origins else count) for part, count in rows]
    write(columns(rows) + "\n")
    note(f"{output}: saved. Its parts named `new` are untrained: train them before you expect sense of its speech.")
    if model.vocoder is None:
        note("It has no vocoder, and returns mel-spectrograms only: add one with `--vocoder`.")
