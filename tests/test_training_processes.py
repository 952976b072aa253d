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
"""Many processes: two of them, each with half of the data, are one with all of it, and shards make a whole again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training_run import material, overrides  # noqa: F401 (a fixture)
from tiny import tiny_model, tiny_processor
from training_runs import DETERMINISTIC, assert_same_weights, encoded_examples
from two_processes import ORDERS, train

from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration


pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("two_processes.py")
FSDP_CONFIG = Path(__file__).parents[1] / "training" / "accelerate" / "fsdp.yaml"


def launch(*arguments: str, module: bool = False, num_processes: int = 2, config: Path | None = None) -> str:
    """Runs a script or a module on several processes, and with a config for accelerate by `accelerate launch`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    if config is not None:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        launcher += ["--num_processes", str(num_processes)]
    command = [*launcher, *(["-m"] if module else []), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[:4000]
    return result.stdout


@pytest.mark.parametrize("order", list(ORDERS))
def test_two_processes_are_one_with_twice_the_batch(tmp_path, order):
    """Also where one process hears, or speaks, and the other does not: all must exchange all gradients."""
    launch(str(SCRIPT), "train", str(tmp_path / "two"), f'order="{order}"')
    log = json.loads((tmp_path / "two" / "log.json").read_text())
    expected = train(str(tmp_path / "one"), order, per_device_train_batch_size=4)
    for name in ("loss", "text_loss", "state_loss", "speech_loss", "auxiliary_loss"):
        losses = [[entry[name] for entry in entries if "learning_rate" in entry] for entries in (log, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), name
    two, one = (load_file(tmp_path / folder / "model.safetensors") for folder in ("two", "one"))
    assert_same_weights(two, one, rtol=1e-3, atol=1e-5)


def test_the_command_on_two_processes_tells_what_both_have_seen_and_ends_in_order(material, tmp_path):  # noqa: F811
    rows = [json.loads(line) for line in (material / "train.jsonl").read_text().splitlines()]
    rows = [row | {name: str(material / row[name]) for name in ("question_audio", "answer_audio")} for row in rows]
    rows += [row | {"id": f"broken-{row['id']}", "answer_audio": "nowhere.wav"} for row in rows[:2]]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.train": tmp_path / "train.jsonl", "data.eval": material / "eval.jsonl", "lora.rank": 2}
    output = launch("flow_omni.training", "align", *overrides(material, tmp_path / "run", **changes), module=True)
    assert " corrupt audio)" in output and "broken-row-0: " in output and "broken-row-1: " in output
    assert output.count("trained for 4 steps") == 1
    assert (
        "accelerate launch --num_processes 2 -m flow_omni.training align" in (tmp_path / "run/README.md").read_text()
    )
    FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "run")


def test_the_config_for_shards_gives_what_one_process_does_and_plain_checkpoints(tmp_path):
    """
    Launched as its users launch it: by accelerate, with the file that comes along. It found no layers to shard, could not load
    the statistics of the mel, and wrote checkpoints that named a class of torch's.
    """
    two = tmp_path / "two"
    arguments = [str(SCRIPT), "train-sharded", str(two), 'save_strategy="steps"', "save_steps=2"]
    launch(*arguments, config=FSDP_CONFIG)
    expected = train(str(tmp_path / "one"), per_device_train_batch_size=4)
    losses = [
        [entry["loss"] for entry in entries if "learning_rate" in entry]
        for entries in (json.loads((two / "log.json").read_text()), expected)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert json.loads((two / "log.json").read_text())[-1] == expected[-1]  # what was answered, and heard of it
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("two", "one")]
    assert_same_weights(*weights, rtol=1e-3, atol=1e-5)
    for folder in (two, two / "checkpoint-2"):
        FlowOmniForSpeechGeneration.from_pretrained(folder)
        auto_map = json.loads((folder / "config.json").read_text()).get("auto_map", {})
        assert not [name for name in auto_map.values() if "FSDP" in name]
        assert not list(folder.glob("_fsdp*"))


def test_a_run_in_shards_resumes(tmp_path):
    options = ['save_strategy="steps"', "save_steps=2", 'optim="adamw_torch"', "learning_rate=0.001"]
    launch(str(SCRIPT), "train-sharded", str(tmp_path), *options, config=FSDP_CONFIG)
    whole = load_file(tmp_path / "model.safetensors")
    shutil.rmtree(tmp_path / "checkpoint-3")
    (tmp_path / "model.safetensors").unlink()
    launch(str(SCRIPT), "train-sharded", str(tmp_path), *options, config=FSDP_CONFIG)
    assert_same_weights(load_file(tmp_path / "model.safetensors"), whole)


def test_a_model_in_shards_learns_what_a_whole_one_does_and_loads_as_one(tmp_path):
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    launch(str(SCRIPT), "shard", str(tmp_path))
    dcp_to_torch_save(tmp_path / "sharded", tmp_path / "whole.pt")
    loaded = tiny_model(speech=DETERMINISTIC, seed=1)
    loaded.load_state_dict(torch.load(tmp_path / "whole.pt", weights_only=True))

    expected = tiny_model(speech=DETERMINISTIC).train()
    batch = tiny_processor(expected.config).collate(encoded_examples(copies=1))
    optimizer = torch.optim.SGD((p for p in expected.parameters() if p.requires_grad), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        expected(**batch).loss.backward()
        optimizer.step()
    assert_same_weights(loaded.state_dict(), expected.state_dict(), rtol=1e-3, atol=1e-5)
