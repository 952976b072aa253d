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
"""The arguments of a training run, and recipes: YAML files of these arguments with `key=value` overrides."""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from accelerate.utils import get_int_from_env
from transformers import HfArgumentParser, TrainingArguments

from ..modeling_flow_omni.modeling_flow_omni import MODULE_GROUPS


# How YAML writes that there is no value.
NOTHING = ("", "~", "null")


@dataclass
class ModelArguments:
    """The model to start from."""

    model: str | None = None  # a folder or a Hub id; for the vocoder recipe also a vocoder alone
    language_model: str | None = None  # of an adapter: a folder, Hub id or GGUF file; by default as the adapter says
    config_overrides: dict | str | None = None  # fields of its config: {patch_noise: 0.2}
    lora: dict | str | None = None  # fields of peft.LoraConfig, as {r: 16}: adapters on the language model are trained
    attn_implementation: str | None = None  # as for `from_pretrained`; on a CPU, `eager` trains faster

    def __post_init__(self):
        self.config_overrides = mapping_in("config_overrides", self.config_overrides)
        self.lora = mapping_in("lora", self.lora)


@dataclass
class DataArguments:
    """The rows, and how they become examples."""

    train_data: dict | str | list | None = (
        None  # as [`load_rows`] takes it: a source, a list, {source: times per epoch}
    )
    eval_data: dict | str | list | None = None
    train_split: str | None = None
    eval_split: str | None = None
    columns: dict | str | None = None  # our name to the dataset's name of a column
    streaming: bool = False  # reads training rows as they are needed; `max_steps` must be set
    tasks: dict | str | None = None  # the weight of each task among those that a row offers
    text_layout: Literal["leading", "timed", "auto"] = "leading"
    ctc_labels: bool = False  # transcripts of spoken questions for the CTC losses
    distillation: bool = False  # answers to spoken questions learn from the model's own, reading the transcript
    augmentation: dict | str | None = None  # fields of [`Augmentation`], for spoken questions
    max_example_length: int | None = None  # longer examples are skipped; `max_positions_per_batch` by default
    max_skipped_fraction: float = 0.1  # more unreadable rows than this stop the run
    num_eval_questions: int = 16  # rows of `eval_data` that the model answers at each evaluation
    asr_model: str | None = None  # transcribes spoken answers: `own`, `whisper:NAME`, or a model on the Hub
    eval_language: str = "en"  # of the ASR model and the text normaliser
    eval_max_new_tokens: int = 400
    # layers of the audio encoder whose outputs are cached: CTC trains those above them and the adapter
    cached_encoder_layers: int | None = None
    cache_dir: str | None = None  # of these outputs; `output_dir/encoded` by default
    segment_seconds: float = 1.0  # of the recordings that a vocoder trains on

    def __post_init__(self):
        self.train_data, self.eval_data = structured(self.train_data), structured(self.eval_data)
        for name in ("columns", "tasks", "augmentation"):
            setattr(self, name, mapping_in(name, getattr(self, name)))


