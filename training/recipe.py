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
"""Recipes: a YAML file says what a run is, `key=value` on the command line changes it, and no key is silently ignored."""

import copy
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from .arguments import FlowOmniTrainingArguments
from .augmentation import Augmentation
from .lora import LoraOptions
from .recognition.options import RecogniseOptions
from .rows import TASKS
from .stage_options import unread_options
from .stages import PAPER_STAGES, PART_STAGES, STAGES
from .teaching import Teaching
from .vocoder_options import VocoderOptions


class RecipeError(ValueError):
    """A recipe says something that cannot be: the message names the key, and what can."""


@dataclass
class DataRecipe:
    """
    Where the rows are and how they become batches; `training.manifest.load_rows`, `ExampleBuilder` and `BatchOptions`
    document the fields.
    """

    train: str | list[str] | dict[str, float] | None = None
    eval: str | list[str] | None = None
    split: str | None = None
    eval_split: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    streaming: bool = False
    on_error: str = "skip"
    tasks: dict[str, float] | None = None
    text_layout: str = "leading"
    transcripts: bool = False
    augmentation: Augmentation | None = None
    max_steps: int | None = None
    max_steps_per_batch: int = 4096
    max_rows_per_batch: int | None = None
    max_skipped_share: float = 0.2


@dataclass
class EvaluationRecipe:
    """What is asked at each evaluation, and who listens: see `training.generation_metrics` and `training.recognisers`."""

    questions: int = 16
    recogniser: str | None = None
    language: str | None = None
    batch_size: int = 4
    max_new_tokens: int = 400
    num_flow_steps: int | None = None


@dataclass
class CardRecipe:
    """What only its author knows of a model, for its card: see `hub_card.write_model_card`."""

    model_id: str | None = None
    base_models: list[str] | None = None
    datasets: list[str] | None = None
    languages: list[str] | None = None
    license: str | None = None


@dataclass
class Recipe:
    """
    A run.

    Args:
        stage (`str`):
            `align` and `finetune`, in this order; `understand`, `listen` and `speak` for some parts of a finished model;
            `vocoder`; and `language` and `recognise`, which make parts for models that have none to begin with.
        model (`str`, *optional*):
            The checkpoint to begin with, a folder or an id on the Hub: what `flow-omni init` made, or an earlier stage.
        new (`dict`, *optional*):
            In its place, for the stages `language`, `recognise` and `vocoder`: the fields of the configuration of a part
            that is made anew.
        data, evaluation, card:
            See their classes.
        training (`dict`):
            Fields of [`FlowOmniTrainingArguments`], which has all those of `transformers.TrainingArguments`.
        lora ([`LoraOptions`], *optional*):
            Trains adapters of the language model in the place of its weights.
        merge_lora (`bool`, *optional*, defaults to `True`):
            Whether the final model is a plain checkpoint, with the adapters added in; they are in its folder `adapters` too.
        teaching ([`Teaching`]):
            Fields of the model's config that answering does not read, such as `own_patches`.
        vocoder ([`VocoderOptions`]), recognise ([`RecogniseOptions`]):
            For the stages of these names.
    """

    stage: str
    model: str | None = None
    new: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    data: DataRecipe = field(default_factory=DataRecipe)
    lora: LoraOptions | None = None
    merge_lora: bool = True
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    teaching: Teaching = field(default_factory=Teaching)
    vocoder: VocoderOptions = field(default_factory=VocoderOptions)
    recognise: RecogniseOptions = field(default_factory=RecogniseOptions)
    card: CardRecipe = field(default_factory=CardRecipe)

    def __post_init__(self):
        stages = (*STAGES, *PART_STAGES)
        if self.stage not in stages:
            raise RecipeError(f"`stage` is {self.stage!r}: it must be one of {', '.join(stages)}.")
        self._check_beginning()
        if not self.data.train:
            raise RecipeError("`data.train` is missing: name a manifest, parquet files, or a dataset on the Hub.")
        self.training = _checked_arguments(self.training)
        if not self.training.get("output_dir"):
            raise RecipeError("`training.output_dir` is missing: name the folder that the checkpoints go to.")
        if Path(self.training["output_dir"]).is_file():
            raise RecipeError(
                f"`training.output_dir` is {self.training['output_dir']!r}, which is a file: name a folder, there or to be made."
            )
        self._check_stage_reads_all()
        if self.lora is not None and self.stage not in PAPER_STAGES:
            stages = " and ".join(f"`{stage}`" for stage in PAPER_STAGES)
            raise RecipeError(
                f"`lora` is for the language model of a whole model, in {stages}, and not for the stage `{self.stage}`: leave it out."
            )
        if self.stage == "listen":
            self._check_all_tasks_hear()

    def _check_all_tasks_hear(self):
        """In a batch without sound there would be nothing that trains."""
        tasks = TASKS if self.data.tasks is None else [task for task, share in self.data.tasks.items() if share > 0]
        hearing = [task for task, spec in TASKS.items() if spec.question == "question_audio"]
        if deaf := [task for task in tasks if task in TASKS and task not in hearing]:
            raise RecipeError(
                f"The stage `listen` trains ears, and the task `{deaf[0]}` hears nothing: set `data.tasks` to some of "
                f"{', '.join(hearing)}."
            )

    def _check_stage_reads_all(self):
        """No option is ignored in silence."""
        for problem in unread_options(self):
            raise RecipeError(problem)

    def _check_beginning(self):
        """There must be one thing to begin with: a checkpoint, or the sizes of a new part."""
        if self.new is not None and self.stage not in PART_STAGES:
            raise RecipeError(
                f"`new` makes a part, and the stage `{self.stage}` trains a whole model: assemble one (`flow-omni init`), and "
                "name it as `model`."
            )
        if self.model is None and self.new is None:
            remedy = " Or say with `new` how large a new one is to be." if self.stage in PART_STAGES else ""
            raise RecipeError(f"`model` is missing: set it in the recipe, or with `model=…`.{remedy}")
        if self.model is not None and self.new is not None:
            raise RecipeError(f"`model` is {self.model!r} and `new` is {self.new}: begin with one of them.")


