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
"""The commands that make and share checkpoints: whole or not at all, and nothing of anybody's is lost."""

import json
from pathlib import Path
from types import SimpleNamespace

import cli_tools
import huggingface_hub
import pytest
import torch
from cli_tools import QUESTION, error_of, run
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import filter_repo_objects
from test_assembling import save_llm
from test_importing_vocos import publish
from tiny import AUDIO_FIELDS
from transformers import WhisperConfig, WhisperForConditionalGeneration

import flow_omni.hub_card
from flow_omni import FlowOmniForSpeechGeneration, FlowOmniProcessor
from flow_omni.cli import assembling, parts
from flow_omni.training.checkpoints import set_aside
from flow_omni.training.guards import save_batch


checkpoint, in_an_empty_folder = cli_tools.checkpoint, cli_tools.in_an_empty_folder
pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

SMALL_HEAD = ("--speech-config", "head_hidden_size=32", "--speech-config", "num_hidden_layers=1")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Pretrained parts in a folder, as they are published."""
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    config = WhisperConfig(**AUDIO_FIELDS, vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    WhisperForConditionalGeneration(config).save_pretrained(folder / "whisper")
    save_llm(folder / "llm")
    (folder / "vocos").mkdir()
    publish(folder / "vocos")
    return folder


def init(sources, output, *options: object, vocoder: bool = True):
    voice = ("--vocoder", sources / "vocos") if vocoder else ()
    ears_and_mind = ("--whisper", sources / "whisper", "--llm", sources / "llm")
    return run("init", *ears_and_mind, *voice, "--output", output, *SMALL_HEAD, *options)


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_init_makes_a_model_that_speaks(sources, tmp_path):
    result = init(sources, "model", "--speech-config", "frames_per_step=8", "--config", "adapter_stack_size=2")
    assert result.exit_code == 0
    assert "speech head" in result.stdout
    assert "untrained" in result.stderr
    assert run("say", "Hi.", "-m", "model", "--max-new-tokens", 24).exit_code == 0
    assert names_in(tmp_path) == ["model", "speech.wav"]
    config = FlowOmniForSpeechGeneration.from_pretrained("model").config
    assert (config.speech_config.frames_per_step, config.adapter_stack_size) == (8, 2)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "flow-omni init --whisper whisper --llm llm --vocoder vocos --speech-config" in card
    assert "--config adapter_stack_size=2" in card


def test_init_ends_answers_as_the_chat_template_does(sources):
    assert init(sources, "model", vocoder=False).exit_code == 0
    model, processor = FlowOmniForSpeechGeneration.from_pretrained("model"), FlowOmniProcessor.from_pretrained("model")
    assert model.generation_config.eos_token_id[0] == processor.answer_end_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id


def test_init_without_a_vocoder_says_what_is_missing_and_speech_is_refused(sources):
    assert "no vocoder" in init(sources, "model", vocoder=False).stderr
    result = run("ask", QUESTION, "-m", "model")
    assert result.exit_code == 2
    assert "--mode text" in error_of(result)
    assert run("ask", QUESTION, "-m", "model", "--mode", "text", "--max-new-tokens", 4).exit_code == 0


def test_init_keeps_what_lies_in_the_folder_unless_it_is_told_otherwise(sources, tmp_path):
    init(sources, "model", vocoder=False)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert "--overwrite" in error_of(init(sources, "model"))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert init(sources, "model", "--overwrite").exit_code == 0
    assert FlowOmniForSpeechGeneration.from_pretrained("model").vocoder is not None
    assert names_in(tmp_path) == ["model"]


def test_overwrite_replaces_nothing_but_checkpoints(sources, tmp_path):
    """`--output ~ --overwrite` must not cost anybody their home."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    assert "does not delete" in error_of(init(sources, "home", "--overwrite"))
    assert names_in(tmp_path / "home") == ["thesis.tex"]


