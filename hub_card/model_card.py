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
"""Writes the model card of a checkpoint: facts are read from its folder, what only its author knows is passed in."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from .facts import RESULTS_FILE, hub_id_of, read_checkpoint, read_results


CARD_FILE = "README.md"
TEMPLATE = Path(__file__).with_name("model_card.md")
PLACEHOLDER_ID = "your-name/flow-omni"  # in the usage until the model has an id
TAGS = ["flow-omni", "speech-to-speech", "text-to-speech", "automatic-speech-recognition"]
TAGS += ["continuous-speech-tokens", "custom_code"]
RESULTS_SECTION = re.compile(r"^## Results\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def write_model_card(
    folder: str | os.PathLike,
    model_id: str | None = None,
    base_models: Mapping[str, str] | Iterable[str] | None = None,
    datasets: Iterable[str] = (),
    languages: Iterable[str] = (),
    license: str | None = None,
    part_licenses: Mapping[str, str] | None = None,
    is_trained: bool = False,
    command: str | None = None,
    about: str | None = None,
    results: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> Path:
    """
    Writes `README.md` into the folder of a checkpoint, and returns its path.

    Args:
        folder (`str` or `Path`):
            What `save_pretrained` wrote. Modules, sizes and base models are read from it.
        model_id (`str`, *optional*):
            Id of the model on the Hub, for the usage. [`name_model_card`] can insert it later.
        base_models (`Mapping[str, str]` or `Iterable[str]`, *optional*):
            Hub ids of the pretrained parts, by module group. Defaults to those that config.json names; paths of this
            machine are left out.
        datasets (`Iterable[str]`, *optional*):
            What the model was trained on: Hub ids or names.
        languages (`Iterable[str]`, *optional*):
            ISO 639 codes of its languages.
        license (`str`, *optional*):
            Identifier of the weights' licence on the Hub.
        part_licenses (`Mapping[str, str]`, *optional*):
            Licences of the pretrained parts, by module group.
        is_trained (`bool`, *optional*, defaults to `False`):
            Whether the model was trained after assembling.
        command (`str`, *optional*):
            The command that made the checkpoint.
        about (`str`, *optional*):
            A paragraph of Markdown about purpose, data and limits.
        results (`str` or `Path`, *optional*):
            Folder or `results.json` of an evaluation. Defaults to a `results.json` in the folder of the checkpoint.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace an existing card.
    """
    folder = Path(folder).expanduser()
    facts, path = read_checkpoint(folder), folder / CARD_FILE
    if path.exists() and not overwrite:
        raise FileExistsError(f"'{path}' exists and may have been edited: pass `overwrite=True` to replace it.")
    if results is None and (folder / RESULTS_FILE).is_file():
        results = folder
    metrics, evaluation_command = read_results(results) if results is not None else ([], None)
    if base_models is None:
        base_models = facts.base_models
    elif not isinstance(base_models, Mapping):
        base_models = {hub_id: hub_id for hub_id in base_models}
    base_models = {part: hub_id_of(source) for part, source in base_models.items() if hub_id_of(source)}
    names = [name for name in datasets if hub_id_of(name) or "/" not in name]
    title = checked_id(model_id).partition("/")[2] if model_id is not None else "Flow-Omni"
    data = ModelCardData(
        language=list(languages) or None,
        license=license,
        library_name="transformers",
        pipeline_tag="any-to-any",
        tags=TAGS,
        base_model=list(dict.fromkeys(base_models.values())) or None,
        datasets=[name for name in names if hub_id_of(name)] or None,
        metrics=metric_types(metrics),
        eval_results=metrics or None,
        model_name=title if metrics else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        model_id=model_id or PLACEHOLDER_ID,
        facts=facts,
        config=facts.config,
        speech=facts.config.speech_config,
        base_models=base_models,
        part_licenses=dict(part_licenses or {}),
        dataset_names=names,
        license=license,
        is_trained=is_trained,
        command=command,
        about=about,
        results_section=results_section(metrics, evaluation_command),
        count=count,
    )
    card.save(path)
    return path


def name_model_card(folder: str | os.PathLike, model_id: str) -> bool:
    """
    Replaces the placeholder `your-name/flow-omni` in a card by the id of the model, and returns whether there was one.
    The rest of the card stays as it is.
    """
    path = card_path(folder)
    text = path.read_text(encoding="utf-8")
    if PLACEHOLDER_ID not in text:
        return False
    ModelCard(text.replace(PLACEHOLDER_ID, checked_id(model_id)), ignore_metadata_errors=True).save(path)
    return True


def add_results(folder: str | os.PathLike, results: str | os.PathLike) -> Path:
    """
    Puts the metrics of an evaluation into the metadata and the section `## Results` of a card, in place of earlier
    ones. The rest of the card stays as it is.
    """
    path = card_path(folder)
    metrics, command = read_results(results)
    card = ModelCard.load(path)
    title = re.search(r"^# (.+)$", card.text, re.MULTILINE)
    card.data.model_name = title[1].strip() if title else "Flow-Omni"
    card.data.eval_results, card.data.metrics = metrics, metric_types(metrics)
    section = results_section(metrics, command)
    card.text = RESULTS_SECTION.sub(lambda _: f"{section}\n\n", card.text)
    card.save(path)
    return path


def results_section(metrics: Iterable[EvalResult], command: str | None) -> str:
    """The section in Markdown: a table, and the command that measured it."""
    rows = [
        f"| {one.task_type} | {one.dataset_name}{f' ({one.dataset_split})' if one.dataset_split else ''} "
        f"| {one.metric_name} | {one.metric_value} |"
        for one in metrics
    ]
    lines = ["## Results", "", "| task | data | metric | value |", "|-|-|-|-:|", *rows]
    lines += ["", "Measured by", "", "```console", f"$ {command}", "```"] if command else []
    return "\n".join(lines) if rows else "## Results\n\nNot evaluated yet."


def metric_types(metrics: Iterable[EvalResult]) -> list[str] | None:
    return list(dict.fromkeys(one.metric_type for one in metrics)) or None


def card_path(folder: str | os.PathLike) -> Path:
    path = Path(folder).expanduser() / CARD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"There is no card in '{folder}': write one with `write_model_card`.")
    return path


def checked_id(model_id: str) -> str:
    validate_repo_id(model_id)
    if "/" not in model_id:
        raise ValueError(f"The id of the model is {model_id!r}: write `owner/name`.")
    return model_id


def count(num_parameters: int) -> str:
    """A number of parameters in short: 1234567 is 1.2 M."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if num_parameters >= size:
            return f"{num_parameters / size:.1f} {unit}"
    return str(num_parameters)
