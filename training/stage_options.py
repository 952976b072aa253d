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
"""Which options of a recipe a stage reads: one that it would ignore is refused, for somebody counts on it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from .arguments import FlowOmniTrainingArguments
from .stages import PAPER_STAGES, PART_STAGES, STAGES


EXCEPT_VOCODER = (*STAGES, "language", "recognise")
# The stages that read an option, or a group of them. What is not named here is read by all.
READ_BY = {
    "data.streaming": STAGES,
    "data.tasks": STAGES,
    "data.text_layout": STAGES,
    "data.transcripts": STAGES,
    "data.augmentation": STAGES,
    "data.max_steps": EXCEPT_VOCODER,
    "data.max_steps_per_batch": EXCEPT_VOCODER,
    "data.max_rows_per_batch": EXCEPT_VOCODER,
    "data.max_skipped_share": EXCEPT_VOCODER,
    "evaluation.questions": (*STAGES, "language"),
    "evaluation.recogniser": STAGES,
    "evaluation.language": STAGES,
    "evaluation.batch_size": STAGES,
    "evaluation.max_new_tokens": STAGES,
    "evaluation.num_flow_steps": STAGES,
    "merge_lora": PAPER_STAGES,
    "teaching": STAGES,
    # of a vocoder alone its run refuses it, which knows what `model` is
    "card": (*STAGES, "vocoder"),
    "vocoder": ("vocoder",),
    "recognise": ("recognise",),
    "training.muon": STAGES,
    "training.new_parts_learning_rate": STAGES,
    "training.ema_decay": STAGES,
    "training.mel_statistics_batches": STAGES,
    "training.activation_checkpointing": EXCEPT_VOCODER,
    "training.num_train_epochs": EXCEPT_VOCODER,
    "training.label_smoothing_factor": (),
    "training.stage": (),
    "training.auto_find_batch_size": (),
    "training.per_device_train_batch_size": (),
    "training.per_device_eval_batch_size": (),
    # what has to do with the Trainer's own data loader, or with what it finds for its metrics
    "training.train_sampling_strategy": ("vocoder",),
    "training.length_column_name": (),
    "training.dataloader_drop_last": ("vocoder",),
    "training.dataloader_persistent_workers": ("vocoder",),
    "training.dataloader_multiprocessing_context": ("vocoder",),
    "training.dataloader_in_order": ("vocoder",),
    "training.accelerator_config": ("vocoder",),
    "training.ignore_data_skip": ("vocoder",),
    "training.remove_unused_columns": (),
    "training.average_tokens_across_devices": (),
    "training.batch_eval_metrics": (),
    "training.include_for_metrics": (),
    "training.do_predict": (),
    "training.resume_from_checkpoint": (),
    "training.push_to_hub": (),
}
BUDGET = "`data.max_steps_per_batch` and `data.max_rows_per_batch` say how large a batch is"
PIECES = "`vocoder.batch_size` says how large a batch is"
REMEDIES = {
    ("data.augmentation", "recognise"): "set `recognise.augmentation`",
    (
        "data.max_steps_per_batch",
        "vocoder",
    ): "`vocoder.batch_size` and `vocoder.segment_seconds` say how large a batch is",
    ("data.max_rows_per_batch", "vocoder"): PIECES,
    ("card", None): "leave it out; only a whole model gets a card",
    ("training.num_train_epochs", "vocoder"): "`training.max_steps` says how long it trains",
    ("training.stage", None): "the recipe's own `stage` says it",
    ("training.auto_find_batch_size", None): BUDGET,
    ("training.per_device_train_batch_size", None): BUDGET,
    ("training.per_device_eval_batch_size", None): BUDGET,
    ("training.auto_find_batch_size", "vocoder"): PIECES,
    ("training.per_device_train_batch_size", "vocoder"): PIECES,
    ("training.per_device_eval_batch_size", "vocoder"): PIECES,
    (
        "training.train_sampling_strategy",
        None,
    ): "rows of like length come together anyway, in an order of their own in each epoch",
    ("training.ignore_data_skip", None): "a run that is resumed goes on where it was among the data, whatever it says",
    ("training.average_tokens_across_devices", None): "every loss is a mean over the targets of all processes",
    (
        "training.resume_from_checkpoint",
        None,
    ): "the same command goes on from the last checkpoint in its `output_dir`; to begin with the weights of another, name it as `model`",
    ("training.push_to_hub", None): "when it is done, `flow-omni push` uploads the model with its card",
}


def unread_options(recipe: Any) -> Iterator[str]:
    """What to say of each option of a recipe that differs from its default, and that the stage does not read."""
    for path, stages in READ_BY.items():
        value = _value_at(recipe, path)
        if recipe.stage in stages or value is None or value == _default_at(recipe, path):
            continue
        remedy = REMEDIES.get((path, recipe.stage)) or REMEDIES.get((path, None)) or _readers(stages)
        yield f"`{path}` is {shown(value)}, and it is not for the stage `{recipe.stage}`: {remedy}."


def _value_at(recipe: Any, path: str) -> Any:
    group, _, name = path.partition(".")
    holder = getattr(recipe, group)
    if not name:
        return holder
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name)


def _default_at(recipe: Any, path: str) -> Any:
    group, _, name = path.partition(".")
    kind = FlowOmniTrainingArguments if group == "training" else type(getattr(recipe, group) if name else recipe)
    field = next(field for field in dataclasses.fields(kind) if field.name == (name or group))
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _readers(stages: tuple[str, ...]) -> str:
    readers = [f"`{stage}`" for stage in (*STAGES, *PART_STAGES) if stage in stages]
    return f"leave it out; of use it is to {', '.join(readers)}" if readers else "leave it out; no stage reads it"


def shown(value: Any) -> str:
    """A value in a recipe's words: of a group, the fields that differ from their defaults."""
    if not dataclasses.is_dataclass(value):
        return repr(value)
    default = type(value)()
    changed = {name: field for name, field in vars(value).items() if field != getattr(default, name)}
    return repr(changed)
