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
"""Short training runs on tiny models, in this process and in others, for the tests of training."""

import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
from functools import lru_cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import tiny_config, tiny_model, tiny_processor
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from flow_omni.processing.audio_io import write_audio
from flow_omni.training import trainer as trainer_module
from flow_omni.training.arguments import FlowOmniTrainingArguments
from flow_omni.training.examples import ExampleBuilder, ExampleDataset
from flow_omni.training.trainer import FlowOmniTrainer, save_final


# Without noise of the model's own, two ways to compute the same loss agree.
DETERMINISTIC = {"head_type": "residual_vq", "patch_noise": 0.0, "patch_dropout": 0.0, "condition_dropout": 0.0}
DROPOUT = {"text": {"attention_dropout": 0.2}, "audio": {"dropout": 0.2, "attention_dropout": 0.1}}
FOR_SHARDS = {"optim": "adamw_torch", "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 2}
ALL_BUT_VOCODER = ["audio_encoder", "audio_adapter", "language_model", "speech_inputs", "speech_decoder"]


def tone(seconds: float, sampling_rate: int = 16000, frequency: float = 300.0) -> np.ndarray:
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    return (0.3 * np.sin(2 * np.pi * frequency * time * (1 + 0.2 * time))).astype(np.float32)


def sound(seconds: float, frequency: float = 300.0) -> dict:
    return {"array": tone(seconds, frequency=frequency), "sampling_rate": 16000}


def spoken_rows(num_rows: int = 9) -> list[dict]:
    """Exchanges of unequal lengths, spoken and written, their audio in memory."""
    return [
        {
            "id": f"row-{index}",
            "question_text": "why " * (1 + index % 3),
            "question_audio": sound(0.2 + 0.07 * index, 300 + 20 * index),
            "answer_text": "so " * (1 + index % 4),
            "answer_audio": sound(0.2 + 0.05 * (index % 5), 600 + 20 * index),
        }
        for index in range(num_rows)
    ]


@lru_cache
def _examples() -> tuple[dict, ...]:
    processor = tiny_processor(tiny_config())
    prompts = [
        (processor.make_conversation("ask", text="two and two"), "four", None),
        (processor.make_conversation("say", text="tin"), "tin", sound(0.5, 900)),
        (processor.make_conversation("transcribe", audio=sound(0.5)), "why", None),
        (processor.make_conversation("ask", audio=sound(0.4, 700)), "so so", sound(0.7, 500)),
    ]
    examples = []
    for prompt, text, audio in prompts:
        content = [{"type": "text", "text": text}] + ([{"type": "audio", "audio": audio}] if audio is not None else [])
        example = processor.encode_training_example([*prompt, {"role": "assistant", "content": content}])
        if len(example["input_features"]):
            example["audio_labels"] = [torch.tensor([7, 9])]
        examples.append(example)
    return tuple(examples)


def encoded_examples(copies: int = 2) -> list[dict]:
    """Text to text, text to speech, speech to text and speech to speech, of unequal lengths."""
    return list(_examples()) * copies


def make_trainer(folder: Any, model: Any = None, dataset: Any = None, **options: Any) -> FlowOmniTrainer:
    """A Trainer of a tiny model; options are those of the Trainer and of its arguments."""
    names = ("callbacks", "eval_dataset", "generation_metrics", "optimizers", "processing_class")
    trainer_options = {"processing_class": tiny_processor(tiny_config())}
    trainer_options |= {name: options.pop(name) for name in names if name in options}
    defaults = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "trainable_modules": ALL_BUT_VOCODER,
        "mel_statistics_batches": 0,
    }
    return FlowOmniTrainer(
        tiny_model() if model is None else model,
        FlowOmniTrainingArguments(**(defaults | options)),
        train_dataset=encoded_examples() if dataset is None else dataset,
        **trainer_options,
    )


