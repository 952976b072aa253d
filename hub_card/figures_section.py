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
"""The section of a card that has the figures, in a new card or put into one that is there."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from .card_files import CARD_NAME, as_list, is_untouched, signed, unsigned, write_whole
from .card_metadata import check_figures, metrics_of, without_folders


HEADING = "## Figures"
SECTION = re.compile(rf"^{HEADING}[ ]*\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def figures_section(figures: Iterable[EvalResult], commands: Iterable[str] | str | None = None) -> str:
    """The section in Markdown: a table, and the commands that measured what is in it."""
    rows = [_row(figure) for figure in figures]
    if not rows:
        return f"{HEADING}\n\nNothing was measured.\n"
    lines = [HEADING, "", "| task | data | measure | value |", "|-|-|-|-:|", *rows]
    commands = [f"$ {without_folders(command)}" for command in as_list(commands)]
    if commands:
        lines += ["", "Measured by", "", "```console", *commands, "```"]
    return "\n".join(lines) + "\n"


def put_figures(
    folder: str | os.PathLike,
    figures: Iterable[EvalResult | Mapping[str, Any]],
    commands: Iterable[str] | str | None = None,
) -> Path:
    """
    Puts figures into the card of a checkpoint, instead of those that it had, and returns its path. Nothing else of the card
    changes, so that an edited one stays what its author made it.

    Args:
        folder (`str` or `Path`):
            Where the card, `README.md`, is.
        figures (`Iterable[EvalResult]`):
            What was measured, as [`figures_for_card`] gives it, or as `huggingface_hub.EvalResult`.
        commands (`Iterable[str]`, *optional*):
            What measured them. The folders of paths are left out.
    """
    path = Path(folder) / CARD_NAME
    if not path.is_file():
        raise FileNotFoundError(f"There is no card in '{folder}': write one with `write_model_card`.")
    text = path.read_text(encoding="utf-8")
    figures, was_ours = check_figures(figures), is_untouched(text)
    card = ModelCard(unsigned(text))
    if not SECTION.search(card.text):
        raise ValueError(f"'{path}' has no section `{HEADING}`: add its heading where the figures are to stand.")
    title = TITLE.search(card.text)
    card.data.model_name = (title[1].strip() if title else "Flow-Omni") if figures else None
    card.data.eval_results, card.data.metrics = figures or None, metrics_of(figures)
    section = figures_section(figures, commands)
    card.text = SECTION.sub(lambda _: f"{section}\n", card.text)
    whole = str(card)
    write_whole(path, signed(whole) if was_ours else whole)
    return path


def _row(figure: EvalResult) -> str:
    split = f" ({figure.dataset_split})" if figure.dataset_split else ""
    cells = (
        figure.task_name or figure.task_type,
        f"{figure.dataset_name}{split}",
        figure.metric_name or figure.metric_type,
        str(figure.metric_value),
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
