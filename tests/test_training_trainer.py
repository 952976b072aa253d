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
"""The Trainer: what trains, what an optimizer step is the mean of, and what it measures, averages and logs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model, training_batch
from training_tools import (
    ALL_BUT_VOCODER,
    DETERMINISTIC,
    FOR_SHARDS,
    assert_same_weights,
    encoded_examples,
    in_processes,
    losses_of,
    make_trainer,
    rows_dataset,
    train_together,
    weights_of,
)
from transformers import EarlyStoppingCallback, TrainerCallback

from flow_omni.modeling_flow_omni.modeling_flow_omni import MODULE_GROUPS, FlowOmniForSpeechGeneration
from flow_omni.training.arguments import FlowOmniTrainingArguments
from flow_omni.training.callbacks import EMA_FILE, EMACallback, TrainingDivergedError
from flow_omni.training.trainer import LOSSES, save_final


def deterministic_model(**changes):
    return tiny_model(speech=DETERMINISTIC | changes)


# What trains


@pytest.mark.parametrize("head_type", ["flow", "residual_vq"])
def test_every_trainable_parameter_changes_and_every_frozen_one_does_not(tmp_path, head_type):
    cases = [
        ALL_BUT_VOCODER,
        ["audio_adapter", "speech_inputs", "speech_decoder"],
        ["audio_encoder"],
        ["speech_decoder"],
    ]
    for modules in cases:
        model = tiny_model(speech={"head_type": head_type, "condition_dropout": 0.5})
        model.requires_grad_(False)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        trainer = make_trainer(tmp_path, model, trainable_modules=modules, max_steps=3, weight_decay=0.1)
        trainer.train()
        changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
        prefixes = tuple(prefix for name in modules for prefix in MODULE_GROUPS[name])
        expected = {name for name in before if name.startswith(prefixes) and "embed_positions" not in name}
        # codes of a quantizer are fitted, not trained
        assert changed == {name for name in expected if model.get_parameter(name).requires_grad}, modules
        assert {name for name in expected if not model.get_parameter(name).requires_grad} == set(), modules


def test_the_modules_to_train_are_checked(tmp_path):
    cases = {
        ("audio",): "`trainable_modules` names 'audio': the modules are audio_encoder",
        ("vocoder", "audio_adapter"): "train it alone",
    }
    for modules, message in cases.items():
        with pytest.raises(ValueError, match=message):
            FlowOmniTrainingArguments(str(tmp_path), trainable_modules=list(modules), report_to="none")
    for fields, message in (({"ema_decay": 1.0}, "`ema_decay` is 1.0"), ({"scheduled_sampling": 2}, "is 2: it must")):
        with pytest.raises(ValueError, match=message):
            FlowOmniTrainingArguments(str(tmp_path), report_to="none", **fields)


def test_new_modules_have_a_learning_rate_of_their_own(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e-4, new_module_learning_rate=1e-2, weight_decay=0.1, max_steps=1)
    trainer.train()
    rates = {}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            rates[parameter] = group["initial_lr"]
    assert len(rates) == sum(weight.requires_grad for weight in trainer.model.parameters())
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad:
            is_pretrained = name.startswith(("model.audio_encoder.", *MODULE_GROUPS["language_model"]))
            assert rates[weight] == (1e-4 if is_pretrained else 1e-2), name


# The loss


def test_the_loss_of_one_batch_is_that_of_the_model(tmp_path):
    trainer = make_trainer(tmp_path, deterministic_model())
    batch = training_batch(trainer.model.config)
    loss = trainer.compute_loss(trainer.model.eval(), batch)
    torch.testing.assert_close(loss, trainer.model(**batch).loss, check_dtype=False)


def test_every_part_of_the_loss_is_logged_and_they_sum_to_it(tmp_path):
    trainer = make_trainer(tmp_path, tiny_model(ctc_loss_weight=0.5))
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 4 and set().union(*entries) >= set(LOSSES)
    for entry in entries:
        total = sum(getattr(trainer.model.config, f"{name}_weight") * entry.get(name, 0.0) for name in LOSSES)
        assert total == pytest.approx(entry["loss"], rel=1e-4)


@pytest.mark.parametrize("num_batches", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_accumulated_batches_equal_one_big_batch(tmp_path, num_batches):
    """Also with unequal numbers of text tokens and patches: a mean of means would differ."""
    runs = {}
    for accumulation in (1, num_batches):
        trainer = make_trainer(
            tmp_path,
            deterministic_model(),
            encoded_examples(copies=1),
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            optim="sgd",
            learning_rate=0.1,
            train_sampling_strategy="sequential",
        )
        trainer.train()
        runs[accumulation] = trainer
    assert losses_of(runs[1]) == pytest.approx(losses_of(runs[num_batches]), rel=1e-4)
    assert_same_weights(weights_of(runs[1].model), weights_of(runs[num_batches].model), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "order, accumulation", [([0, 1, 2, 3], 1), pytest.param([0, 2, 1, 3], 2, marks=pytest.mark.slow)]
)
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, order, accumulation):
    """Also if one process has audio input, or speech, and the other does not."""
    one, two = tmp_path / "one", tmp_path / "two"
    size = {"per_device_train_batch_size": 2 // accumulation, "gradient_accumulation_steps": accumulation}
    assert in_processes(train_together, str(two), order, num_processes=2, **size) == [0, 0]
    train_together(str(one), order, per_device_train_batch_size=4)
    logs = [json.loads((folder / "log.json").read_text()) for folder in (one, two)]
    for name in ("loss", "text_loss", "state_loss", "speech_loss", "auxiliary_loss", "ctc_loss"):
        losses = [[entry[name] for entry in log if name in entry] for log in logs]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 3, name
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    assert_same_weights(*weights, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_shards_train_as_one_process_does_resume_and_save_plain_checkpoints(tmp_path):
    """As its users launch it: by accelerate, with the file that comes with the package."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--config_file"]
    command += [
        str(root / "training/accelerate/fsdp.yaml"),
        str(root / "tests/training_tools.py"),
        str(tmp_path / "two"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}

    def launch() -> dict[str, torch.Tensor]:
        subprocess.run(command, env=environment, check=True, timeout=300)
        return load_file(tmp_path / "two" / "model.safetensors")

    two = launch()
    shutil.rmtree(tmp_path / "two" / "checkpoint-3")
    assert_same_weights(launch(), two)
    train_together(str(tmp_path / "one"), per_device_train_batch_size=4, **FOR_SHARDS)
    one = load_file(tmp_path / "one" / "model.safetensors")
    # gathered, the tied weights are two
    assert_same_weights({name: two[name] for name in one}, one, rtol=1e-3, atol=1e-5)
    for folder in (tmp_path / "two", tmp_path / "two" / "checkpoint-2"):
        config = FlowOmniForSpeechGeneration.from_pretrained(folder).config
        assert config.architectures == ["FlowOmniForSpeechGeneration"]
        assert not [name for name in config.auto_map.values() if "FSDP" in name] and not list(folder.glob("_fsdp*"))


def test_scheduled_sampling_trains_on_predicted_patches(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, deterministic_model(), scheduled_sampling=1.0, bf16=True)
    model, seen = trainer.model.train(), []
    batch = training_batch(model.config)
    patches = trainer._sampled_patches(batch)
    states = batch["speech_states"]
    targets = model.prepare_patches(batch["mel_labels"], states)
    is_previous = torch.nn.functional.pad((states == model.config.generating_state_id)[:, :-1], (1, 0))
    differs = (patches != torch.nn.functional.pad(targets[:, :-1], (0, 0, 1, 0))).any(dim=-1)
    assert differs.any() and not differs[~is_previous].any()
    monkeypatch.setattr(
        model, "prepare_patches", lambda *args, call=model.prepare_patches: seen.append(args) or call(*args)
    )
    trainer.train()
    assert seen and all(weight.grad is None or torch.isfinite(weight.grad).all() for weight in model.parameters())
    assert all(torch.isfinite(torch.tensor(losses_of(trainer))))


def test_gradient_checkpointing_changes_memory_and_not_the_gradient(tmp_path):
    weights = []
    for is_on in (False, True):
        trainer = make_trainer(tmp_path, deterministic_model(), activation_checkpointing=is_on, max_steps=2)
        trainer.train()
        weights.append(weights_of(trainer.model))
    assert_same_weights(*weights, rtol=1e-3, atol=1e-5)


def test_batches_without_speech_train_and_evaluate(tmp_path):
    """The Trainer would look for `mel_labels` and find these batches unlabelled."""
    examples = [example for example in encoded_examples() if "mel_labels" not in example]
    trainer = make_trainer(tmp_path, dataset=examples, eval_dataset=examples)
    trainer.train()
    assert "speech_loss" not in trainer.state.log_history[0] and "eval_text_loss" in trainer.evaluate()


# Evaluation


def test_evaluation_gives_the_means_over_all_targets(tmp_path):
    """Batches of one row and of all rows evaluate to the same."""
    metrics, examples = {}, encoded_examples(copies=1)
    for size in (1, 4):
        trainer = make_trainer(
            tmp_path, deterministic_model(), examples, eval_dataset=examples, per_device_eval_batch_size=size
        )
        metrics[size] = trainer.evaluate()
    for name in ("loss", *LOSSES):
        assert metrics[1][f"eval_{name}"] == pytest.approx(metrics[4][f"eval_{name}"], rel=1e-4), name


def test_training_continues_as_if_there_had_been_no_evaluation(tmp_path):
    """Evaluation draws noise too: the same every time, and not that of the next steps."""
    alone = make_trainer(tmp_path, dataset=rows_dataset())
    alone.train()
    evaluated = make_trainer(
        tmp_path,
        dataset=rows_dataset(),
        eval_dataset=rows_dataset(4),
        eval_strategy="steps",
        eval_steps=1,
        generation_metrics=lambda model, step, trainer: {"score": float(step)},
    )
    evaluated.train()
    assert_same_weights(weights_of(evaluated.model), weights_of(alone.model))
    assert evaluated.evaluate()["eval_loss"] == evaluated.evaluate()["eval_loss"]
    assert [entry["eval_score"] for entry in evaluated.state.log_history if "eval_score" in entry][:4] == [1, 2, 3, 4]


def test_callbacks_and_schedulers_of_transformers_work(tmp_path):
    trainer = make_trainer(
        tmp_path,
        eval_dataset=encoded_examples(copies=1),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        lr_scheduler_type="cosine",
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9)],
    )
    trainer.train()
    assert trainer.state.global_step == 2
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[0] > rates[1]