@dataclass
class FlowOmniTrainingArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] and those of [`FlowOmniTrainer`] and [`VocoderTrainer`]."""

    # names of `MODULE_GROUPS`: these are trained and all others frozen; `vocoder` is trained alone
    trainable_modules: list[str] | None = None
    max_positions_per_batch: int = 4096  # rows times positions of the longest row, padding included, per process
    new_module_learning_rate: float | None = None  # of adapter, speech inputs and decoder, which start at random
    # up to this fraction of a row's previous patches are the model's own predictions; costs a second forward pass
    scheduled_sampling: float = 0.0
    ema_decay: float | None = None  # such as 0.999: evaluation and the final model use a moving average of the weights
    mel_statistics_batches: int = 200  # measured on before the first step, unless the model has mel statistics
    stop_on_nan: bool = True  # a loss or gradient that is not finite stops the run
    mel_loss_weight: float = 15.0  # this and the following: of the vocoder
    stft_loss_weight: float = 1.0
    adversarial_loss_weight: float = 0.0  # 0: no discriminators
    feature_loss_weight: float = 2.0
    adversarial_start: int = 0  # optimizer steps before the discriminators are used
    discriminator_channels: int = 32

    remove_unused_columns: bool = False  # the collator makes the model's inputs
    # every row has text labels; text answers have no `mel_labels`, and would be taken for unlabelled
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    prediction_loss_only: bool = True  # the logits of all positions would fill the memory
    logging_nan_inf_filter: bool = False  # the filter would hide the losses that `stop_on_nan` is for
    ddp_find_unused_parameters: bool | None = False  # every batch reaches every module (`TrainingCollator`)

    def __post_init__(self):
        if not torch.accelerator.is_available():
            self.use_cpu = True  # recipes say `bf16`, which is refused on a CPU otherwise
        if self.use_cpu and self.ddp_backend is None and get_int_from_env(["WORLD_SIZE", "PMI_SIZE"], 1) > 1:
            self.ddp_backend = "gloo"
        super().__post_init__()
        if self.n_gpu > 1:
            raise ValueError(
                f"One process sees {self.n_gpu} GPUs and would cut batches apart from their audio: start one process per GPU, "
                "or set CUDA_VISIBLE_DEVICES=0."
            )
        for name in self.trainable_modules or ():
            if name not in MODULE_GROUPS:
                raise ValueError(f"`trainable_modules` names {name!r}: the modules are {', '.join(MODULE_GROUPS)}.")
            if name == "vocoder" and len(self.trainable_modules) > 1:
                raise ValueError(
                    "No loss of the model reaches the vocoder: train it alone (`trainable_modules=vocoder`)."
                )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` is {self.ema_decay}: it must be between 0 and 1, for example 0.999.")
        if not 0 <= self.scheduled_sampling <= 1:
            raise ValueError(f"`scheduled_sampling` is {self.scheduled_sampling}: it must be between 0 and 1.")

    @property
    def all_modalities(self) -> bool:
        """Whether every batch needs audio input and speech: for DDP and FSDP, and for a gradient where little is trained."""
        always_reached = {"language_model", "speech_inputs"}.intersection(self.trainable_modules or MODULE_GROUPS)
        return self.world_size > 1 or not always_reached


Arguments = tuple[ModelArguments, DataArguments, FlowOmniTrainingArguments]


class RecipeParser(HfArgumentParser):
    """Reads recipes. Types are checked by argparse, whose errors are raised and not printed."""

    def __init__(self):
        kinds = (ModelArguments, DataArguments, FlowOmniTrainingArguments)
        super().__init__(kinds, allow_abbrev=False, add_help=False)
        self.keys = [item.name for kind in kinds for item in dataclasses.fields(kind)]

    def error(self, message: str):
        raise ValueError(f"The recipe is invalid: {message}.")

    def parse(self, name: str, overrides: Sequence[str] = ()) -> Arguments:
        """The arguments of a recipe (a YAML file, or the name of a packaged one) after `key=value` overrides."""
        values, given = read_recipe(name), {}
        for override in overrides:
            key, separator, value = override.partition("=")
            if not separator:
                raise ValueError(f"`{override}` is not an override: write `key=value`, such as `learning_rate=1e-4`.")
            given[key.strip()] = load_yaml(value) if value.startswith(("{", "[")) else value
        # a recipe's `max_steps` would win over epochs, and other schedules refuse the options of the recipe's own
        for key, dependent in (("num_train_epochs", "max_steps"), ("lr_scheduler_type", "lr_scheduler_kwargs")):
            if key in given:
                values.pop(dependent, None)
        values |= given
        for key in values:
            if key not in self.keys:
                close = difflib.get_close_matches(key, self.keys, n=1)
                hint = f"did you mean `{close[0]}`?" if close else "see `flow_omni/training/arguments.py`."
                raise ValueError(f"The recipe has the unknown key `{key}`: {hint}")
        values = {key: value for key, value in values.items() if value not in NOTHING}
        for key in ("model", "train_data", "output_dir"):
            if key not in values:
                raise ValueError(f"`{key}` is missing: set it in the recipe, or with `{key}=…`.")
        if "eval_data" not in values:
            values["eval_strategy"] = "no"
        tokens = []
        for key, value in values.items():
            if self._option_string_actions[f"--{key}"].nargs == "+":
                tokens += [f"--{key}", *(value if isinstance(value, list) else [value])]
            else:
                tokens.append(f"--{key}={value if isinstance(value, str) else json.dumps(typed(value))}")
        return self.parse_args_into_dataclasses(tokens, look_for_args_file=False)


def structured(value: Any) -> Any:
    """The list or mapping that is written in a text; any other text as it is."""
    return typed(load_yaml(value)) if isinstance(value, str) and value.startswith(("{", "[")) else value


def mapping_in(name: str, value: Any) -> dict[str, Any] | None:
    """The mapping that is written in the text of an argument."""
    mapping = structured(value)
    if mapping is not None and not isinstance(mapping, Mapping):
        raise ValueError(f"`{name}` is {value!r}: it must be a mapping, such as `{name}={{key: value}}`.")
    return mapping


def typed(value: Any) -> Any:
    """Strings of [`load_yaml`] that are numbers, truth values or null as such."""
    if isinstance(value, Mapping):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def load_yaml(text: str) -> Any:
    """YAML with every scalar as a string: YAML 1.1 itself takes `1e-4` for text and `no` for false."""
    try:
        return yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"`{text:.80}` is not YAML: {' '.join(str(error).split())}") from error


def read_recipe(name: str) -> dict[str, Any]:
    """The keys and values of a recipe file, or of one that comes with the package."""
    path, packaged = Path(name).expanduser(), resources.files(__package__) / "recipes"
    if not path.is_file():
        names = sorted(entry.name.removesuffix(".yaml") for entry in packaged.iterdir())
        if name not in names:
            raise ValueError(f"There is no recipe '{name}': name a file, or one of {', '.join(names)}.")
        path = packaged / f"{name}.yaml"
    values = load_yaml(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"'{path}' must hold a mapping of keys to values.")
    return values