@pytest.mark.parametrize("was_there", [False, True])
def test_init_that_fails_while_saving_leaves_things_as_they_were(sources, tmp_path, monkeypatch, was_there):
    if was_there:
        init(sources, "model", vocoder=False)
    before = names_in(tmp_path)

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(flow_omni.hub_card, "write_model_card", fail)
    result = init(sources, "model", "--overwrite")
    assert result.exit_code == 1
    assert "No space left" in error_of(result)
    assert names_in(tmp_path) == before
    if was_there:
        assert FlowOmniForSpeechGeneration.from_pretrained("model").vocoder is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--speech-config", "frames_per_step"), "write it like `frames_per_step=8`"),
        (("--config", "adapter_stack_size"), "`--config adapter_stack_size` is no KEY=VALUE"),
        (("--config", "adapter_stack_size=0"), "must be a positive integer, got 0"),
        (("--config", "audio_token_id=7"), "is what the parts decide"),
        (("--speech-config", "frames_per_step=0"), "must be a positive integer, got 0"),
        (("--speech-config", "frames_per_stop=8"), "frames_per_step"),
        (("--speech-config", "sampling_rate=8000"), "differs from `vocoder_config.sampling_rate`"),
        (("--whisper", "whispr"), "nor one of openai-whisper's models"),
        (("--whisper", "{llm}"), "of the type `qwen2`, not `whisper`"),
        (("--llm", "./nowhere"), "The language model could not be loaded from './nowhere'"),
        (("--vocoder", "{llm}"), "pass a vocoder"),
        (("--output", "no/where"), "does not exist"),
    ],
)
def test_init_names_what_is_wrong_and_writes_nothing(sources, tmp_path, options, message):
    options = [option.format(llm=sources / "llm") for option in options]
    result = init(sources, "model", *options)
    assert result.exit_code == 2
    assert message in error_of(result)
    assert names_in(tmp_path) == []


def test_fields_of_the_speech_config_are_read_as_what_they_are():
    fields = assembling.parse_fields("--speech-config", ["a=8", "b=0.5", "c=flow", "d=true", "e=x=y", "f=[1, 2]"])
    assert fields == {"a": 8, "b": 0.5, "c": "flow", "d": True, "e": "x=y", "f": [1, 2]}


