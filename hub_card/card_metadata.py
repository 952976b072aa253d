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
"""The card's metadata, by which the Hub finds and links a model: checked here, since a wrong entry is dropped silently."""

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData


PIPELINE_TAG = "any-to-any"
LIBRARY_NAME = "transformers"
TAGS = (
    "flow-omni",
    "speech-to-speech",
    "text-to-speech",
    "automatic-speech-recognition",
    "continuous-speech-tokens",
    "custom_code",
)

# `owner/name`. Ids without an owner are a few old models, none of which can be a part of this one.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual")
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
# openai-whisper's name of each of its models -> id on the Hub
OPENAI_WHISPERS = {
    "large": "openai/whisper-large-v3",
    "large-v1": "openai/whisper-large",
    "turbo": "openai/whisper-large-v3-turbo",
} | {
    name: f"openai/whisper-{name}"
    for name in (
        *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
        *("large-v2", "large-v3", "large-v3-turbo"),
    )
}

# The folders of a path on somebody's machine, within one word of a command.
LOCAL_FOLDERS = re.compile(
    r"""
    (?<![\w/\\:.])                    # not inside `owner/name`, nor in a URL
    (?:~[\w-]*|\.{1,2}|[A-Za-z]:)?    # home, relative, a Windows drive, or nothing: absolute
    [/\\]
    (?:[^/\\=,'"\[\]{}]+[/\\])*
    (?=[^/\\=,])                      # what is named, which stays
    """,
    re.VERBOSE,
)


def make_metadata(
    base_models: Iterable[str | None] = (),
    datasets: Iterable[str | None] = (),
    languages: Iterable[str] = (),
    license: str | None = None,
    figures: Iterable[EvalResult] = (),
    model_name: str = "Flow-Omni",
) -> ModelCardData:
    """The metadata of a card. What was not given, and ids that are `None`, are left out."""
    figures = list(figures)
    return ModelCardData(
        language=list(languages) or None,
        license=license,
        library_name=LIBRARY_NAME,
        pipeline_tag=PIPELINE_TAG,
        tags=list(TAGS),
        base_model=_each_once(base_models) or None,
        datasets=_each_once(datasets) or None,
        metrics=metrics_of(figures),
        eval_results=figures or None,
        model_name=model_name if figures else None,
    )


def metrics_of(figures: Iterable[EvalResult]) -> list[str] | None:
    """The kinds of figures, by which the Hub finds a model; `None` where nothing was measured."""
    return _each_once(figure.metric_type for figure in figures) or None


def _each_once(values: Iterable[Any]) -> list:
    return list(dict.fromkeys(value for value in values if value is not None))


def hub_id_of(source: Any) -> str | None:
    """
    The Hub id that something was loaded by, `None` for a local folder or file: a path of somebody's machine has no place
    in a card.
    """
    if not isinstance(source, str) or os.path.exists(os.path.expanduser(source)):
        return None
    return source if HUB_ID.fullmatch(source) else None


def base_model_of(source: Any) -> str | None:
    """[`hub_id_of`] a part, where the names of openai-whisper's models stand for their ids."""
    is_name = isinstance(source, str) and source in OPENAI_WHISPERS and not os.path.exists(source)
    return OPENAI_WHISPERS[source] if is_name else hub_id_of(source)


def name_of(dataset: str) -> str | None:
    """A data set as a card may name it, by its id or by its name; `None` for a path."""
    return None if _is_path(dataset) or os.path.exists(dataset) else dataset


def _is_path(dataset: str) -> bool:
    """Whether a name holds folders. One word is none, even where a folder of this name happens to be."""
    return hub_id_of(dataset) is None and re.search(r"[/\\~]", dataset) is not None


def without_folders(command: str) -> str:
    """
    `command` with the folders of this machine taken off its paths: `/home/me/runs/a.yaml` becomes `a.yaml`. What stands
    behind ` #` stays as it is.
    """
    command, mark, comment = command.partition(" #")
    words = shlex.shlex(command, posix=True)
    words.whitespace_split, words.commenters, words.escape = True, "", ""  # a backslash is part of a Windows path
    try:
        words = list(words)
    except ValueError:  # quotes that do not match
        words = command.split()
    return shlex.join(LOCAL_FOLDERS.sub("", word) for word in words) + mark + comment


def check_languages(languages: Iterable[str] | str | None) -> list[str]:
    languages = [languages] if isinstance(languages, str) else list(languages or [])
    for language in languages:
        if not isinstance(language, str) or not LANGUAGE.fullmatch(language):
            raise ValueError(
                f"{language!r} is no code of a language: write it in two or three small letters as in ISO 639, such as 'en' "
                "or 'zh', or 'multilingual'."
            )
    return languages


def check_license(license: str | None) -> str | None:
    if license is not None and not LICENSE.fullmatch(license):
        raise ValueError(
            f"{license!r} is no identifier of a licence on the Hub: write it in small letters, such as 'apache-2.0', 'mit' "
            "or 'cc-by-4.0', or 'other' and name the licence in the card."
        )
    return license


def check_model_id(model_id: str) -> str:
    if not HUB_ID.fullmatch(model_id):
        raise ValueError(f"{model_id!r} is no id of a model on the Hub: write `owner/name`.")
    return model_id


def check_figures(figures: Iterable[EvalResult | Mapping[str, Any]] | None) -> list[EvalResult]:
    """Figures as `EvalResult`, given as such or as its fields; every value a number that was measured."""
    checked = []
    for figure in figures or []:
        if isinstance(figure, Mapping):
            try:
                figure = EvalResult(**figure)
            except TypeError as error:
                raise ValueError(
                    f"A figure has the fields {sorted(figure)} ({error}): it must hold `task_type`, `dataset_type`, "
                    "`dataset_name`, `metric_type` and `metric_value`, as `huggingface_hub.EvalResult`."
                ) from error
        if not isinstance(figure, EvalResult):
            raise TypeError(
                f"A figure is a `{type(figure).__name__}`: pass `EvalResult`s, or mappings of their fields."
            )
        if _is_path(figure.dataset_name) or _is_path(figure.dataset_type):
            raise ValueError(
                f"The figure `{figure.metric_type}` was measured on {figure.dataset_name!r} ({figure.dataset_type!r}), which is "
                "a path: give the data set's name, and as its type its id on the Hub or a word for it."
            )
        value = figure.metric_value
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"The figure `{figure.metric_type}` on {figure.dataset_name} is {value}: leave it out.")
        checked.append(figure)
    return checked
