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
r"""
Puts a trained checkpoint into the package: weights in half precision, tokenizer, processor, vocoder and card, and nothing
else, such as optimizer states or logs.

    python -m flow_omni.training.tinytalk.bundle runs/tiny/settle flow_omni/checkpoints/tiny --results eval/results.json \
        --corpus data/tinytalk --generation num_flow_steps=2 --generation flow_temperature=0.5 \
        --generation end_after_repeats=3
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import GenerationConfig

from ...cli.assembling import parse_fields
from ...evaluation.results import Results
from ...modeling_flow_omni.generation_flow_omni import GENERATION_DEFAULTS
from ...modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from ...processing.processing_flow_omni import FlowOmniProcessor
from ..checkpoints import clear_staging, publish, staging_folder
from .bundle_card import COMMAND, CommandOption, CorpusOption, NoteOption, write_bundle_card


# Who installs the package downloads this too.
MAX_MEGABYTES = 40
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def bundle(
    checkpoint: Annotated[Path, typer.Argument(help="The trained checkpoint.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Where to put it.", show_default=False)],
    results: Annotated[
        Path | None, typer.Option(help="What `flow-omni evaluate` measured, for the card.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float16.")] = "bfloat16",
    command: CommandOption = COMMAND,
    generation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="How it answers unless told otherwise, such as num_flow_steps=2. May be repeated.",
            show_default=False,
        ),
    ] = None,
    corpus: CorpusOption = None,
    note: NoteOption = None,
):
    """Put a trained checkpoint into the package, in place of the one that is there."""
    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is no half precision: choose one of {', '.join(DTYPES)}.")
    model = FlowOmniForSpeechGeneration.from_pretrained(checkpoint, dtype="float32").to(DTYPES[dtype])
    set_generation(model.generation_config, parse_fields("--generation", generation or []))
    processor = FlowOmniProcessor.from_pretrained(checkpoint)
    staged = staging_folder(folder.parent) / folder.name
    shutil.rmtree(staged, ignore_errors=True)
    model.save_pretrained(staged)
    processor.save_pretrained(staged)
    remove_code(staged)
    write_bundle_card(staged, None if results is None else Results.load(results), command, corpus, note)
    megabytes = sum(path.stat().st_size for path in staged.rglob("*")) / 1e6
    if megabytes > MAX_MEGABYTES:
        raise ValueError(f"The checkpoint has {megabytes:.1f} MB: no more than {MAX_MEGABYTES} go into the package.")
    publish(staged, folder)
    clear_staging(folder.parent)
    typer.echo(f"{folder}: {megabytes:.1f} MB")


def set_generation(generation_config: GenerationConfig, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name not in GENERATION_DEFAULTS and not hasattr(generation_config, name):
            raise ValueError(
                f"`--generation {name}=…` is no option of `generate`: those of speech are {', '.join(GENERATION_DEFAULTS)}."
            )
        setattr(generation_config, name, value)


def remove_code(folder: Path) -> None:
    """
    Takes out the code that travels with every checkpoint: this one lies in the package, where a copy would grow old. Saved
    anew, it travels again.
    """
    for path in folder.glob("*.py"):
        path.unlink()
    for path in folder.glob("*.json"):
        fields = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(without_auto_maps(fields), indent=2) + "\n", encoding="utf-8")


def without_auto_maps(value: Any) -> Any:
    """A JSON value whose objects, and those in them, say no longer where their code is."""
    if isinstance(value, dict):
        return {name: without_auto_maps(field) for name, field in value.items() if name != "auto_map"}
    return [without_auto_maps(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    typer.run(bundle)