def rows_dataset(num_rows: int = 9, **options: Any) -> ExampleDataset:
    return ExampleDataset(spoken_rows(num_rows), ExampleBuilder(tiny_processor(tiny_config()), **options))


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], **tolerance: float) -> None:
    """To the bit, unless a tolerance is given."""
    assert set(first) == set(second)
    for name, tensor in first.items():
        if tolerance:
            torch.testing.assert_close(
                tensor, second[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
            )
        else:
            assert torch.equal(tensor, second[name]), name


def write_material(folder: Path, num_rows: int = 12) -> Path:
    """A folder with a checkpoint and manifests of exchanges whose recordings are tones."""
    model = tiny_model()
    model.save_pretrained(folder / "model")
    tiny_processor(model.config).save_pretrained(folder / "model")
    rows = []
    for index in range(num_rows):
        row = {"id": f"row-{index}", "question_text": f"what is {index}", "answer_text": f"it is {index}"}
        for side, rate, frequency in (("question", 16000, 300), ("answer", 8000, 600)):
            write_audio(folder / f"{side}{index}.wav", tone(0.2 + 0.02 * index, rate, frequency + 20 * index), rate)
            row[f"{side}_audio"] = f"{side}{index}.wav"
        rows.append(row)
    for name, part in (("train", rows), ("eval", rows[:3])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


# Runs that are killed


class KillAfter(TrainerCallback):
    """Kills its own process after a step, as the kernel would: nothing gets a chance to clean up."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_while_saving(place: str, step: int) -> None:
    """
    Kills the process in the middle of a checkpoint: when it has written half of the file of that name, before the folder
    is renamed (`publish`), or when half of an old checkpoint is deleted (`discard`).
    """

    def at_step(original: Any, is_place: Any, damage: Any) -> Any:
        def killed_there(first, *args, **kwargs):
            if is_place(first, *args) and f"checkpoint-{step}" in f"{first} {args}":
                damage(Path(args[0] if args else first))
                os.kill(os.getpid(), signal.SIGKILL)
            return original(first, *args, **kwargs)

        return killed_there

    if place == "publish":
        trainer_module.publish = at_step(trainer_module.publish, lambda *args: True, lambda path: None)
    elif place == "discard":
        is_old, halve = lambda path, *args: "removed" in str(path), lambda path: next(path.iterdir()).unlink()
        trainer_module.shutil.rmtree = at_step(trainer_module.shutil.rmtree, is_old, halve)
    else:
        is_file, halve = lambda value, path: Path(path).name == place, lambda path: path.write_bytes(b"half of a file")
        torch.save = at_step(torch.save, is_file, halve)


def overrides(material: Path, output: Path, **changes: Any) -> list[str]:
    """A recipe's overrides for a short run on [`write_material`]."""
    settings = {
        "model": material / "model",
        "train_data": material / "train.jsonl",
        "output_dir": output,
        "max_steps": 4,
        "save_steps": 2,
        "logging_steps": 1,
        "dataloader_num_workers": 0,
        "report_to": "none",
        "use_cpu": "true",
        "disable_tqdm": "true",
        "num_eval_questions": 0,
    }
    return [f"{key}={value}" for key, value in (settings | changes).items()]


def run_to_the_end(folder: str, kill_at: str = "", **options: Any) -> FlowOmniTrainer:
    """A run on rows, from the last checkpoint on, that may be killed at `step-N` or `PLACE@STEP`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    callbacks = [KillAfter(int(kill_at.removeprefix("step-")))] if kill_at.startswith("step-") else []
    if "@" in kill_at:
        kill_while_saving(kill_at.partition("@")[0], int(kill_at.partition("@")[2]))
    defaults = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 2,
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.9,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "mel_statistics_batches": 10,
        "max_positions_per_batch": 200,
    }
    trainer = make_trainer(folder, tiny_model(**DROPOUT), rows_dataset(), callbacks=callbacks, **(defaults | options))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if os.path.isdir(folder) else None)
    return trainer


# Other processes


def start_server() -> multiprocessing.context.BaseContext:
    """Processes forked from one that has imported everything start in no time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_tools"])
    # Python 3.11 does not pass `sys.path` on to the process that imports
    before, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), os.pathsep.join(sys.path)
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return context


def _in_process(rank: int, num_processes: int, port: int, function: Any, arguments: tuple, options: dict) -> None:
    gc.freeze()
    if num_processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    function(*arguments, **options)
    os._exit(0)


def in_processes(function: Any, *arguments: Any, num_processes: int = 1, **options: Any) -> list[int]:
    """Runs a function in processes that train together, and returns their exit codes. If one is killed, all are."""
    context = start_server()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_in_process, args=(rank, num_processes, port, function, arguments, options))
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    multiprocessing.connection.wait([process.sentinel for process in processes], timeout=300)
    for process in processes:
        process.join(timeout=60 if processes[0].exitcode in (0, None) and processes[-1].exitcode in (0, None) else 0.1)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def train_together(folder: str, examples: list[int] | None = None, **options: Any) -> None:
    """Trains on four examples per step, however many processes share them, saves the model and the log."""
    torch.set_num_threads(1)
    dataset = [encoded_examples(1)[index] for index in examples or range(4)] * 3
    defaults = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "train_sampling_strategy": "sequential"}
    trainer = make_trainer(folder, tiny_model(speech=DETERMINISTIC), dataset, **(defaults | options))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if os.path.isdir(folder) else None)
    save_final(trainer)
    if trainer.is_world_process_zero():
        (Path(folder) / "log.json").write_text(json.dumps(trainer.state.log_history))
    trainer.end()


def run_together(folder: str, kill_at: str = "", **options: Any) -> None:
    """[`run_to_the_end`] on several processes, of which the second may be killed."""
    trainer = run_to_the_end(folder, kill_at if os.environ.get("RANK") == "1" else "", **options)
    trainer.end()


# FSDP


def take_processes_for_gpus() -> None:
    """Makes accelerate, which shards on GPUs alone, take processes on the CPU for GPUs."""
    from accelerate.state import DistributedType, PartialState

    original = PartialState.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init


if __name__ == "__main__":
    take_processes_for_gpus()
    train_together(sys.argv[1], **FOR_SHARDS, ddp_backend="gloo")
    os._exit(0)
