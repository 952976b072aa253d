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
"""The command `train`: from a manifest and a checkpoint to a trained checkpoint, through both stages, and killed between."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file
from sounds import file_bytes, tone
from tiny import tiny_model, tiny_processor
from typer import Typer
from typer.testing import CliRunner

from flow_omni.cli.errors import UserError
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.training import dry_run
from flow_omni.training.augmentation import Augmentation
from flow_omni.training.dry_run import estimate_memory, kept_for_backward
from flow_omni.training.recipe import RecipeError, load_recipe
from flow_omni.training.report import figures_of
from flow_omni.training.speech_run import make_run
from flow_omni.training.train_command import train


needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
app = Typer()
app.command()(train)


def run_command(*arguments: str):
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        # a user's mistake is reported with what found it as its cause
        raise result.exception.__cause__ if isinstance(result.exception, UserError) else result.exception
    return result


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with a checkpoint, and a manifest of twelve exchanges whose recordings are tones."""
    folder = tmp_path_factory.mktemp("material")
    model = tiny_model()
    model.save_pretrained(folder / "model")
    tiny_processor(model.config).save_pretrained(folder / "model")
    rows = []
    for index in range(12):
        for kind, rate, frequency in (("question", 16000, 300), ("answer", 8000, 600)):
            sound = tone(0.2 + 0.02 * index, rate, frequency + 20 * index)
            (folder / f"{kind}{index}.wav").write_bytes(file_bytes(sound, rate))
        rows.append(
            {
                "id": f"row-{index}",
                "question_text": f"what is {index}",
                "question_audio": f"question{index}.wav",
                "answer_text": f"it is {index}",
                "answer_audio": f"answer{index}.wav",
            }
        )
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    return folder


def overrides(material, output, **changes) -> list[str]:
    settings = {
        "model": material / "model",
        "data.train": material / "train.jsonl",
        "data.max_steps_per_batch": 400,
        "training.output_dir": output,
        "training.max_steps": 4,
        "training.save_steps": 2,
        "training.logging_steps": 1,
        "training.warmup_steps": 0,
        "training.dataloader_num_workers": 0,
        "training.bf16": "false",
        "training.report_to": "none",
        "training.use_cpu": "true",
        "training.disable_tqdm": "true",
        "evaluation.max_new_tokens": 10,
        "evaluation.questions": 3,
    } | changes
    return [f"{key}={value}" for key, value in settings.items()]


def test_both_stages_by_their_recipes(material, tmp_path):
    align = overrides(material, tmp_path / "align", **{"data.eval": material / "eval.jsonl", "training.eval_steps": 2})
    result = run_command("align", *align)
    assert "trained for 4 steps" in result.output
    assert "eval_transcribe_wer" in result.output or "eval_say_cer" in result.output
    names = {path.name for path in (tmp_path / "align").iterdir()}
    assert {"model.safetensors", "processor_config.json", "README.md", "training_curves.png", "checkpoint-4"} <= names
    aligned = FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "align")
    start = FlowOmniForSpeechGeneration.from_pretrained(material / "model")
    assert torch.equal(aligned.lm_head.weight, start.lm_head.weight)
    assert not torch.equal(aligned.state_head.weight, start.state_head.weight)
    assert not torch.equal(aligned.mel_normalizer.mean, start.mel_normalizer.mean)

    finetune = overrides(material, tmp_path / "finetune", model=tmp_path / "align")
    run_command("finetune", *finetune)
    finetuned = FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "finetune")
    assert not torch.equal(finetuned.lm_head.weight, aligned.lm_head.weight)
    assert torch.equal(finetuned.mel_normalizer.mean, aligned.mel_normalizer.mean)


