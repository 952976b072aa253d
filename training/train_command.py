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
"""The command `train`: a recipe and changes to it become a trained checkpoint."""

import gc
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..cli.console import is_watched
from ..cli.errors import users_mistakes
from .allocator import keep_freed_memory


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A YAML file, or a recipe that comes along: align, finetune or vocoder; tiny/language, tiny/recognise, "
            "tiny/vocoder, tiny/align, tiny/finetune, tiny/understand, tiny/speak or tiny/settle.",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Changes to the recipe, such as training.learning_rate=3e-4.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would train: parameters, data, steps, memory. Train nothing.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, and set the checkpoints in the output folder aside.")
    ] = False,
):
    """
    Train a model as a recipe says.

    The stages align and finetune teach a model that has its parts (model=…) to talk; understand, listen and speak teach one
    that does to do one of these better, and leave all else of it as it is. The stages language, recognise and vocoder
    make a part of the sizes in new=…, or go on with one. Any key of a recipe can be set behind it; data.train takes a source, a
    list, or how many times each comes in an epoch, and data.augmentation puts noise into questions.

    The same command again resumes from the last checkpoint. Run it with `accelerate launch -m flow_omni.training` to use
    several processes.

    Examples:

        flow-omni train align model=my-model data.train=train.jsonl training.output_dir=runs/align --dry-run
        flow-omni train finetune model=runs/align data.train=train.jsonl training.output_dir=runs/finetune
        flow-omni train align model=my-model "data.train={a.jsonl: 1, b.jsonl: 2}" training.output_dir=runs/align
        flow-omni train tiny/language data.train=train.jsonl new.hidden_size=128 training.output_dir=runs/language
    """
    # what recipe, data and model have to be is found out here; once it trains, an error is a fault
    with users_mistakes():
        from .recipe import load_recipe

        settings = load_recipe(recipe, overrides or [])
        # else as talkative as the libraries are, and the command has silenced them
        settings.training.setdefault("disable_tqdm", not is_watched())
        run = _runs_of(settings.stage).make_run(settings)
    if dry_run:
        if run.args.should_save:
            typer.echo(run.describe())
    else:
        if run.args.device.type == "cpu":
            keep_freed_memory()
        metrics = run.train(is_fresh=fresh)
        skipped = _skipped_rows(run)
        if run.args.should_save:
            _report(run, metrics, skipped, _command(recipe, overrides or [], run.args.world_size))
    _leave_together(run)


def _runs_of(stage: str):
    """The module that makes the runs of a stage."""
    from importlib import import_module

    from .stages import PART_STAGES

    package = __name__.rpartition(".")[0]
    # what only this stage needs has a folder of its own
    folder = "recognition." if stage == "recognise" else ""
    return import_module(f"{package}.{folder}{stage if stage in PART_STAGES else 'speech'}_run")


def _command(recipe: str, overrides: list[str], num_processes: int) -> str:
    """What is to be typed to train this model again."""
    several = ["accelerate", "launch", "--num_processes", str(num_processes), "-m", "flow_omni.training"]
    return shlex.join([*(several if num_processes > 1 else ["flow-omni", "train"]), recipe, *overrides])


def _skipped_rows(run):
    """What all processes together have skipped."""
    from accelerate.utils import gather_object

    from .examples import SkipReport

    batches, total = getattr(run, "train_batches", None), SkipReport()
    reports = [] if batches is None else [batches.report.state_dict()]
    for state in gather_object(reports) if run.args.world_size > 1 else reports:
        total.merge(state)
    return total


def _report(run, metrics: dict[str, float], skipped, command: str) -> None:
    """The report of a finished run. The model is saved by now: a card that somebody edited must not spoil the end."""
    from .report import write_report

    folder = Path(run.args.output_dir)
    try:
        write_report(folder, run.trainer.state.log_history, metrics, run.recipe.card, command)
    except FileExistsError as error:
        typer.echo(str(error), err=True)
    for name, value in sorted(metrics.items()):
        typer.echo(f"{name}: {value:.4g}")
    if skipped.num_skipped:
        typer.echo(str(skipped))
    batches = getattr(run, "train_batches", None)
    # a run that was done before has batched nothing
    if batches is not None and batches.num_padded_steps:
        typer.echo(f"padding: {batches.padding_share:.1%} of what the batches held")
    typer.echo(f"{folder}: trained for {run.trainer.state.global_step} steps, and saved.")


def _leave_together(run) -> None:
    """Ends all processes of a run at once: one that still talks when another is gone is aborted, its work done or not."""
    import torch.distributed as dist

    trainer = run.trainer
    trainer.accelerator.wait_for_everyone()
    if dist.is_available() and dist.is_initialized():
        # The wrapped model goes before the group: as the last to hold it, it would wait for the group's threads while these
        # wait for Python, now and then for ever.
        trainer.model_wrapped = trainer.model
        trainer.accelerator.free_memory()
        gc.collect()
        dist.destroy_process_group()


def main() -> None:
    """What `python -m flow_omni.training` runs, as `accelerate launch` needs it: `flow-omni train`."""
    from ..cli.app import app

    app(["train", *sys.argv[1:]], prog_name="flow-omni")
