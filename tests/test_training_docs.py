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
from cli_tools import in_an_empty_folder, run  # noqa: F401 (a fixture)
from test_training_run import material, run_command  # noqa: F401 (a fixture)


GUIDE = Path(__file__).parents[1] / "docs" / "training.md"

SMALL = {
    "align": ("data.max_steps_per_batch=400", "evaluation.questions=2"),
    "finetune": ("data.max_steps_per_batch=400", "evaluation.questions=2"),
    "vocoder": ("vocoder.segment_seconds=0.3", "vocoder.batch_size=2"),
    "tiny/language": (
        *("new.hidden_size=16", "new.intermediate_size=32", "new.num_hidden_layers=1", "evaluation.questions=1"),
        *("data.max_steps_per_batch=400",),
    ),
    "tiny/recognise": (
        "new.d_model=16",
        "new.encoder_layers=1",
        "new.encoder_ffn_dim=32",
        "data.max_steps_per_batch=400",
    ),
    "tiny/vocoder": (
        *("new.hidden_size=16", "new.intermediate_size=32", "new.num_hidden_layers=1"),
        *("vocoder.segment_seconds=0.3", "vocoder.batch_size=2"),
    ),
}
SHORT = (
    *("training.max_steps=2", "training.save_steps=2", "training.dataloader_num_workers=0", "training.bf16=false"),
    *("training.use_cpu=true", "training.disable_tqdm=true", "training.report_to=none"),
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def there(material, tmp_path, in_an_empty_folder):  # noqa: F811
    """A folder with what the guide takes for granted: a model, and manifests."""
    manifests = {"train.jsonl": "train.jsonl", "recordings.jsonl": "eval.jsonl", "eval.jsonl": "eval.jsonl"}
    for name, target in ({"my-model": "model"} | manifests).items():
        (tmp_path / name).symlink_to(material / target)
    for recording in material.glob("*.wav"):
        (tmp_path / recording.name).symlink_to(recording)
    return tmp_path


def test_the_commands_of_the_guide_run(there):
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 11
    for program, name, *rest in commands:
        assert program == "flow-omni" and name in ("train", "init")
        if name == "train":
            recipe, *changes = rest
            run_command(recipe, *changes, *SMALL[recipe], *SHORT)
        else:
            assert run(name, *rest).exit_code == 0
    assert (there / "my-own-model" / "model.safetensors").is_file()
    for stage in ("align", "finetune", "vocoder"):
        assert (there / "runs" / stage / "training_curves.png").is_file()
        assert '"loss"' in (there / "runs" / stage / "training_log.json").read_text()
    assert (there / "runs" / "vocoder" / "model.safetensors").is_file()
    assert (there / "runs" / "align-lora" / "adapters" / "adapter_model.safetensors").is_file()


def test_the_python_of_the_guide_runs(there):
    (program,) = blocks("python")
    exec(compile(program, str(GUIDE), "exec"), {"__name__": "guide"})
    assert (there / "runs" / "mine" / "model.safetensors").is_file()
