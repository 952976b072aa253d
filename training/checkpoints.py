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
"""Checkpoints that are there whole or not at all: written aside, brought to the disk, and only then given their name."""

import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, sort_checkpoints


logger = logging.getLogger(__name__)

# Begins with a dot and not with `checkpoint-`: nothing that looks for checkpoints finds one that is being written.
STAGING = ".unfinished"
# The state that a run ended with. The last checkpoint need not tell: of a run that ends with its best one, that may be gone.
FINISHED = ".finished.json"
# What is not uploaded of a folder: what training leaves there, and hidden files. Logs of TensorBoard (`runs`) hold the texts
# of rows, and batches that stopped a run the ids of theirs: data is published on purpose or not at all. peft's card of
# adapters is empty but for a path.
NOT_UPLOADED = [
    *("*.bin", "*.pt", "*.pth", "*.pkl"),
    *("checkpoint-*/**", "earlier-*/**", "diverged-step-*/**", "runs/**", "adapters/README.md"),
    *(".*", "**/.*"),
]
# What a full disk raises: Python, torch and safetensors each have their own.
NOT_WRITTEN = (OSError, RuntimeError, SafetensorError)


class CheckpointNotWrittenError(OSError):
    """A checkpoint, or the trained model, could not be written. What was there before is as it was."""


def staging_folder(run_folder: str | os.PathLike) -> Path:
    return Path(run_folder) / STAGING


def clear_staging(run_folder: str | os.PathLike) -> None:
    """Removes what a run that was killed while it wrote has left."""
    shutil.rmtree(staging_folder(run_folder), ignore_errors=True)


def publish(staged: Path, final: Path) -> None:
    """
    Gives a complete folder its name. An older one of that name goes first, aside: `rename` is atomic, but does not replace
    a folder with files in it.
    """
    bring_to_disk(staged)
    replaced = staged.with_name(f"replaced-{final.name}")
    if final.exists():
        os.replace(final, replaced)
    os.replace(staged, final)
    _sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def publish_files(staged: Path, folder: Path) -> None:
    """Moves the files of a complete folder into another one, each at once."""
    bring_to_disk(staged)
    for path in sorted(staged.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    _sync(folder)


def bring_to_disk(folder: Path) -> None:
    """Waits until the files are on the disk: a rename may reach it sooner than what it names, and then power fails."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_checkpoint(run_folder: str | os.PathLike) -> str | None:
    """The latest checkpoint of a run, or `None` if it has none yet."""
    return get_last_checkpoint(run_folder) if os.path.isdir(run_folder) else None


def end_of_run(run_folder: str | os.PathLike, max_steps: int, with_best: bool) -> tuple[str, TrainerState] | None:
    """
    Of a run that has taken all its steps, the state that it ended with, and the checkpoint of the weights that it ended
    with: the last one, or `with_best` the best.
    """
    last = last_checkpoint(run_folder)
    if last is None:
        return None
    for path in (Path(run_folder) / FINISHED, Path(last) / TRAINER_STATE_NAME):
        state = TrainerState.load_from_json(os.fspath(path)) if path.is_file() else None
        if state is None or state.global_step < max_steps:
            continue
        best = best_checkpoint(run_folder, state) if with_best else None
        if best is not None or step_of(last) >= max_steps:
            return best or last, state
    return None


def note_end(run_folder: str | os.PathLike, state: TrainerState) -> None:
    """Notes that a run has taken all its steps, for [`end_of_run`]."""
    staged = staging_folder(run_folder) / FINISHED
    with writing("The state of the run", run_folder, run_folder):
        staged.parent.mkdir(parents=True, exist_ok=True)
        state.save_to_json(os.fspath(staged))
        os.replace(staged, Path(run_folder) / FINISHED)
        clear_staging(run_folder)


def forget_end(run_folder: str | os.PathLike) -> None:
    """Of a run that goes on, or begins anew."""
    (Path(run_folder) / FINISHED).unlink(missing_ok=True)


def best_checkpoint(run_folder: str | os.PathLike, state: TrainerState) -> str | None:
    """The best checkpoint of a run, if it is still there. The folder may have been moved since its path was noted."""
    if state.best_model_checkpoint is None:
        return None
    best = Path(run_folder) / Path(state.best_model_checkpoint).name
    return os.fspath(best) if best.is_dir() else None


def rotate(run_folder: str | os.PathLike, limit: int | None, best: str | None = None) -> None:
    """
    Leaves the last `limit` checkpoints, the best one among them. The others lose their names before they are deleted: one
    that a kill had left half deleted would have been touched last, and be kept in the place of a whole one.
    """
    if limit is None or limit <= 0:
        return
    checkpoints = sort_checkpoints(os.fspath(run_folder), use_mtime=True)
    kept = {*checkpoints[-1:], *([os.fspath(Path(best))] if best is not None else [])}
    num_surplus = max(0, len(checkpoints) - max(limit, len(kept)))
    for checkpoint in [path for path in checkpoints if path not in kept][:num_surplus]:
        removed = staging_folder(run_folder) / f"removed-{Path(checkpoint).name}"
        removed.parent.mkdir(exist_ok=True)
        os.replace(checkpoint, removed)
        shutil.rmtree(removed, ignore_errors=True)


def set_aside(run_folder: str | os.PathLike) -> None:
    """
    Moves the checkpoints of an earlier run into a folder `earlier-N`: a run that begins anew beside them would be resumed
    from theirs as soon as they are further on than its own.
    """
    found = [path for path in Path(run_folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    if not found:
        return
    number = next(number for number in itertools.count(1) if not (Path(run_folder) / f"earlier-{number}").exists())
    aside = Path(run_folder) / f"earlier-{number}"
    aside.mkdir()
    for path in found:
        os.replace(path, aside / path.name)
    logger.warning("Begun anew: the %d checkpoints of the earlier run lie in '%s'.", len(found), aside)


def check_num_processes(checkpoint: str | os.PathLike, num_then: int, num_now: int) -> None:
    """Raises where a checkpoint is of a run on another number of processes: each has its own place in the data."""
    if num_then != num_now:
        raise ValueError(
            f"'{checkpoint}' is of a run on {num_then} processes, and this one is on {num_now}. Each reads its own share of the "
            "data: resume on as many."
        )


def step_of(checkpoint: str | os.PathLike) -> int:
    """The optimizer steps behind a checkpoint."""
    return json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]


@contextmanager
def writing(what: str, folder: str | os.PathLike, run_folder: str | os.PathLike) -> Iterator[None]:
    """Clears away what could not be written to a folder, and tells how much room there is and what the run has left."""
    try:
        yield
    except NOT_WRITTEN as error:
        clear_staging(folder)
        raise not_written(what, folder, run_folder, error) from error


def not_written(
    what: str, folder: str | os.PathLike, run_folder: str | os.PathLike, reason: BaseException
) -> CheckpointNotWrittenError:
    """The error to raise where something failed to be written."""
    free = shutil.disk_usage(run_folder).free / 2**30
    last = last_checkpoint(run_folder)
    left = (
        f"'{last}' is whole: make room and resume from it"
        if last
        else "There is no earlier one: make room and start anew"
    )
    return CheckpointNotWrittenError(
        f"{what} could not be written to '{folder}', where {free:.2f} GiB are free ({type(reason).__name__}: {reason}). "
        f"{left}; `save_total_limit` bounds the number of checkpoints, `save_only_model` their size."
    )