@pytest.mark.parametrize(
    "stage, recipe, moved",
    [
        pytest.param("understand", "tiny/understand", {"audio_adapter", "language"}, marks=needs_muon),
        pytest.param("listen", "tiny/understand", {"audio_adapter"}, marks=needs_muon),
        pytest.param("speak", "tiny/speak", {"state"}, marks=needs_muon),
    ],
)
def test_parts_of_a_model_alone_by_their_recipes(material, tmp_path, stage, recipe, moved):
    changes = {"training.eval_strategy": "no", "teaching.audio_loss_weight": 0.5}
    if stage == "listen":
        changes |= {"stage": stage, "data.tasks": "{transcribe: 1, speech_to_text: 1}"}
    run_command(recipe, *overrides(material, tmp_path, **changes))
    model = FlowOmniForSpeechGeneration.from_pretrained(tmp_path)
    start = FlowOmniForSpeechGeneration.from_pretrained(material / "model")
    sides = {
        "audio_adapter": lambda model: model.model.audio_adapter.layers[0].weight,
        "state": lambda model: model.state_head.weight,
        "language": lambda model: model.lm_head.weight,
    }
    assert {side for side, weight in sides.items() if not torch.equal(weight(model), weight(start))} == moved
    # a voice that does not train keeps the scale of its mel
    assert torch.equal(model.mel_normalizer.mean, start.mel_normalizer.mean) == (stage != "speak")
    assert model.config.audio_loss_weight == 0.5
    assert model.config.speech_config.own_patches == (1.0 if stage == "speak" else 0.0)


@pytest.mark.parametrize("streaming", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_the_same_command_resumes(material, tmp_path, streaming):
    def run(name: str) -> None:
        run_command("align", *overrides(material, tmp_path / name, **{"data.streaming": streaming}))

    run("whole")
    run("cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    (tmp_path / "cut" / "model.safetensors").unlink()
    run("cut")
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lora.rank": 2},
            "other weights were trained than are now, or in other groups: resume with the stage, the LoRA options",
        ),
        ({"data.streaming": "true"}, "is of a run with `data.streaming=false`"),
        ({"training.ema_decay": 0.9}, "There is no `ema.safetensors` in .*Resume with `ema_decay=null`"),
    ],
)
def test_a_run_of_another_kind_is_not_resumed(material, tmp_path, change, message):
    run_command("align", *overrides(material, tmp_path, **{"training.max_steps": 2}))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_command("align", *overrides(material, tmp_path, **change))


def test_a_finished_run_is_not_trained_on(material, tmp_path):
    run_command("align", *overrides(material, tmp_path))
    before = load_file(tmp_path / "model.safetensors")
    result = run_command("align", *overrides(material, tmp_path))
    assert "trained for 4 steps" in result.output
    assert "padding" not in result.output
    after = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_evaluation_in_bf16_leaves_the_saved_model_in_fp32(material, tmp_path):
    """It casts the weights for good, and came before they were saved."""
    changes = {"data.eval": material / "eval.jsonl", "training.bf16_full_eval": "true", "training.max_steps": 1}
    run_command("align", *overrides(material, tmp_path, **changes))
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("name", ["whisper:none-such", "ctc:nowhere", "nowhere/recogniser"])
def test_a_recogniser_that_cannot_be_loaded_is_found_out_before_the_training(material, tmp_path, name):
    changes = {"data.eval": material / "eval.jsonl", "evaluation.recogniser": name}
    with pytest.raises(ValueError, match=f"The recogniser '{name}' cannot be loaded"):
        run_command("align", *overrides(material, tmp_path, **changes))


