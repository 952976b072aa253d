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
"""What a folder says about its checkpoint: modules, sizes, base models, and the metrics of an evaluation."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from ..modeling_flow_omni.generation_flow_omni import GENERATION_DEFAULTS
from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration, count_parameters


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
RESULTS_FILE = "results.json"
METRIC_TYPES = {"exact": "exact_match"}


@dataclass
class CheckpointFacts:
    """Configuration, parameters and Hub ids of the module groups, and the generation options for speech."""

    config: FlowOmniConfig
    num_parameters: dict[str, int]
    base_models: dict[str, str]
    generation: dict[str, Any]

    @property
    def modules(self) -> list[tuple[str, str, int]]:
        """Name, description and number of parameters of each module group."""
        return [
            (name.replace("_", " "), description, self.num_parameters[name])
            for name, description in describe_modules(self.config).items()
        ]


def read_checkpoint(folder: str | os.PathLike) -> CheckpointFacts:
    """Reads the facts from `config.json` and `generation_config.json`. Weights are not read."""
    folder = Path(folder).expanduser()
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"There is no config.json in '{folder}': pass the folder of a saved Flow-Omni model.")
    fields, _ = FlowOmniConfig.get_config_dict(folder)
    if fields.get("model_type") != FlowOmniConfig.model_type:
        raise ValueError(
            f"'{folder}' holds a model of the type {fields.get('model_type')!r}: only `flow_omni` has a model card here."
        )
    config = FlowOmniConfig.from_pretrained(folder)
    with torch.device("meta"):
        counts = count_parameters(FlowOmniForSpeechGeneration(config))
    sources = {
        "audio_encoder": config.audio_config.name_or_path,
        "language_model": config.text_config.name_or_path,
        "vocoder": config.vocoder_config.name_or_path if config.vocoder_config is not None else None,
    }
    path = folder / "generation_config.json"
    generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return CheckpointFacts(
        config=config,
        num_parameters={name: total for name, (total, _) in counts.items()},
        base_models={name: hub_id_of(source) for name, source in sources.items() if hub_id_of(source)},
        generation=GENERATION_DEFAULTS | {name: value for name, value in generation.items() if value is not None},
    )


def describe_modules(config: FlowOmniConfig) -> dict[str, str]:
    """Each module group in a few words."""
    audio, text, speech, vocoder = config.audio_config, config.text_config, config.speech_config, config.vocoder_config
    if speech.head_type == "flow":
        head = f"flow-matching head of {speech.head_num_layers} blocks of width {speech.head_hidden_size}"
    else:
        head = f"residual-VQ head of {speech.num_codebooks} codebooks with {speech.codebook_size} codes"
    adapter = f"one position for {config.adapter_stack_size} encoder frames ({20 * config.adapter_stack_size} ms)"
    if config.adapter_compression == "ctc":
        adapter = (
            f"CTC over letters and tokens, {config.adapter_num_layers} layers of width {config.adapter_hidden_size}"
        )
    modules = {
        "audio_encoder": f"Whisper encoder, {audio.encoder_layers} layers of width {audio.d_model}",
        "audio_adapter": adapter,
        "language_model": f"`{text.model_type}`, {text.num_hidden_layers} layers of width {text.hidden_size}, "
        f"{text.vocab_size} tokens",
    }
    if config.speech_loop == "speech_decoder":
        inputs = "spelling and hidden states" if speech.reads_hidden_states else "spelling"
        layers = f"{speech.num_hidden_layers} layers of width {speech.hidden_size} over the {inputs} of the text"
        modules["speech_decoder"] = f"{layers}, {head}, voices: {', '.join(speech.voices)}"
    else:
        modules["speech_inputs"] = "embeddings of speech states and of the previous mel patch"
        modules["speech_decoder"] = f"transformer of {speech.num_hidden_layers} layers, {head}"
    if vocoder is not None:
        kind = "causal Vocos" if vocoder.causal else "Vocos"
        modules["vocoder"] = f"{kind}, {vocoder.num_hidden_layers} blocks of width {vocoder.hidden_size}"
    return modules


def read_results(path: str | os.PathLike) -> tuple[list[EvalResult], str]:
    """The headline metrics of an evaluation (a folder or its `results.json`), and the command that measured them."""
    path = Path(path).expanduser()
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return [_eval_result(headline) for headline in results["headlines"]], results["command"]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no '{path}': pass the output folder of `flow-omni evaluate`.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' cannot be read as results ({error!r}): evaluate the model again.") from error


def _eval_result(headline: dict[str, Any]) -> EvalResult:
    about = []
    if headline["low"] is not None:
        about.append(f"95 % interval {headline['low']:.4g} to {headline['high']:.4g}")
    if headline["num_rows"] is not None:
        about.append(f"{headline['num_rows']} rows")
    return EvalResult(
        task_type=headline["task_type"],
        dataset_type=headline["dataset_name"],
        dataset_name=headline["dataset_name"],
        dataset_split=headline["dataset_split"],
        metric_type=METRIC_TYPES.get(headline["metric"], headline["metric"]),
        metric_name=headline["name"] + (f" ({', '.join(about)})" if about else ""),
        metric_value=float(f"{headline['value']:.4g}"),
    )


def hub_id_of(source: Any) -> str | None:
    """`source` if it can be an id on the Hub; `None` for a path of this machine, which does not belong into a card."""
    is_id = isinstance(source, str) and HUB_ID.fullmatch(source) and not os.path.exists(source)
    return source if is_id else None
