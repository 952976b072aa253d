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
"""`docs/training.md` is true: its commands run one after another, as its reader would run them, and so does its Python."""

import re
import shlex
from pathlib import Path

import pytest
from test_training_run import material, run_command  # noqa: F401 (a fixture)


GUIDE = Path(__file__).parents[1] / "docs" / "training.md"

SMALL = {
    "align": ("data.max_steps_per_batch=400", "training.warmup_steps=0", "evaluation.questions=2"),
    "finetune": ("data.max_steps_per_batch=400", "training.warmup_steps=0", "evaluation.questions=2"),
    "vocoder": ("vocoder.segment_seconds=0.3", "vocoder.batch_size=2"),
}
SHORT = (
    *("training.max_steps=2", "training.save_steps=2", "training.dataloader_num_workers=0", "training.bf16=false"),
    *("training.use_cpu=true", "training.disable_tqdm=true", "training.report_to=none"),
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def there(material, tmp_path, monkeypatch):  # noqa: F811
    """A folder with what the guide takes for granted: a model, and two manifests."""
    for name, target in {"my-model": "model", "train.jsonl": "train.jsonl", "eval.jsonl": "eval.jsonl"}.items():
        (tmp_path / name).symlink_to(material / target)
    for recording in material.glob("*.wav"):
        (tmp_path / recording.name).symlink_to(recording)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_guide_run(there):
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        assert command[:2] == ["flow-omni", "train"]
        stage, *rest = command[2:]
        run_command(stage, *rest, *SMALL[stage], *SHORT)
    assert (there / "runs" / "vocoder" / "model.safetensors").is_file()
    assert (there / "runs" / "align-lora" / "adapters" / "adapter_model.safetensors").is_file()


def test_the_python_of_the_guide_runs(there):
    (program,) = blocks("python")
    exec(compile(program, str(GUIDE), "exec"), {"__name__": "guide"})
    assert (there / "runs" / "mine" / "model.safetensors").is_file()
