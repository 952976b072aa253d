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
    """
    Args:
        model (`str`):
            The checkpoint to start from: a folder or a Hub id. For the vocoder recipe also a vocoder alone.
        config_overrides (`dict`, *optional*):
            Fields of the model's config that only training reads, such as `{patch_noise: 0.2, ctc_loss_weight: 0.5}`.
            They are saved with the model.
        lora (`dict`, *optional*):
            Fields of [`peft.LoraConfig`], such as `{r: 16, lora_alpha: 32}`: trains adapters on the language model.
        attn_implementation (`str`, *optional*):
            As for `from_pretrained`. On a CPU, `eager` trains faster than the default.
    """

    model: str | None = None
    config_overrides: str | None = None
    lora: str | None = None
    attn_implementation: str | None = None


@dataclass
class DataArguments:
    """
    Args:
        train_data (`str`, `list` or `dict`):
            Rows, as [`load_rows`] takes them: a source, several, or a mapping of sources to times per epoch.
        eval_data (`str` or `list`, *optional*):
            Rows for evaluation.
        train_split, eval_split (`str`, *optional*):
            Splits of datasets that have splits.
        columns (`dict`, *optional*):
            Our name to the dataset's name of a column.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read the training rows as they are needed. `max_steps` must be set then.
        tasks (`dict`, *optional*):
            The weight of each task among those that a row offers. All alike by default.
        text_layout, ctc_labels, augmentation:
            See [`ExampleBuilder`]; `augmentation` holds fields of [`Augmentation`].
        max_example_length (`int`, *optional*):
            Longer examples are skipped; `max_positions_per_batch` by default.
        max_skipped_fraction (`float`, *optional*, defaults to 0.1):
            More unreadable rows than this stop the run.
        num_eval_questions (`int`, *optional*, defaults to 16):
            Rows of `eval_data` that the model answers at each evaluation, for error rates.
        asr_model (`str`, *optional*):
            The ASR model that transcribes spoken answers: `own`, `whisper:NAME`, or a model on the Hub.
        asr_language (`str`, *optional*):
            Its language.
        eval_max_new_tokens (`int`, *optional*, defaults to 400):
            The length limit of these answers.
        segment_seconds (`float`, *optional*, defaults to 1.0):
            The length of the segments of recordings that a vocoder trains on.
    """

    train_data: str | None = None
    eval_data: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    columns: str | None = None
    streaming: bool = False
    tasks: str | None = None
    text_layout: Literal["leading", "timed", "auto"] = "leading"
    ctc_labels: bool = False
    augmentation: str | None = None
    max_example_length: int | None = None
    max_skipped_fraction: float = 0.1
    num_eval_questions: int = 16
    asr_model: str | None = None
    asr_language: str | None = None
    eval_max_new_tokens: int = 400
    segment_seconds: float = 1.0


