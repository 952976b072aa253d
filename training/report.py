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
"""What a run leaves beside its weights: the curves of its losses as a picture, its figures, and the model card."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..hub_card import write_model_card
from ..hub_card.evaluation_figures import OTHER_TASK_TYPE, TASK_TYPES
from .extras import needs
from .recipe import CardRecipe
from .rows import TASKS


CURVES, LOG = "training_curves.png", "training_log.json"
# Of the losses these come first, in this order; what else is one follows.
FIRST_SHOWN = ("loss", "text_loss", "state_loss", "speech_loss", "auxiliary_loss")
# The Trainer's mean over the whole run, which is no point of a curve.
NO_CURVE = "train_loss"
PANELS_IN_A_ROW = 5
# What generation measures, as the Hub names it.
METRICS = {
    "cer": ("cer", "CER of the text"),
    "wer": ("wer", "WER of the text"),
    "exact": ("exact_match", "exact answers"),
    "spoken_cer": ("cer", "CER of the speech, as a recogniser heard it"),
}


def draw_curves(log: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draws every loss over the steps, in training and evaluation; `False` where none was logged, in either."""
    matplotlib = needs("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = losses_in(log)
    if not names:
        return False
    num_columns = min(len(names), PANELS_IN_A_ROW)
    num_rows = math.ceil(len(names) / num_columns)
    figure, panels = pyplot.subplots(num_rows, num_columns, figsize=(3.6 * num_columns, 3 * num_rows), squeeze=False)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    for panel, name in zip(panels.flat, names):
        for key, label in ((name, "training"), (f"eval_{name}", "evaluation")):
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            if points:
                panel.plot(*zip(*points), label=label, marker="." if len(points) < 30 else None)
        panel.set_title(name.replace("_", " "))
        panel.set_xlabel("step")
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def losses_in(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all losses that were logged, in training or in evaluation."""
    logged = {key.removeprefix("eval_") for entry in log for key in entry if key != NO_CURVE}
    losses = {name for name in logged if name == "loss" or name.endswith("_loss")}
    return [name for name in FIRST_SHOWN if name in losses] + sorted(losses - set(FIRST_SHOWN))


def figures_of(metrics: Mapping[str, float], dataset: str) -> list[dict[str, Any]]:
    """What generation measured, as figures of a model card."""
    figures = []
    for task in TASKS:
        for name, (kind, words) in METRICS.items():
            value = metrics.get(f"eval_{task}_{name}")
            if value is None:
                continue
            figures.append(
                {
                    "task_type": TASK_TYPES.get(task, OTHER_TASK_TYPE),
                    "dataset_type": "custom",
                    "dataset_name": dataset,
                    "metric_type": kind,
                    "metric_name": f"{task.replace('_', ' ')}: {words}",
                    "metric_value": round(float(value), 4),
                }
            )
    return figures


def write_report(
    folder: str | Path,
    log: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    card: CardRecipe,
    command: str,
    dataset: str = "held-out rows",
) -> list[Path]:
    """Writes curves, log and card into the folder of a checkpoint, and returns what was written."""
    folder = Path(folder)
    written = [folder / LOG]
    written[0].write_text(json.dumps(list(log), indent=1) + "\n", encoding="utf-8")
    if draw_curves(log, folder / CURVES):
        written.append(folder / CURVES)
    if is_speech_model(folder):
        figures = figures_of(metrics, dataset)
        about = (card.model_id, card.base_models, card.datasets, card.languages, card.license)
        written.append(write_model_card(folder, *about, figures, is_trained=True, command=command))
    return written


def is_speech_model(folder: Path) -> bool:
    """Whether a folder holds a whole model, and not a vocoder or adapters alone, for which there is no card."""
    path = folder / "config.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["model_type"] == "flow_omni"