def _checked_arguments(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the training arguments, which themselves would take any value, and stumble over it in the middle of a run."""
    hints = typing.get_type_hints(FlowOmniTrainingArguments)
    check_keys(fields, (item.name for item in dataclasses.fields(FlowOmniTrainingArguments)), "training.")
    plain = {name for name, hint in hints.items() if {bool, int, float, str, type(None)}.issuperset(_kinds_of(hint))}
    return {
        name: _converted(hints[name], value, f"training.{name}") if name in plain else value
        for name, value in fields.items()
    }


SCHEDULE_KEYS = ("lr_scheduler_type", "lr_scheduler_kwargs")
BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """
    YAML 1.1 takes `1e-4` for a word, for want of a dot, and the words `no`, `off`, `yes` and `on` for truth values, though a
    strategy or a language may be called `no`; and of a key that stands twice the first value is lost.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                problem = f"the key `{key}` stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.value[index][0].start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
_Loader.add_implicit_resolver(BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """
    The recipe of a file, or one that comes with the package (`align`, `finetune`, `tiny/speak`), after `key=value` overrides
    such as `training.learning_rate=1e-4`.
    """
    fields = _read(_path_of(name))
    overrides, schedule = list(overrides), copy.deepcopy(_schedule_of(fields))
    for override in overrides:
        _override(fields, override)
    _drop_options_of_another_schedule(fields, *schedule)
    _drop_steps_where_epochs_are_said(fields, overrides)
    return build(Recipe, fields)


def _schedule_of(fields: Mapping[str, Any]) -> tuple[Any, Any]:
    """The schedule of the learning rate that a recipe names, and its options."""
    training = fields.get("training")
    return tuple(training.get(key) for key in SCHEDULE_KEYS) if isinstance(training, dict) else (None, None)


def _drop_options_of_another_schedule(fields: dict[str, Any], kind: Any, options: Any) -> None:
    """Where only the schedule was changed, the options that it stood with go: another does not take them."""
    new_kind, new_options = _schedule_of(fields)
    if new_kind != kind and new_options == options is not None:
        del fields["training"][SCHEDULE_KEYS[1]]


def _drop_steps_where_epochs_are_said(fields: dict[str, Any], overrides: Iterable[str]) -> None:
    """The recipe's own `max_steps` would win over `num_train_epochs`, and whoever only says epochs would not get them."""
    said = {override.partition("=")[0].strip() for override in overrides}
    if "training.num_train_epochs" in said and said.isdisjoint({"training", "training.max_steps"}):
        fields["training"].pop("max_steps", None)


def _path_of(name: str) -> Any:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    packaged = resources.files(__package__) / "recipes"
    names = [file.removesuffix(".yaml") for file in _files_in(packaged) if file.endswith(".yaml")]
    if name in names:
        return packaged.joinpath(*f"{name}.yaml".split("/"))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    meant = f" Did you mean '{close[0]}'?" if close else ""
    raise RecipeError(
        f"There is no recipe '{name}': name a file, or one of those that come along: {', '.join(names)}.{meant}"
    )


def _files_in(folder: Any, prefix: str = "") -> list[str]:
    """The files of a folder of the package, with those of folders in it."""
    names = []
    for entry in sorted(folder.iterdir(), key=lambda entry: (entry.is_dir(), entry.name)):
        name = prefix + entry.name
        names += _files_in(entry, f"{name}/") if entry.is_dir() else [name]
    return names


def _read(path: Any) -> dict[str, Any]:
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"'{path}' is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"'{path}' holds {type(fields).__name__}: a recipe is a mapping of keys to values.")
    return fields


def _override(fields: dict[str, Any], override: str) -> None:
    """Sets a key of nested mappings: `data.tasks.say=2`."""
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"`{override}` is no override: write `key=value`, such as `training.learning_rate=1e-4`.")
    *parents, last = key.strip().split(".")
    for parent in parents:
        if fields.get(parent) is None:
            fields[parent] = {}
        fields = fields[parent]
        if not isinstance(fields, dict):
            raise RecipeError(f"`{override}`: `{parent}` holds a value and no keys, so nothing in it can be set.")
    try:
        fields[last] = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"`{override}`: the value is no YAML ({' '.join(str(error).split())}).") from error