# The moving average


def test_the_average_follows_its_formula_and_moves_where_bf16_would_not():
    model, callback = torch.nn.Linear(2, 2).to(torch.bfloat16), EMACallback(0.9)
    torch.nn.init.ones_(model.weight)
    state = type("State", (), {"global_step": 0})
    callback.on_train_begin(None, state, None, model=model)
    expected = model.weight.detach().float().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight += 0.01
        callback.on_step_end(None, state, None, model=model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().float()
    torch.testing.assert_close(callback.averages["weight"], expected)
    own = model.weight.detach().clone()
    with callback.applied_to(model):
        assert not torch.equal(model.weight, own)
    assert torch.equal(model.weight, own)


def test_the_final_model_and_the_evaluation_use_the_average(tmp_path):
    trainer = make_trainer(
        tmp_path, deterministic_model(), ema_decay=0.9, eval_dataset=encoded_examples(1), learning_rate=1e-2,
        save_strategy="steps", save_steps=4,
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    save_final(trainer)
    average = load_file(tmp_path / "checkpoint-4" / EMA_FILE)
    final = FlowOmniForSpeechGeneration.from_pretrained(tmp_path)
    for name, value in average.items():
        assert torch.equal(final.get_parameter(name), value), name
    assert not torch.equal(final.state_head.weight, trainer.model.state_head.weight)
    assert (tmp_path / "processor_config.json").is_file()
    again = make_trainer(tmp_path, final, eval_dataset=encoded_examples(1)).evaluate()
    assert again["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)


# The stop on NaN


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_rows(tmp_path):
    model = tiny_model()
    trainer = make_trainer(tmp_path, model, rows_dataset())
    torch.nn.init.constant_(model.state_head.weight, torch.nan)
    before = weights_of(model)["lm_head.weight"]
    with pytest.raises(TrainingDivergedError, match=r"The loss at step 1 is nan \(.*state_loss nan.*rows row-\d"):
        trainer.train()
    assert torch.equal(weights_of(model)["lm_head.weight"], before)


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(tmp_path):
    for is_on in (True, False):
        model = tiny_model()
        trainer = make_trainer(tmp_path, model, stop_on_nan=is_on, max_steps=1)
        model.state_head.weight.register_hook(lambda gradient: gradient * torch.inf)
        before = weights_of(model)
        if is_on:
            with pytest.raises(TrainingDivergedError, match="The gradient at step 1 is not finite"):
                trainer.train()
            assert_same_weights(weights_of(model), before)
        else:
            trainer.train()


# Mel statistics


def spoken_frames(trainer):
    state_id, frames = trainer.model.config.generating_state_id, []
    for batch in trainer.get_train_dataloader():
        for row, patches in zip(batch["speech_states"], batch.get("mel_labels", [])):
            frames.append(patches[: int((row == state_id).sum())].flatten(0, 1))
    return torch.cat(frames).clamp(min=trainer.model.config.speech_config.mel_floor)


def test_mel_statistics_are_measured_before_the_first_step_and_kept_afterwards(tmp_path):
    trainer = make_trainer(tmp_path, mel_statistics_batches=100, save_strategy="steps", save_steps=2)
    normalizer = trainer.model.mel_normalizer
    frames = spoken_frames(trainer)
    trainer.train()
    torch.testing.assert_close(normalizer.mean, frames.mean(dim=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalizer.std, frames.std(dim=0, correction=0).clamp(min=0.05), rtol=1e-3, atol=1e-3)
    other = make_trainer(tmp_path, trainer.model, encoded_examples(1)[1:2], mel_statistics_batches=100)
    before = normalizer.mean.clone()
    other.train()
    assert torch.equal(normalizer.mean, before)


def test_bands_that_were_silent_are_measured_when_a_voice_reaches_them(tmp_path):
    model = tiny_model()
    model.mel_normalizer.mean.fill_(1.0)
    model.mel_normalizer.mean[5:] = model.config.speech_config.mel_floor
    model.mel_normalizer.std[5:] = 0.05
    trainer = make_trainer(tmp_path, model, mel_statistics_batches=100)
    frames = spoken_frames(trainer)
    trainer.train()
    assert torch.equal(model.mel_normalizer.mean[:5], torch.ones(5))
    torch.testing.assert_close(model.mel_normalizer.mean[5:], frames.mean(dim=0)[5:], rtol=1e-4, atol=1e-4)


def test_codebooks_are_fitted_before_the_first_step(tmp_path):
    model = deterministic_model()
    before = model.speech_head.quantizer.codebooks.detach().clone()
    make_trainer(tmp_path, model, mel_statistics_batches=100, max_steps=1, learning_rate=1e-9).train()
    assert not torch.allclose(model.speech_head.quantizer.codebooks, before, atol=0.1)


class NoteRandomState(TrainerCallback):
    """Notes the state of the random numbers, and the batches, as training meets them."""

    def on_step_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.state, self.batches = torch.get_rng_state(), list(train_dataloader.batch_sampler)


def test_measuring_leaves_no_trace_in_training(tmp_path):
    notes = []
    for num_batches in (0, 3):
        notes.append(NoteRandomState())
        dataset = rows_dataset()
        options = {"max_steps": 1, "mel_statistics_batches": num_batches, "callbacks": [notes[-1]]}
        make_trainer(tmp_path, dataset=dataset, **options).train()
    assert torch.equal(notes[0].state, notes[1].state) and notes[0].batches == notes[1].batches


def test_a_decoder_that_does_not_train_keeps_its_mel_statistics(tmp_path):
    model = tiny_model()
    before = model.mel_normalizer.mean.clone()
    make_trainer(tmp_path, model, trainable_modules=["audio_adapter"], mel_statistics_batches=3, max_steps=1).train()
    assert torch.equal(model.mel_normalizer.mean, before)


@pytest.mark.slow
def test_every_task_can_be_learnt(tmp_path):
    model = tiny_model(
        text={"hidden_size": 64, "intermediate_size": 128},
        speech={"patch_noise": 0.1, "patch_dropout": 0.0, "head_hidden_size": 64},
    )
    trainer = make_trainer(
        tmp_path,
        model,
        encoded_examples(1),
        per_device_train_batch_size=4,
        max_steps=400,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        mel_statistics_batches=4,
        ema_decay=0.9,
        eval_dataset=encoded_examples(1),
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_text_loss"] < 0.05 and metrics["eval_state_loss"] < 0.05 and metrics["eval_speech_loss"] < 1.0