def test_a_broken_recording_is_not_asked_in_the_middle_of_a_run(material, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF and no more")
    rows = [json.loads(line) for line in (material / "eval.jsonl").read_text().splitlines()]
    rows = [row | {name: str(material / row[name]) for name in ("question_audio", "answer_audio")} for row in rows]
    rows[0] |= {"question_audio": "broken.wav", "answer_audio": "broken.wav"}
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = make_run(load_recipe("align", overrides(material, tmp_path, **{"data.eval": tmp_path / "eval.jsonl"})))
    assert len(run.trainer.generation_metrics.questions) == len(rows) - 1
    run.trainer.evaluate()


def test_what_was_skipped_is_logged_and_told_at_the_end(material, tmp_path):
    rows = [json.loads(line) for line in (material / "train.jsonl").read_text().splitlines()]
    rows = [row | {name: str(material / row[name]) for name in ("question_audio", "answer_audio")} for row in rows]
    (tmp_path / "broken.wav").write_bytes(b"RIFF and no more")
    rows[5] |= {"question_audio": "broken.wav", "answer_audio": "broken.wav"}
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = run_command("align", *overrides(material, tmp_path, **{"data.train": tmp_path / "train.jsonl"})).output
    assert " corrupt audio)\n  row-5: " in output
    assert re.search(r"^padding: \d+\.\d% of what", output, re.MULTILINE)
    log = json.loads((tmp_path / "training_log.json").read_text())
    assert log[0]["skipped_rows"] >= 1


def test_the_card_names_the_command_that_trains_the_model_again(material, tmp_path):
    run_command("align", *overrides(material, tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert "$ flow-omni train align model=model data.train=train.jsonl" in card


@pytest.mark.parametrize(
    ("name", "message"), [("no-model", "there is no such folder here"), ("", "that `flow-omni init` or a training")]
)
def test_a_model_that_is_not_there_is_named(material, tmp_path, name, message):
    with pytest.raises(ValueError, match=f"`model` is '.*{name}', and .*{message}"):
        run_command("align", *overrides(material, tmp_path / "run", model=tmp_path / name))


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_bar_shows_the_progress_to_whoever_watches(material, tmp_path, monkeypatch, is_watched):
    monkeypatch.setattr("flow_omni.training.train_command.is_watched", lambda: is_watched)
    settings = [item for item in overrides(material, tmp_path) if not item.startswith("training.disable_tqdm")]
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        run_command("align", *settings)
    finally:
        transformers.logging.set_verbosity(verbosity)
    arguments = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert arguments.disable_tqdm is not is_watched


def test_a_run_that_begins_anew_is_not_resumed_from_the_one_before(material, tmp_path):
    """The earlier run had got further: its checkpoint would be the last one again."""
    run_command("align", *overrides(material, tmp_path))
    shorter = overrides(material, tmp_path, **{"training.max_steps": 2})
    assert "trained for 2 steps" in run_command("align", *shorter, "--fresh").output
    assert "trained for 2 steps" in run_command("align", *shorter).output
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    assert sorted(path.name for path in (tmp_path / "earlier-1").iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_lora_leaves_adapters_and_a_merged_model(material, tmp_path):
    run_command("align", *overrides(material, tmp_path, **{"lora.rank": 2, "training.ema_decay": 0.5}))
    assert (tmp_path / "adapters" / "adapter_model.safetensors").is_file()
    merged = FlowOmniForSpeechGeneration.from_pretrained(tmp_path)
    start = FlowOmniForSpeechGeneration.from_pretrained(material / "model")
    projection = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(merged.get_parameter(projection), start.get_parameter(projection))
    assert torch.equal(merged.lm_head.weight, start.lm_head.weight)


def test_what_is_taught_otherwise_stays_in_a_merged_model_too(material, tmp_path):
    run_command("align", *overrides(material, tmp_path, **{"lora.rank": 2, "teaching.own_patches": 0.5}))
    assert FlowOmniForSpeechGeneration.from_pretrained(tmp_path).config.speech_config.own_patches == 0.5


def test_ears_do_not_train_on_tasks_without_sound(material, tmp_path):
    with pytest.raises(ValueError, match="the task `say` hears nothing.*transcribe, speech_to_speech, speech_to_text"):
        run_command(
            "finetune", *overrides(material, tmp_path, stage="listen", **{"data.tasks": "{say: 1, transcribe: 1}"})
        )


def test_a_dry_run_tells_what_would_train_and_writes_nothing(material, tmp_path):
    output = run_command("align", *overrides(material, tmp_path / "run"), "--dry-run").output
    model = tiny_model()
    assert f"{sum(p.numel() for p in model.state_head.parameters()):,}" in output
    assert "optimizer steps: 4" in output
    assert "12, of which 12 are used" in output
    assert "GiB" in output
    frozen = sum(p.numel() for p in model.model.language_model.parameters())
    line = next(line for line in output.splitlines() if line.startswith("language model"))
    assert line.split() == ["language", "model", "0", f"{frozen:,}"]
    assert not list((tmp_path / "run").glob("checkpoint-*")) if (tmp_path / "run").exists() else True


def test_a_dry_run_counts_the_recordings_that_cannot_be_read(material, tmp_path):
    rows = [json.loads(line) for line in (material / "train.jsonl").read_text().splitlines()]
    rows = [row | {name: str(material / row[name]) for name in ("question_audio", "answer_audio")} for row in rows]
    (tmp_path / "broken.wav").write_bytes(b"RIFF and no more")
    rows[5]["question_audio"], rows[6]["answer_audio"] = "nowhere.wav", "broken.wav"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.train": tmp_path / "train.jsonl"}
    output = run_command("align", *overrides(material, tmp_path / "run", **changes), "--dry-run").output
    broken = r"0\.00 h \(without 1 that cannot be read\)"
    assert re.search(f"^speech: {broken} of questions, {broken} of answers$", output, re.MULTILINE)


def test_a_dry_run_with_adapters_counts_what_trains_in_full_once(material, tmp_path):
    """peft keeps the original of each such module beside the copy that trains: it is no part of the model."""
    output = run_command("align", *overrides(material, tmp_path / "run", **{"lora.rank": 2}), "--dry-run").output
    lines = {line.rsplit(None, 2)[0]: line.rsplit(None, 2)[1:] for line in output.splitlines() if line.count("  ")}
    model = tiny_model()
    assert lines["speech transformer"] == [f"{sum(p.numel() for p in model.speech_transformer.parameters()):,}", "0"]
    adapters = int(lines["language model"][0].replace(",", ""))
    assert adapters > 0
    total = sum(int(number.replace(",", "")) for number in lines["all"])
    assert total == sum(p.numel() for p in model.parameters()) + adapters


class Squares(torch.nn.Module):
    """A linear layer, and squares of what it makes."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 4, bias=False)

    def forward(self, input_ids):
        return {"loss": self.layer(input_ids).square().sum()}


def test_the_estimate_of_memory_counts_what_backward_keeps():
    """Of a linear layer and a square: the input of the layer, and what is squared."""
    kept = kept_for_backward(Squares(), {"input_ids": torch.randn(16, 8)})
    assert kept == {"weights in bf16": 0, "activations": 4 * (16 * 8 + 16 * 4)}


def test_copies_of_weights_do_not_grow_with_the_batch():
    """They were taken for activations, and scaled up to a full batch as these are."""
    args = SimpleNamespace(bf16=True, optim="sgd", activation_checkpointing=False)
    batch = {"input_ids": torch.randn(16, 8, requires_grad=True)}  # else no gradient goes through the weight
    small, large = (estimate_memory(Squares(), args, batch, max_steps) for max_steps in (16 * 8, 10 * 16 * 8))
    assert small["weights in bf16"] == large["weights in bf16"] == 2 * 8 * 4
    assert large["activations"] == 10 * small["activations"] > 0


def test_shards_divide_weights_and_not_activations():
    args = SimpleNamespace(bf16=True, optim="adamw_torch", activation_checkpointing=False)
    whole, shard = (
        estimate_memory(Squares(), args, {"input_ids": torch.randn(16, 8, requires_grad=True)}, num_shards=num_shards)
        for num_shards in (1, 8)
    )
    assert [shard[name] * 8 for name in ("weights", "gradients", "optimizer")] == [4 * 32, 4 * 32, 8 * 32]
    assert "weights in bf16" in whole and "weights in bf16" not in shard
    assert shard["activations"] == whole["activations"]


def test_a_run_in_shards_tells_the_share_of_each_process(material, tmp_path, monkeypatch):
    run = make_run(load_recipe("align", overrides(material, tmp_path)))
    monkeypatch.setattr(dry_run, "GIB", 1)
    (whole,) = re.findall(r"weights ([\d.]+)", run.describe())
    monkeypatch.setattr(run.trainer, "is_fsdp_enabled", True)
    monkeypatch.setattr(type(run.args), "world_size", 8)
    (share,) = re.findall(r"weights ([\d.]+)", run.describe())
    assert float(share) * 8 == float(whole) > 0


def test_frozen_weights_need_no_gradients_and_no_optimizer(material, tmp_path):
    run = make_run(load_recipe("align", overrides(material, tmp_path)))
    batch = next(iter(run.train_batches))
    memory = estimate_memory(run.trainer.model, run.args, batch, 400)
    trained = sum(p.numel() for p in run.trainer.model.parameters() if p.requires_grad)
    assert memory["gradients"] == 4 * trained
    assert memory["optimizer"] == 8 * trained
    assert memory["activations"] > 0


def test_the_estimate_knows_of_activation_checkpointing(material, tmp_path):
    """Which the Trainer turns on as late as it trains: the way out that the guide advises did not show in the estimate."""
    memory = []
    for is_on in ("false", "true"):
        changes = {"training.activation_checkpointing": is_on}
        run = make_run(load_recipe("finetune", overrides(material, tmp_path, **changes)))
        batch = next(iter(run.train_batches))
        memory.append(estimate_memory(run.trainer.model, run.args, batch, 400)["activations"])
        assert not run.trainer.model.is_activation_checkpointing
    assert memory[1] < 0.5 * memory[0]


def test_augmentation_is_for_training_and_never_for_evaluation(material, tmp_path):
    evaluated = {"data.eval": material / "eval.jsonl", "data.augmentation": "{share: 1.0}"}
    run = make_run(load_recipe("align", overrides(material, tmp_path, **evaluated)))
    assert run.train_batches.builder.augmentation == Augmentation(share=1.0)
    assert run.trainer.eval_batches.builder.augmentation is None


def test_data_that_lacks_what_the_tasks_need_is_refused(material, tmp_path):
    rows = [{"question_text": "one", "answer_text": "two"}]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="None of 1 rows can be used.*transcribe, say are trained"):
        run_command("align", *overrides(material, tmp_path / "run", **{"data.train": tmp_path / "text.jsonl"}))


def test_a_column_that_is_not_known_is_refused(material, tmp_path):
    (tmp_path / "wrong.jsonl").write_text(json.dumps({"question": "one", "answer_text": "two"}) + "\n")
    with pytest.raises(ValueError, match="question"):
        run_command(
            "align",
            *overrides(
                material, tmp_path / "run", **{"data.train": tmp_path / "wrong.jsonl", "data.on_error": "stop"}
            ),
        )


def test_an_unknown_key_stops_before_anything_is_loaded(material, tmp_path):
    with pytest.raises(RecipeError, match="did you mean `training.learning_rate`"):
        run_command("align", *overrides(material, tmp_path), "training.learning_rat=1")


def test_figures_for_the_card_are_those_of_the_hub():
    figures = figures_of({"eval_transcribe_wer": 0.12345, "eval_loss": 1.0}, "held-out rows")
    assert len(figures) == 1
    assert figures[0]["metric_type"] == "wer"
    assert figures[0]["metric_value"] == 0.1235
    assert figures[0]["task_type"] == "automatic-speech-recognition"
