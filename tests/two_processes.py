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
"""What one of several processes does in the tests of distributed training: `two_processes.py KIND FOLDER [OPTION=JSON …]`."""

import json
import os
import sys
from pathlib import Path

import torch
from test_learning import conversations
from tiny import tiny_config, tiny_model, tiny_processor
from torch import nn
from training_runs import DETERMINISTIC, encoded_examples, make_trainer

from flow_omni.training.generation_metrics import GenerationMetrics, Question
from flow_omni.training.recognisers import OwnEars


# Of ask (text to text), say (text to speech), transcribe (speech to text), answer (speech to speech).
ORDERS = {"deaf-and-hearing": [0, 1, 2, 3], "silent-and-speaking": [0, 2, 1, 3]}


def train(folder: str, order: str = "deaf-and-hearing", **options) -> list[dict]:
    """Trains on four examples a step, however many processes share them, and returns the log."""
    examples = encoded_examples(copies=1)
    defaults = {
        "max_steps": 3,
        "optim": "sgd",
        "learning_rate": 0.1,
        "train_sampling_strategy": "sequential",
    }
    examples = [examples[index] for index in ORDERS[order]] * 3
    trainer = make_trainer(Path(folder), tiny_model(speech=DETERMINISTIC), examples, **(defaults | options))
    trainer.train_to_the_end()
    trainer.save_final(folder)
    ask(trainer)
    return trainer.state.log_history


def sharded_model(mesh) -> nn.Module:
    """A model whose every weight lies in parts on all processes, layer by layer as the config for FSDP has it."""
    from torch.distributed.fsdp import fully_shard

    model = tiny_model(speech=DETERMINISTIC)
    for layers in (
        model.model.audio_encoder.layers,
        model.model.language_model.layers,
        model.speech_transformer.layers,
    ):
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def ask(trainer) -> None:
    """Adds to the log what is measured by asking: a question to write down, one to say, heard by the model itself."""
    processor = tiny_processor(tiny_config(speech=DETERMINISTIC))
    asked = conversations(processor)
    questions = [Question.of(name, asked[name]) for name in ("transcribe", "say")]
    metrics = GenerationMetrics(
        questions, processor, lambda model: OwnEars(model, processor, max_new_tokens=4), max_new_tokens=6
    )
    trainer.state.log_history.append({"asked": metrics(trainer.flow_omni, 0, trainer)})


def take_processors_for_gpus() -> None:
    """accelerate shards on GPUs alone: it is told that processes on the CPU, which talk by gloo, are some."""
    from accelerate.state import DistributedType, PartialState

    original = PartialState.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init


def shard(folder: str) -> None:
    """Takes some steps on a sharded model, each process on its half of the examples, and saves it in parts."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh

    from flow_omni.training.loss_shares import count_targets, loss_of_parts, shares_of
    from flow_omni.training.unused_modules import with_all_modalities

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model, config = sharded_model(init_device_mesh("cpu", (world_size,))), tiny_config(speech=DETERMINISTIC)
    examples = encoded_examples(copies=1)
    batch = dict(tiny_processor(config).collate(examples[2 * rank : 2 * rank + 2]))
    counts = count_targets(batch, config)
    total = counts.clone()
    dist.all_reduce(total)
    (shares,) = shares_of([counts], total, world_size)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of_parts(model.train()(**with_all_modalities(batch, config)), config, shares).backward()
        optimizer.step()
    dcp.save(get_model_state_dict(model), checkpoint_id=str(Path(folder) / "sharded"))
    dist.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, folder, *pairs = sys.argv[1:]
    options = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in pairs)}
    if kind == "shard":
        shard(folder)
    else:
        if kind == "train-sharded":
            take_processors_for_gpus()
        log = train(folder, ddp_backend="gloo", **options)
        if os.environ["RANK"] == "0":
            (Path(folder) / "log.json").write_text(json.dumps(log))
    # gloo's threads may abort a process that ends in order while its peer is gone already
    os._exit(0)
