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
"""Writes the model card of a checkpoint: what its folder tells is read from it, what only its author knows is passed in."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from .card_files import CARD_NAME, as_list, check_replaceable, is_untouched, signed, unsigned, write_whole
from .card_metadata import (
    base_model_of,
    check_figures,
    check_languages,
    check_license,
    check_model_id,
    hub_id_of,
    make_metadata,
    name_of,
    without_folders,
)
from .checkpoint_facts import CheckpointFacts, read_checkpoint
from .figures_section import figures_section


TEMPLATE = Path(__file__).with_name("model_card.md")
# stands in the usage until the model has an id
PLACEHOLDER_ID = "your-name/flow-omni"


def write_model_card(
    folder: str | os.PathLike,
    model_id: str | None = None,
    base_models: Mapping[str, Any] | Iterable[Any] | None = None,
    datasets: Iterable[str] | None = None,
    languages: Iterable[str] | str | None = None,
    license: str | None = None,
    figures: Iterable[EvalResult | Mapping[str, Any]] | None = None,
    is_trained: bool = False,
    command: str | None = None,
    overwrite: bool = False,
    evaluation_commands: Iterable[str] | str | None = None,
    about: str | None = None,
    is_bundled: bool = False,
) -> Path:
    """
    Writes `README.md` into the folder of a checkpoint, and returns its path.

    Args:
        folder (`str` or `Path`):
            What `save_pretrained` wrote. Sizes and geometry are read from it.
        model_id (`str`, *optional*):
            Id of the model on the Hub, for the usage. [`name_model_card`] can write it later.
        base_models (`Mapping[str, str]` or `Iterable[str]`, *optional*):
            What the model was assembled from, as it was passed to `from_pretrained_parts`. Only Hub ids (and the names of
            openai-whisper's models, which have ids) get into the card.
        datasets (`Iterable[str]`, *optional*):
            What it was trained on: Hub ids, or names. Local paths do not get into the card.
        languages (`Iterable[str]`, *optional*):
            ISO 639 codes of the languages it speaks.
        license (`str`, *optional*):
            The Hub's identifier of the weights' licence.
        figures (`Iterable[EvalResult]`, *optional*):
            What was measured, as `huggingface_hub.EvalResult` or mappings of its fields; [`figures_for_card`] gives those of
            an evaluation.
        is_trained (`bool`, *optional*, defaults to `False`):
            Whether the model was trained after its parts were joined. The card of one that was not says so at the top.
        command (`str`, *optional*):
            The command that made the checkpoint. The folders of its paths are left out.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace a card that was edited, or that this function did not write.
        evaluation_commands (`Iterable[str]`, *optional*):
            The commands that measured the figures. [`put_figures`] can put figures into the card later.
        about (`str`, *optional*):
            What else a stranger should know before he uses it, in Markdown: what it was made for, of which data, and what it
            cannot do.
        is_bundled (`bool`, *optional*, defaults to `False`):
            Whether it lies in the package, which then loads it.
    """
    path = Path(folder) / CARD_NAME
    card = make_model_card(
        read_checkpoint(folder),
        model_id,
        base_models,
        datasets,
        languages,
        license,
        figures,
        is_trained,
        command,
        evaluation_commands,
        about,
        is_bundled,
    )
    if not overwrite:
        check_replaceable(path)
    write_whole(path, signed(str(card)))
    return path


def make_model_card(
    facts: CheckpointFacts,
    model_id: str | None,
    base_models: Mapping[str, Any] | Iterable[Any] | None,
    datasets: Iterable[str] | None,
    languages: Iterable[str] | str | None,
    license: str | None,
    figures: Iterable[EvalResult | Mapping[str, Any]] | None,
    is_trained: bool,
    command: str | None,
    evaluation_commands: Iterable[str] | str | None,
    about: str | None,
    is_bundled: bool,
) -> ModelCard:
    """The card of a checkpoint with these facts; the other arguments are those of [`write_model_card`]."""
    figures, parts, datasets = check_figures(figures), parts_of(base_models), as_list(datasets)
    dataset_names = [name_of(dataset) for dataset in datasets]
    title = "Flow-Omni" if model_id is None else check_model_id(model_id).partition("/")[2]
    metadata = make_metadata(
        base_models=[hub_id for _, hub_id in parts],
        datasets=map(hub_id_of, datasets),
        languages=check_languages(languages),
        license=check_license(license),
        figures=figures,
        model_name=title,
    )
    return ModelCard.from_template(
        metadata,
        template_path=os.fspath(TEMPLATE),
        title=title,
        model_id=model_id or PLACEHOLDER_ID,
        facts=facts,
        config=facts.config,
        speech=facts.config.speech_config,
        base_models=parts,
        datasets=[name for name in dataset_names if name is not None],
        has_unnamed_datasets=None in dataset_names,
        figures_section=figures_section(figures, evaluation_commands),
        is_trained=is_trained,
        about=about,
        is_bundled=is_bundled,
        command=without_folders(command) if command else None,
        in_words=in_words,
    )


def name_model_card(folder: str | os.PathLike, model_id: str) -> bool:
    """
    Puts the model's id where its card still says `your-name/flow-omni`, and returns whether it did. Nothing else of the
    card changes, so that an edited one stays what its author made it.
    """
    path = Path(folder) / CARD_NAME
    if not path.is_file():
        raise FileNotFoundError(f"There is no card in '{folder}': write one with `write_model_card`.")
    text = path.read_text(encoding="utf-8")
    if PLACEHOLDER_ID not in text:
        return False
    was_ours = is_untouched(text)
    text = unsigned(text).replace(PLACEHOLDER_ID, check_model_id(model_id))
    write_whole(path, signed(text) if was_ours else text)
    return True


def parts_of(base_models: Mapping[str, Any] | Iterable[Any] | None) -> list[tuple[str | None, str | None]]:
    """Of each part its name, where it was given one, and its Hub id, `None` for a part from somebody's machine."""
    if isinstance(base_models, Mapping):
        named = base_models.items()
    else:
        named = [(None, source) for source in as_list(base_models)]
    return [(name, base_model_of(source)) for name, source in named if source is not None]


def in_words(num_parameters: int | None) -> str:
    """A number of parameters as one reads it: 1234567 is 1.2 M."""
    if num_parameters is None:
        return "–"
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if num_parameters >= size:
            return f"{num_parameters / size:.1f} {unit}"
    return str(num_parameters)