def test_info_counts_the_parameters_of_every_part(checkpoint):
    result = run("info", checkpoint)
    assert result.exit_code == 0
    model = FlowOmniForSpeechGeneration.from_pretrained(checkpoint)
    counts = {
        "language model": model.model.language_model.num_parameters(),
        "vocoder": model.vocoder.num_parameters(),
        "speech head": sum(parameter.numel() for parameter in model.speech_head.parameters()),
        "all parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    lines = result.stdout.splitlines()
    for part, count in counts.items():
        assert any(line.startswith(part) and line.endswith(f" {count:,}") for line in lines), part
    assert "23.44 a second, each of 4 mel frames" in result.stdout


def test_info_knows_every_part_of_a_model(checkpoint):
    sizes = parts.saved_weights(checkpoint).sizes
    assert "other" not in parts.parameters_by_part(sizes)


def test_info_reads_sharded_weights(checkpoint):
    model = FlowOmniForSpeechGeneration.from_pretrained(checkpoint)
    model.save_pretrained("sharded", max_shard_size="1MB")
    assert len(parts.saved_weights(Path("sharded")).sizes) == len(parts.saved_weights(checkpoint).sizes)
    whole, sharded = run("info", checkpoint).stdout, run("info", "sharded").stdout
    assert whole.splitlines()[1:] == sharded.splitlines()[1:]
    sorted(Path("sharded").glob("model-*.safetensors"))[0].unlink()
    assert "its weights are incomplete" in error_of(run("info", "sharded"))


def test_info_alone_describes_the_installation():
    result = run("info")
    assert result.exit_code == 0
    assert f"torch             {torch.__version__}" in result.stdout
    assert QUESTION in result.stdout
    assert "cpu" in result.stdout


@pytest.fixture
def hub(monkeypatch):
    """A Hub that only remembers what it was told."""
    calls = SimpleNamespace(created=[], uploaded=[], refuses=False)

    class Api:
        def create_repo(self, repo_id, **options):
            if calls.refuses:
                response = SimpleNamespace(status_code=403, headers={}, request=None)
                raise HfHubHTTPError("Forbidden", response=response)
            calls.created.append((repo_id, options))
            return f"https://hub/{repo_id}"

        def upload_folder(self, **options):
            calls.uploaded.append(options)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    return calls


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A checkpoint to change, away from the current folder."""
    folder = tmp_path / "copied"
    model = FlowOmniForSpeechGeneration.from_pretrained(checkpoint)
    model.save_pretrained(folder)
    FlowOmniProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def test_push_uploads_the_checkpoint_with_a_card_that_knows_its_name(copied, hub):
    result = run("push", copied, "me/my-model", "--private")
    assert (result.exit_code, result.stdout) == (0, "https://hub/me/my-model\n")
    assert hub.created == [("me/my-model", {"private": True, "exist_ok": True})]
    assert hub.uploaded[0]["repo_id"] == "me/my-model"
    assert {"*.bin", "*.pt", ".*"} <= set(hub.uploaded[0]["ignore_patterns"])
    assert 'from_pretrained("me/my-model")' in (copied / "README.md").read_text(encoding="utf-8")


def test_push_leaves_behind_what_training_does(copied, hub):
    """The checkpoints of earlier runs went along, and so did the ids of the rows of a batch that had stopped one."""
    own = {path.name for path in copied.iterdir()}
    wanted = {"training_log.json", "training_curves.png", "adapters/adapter_model.safetensors"}
    logs = {f"{folder}/events.out.tfevents.1.host.1.0" for folder in ("runs", "runs/Nov21_10-00-00_host")}
    unwanted = {
        "training_args.bin",
        "adapters/README.md",
        "checkpoint-2/trainer_state.json",
        ".unfinished/final/x",
    } | logs
    for name in wanted | unwanted:
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        (copied / name).touch()
    set_aside(copied)
    (copied / "checkpoint-4").mkdir()
    (copied / "checkpoint-4" / "model.safetensors").touch()
    save_batch({"labels": torch.zeros(1)}, {"rows": ["a name"]}, copied / "diverged-step-3-process-0")
    assert run("push", copied, "me/my-model").exit_code == 0
    files = [path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()]
    uploaded = set(filter_repo_objects(files, ignore_patterns=hub.uploaded[0]["ignore_patterns"]))
    assert "earlier-1/checkpoint-2/trainer_state.json" in files and "diverged-step-3-process-0/facts.json" in files
    assert uploaded == own | wanted | {"README.md"}


def test_push_leaves_a_card_as_its_author_wrote_it(copied, hub):
    (copied / "README.md").write_text("My own words.")
    assert run("push", copied, "me/my-model").exit_code == 0
    assert (copied / "README.md").read_text() == "My own words."


def test_push_without_a_token_says_how_to_get_one(copied, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "hf auth login" in error_of(run("push", copied, "me/my-model"))
    assert hub.created == []


def test_push_names_a_refusal(copied, hub):
    hub.refuses = True
    result = run("push", copied, "somebody-else/my-model")
    assert result.exit_code == 2
    assert "The Hub refused 'somebody-else/my-model' (403)" in result.stderr


@pytest.mark.parametrize("damage", ["nothing", "other kind", "no weights", "truncated", "no processor", "bad id"])
def test_push_refuses_what_is_no_whole_checkpoint(copied, hub, damage):
    repo_id, weights = "me/my-model", copied / "model.safetensors"
    if damage == "nothing":
        copied = copied / "missing"
    elif damage == "other kind":
        (copied / "config.json").write_text(json.dumps({"model_type": "bert"}))
    elif damage == "no weights":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no processor":
        (copied / "processor_config.json").unlink()
    else:
        repo_id = "my model"
    result = run("push", copied, repo_id)
    assert result.exit_code == 2
    assert error_of(result)
    assert hub.created == hub.uploaded == []