@dataclass
class FlowOmniTrainingArguments(TrainingArguments):
    """
    [`~transformers.TrainingArguments`], and:

    Args:
        trainable_modules (`list[str]`, *optional*):
            The names of `MODULE_GROUPS` that are trained; all others are frozen. `None` leaves `requires_grad` as it is.
            `vocoder` is trained alone.
        max_positions_per_batch (`int`, *optional*, defaults to 4096):
            Rows times positions of the longest row in a batch of each process, padding included.
        max_rows_per_batch (`int`, *optional*):
            The most rows of a batch.
        new_module_learning_rate (`float`, *optional*):
            Learning rate of the modules that start at random (adapter, speech inputs, speech decoder).
        scheduled_sampling (`float`, *optional*, defaults to 0.0):
            The largest fraction of previous patches that are replaced by the model's own predictions, drawn for each row
            from 0 to this. It costs a second forward pass.
        ema_decay (`float`, *optional*):
            Keeps a moving average of the weights, for example with 0.999; evaluation and the final model use it.
        mel_statistics_batches (`int`, *optional*, defaults to 200):
            Batches on which the mel statistics are measured before the first step, unless the model has them.
        stop_on_nan (`bool`, *optional*, defaults to `True`):
            Whether a loss or gradient that is not finite stops the run.
        mel_loss_weight, stft_loss_weight, adversarial_loss_weight, feature_loss_weight (`float`, *optional*):
            Weights of the vocoder's losses. Without an `adversarial_loss_weight` there are no discriminators.
        adversarial_start (`int`, *optional*, defaults to 0):
            Optimizer steps before the discriminators are used.
        discriminator_channels (`int`, *optional*, defaults to 32):
            Width of the first layer of each discriminator.
    """

    trainable_modules: list[str] | None = field(default=None, metadata={"help": f"Of {', '.join(MODULE_GROUPS)}."})
    max_positions_per_batch: int = 4096
    max_rows_per_batch: int | None = None
    new_module_learning_rate: float | None = None
    scheduled_sampling: float = 0.0
    ema_decay: float | None = None
    mel_statistics_batches: int = 200
    stop_on_nan: bool = True
    mel_loss_weight: float = 15.0
    stft_loss_weight: float = 1.0
    adversarial_loss_weight: float = 0.0
    feature_loss_weight: float = 2.0
    adversarial_start: int = 0
    discriminator_channels: int = 32

    # the collator makes the model's inputs: there are no columns to remove
    remove_unused_columns: bool = False
    # every row has text labels; text answers have no `mel_labels`, and would be taken for unlabelled
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    # the logits of all positions would fill the memory
    prediction_loss_only: bool = True
    # the filter would hide the losses that `stop_on_nan` is for
    logging_nan_inf_filter: bool = False
    # every batch reaches every module (`TrainingCollator`)
    ddp_find_unused_parameters: bool | None = False

    def __post_init__(self):
        if not torch.accelerator.is_available():
            self.use_cpu = True  # recipes say `bf16`, which is refused on a CPU otherwise
        if self.use_cpu and self.ddp_backend is None and get_int_from_env(["WORLD_SIZE", "PMI_SIZE"], 1) > 1:
            self.ddp_backend = "gloo"
        super().__post_init__()
        if self.n_gpu > 1:
            raise ValueError(
                f"One process sees {self.n_gpu} GPUs and would cut each batch in pieces, apart from its audio: start one process per "
                f"GPU (`accelerate launch --num_processes {self.n_gpu} -m flow_omni.training …`) or set CUDA_VISIBLE_DEVICES=0."
            )
        unknown = [name for name in self.trainable_modules or [] if name not in MODULE_GROUPS]
        if unknown:
            raise ValueError(f"`trainable_modules` names {unknown[0]!r}: the modules are {', '.join(MODULE_GROUPS)}.")
        if "vocoder" in (self.trainable_modules or []) and len(self.trainable_modules) > 1:
            raise ValueError(
                "No loss of the model reaches the vocoder: train it alone, `trainable_modules: [vocoder]`."
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` is {self.ema_decay}: it must be between 0 and 1, for example 0.999.")
        if not 0 <= self.scheduled_sampling <= 1:
            raise ValueError(f"`scheduled_sampling` is {self.scheduled_sampling}: it must be between 0 and 1.")


class RecipeParser(HfArgumentParser):
    """Reads recipes. Types are checked by argparse, whose errors are raised and not printed."""

    def __init__(self):
        super().__init__(
            (ModelArguments, DataArguments, FlowOmniTrainingArguments), allow_abbrev=False, add_help=False
        )
        self.fields = {item.name: item for kind in self.dataclass_types for item in dataclasses.fields(kind)}

    def error(self, message: str):
        raise ValueError(f"The recipe is invalid: {message}.")

    def parse(
        self, name: str, overrides: Sequence[str] = ()
    ) -> tuple[ModelArguments, DataArguments, FlowOmniTrainingArguments]:
        """The arguments of a recipe (a YAML file, or the name of a packaged one) after `key=value` overrides."""
        values = read_recipe(name)
        for override in overrides:
            key, separator, value = override.partition("=")
            if not separator:
                raise ValueError(f"`{override}` is not an override: write `key=value`, such as `learning_rate=1e-4`.")
            values[key.strip()] = load_yaml(value) if value.startswith(("{", "[")) else value
        given = {override.partition("=")[0] for override in overrides}
        # a recipe's `max_steps` would win over epochs, and other schedules refuse the options of the recipe's own
        for key, dependent in (("num_train_epochs", "max_steps"), ("lr_scheduler_type", "lr_scheduler_kwargs")):
            if key in given and dependent not in given:
                values.pop(dependent, None)
        if values.get("eval_data") in (None, *NOTHING):
            values["eval_strategy"] = "no"
        tokens = []
        for key, value in values.items():
            if key not in self.fields:
                close = difflib.get_close_matches(key, self.fields, n=1)
                hint = f"did you mean `{close[0]}`?" if close else "see FlowOmniTrainingArguments and DataArguments."
                raise ValueError(f"The recipe has the unknown key `{key}`: {hint}")
            if value in NOTHING:
                continue
            action = self._option_string_actions[f"--{key}"]
            if isinstance(value, list) and action.nargs == "+":
                tokens += [f"--{key}", *value]
            elif action.nargs == "+":
                tokens += [f"--{key}", value]
            else:
                tokens.append(f"--{key}={value if isinstance(value, str) else json.dumps(typed(value))}")
        return self.parse_args_into_dataclasses(tokens, look_for_args_file=False)


def structured(value: str | None) -> Any:
    """The list or mapping of an argument that may hold one; any other text as it is."""
    return typed(load_yaml(value)) if value is not None and value.startswith(("{", "[")) else value


def typed(value: Any) -> Any:
    """YAML of strings alone with numbers, truth values and nulls as such. YAML 1.1 itself takes `1e-4` for text and `no` for false."""
    if isinstance(value, Mapping):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def load_yaml(text: str) -> Any:
    """YAML, with every scalar as a string."""
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