def build(kind: type, fields: Mapping[str, Any], where: str = "") -> Any:
    """A dataclass from a mapping, whose every key it must have and whose every value must be of the right type."""
    if not isinstance(fields, Mapping):
        raise RecipeError(f"`{where.rstrip('.')}` is {fields!r}: it must hold keys and values.")
    declared, hints = {item.name: item for item in dataclasses.fields(kind)}, typing.get_type_hints(kind)
    check_keys(fields, declared, where)
    missing = [
        name
        for name, item in declared.items()
        if fields.get(name) is None and item.default is item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"`{where}{missing[0]}` is missing: set it in the recipe, or with `{where}{missing[0]}=…`.")
    return kind(**{name: _converted(hints[name], value, f"{where}{name}") for name, value in fields.items()})


def check_keys(fields: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """Raises for a key that does not exist, and says which was meant."""
    known = list(known)
    for key in fields:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
        meant = f"did you mean `{where}{close[0]}`?" if close else f"the keys here are {', '.join(sorted(known))}."
        raise RecipeError(f"The recipe has the unknown key `{where}{key}`: {meant}")


def _converted(hint: Any, value: Any, where: str) -> Any:
    """The value as the field's type has it, or an error."""
    kinds = _kinds_of(hint)
    if value is None and (type(None) in kinds or any(map(dataclasses.is_dataclass, kinds))):
        return None if type(None) in kinds else kinds[0]()
    for kind in kinds:
        if dataclasses.is_dataclass(kind):
            return build(kind, value, f"{where}.")
        origin = typing.get_origin(kind) or kind
        if origin is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if origin is int and float not in kinds and isinstance(value, float) and value.is_integer():
            return int(value)  # such as 1e4
        if origin is tuple and isinstance(value, list):
            return tuple(value)
        if origin is Any or (isinstance(value, origin) and (origin is not int or not isinstance(value, bool))):
            return value
    names = {type(None): "nothing", bool: "bool (true or false)"}
    wanted = " or ".join(names.get(kind) or getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise RecipeError(f"`{where}` is {value!r}: it must be {wanted}.")


def _kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
