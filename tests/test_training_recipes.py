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
"""Recipes and the runs that they describe, from the arguments to the final model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import training_tools as tools
from safetensors.torch import load_file
from tiny import tiny_model
from transformers import TrainerState

from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.training.arguments import ModelArguments, RecipeParser
from flow_omni.training.augmentation import Augmentation
from flow_omni.training.train import load_model, main, train_recipe


NEEDED = ["model=a-model", "train_data=train.jsonl", "output_dir=out", "report_to=none"]


def overrides(material, output, **changes) -> list[str]:
    settings = {"max_positions_per_batch": 400, "warmup_steps": 0, "bf16": "false", "mel_statistics_batches": 3}
    return tools.overrides(material, output, **(settings | changes))


def last_loss(trainer) -> float:
    return [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][-1]


def parse(name, *changes):
    return RecipeParser().parse(name, [*NEEDED, *changes])


# Recipes


def test_the_packaged_recipes_name_what_they_train():
    align = ["audio_adapter", "speech_inputs", "speech_decoder"]
    for name, modules in {"align": align, "finetune": tools.ALL_BUT_VOCODER, "vocoder": ["vocoder"]}.items():
        model_args, data_args, args = parse(name)
        assert args.trainable_modules == modules
        assert (model_args.model, data_args.train_data, args.output_dir) == ("a-model", "train.jsonl", "out")
        assert isinstance(args.learning_rate, float) and args.eval_strategy == "no"
        assert parse(name, "eval_data=eval.jsonl")[2].eval_strategy == "steps"


@pytest.mark.parametrize("name", ["align", "finetune"])
def test_recipes_warm_up_log_and_evaluate_in_short_runs_and_long_ones(name):
    args = parse(name, "eval_data=e")[2]
    for num_steps in (3, 95, 100_000):
        state = TrainerState()
        state.compute_steps(args, num_steps)
        assert args.get_warmup_steps(num_steps) <= max(1, 0.05 * num_steps)
        assert args.logging_first_step
        assert 1 <= state.eval_steps == state.save_steps <= max(1, 0.11 * num_steps)
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.05}


def test_overrides_are_typed_by_their_fields():
    changes = ["learning_rate=3e-4", "eval_strategy=no", "bf16=no", "ema_decay=null", "trainable_modules=[vocoder]"]
    changes += ["tasks={say: 2, transcribe: 0.5}", "augmentation={share: 1e-1, snrs_db: [5, 30]}", "max_steps=-1"]
    _, data_args, args = parse("finetune", *changes)
    assert (args.learning_rate, args.eval_strategy, args.bf16, args.ema_decay) == (3e-4, "no", False, None)
    assert args.trainable_modules == ["vocoder"] and args.max_steps == -1
    assert data_args.tasks == {"say": 2, "transcribe": 0.5}
    assert data_args.augmentation == {"share": 0.1, "snrs_db": [5, 30]}
    assert parse("align", "train_data={a.jsonl: 1, b.jsonl: 2.5}")[1].train_data == {"a.jsonl": 1, "b.jsonl": 2.5}
    assert parse("align", "train_data=[a.jsonl, b.jsonl]")[1].train_data == ["a.jsonl", "b.jsonl"]
    assert parse("align", "trainable_modules=audio_adapter")[2].trainable_modules == ["audio_adapter"]


def test_epochs_and_schedules_replace_what_the_recipe_has_in_their_place():
    args = parse("vocoder", "num_train_epochs=7")[2]
    assert (args.num_train_epochs, args.max_steps) == (7, -1)
    assert parse("vocoder", "num_train_epochs=7", "max_steps=5")[2].max_steps == 5
    assert not parse("align", "lr_scheduler_type=linear")[2].lr_scheduler_kwargs
    args = parse("align", "lr_scheduler_type=polynomial", "lr_scheduler_kwargs={power: 2.0}")[2]
    assert args.lr_scheduler_kwargs == {"power": 2.0}


def test_mistakes_are_named_with_their_remedy(tmp_path):
    cases = {
        "lerning_rate=1": "unknown key `lerning_rate`: did you mean `learning_rate`",
        "max_step=1": "unknown key `max_step`: did you mean `max_steps`",
        "learning_rate=fast": "argument --learning_rate.*invalid float value: 'fast'",
        "bf16=perhaps": "argument --bf16",
        "text_layout=late": "argument --text_layout",
        "learning_rate": "`learning_rate` is not an override: write `key=value`",
        "tasks={say: ": "is not YAML",
        "tasks=say": "`tasks` is 'say': it must be a mapping, such as `tasks={key: value}`",
        "lora=[16]": "`lora` is .*: it must be a mapping",
    }
    for override, message in cases.items():
        with pytest.raises(ValueError, match=message):
            parse("align", override)
    with pytest.raises(
        ValueError, match="no recipe 'nothing': name a file, or one of align, ctc, distill, finetune, speak, vocoder"
    ):
        parse("nothing")
    (tmp_path / "mine.yaml").write_text("- a list\n")
    with pytest.raises(ValueError, match="must hold a mapping"):
        parse(str(tmp_path / "mine.yaml"))
    for name in ("model", "train_data", "output_dir"):
        given = [override for override in NEEDED if not override.startswith(f"{name}=")]
        with pytest.raises(ValueError, match=f"`{name}` is missing"):
            RecipeParser().parse("align", given)
        with pytest.raises(ValueError, match="unknown key `modell`: did you mean `model`"):
            RecipeParser().parse("align", [*given, "modell=3"])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="which is a file: name a folder"):
        train_recipe("align", [*NEEDED, f"output_dir={tmp_path / 'file'}"])


def test_a_recipe_of_ones_own_is_read_as_it_is_written(tmp_path):
    lines = ["model: null", "trainable_modules: [speech_decoder]", "learning_rate: 2e-4", "eval_strategy: no"]
    (tmp_path / "mine.yaml").write_text("\n".join([*lines, "bf16: False", "tasks: {say: 1}"]))
    _, data_args, args = parse(str(tmp_path / "mine.yaml"))
    assert (args.trainable_modules, args.learning_rate, args.bf16) == (["speech_decoder"], 2e-4, False)
    assert data_args.tasks == {"say": 1}


# Runs


def test_both_stages_by_their_recipes(material, tmp_path):
    evaluation = {"eval_data": material / "eval.jsonl", "eval_steps": 2}
    result = train_recipe("align", overrides(material, tmp_path / "align", **evaluation))
    assert result.state.global_step == 4 and "eval_text_loss" in result.state.log_history[-1]
    names = {path.name for path in (tmp_path / "align").iterdir()}
    assert {"model.safetensors", "processor_config.json", "trainer_state.json", "checkpoint-4"} <= names
    start, aligned = (FlowOmniForSpeechGeneration.from_pretrained(f) for f in (material / "model", tmp_path / "align"))
    assert torch.equal(aligned.lm_head.weight, start.lm_head.weight)
    assert not torch.equal(aligned.state_head.weight, start.state_head.weight)
    assert not torch.equal(aligned.mel_normalizer.mean, start.mel_normalizer.mean)

    settings = {"model": tmp_path / "align", "config_overrides": "{patch_noise: 0.25, ctc_loss_weight: 0.5}"}
    train_recipe("finetune", overrides(material, tmp_path / "finetune", ctc_labels="true", **settings))
    finetuned = FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "finetune")
    assert not torch.equal(finetuned.lm_head.weight, aligned.lm_head.weight)
    assert torch.equal(finetuned.mel_normalizer.mean, aligned.mel_normalizer.mean)
    assert (finetuned.config.speech_config.patch_noise, finetuned.config.ctc_loss_weight) == (0.25, 0.5)


def test_the_same_command_resumes_and_a_complete_run_is_left_alone(material, tmp_path):
    settings = {"eval_data": material / "eval.jsonl", "eval_steps": 2, "ema_decay": 0.5}
    results = {
        name: train_recipe("align", overrides(material, tmp_path / name, **settings)) for name in ("whole", "cut")
    }
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    # interrupted after the second step; then after the last one, but before the final model was saved
    for removed in (
        ["checkpoint-4", "trainer_state.json", "model.safetensors"],
        ["trainer_state.json", "model.safetensors"],
    ):
        for name in removed:
            path = tmp_path / "cut" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        again = train_recipe("align", overrides(material, tmp_path / "cut", **settings))
        cut = load_file(tmp_path / "cut" / "model.safetensors")
        assert all(torch.equal(whole[name], cut[name]) for name in whole)
        assert again.state.global_step == 4
        assert last_loss(again) == last_loss(results["whole"])
    before = (tmp_path / "cut" / "model.safetensors").stat().st_mtime_ns
    complete = train_recipe("align", overrides(material, tmp_path / "cut", **settings))
    assert complete.state.global_step == 4 and last_loss(complete) == last_loss(again)
    assert (tmp_path / "cut" / "model.safetensors").stat().st_mtime_ns == before
    assert train_recipe("align", overrides(material, tmp_path / "cut", **settings, max_steps=5)).state.global_step == 5


def test_a_fresh_run_does_not_resume_from_the_one_before(material, tmp_path):
    """The earlier run had taken more steps: its checkpoint would be the last one again."""
    train_recipe("align", overrides(material, tmp_path))
    shorter = overrides(material, tmp_path, max_steps=2)
    assert train_recipe("align", shorter, fresh=True).state.global_step == 2
    assert train_recipe("align", shorter).state.global_step == 2
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    assert {path.name for path in (tmp_path / "earlier-1").iterdir()} >= {"checkpoint-2", "checkpoint-4"}


def test_an_evaluation_in_bf16_leaves_the_saved_model_in_fp32(material, tmp_path):
    """It casts the weights for good, and must come after they are saved."""
    changes = {"eval_data": material / "eval.jsonl", "bf16_full_eval": "true", "max_steps": 1, "bf16": "true"}
    train_recipe("align", overrides(material, tmp_path, **changes))
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


def test_skipped_rows_are_logged_and_listed(material, tmp_path):
    rows = [json.loads(line) for line in (material / "train.jsonl").read_text().splitlines()]
    rows = [row | {name: str(material / row[name]) for name in ("question_audio", "answer_audio")} for row in rows]
    (tmp_path / "broken.flac").write_bytes(b"fLaC and no more")
    rows[5] |= {"question_audio": "broken.flac", "answer_audio": "broken.flac"}
    # the duration in the row hides it until it is decoded
    rows[6] |= {
        "answer_audio": "broken.flac",
        "question_audio": "broken.flac",
        "answer_seconds": 0.3,
        "question_seconds": 0.3,
    }
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"train_data": tmp_path / "train.jsonl", "max_skipped_fraction": 0.2}
    trainer = train_recipe("align", overrides(material, tmp_path / "run", **settings))
    assert "row-5 cannot be read" in trainer.train_dataset.skipped[0] and "row-6" in next(iter(trainer.skipped))
    assert trainer.state.log_history[-2]["skipped_rows"] == 1


def test_a_dry_run_prints_what_would_train_and_writes_nothing(material, tmp_path, capsys):
    settings = overrides(material, tmp_path / "run", warmup_steps=3)
    assert train_recipe("align", settings, dry_run=True) is None
    output, model = capsys.readouterr().out, tiny_model()
    lines = {line.split()[0]: line.split()[1:] for line in output.splitlines()}
    frozen = sum(p.numel() for p in model.model.language_model.parameters())
    adapter = sum(p.numel() for p in model.model.audio_adapter.parameters())
    assert lines["language_model"] == [f"{frozen:,}", "0"] and lines["audio_adapter"] == [
        f"{adapter:,}",
        f"{adapter:,}",
    ]
    assert "rows: 12, of which 0 are skipped" in output and "optimizer steps: 4 (" in output
    assert "warning: warm-up takes 3 steps, more than half" in output
    assert not list((tmp_path / "run").glob("**/*.*"))
    main(["align", *settings, "--dry-run"])
    assert capsys.readouterr().out == output
    train_recipe("align", overrides(material, tmp_path / "run", streaming="true"), dry_run=True)
    assert "rows: a stream" in capsys.readouterr().out
    train_recipe("vocoder", overrides(material, tmp_path / "run", adversarial_loss_weight=1), dry_run=True)
    output = capsys.readouterr().out
    vocoder = sum(p.numel() for p in model.vocoder.parameters())
    assert f"{vocoder:,}" in output and "discriminators" in output


def test_a_model_that_cannot_be_loaded_is_named(material, tmp_path):
    with pytest.raises(ValueError, match="`model` is '.*nowhere': neither a folder nor a checkpoint"):
        train_recipe("align", overrides(material, tmp_path / "run", model=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="`config_overrides` names 'patch_nois'"):
        train_recipe("align", overrides(material, tmp_path / "run", config_overrides="{patch_nois: 1.0}"))


def test_an_override_of_the_config_brings_the_modules_that_it_needs(material):
    arguments = ModelArguments(model=str(material / "model"), config_overrides="{flow_objective: lsd}")
    head = load_model(arguments).speech_head
    assert head.duration_embedding is not None and not head.duration_embedding.fc2.weight.any()
    trained = FlowOmniForSpeechGeneration.from_pretrained(material / "model").speech_head
    assert trained.duration_embedding is None
    assert torch.equal(head.input_proj.weight, trained.input_proj.weight)


def test_a_mixture_of_sources_trains(material, tmp_path):
    changes = {"train_data": f"{{{material / 'train.jsonl'}: 1, {material / 'eval.jsonl'}: 2.5}}", "max_steps": 2}
    assert train_recipe("finetune", overrides(material, tmp_path, **changes)).state.global_step == 2


def run_main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    main(arguments)


@pytest.mark.slow
def test_the_command_on_two_processes_ends_in_order(material, tmp_path):
    changes = {"eval_data": material / "eval.jsonl", "lora": "{r: 2}", "save_steps": 2}
    arguments = ["align", *overrides(material, tmp_path, **changes)]
    assert tools.in_processes(run_main, arguments, num_processes=2) == [0, 0]
    FlowOmniForSpeechGeneration.from_pretrained(tmp_path)
    assert json.loads(Path(tmp_path / "trainer_state.json").read_text())["global_step"] == 4


def test_answers_are_generated_at_each_evaluation_and_augmentation_is_for_training_only(material, tmp_path):
    changes = {"eval_data": material / "eval.jsonl", "num_eval_questions": 3, "eval_max_new_tokens": 8}
    changes |= {"augmentation": "{share: 1.0}", "max_steps": 1}
    result = train_recipe("align", overrides(material, tmp_path, **changes))
    assert any(name.endswith(("_wer", "_cer")) for name in result.state.log_history[-1])
    assert result.train_dataset.builder.augmentation == Augmentation(share=1.0)
    assert result.eval_dataset.builder.augmentation is None
