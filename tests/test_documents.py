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
"""The documents do what they say: snippets run, commands parse, links and files exist."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import typer
from accelerate.commands.config.config_args import load_config_from_file
from tiny import tiny_model, tiny_processor
from tiny_parts import save_llm, save_vocos, save_whisper
from transformers import GenerationConfig
from typer.testing import CliRunner

from flow_omni.cli.app import app
from flow_omni.hub_card import write_model_card
from flow_omni.serving.limits import Limits


ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "flow_omni/**/*.md", "hub_card/*.md") for path in ROOT.glob(pattern)
)
WHISPER, VOCODER = "openai/whisper-small", "charactr/vocos-mel-24khz"
LLMS = "Qwen/Qwen2-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"
# what makes a run of the guide short
SMALL = (
    "max_positions_per_batch=400",
    "num_eval_questions=2",
    "eval_max_new_tokens=12",
    "segment_seconds=0.3",
    "per_device_train_batch_size=2",
)
SHORT = ("max_steps=2", "save_steps=2", "dataloader_num_workers=0", "bf16=false", "use_cpu=true", "report_to=none")

CHAT_TEMPLATE = "{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?")
LOCAL_FOLDER = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|work|usr|opt|mnt|var|srv|Users)\b|[A-Z]:\\")


def snippets(path: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def commands(path: Path) -> list[list[str]]:
    """The `flow-omni` commands of a document, one after another."""
    lines = "".join(snippets(path, "bash")).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("flow-omni ")]


def run_snippets(path: Path, replaced: dict[str, Path]) -> dict:
    """Runs the Python of a document from top to bottom, as a reader would, and returns what it leaves behind."""
    namespace = {}
    for number, body in enumerate(snippets(path, "python"), start=1):
        for hub_id, folder in replaced.items():
            body = body.replace(f'"{hub_id}"', repr(str(folder)))
        exec(compile(body, f"<snippet {number} of {path.name}>", "exec"), namespace)
    return namespace


@pytest.fixture
def parts(tmp_path):
    """Tiny parts instead of those that the documents name."""
    folders = {hub_id: tmp_path / "hub" / hub_id.replace("/", "-") for hub_id in (WHISPER, VOCODER, *LLMS)}
    save_whisper(folders[WHISPER])
    folders[VOCODER].parent.mkdir(exist_ok=True)
    save_vocos(folders[VOCODER])
    for name in LLMS:
        save_llm(folders[name])
        (folders[name] / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        # random weights do not end a text, and write few letters
        others = [token for token in range(260) if not chr(token).islower()]
        GenerationConfig(max_new_tokens=12, suppress_tokens=others).save_pretrained(folders[name])
    return folders


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with what the documents take for granted: recordings, manifests and a model."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = []
    for index in range(4):
        for side in ("question", "answer"):
            waveform = rng.standard_normal(4000 + 500 * index).astype(np.float32) * 0.1
            soundfile.write(f"{side}{index}.wav", waveform, 16000)
        number = ("zero", "one", "two", "three")[index]
        text = {"question_text": f"what is {number}", "answer_text": f"it is {number}"}
        rows.append(
            {"id": str(index), "question_audio": f"question{index}.wav", "answer_audio": f"answer{index}.wav"} | text
        )
    soundfile.write("question.wav", rng.standard_normal(8000).astype(np.float32) * 0.1, 16000)
    soundfile.write("answer.wav", rng.standard_normal(8000).astype(np.float32) * 0.1, 16000)
    for name in ("train", "eval", "test"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("texts.jsonl").write_text('{"question_text": "an example"}\n{"question_text": "and another one"}\n')
    Path("recordings.csv").write_text("file,sentence\nquestion0.wav,what is 0\n")
    model = tiny_model()
    model.generation_config.max_new_tokens = 12
    model.save_pretrained("my-model")
    tiny_processor(model.config).save_pretrained("my-model")
    return tmp_path


def test_python_of_the_readme_runs(desk, parts):
    left = run_snippets(ROOT / "README.md", parts)
    assert soundfile.info("answer.wav").samplerate == left["processor"].sampling_rate
    assert len(left["spoken"]) > 0 and len(left["speech"]) > 0
    assert isinstance(left["written"], str) and isinstance(left["reply"], str)
    assert left["model"].state_head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("vocoder", [{}, None], ids=["with vocoder", "without"])
def test_python_of_the_model_card_runs(desk, vocoder):
    model = tiny_model() if vocoder is not None else tiny_model(vocoder=None)
    model.generation_config.max_new_tokens = 12
    model.save_pretrained("checkpoint")
    tiny_processor(model.config).save_pretrained("checkpoint")
    Path("answer.wav").unlink()
    left = run_snippets(write_model_card("checkpoint"), {"your-name/flow-omni": desk / "checkpoint"})
    assert isinstance(left["reply"], str)
    assert Path("answer.wav").exists() == (vocoder is not None)


def test_python_of_the_training_guide_runs(desk):
    run_snippets(ROOT / "docs" / "training.md", {})
    assert Path("runs", "mine").is_dir()


def test_python_of_the_evaluation_guide_runs(desk):
    run_snippets(ROOT / "docs" / "evaluation.md", {})
    assert Path("results", "report.md").is_file() and Path("results", "results.json").is_file()


def test_python_of_the_serving_guide_runs(desk):
    left = run_snippets(ROOT / "docs" / "serving.md", {})
    assert type(left["events"][-1]).__name__ == "AnswerDone"


def test_limits_of_the_serving_guide_are_those_of_the_server():
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", (ROOT / "docs" / "serving.md").read_text(), re.MULTILINE)
    assert dict(rows) == {name: str(value) for name, value in asdict(Limits()).items()}


def test_commands_of_the_training_guide_run(desk, parts, monkeypatch):
    uploads = []
    hub = SimpleNamespace(
        create_repo=lambda repo_id, **options: f"https://hub/{repo_id}",
        upload_folder=lambda repo_id, **options: uploads.append(repo_id),
    )
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
    done = set()
    for arguments in commands(ROOT / "docs" / "training.md"):
        done.add(arguments[0])
        if arguments[0] == "init":
            local = parts | {"my-model": desk / "assembled", "my-adapter": desk / "my-adapter"}
            arguments = [str(local.get(argument, argument)) for argument in arguments]
            arguments += ["--speech-config", "head_hidden_size=32"]
        elif arguments[:2] == ["prepare", "answers"]:
            arguments = [str(parts.get(argument, argument)) for argument in arguments]
        elif arguments[0] == "train" and "--dry-run" not in arguments:
            arguments = [*arguments, *SMALL, *SHORT]
            if arguments[1] in ("ctc", "distill") or "model=my-voice" in arguments:
                # which the Hub would give
                arguments.append(f"language_model={parts[LLMS[1]]}")
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{arguments}: {result.output} {result.exception!r}"
    assert done == {"prepare", "init", "train", "push"}
    for run in ("align", "align-lora", "distill", "finetune", "listen", "speak", "vocoder", "voice"):
        assert (desk / "runs" / run / "model.safetensors").is_file(), run
    assert (desk / "runs" / "align-lora" / "adapters" / "adapter_model.safetensors").is_file()
    assert (desk / "assembled" / "model.safetensors").is_file()
    assert uploads == ["your-name/your-model"]


@pytest.mark.slow
def test_launches_of_the_training_guide_run_on_two_processes(desk):
    blocks = [block for block in snippets(ROOT / "docs" / "training.md", "bash") if "-m flow_omni.training" in block]
    assert len(blocks) == 2
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for number, block in enumerate(blocks):
        script = (
            block.rstrip().replace('ddp.yaml"', 'ddp.yaml" --num_processes 2').replace("runs/align", f"runs/{number}")
        )
        script += " " + shlex.join([*SMALL, *SHORT])
        result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-4000:]
        assert (desk / "runs" / str(number) / "model.safetensors").is_file()


def test_accelerate_reads_the_configs_of_the_package():
    """It refuses keys that it does not know."""
    for name, kind, num_processes in (("single", "NO", 1), ("ddp", "MULTI_GPU", 8), ("fsdp", "FSDP", 8)):
        config = load_config_from_file(str(ROOT / "training" / "accelerate" / f"{name}.yaml"))
        assert (config.distributed_type, config.num_processes, config.mixed_precision) == (kind, num_processes, "no")
        assert f"`{name}.yaml`" in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_commands_parse():
    known = typer.main.get_command(app).commands
    makefiles = "".join((ROOT / name).read_text() for name in ("Makefile", "base.mk"))
    targets = re.findall(r"^([a-z]+):", makefiles, re.MULTILINE)
    for path in DOCUMENTS:
        for line in "".join(snippets(path, "console")).splitlines():
            if "{{" in line:
                continue  # of the template of the model card
            assert line.startswith("$ "), f"{path.name}: {line!r} is not a command"
            program, *arguments = shlex.split(line.removeprefix("$ "))
            if program == "make":
                assert arguments[0] in targets, line
            elif program == "flow-omni":
                known[arguments[0]].make_context(arguments[0], arguments[1:])


def test_links_lead_to_files():
    for path in DOCUMENTS:
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://", "#")) and "{{" not in target:
                assert (path.parent / target.partition("#")[0]).exists(), f"{path.name}: {target}"


def test_files_that_are_named_exist():
    for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "docs/design.md", "docs/training.md", "docs/serving.md"):
        text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
        named = [code for code in CODE.findall(text) if FILE.fullmatch(code) and re.match(r"[a-z_]+/", code)]
        folders = [path.name for path in ROOT.iterdir() if path.is_dir()]
        missing = [code for code in named if code.split("/")[0] in folders and not (ROOT / code).exists()]
        assert not missing, f"{name}: {missing}"


def test_no_path_of_a_machine_is_in_a_document():
    for path in [*DOCUMENTS, ROOT / "docs" / "streams.svg"]:
        assert not LOCAL_FOLDER.findall(path.read_text(encoding="utf-8")), path.name
