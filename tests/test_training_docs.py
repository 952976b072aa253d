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

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from cli_tools import in_an_empty_folder, run  # noqa: F401 (a fixture)
from test_cli_checkpoints import SMALL_HEAD, hub, sources  # noqa: F401 (fixtures)
from test_tinytalk_speech import needs_both
from test_training_run import material, run_command  # noqa: F401 (a fixture)

from flow_omni.training import averaging, joining


ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "training.md"
# What stands in for models of the Hub.
PARTS = {
    "openai/whisper-small": "whisper",
    "Qwen/Qwen2.5-0.5B-Instruct": "llm",
    "charactr/vocos-mel-24khz": "vocos",
}

# What is run as `python -m`, told its folders.
MODULES = {
    "flow_omni.training.joining": lambda folders: joining.join(*folders),
    "flow_omni.training.averaging": lambda folders: averaging.main(list(folders), None),
}

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


def commands() -> list[list[str]]:
    """The commands of the guide one after another, but for those that launch several processes."""
    return [shlex.split(line) for block in blocks("bash") if block not in launches() for line in block.splitlines()]


def launches() -> list[str]:
    return [block for block in blocks("bash") if re.search(r"-m flow_omni\.training\s", block)]


@pytest.fixture
def there(material, tmp_path, in_an_empty_folder):  # noqa: F811
    """A folder with what the guide takes for granted: a model, and manifests."""
    manifests = {"train.jsonl": "train.jsonl", "recordings.jsonl": "eval.jsonl", "eval.jsonl": "eval.jsonl"}
    for name, target in ({"my-model": "model"} | manifests).items():
        (tmp_path / name).symlink_to(material / target)
    for recording in material.glob("*.wav"):
        (tmp_path / recording.name).symlink_to(recording)
    (tmp_path / "recordings.csv").write_text("file,sentence\nquestion0.wav,what is 0\n")
    return tmp_path


def test_the_commands_of_the_guide_run(there, sources, hub):  # noqa: F811
    done = []
    for program, name, *rest in commands():
        if program == "python":
            module, *folders = rest
            MODULES[module](map(Path, folders))
            continue
        assert program == "flow-omni"
        done.append(name)
        if name == "train":
            recipe, *changes = rest
            run_command(recipe, *changes, *SMALL[recipe], *SHORT)
        elif name == "init" and PARTS.keys() & set(rest):
            local = {part: sources / folder for part, folder in PARTS.items()} | {"my-model": "assembled"}
            assert run(name, *(local.get(word, word) for word in rest), *SMALL_HEAD).exit_code == 0
        elif rest[0] != "tinytalk":
            result = run(name, *rest)
            assert result.exit_code == 0, result.output
    assert set(done) == {"train", "init", "prepare", "push"}
    assert (there / "assembled" / "model.safetensors").is_file()
    assert (there / "my-own-model" / "model.safetensors").is_file()
    for stage in ("align", "finetune", "understand", "listen", "speak", "vocoder"):
        assert (there / "runs" / stage / "training_curves.png").is_file()
        assert '"loss"' in (there / "runs" / stage / "training_log.json").read_text()
    for made in ("both", "mean", "vocoder"):
        assert (there / "runs" / made / "model.safetensors").is_file()
    assert (there / "runs" / "align-lora" / "adapters" / "adapter_model.safetensors").is_file()
    assert [upload["repo_id"] for upload in hub.uploaded] == ["your-name/your-model"]


@needs_both
def test_the_corpus_of_the_guide_is_made_and_has_the_files_that_it_lists(there):
    ((_, *command),) = [words for words in commands() if "tinytalk" in words]
    sizes = ("--rows", 3, "--voices-per-question", 1, "--text-rows", 3, "--test-rows", 2, "--validation-rows", 2)
    sizes += ("--asked-rows", 2, "--said-rows", 1, "--answered-rows", 1)
    result = run(*command, *sizes, "--processes", 1)
    assert result.exit_code == 0, result.output
    (rows,) = re.findall(
        r"^\| file \| holds \|\n\|-\|-\|\n((?:\|.*\n)+)", GUIDE.read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = set(re.findall(r"`([\w.]+\.(?:jsonl|txt))`", "".join(row.split("|")[1] for row in rows.splitlines())))
    assert "test.jsonl" in listed
    assert listed <= {path.name for path in (there / "data" / "tinytalk").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", launches(), ids=lambda block: "accelerate" if "accelerate launch" in block else "torchrun"
)
def test_the_launches_of_the_guide_run_on_two_processes(there, block):
    """In a shell, with the config that they name, on as many processes as there are cores here."""
    script = block.rstrip().replace('ddp.yaml"', 'ddp.yaml" --num_processes 2')
    script += " " + shlex.join([*SMALL["align"], *SHORT])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "trained for 2 steps" in result.stdout
    assert "--num_processes 2" in (there / "runs" / "align" / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "kind", "num_processes"), [("single", "NO", 1), ("ddp", "MULTI_GPU", 8), ("fsdp", "FSDP", 8)]
)
def test_accelerate_reads_the_configs_that_come_along(name, kind, num_processes):
    """It refuses keys that it does not know."""
    config = load_config_from_file(str(ROOT / "training" / "accelerate" / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == (kind, num_processes, "no")
    assert f"`{name}.yaml`" in GUIDE.read_text(encoding="utf-8")


def test_the_python_of_the_guide_runs(there):
    (program,) = blocks("python")
    exec(compile(program, str(GUIDE), "exec"), {"__name__": "guide"})
    assert (there / "runs" / "mine" / "model.safetensors").is_file()
