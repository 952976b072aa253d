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
import training_tools as tools
from safetensors.torch import load_file
from tiny import tiny_model, training_batch
from transformers import TrainerCallback

from flow_omni.modeling_flow_omni.modeling_flow_omni import MODULE_GROUPS, FlowOmniForSpeechGeneration
from flow_omni.training.arguments import FlowOmniTrainingArguments
from flow_omni.training.callbacks import EMA_FILE, EMACallback, TrainingDivergedError
from flow_omni.training.trainer import LOSSES, save_final


def deterministic_model(**changes):
    return tiny_model(speech=tools.DETERMINISTIC | changes)


# What trains


@pytest.mark.parametrize("head_type", ["flow", "residual_vq"])
def test_every_trainable_parameter_changes_and_every_frozen_one_does_not(tmp_path, head_type):
    cases = [tools.ALL_BUT_VOCODER]
    if head_type == "flow":
        cases += [["audio_adapter", "speech_inputs", "speech_decoder"], ["audio_encoder"], ["speech_decoder"]]
    for modules in cases:
        model = tiny_model(speech={"head_type": head_type, "condition_dropout": 0.5})
        model.requires_grad_(False)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        trainer = tools.make_trainer(tmp_path, model, trainable_modules=modules, max_steps=3, weight_decay=0.1)
        trainer.train()
        changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
        prefixes = tuple(prefix for name in modules for prefix in MODULE_GROUPS[name])
        expected = {name for name in before if name.startswith(prefixes) and "embed_positions" not in name}
        # codes of a quantizer are fitted, not trained
        assert changed == {name for name in expected if model.get_parameter(name).requires_grad}, modules
        assert {name for name in expected if not model.get_parameter(name).requires_grad} == set(), modules


def test_arguments_out_of_range_are_refused(tmp_path):
    for fields, message in (
        ({"trainable_modules": ["audio"]}, "`trainable_modules` names 'audio': the modules are audio_encoder"),
        ({"trainable_modules": ["vocoder", "audio_adapter"]}, "train it alone"),
        ({"ema_decay": 1.0}, "`ema_decay` is 1.0"),
        ({"scheduled_sampling": 2}, "is 2: it must"),
    ):
        with pytest.raises(ValueError, match=message):
            FlowOmniTrainingArguments(str(tmp_path), report_to="none", **fields)


def test_new_modules_have_a_learning_rate_of_their_own(tmp_path):
    trainer = tools.make_trainer(
        tmp_path, learning_rate=1e-4, new_module_learning_rate=1e-2, weight_decay=0.1, max_steps=1
    )
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
    trainer = tools.make_trainer(tmp_path, deterministic_model())
    batch = training_batch(trainer.model.config)
    loss = trainer.compute_loss(trainer.model.eval(), batch)
    torch.testing.assert_close(loss, trainer.model(**batch).loss, check_dtype=False)


# there is no teacher, the adapter does not spell, and the language model runs the speech
LOGGED = set(LOSSES) - {"distillation_loss", "letter_loss", "advance_loss"}


def test_every_part_of_the_loss_is_logged_and_they_sum_to_it(tmp_path):
    trainer = tools.make_trainer(tmp_path, tiny_model(ctc_loss_weight=0.5))
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 4 and set().union(*entries) >= LOGGED
    for entry in entries:
        total = sum(getattr(trainer.model.config, f"{name}_weight") * entry.get(name, 0.0) for name in LOSSES)
        assert total == pytest.approx(entry["loss"], rel=1e-4)


@pytest.mark.parametrize("num_batches", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_accumulated_batches_equal_one_big_batch(tmp_path, num_batches):
    """Also with unequal numbers of text tokens and patches: a mean of means would differ."""
    runs = {}
    for accumulation in (1, num_batches):
        trainer = tools.make_trainer(
            tmp_path,
            deterministic_model(),
            tools.encoded_examples(copies=1),
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            optim="sgd",
            learning_rate=0.1,
            train_sampling_strategy="sequential",
        )
        trainer.train()
        runs[accumulation] = trainer
    assert tools.losses_of(runs[1]) == pytest.approx(tools.losses_of(runs[num_batches]), rel=1e-4)
    tools.assert_same_weights(
        tools.weights_of(runs[1].model), tools.weights_of(runs[num_batches].model), rtol=1e-3, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("order, accumulation", [([0, 1, 2, 3], 1), ([0, 2, 1, 3], 2)])
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, order, accumulation):
    """Also if one process has audio input, or speech, and the other does not."""
    one, two = tmp_path / "one", tmp_path / "two"
    size = {"per_device_train_batch_size": 2 // accumulation, "gradient_accumulation_steps": accumulation}
    assert tools.in_processes(tools.train_together, str(two), order, num_processes=2, **size) == [0, 0]
    tools.train_together(str(one), order, per_device_train_batch_size=4)
    logs = [json.loads((folder / "log.json").read_text()) for folder in (one, two)]
    for name in ("loss", "text_loss", "state_loss", "speech_loss", "auxiliary_loss", "ctc_loss"):
        losses = [[entry[name] for entry in log if name in entry] for log in logs]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 3, name
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    tools.assert_same_weights(*weights, rtol=1e-3, atol=1e-5)


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
    tools.assert_same_weights(launch(), two)
    tools.train_together(str(tmp_path / "one"), per_device_train_batch_size=4, **tools.FOR_SHARDS)
    one = load_file(tmp_path / "one" / "model.safetensors")
    # gathered, the tied weights are two
    tools.assert_same_weights({name: two[name] for name in one}, one, rtol=1e-3, atol=1e-5)
    for folder in (tmp_path / "two", tmp_path / "two" / "checkpoint-2"):
        config = FlowOmniForSpeechGeneration.from_pretrained(folder).config
        assert config.architectures == ["FlowOmniForSpeechGeneration"]
        assert not [name for name in config.auto_map.values() if "FSDP" in name] and not list(folder.glob("_fsdp*"))


def test_scheduled_sampling_trains_on_predicted_patches(tmp_path, monkeypatch):
    trainer = tools.make_trainer(tmp_path, deterministic_model(), scheduled_sampling=1.0, bf16=True)
    model, seen = trainer.model.train(), []
    batch = training_batch(model.config)
    patches = trainer._sampled_inputs(batch)["previous_patches"]
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
    assert all(torch.isfinite(torch.tensor(tools.losses_of(trainer))))


def test_gradient_checkpointing_changes_memory_and_not_the_gradient(tmp_path):
    weights = []
    for is_on in (False, True):
        trainer = tools.make_trainer(tmp_path, deterministic_model(), activation_checkpointing=is_on, max_steps=2)
        trainer.train()
        weights.append(tools.weights_of(trainer.model))
    tools.assert_same_weights(*weights, rtol=1e-3, atol=1e-5)


def test_batches_without_speech_train_and_evaluate(tmp_path):
    """The Trainer would look for `mel_labels` and find these batches unlabelled."""
    examples = [example for example in tools.encoded_examples() if "mel_labels" not in example]
    trainer = tools.make_trainer(tmp_path, dataset=examples, eval_dataset=examples)
    trainer.train()
    assert "speech_loss" not in trainer.state.log_history[0] and "eval_text_loss" in trainer.evaluate()


# Evaluation


def test_evaluation_gives_the_means_over_all_targets(tmp_path):
    """Batches of one row and of all rows evaluate to the same."""
    metrics, examples = {}, tools.encoded_examples(copies=1)
    for size in (1, 4):
        trainer = tools.make_trainer(
            tmp_path, deterministic_model(), examples, eval_dataset=examples, per_device_eval_batch_size=size
        )
        metrics[size] = trainer.evaluate()
    for name in ("loss", *LOGGED):
        assert metrics[1][f"eval_{name}"] == pytest.approx(metrics[4][f"eval_{name}"], rel=1e-4), name


def test_training_continues_as_if_there_had_been_no_evaluation(tmp_path):
    """Evaluation draws noise too: the same every time, and not that of the next steps."""
    alone = tools.make_trainer(tmp_path, dataset=tools.rows_dataset())
    alone.train()
    evaluated = tools.make_trainer(
        tmp_path,
        dataset=tools.rows_dataset(),
        eval_dataset=tools.rows_dataset(4),
        eval_strategy="steps",
        eval_steps=1,
        generation_metrics=lambda model, step, trainer: {"score": float(step)},
    )
    evaluated.train()
    tools.assert_same_weights(tools.weights_of(evaluated.model), tools.weights_of(alone.model))
    assert evaluated.evaluate()["eval_loss"] == evaluated.evaluate()["eval_loss"]
    assert [entry["eval_score"] for entry in evaluated.state.log_history if "eval_score" in entry][:4] == [1, 2, 3, 4]


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
    trainer = tools.make_trainer(
        tmp_path, deterministic_model(), ema_decay=0.9, eval_dataset=tools.encoded_examples(1), learning_rate=1e-2,
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
    again = tools.make_trainer(tmp_path, final, eval_dataset=tools.encoded_examples(1)).evaluate()
    assert again["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)


# The stop on NaN


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_rows(tmp_path):
    model = tiny_model()
    trainer = tools.make_trainer(tmp_path, model, tools.rows_dataset())
    torch.nn.init.constant_(model.state_head.weight, torch.nan)
    before = tools.weights_of(model)["lm_head.weight"]
    with pytest.raises(TrainingDivergedError, match=r"The loss at step 1 is nan \(.*state_loss nan.*rows row-\d"):
        trainer.train()
    assert torch.equal(tools.weights_of(model)["lm_head.weight"], before)


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(tmp_path):
    for is_on in (True, False):
        model = tiny_model()
        trainer = tools.make_trainer(tmp_path, model, stop_on_nan=is_on, max_steps=1)
        model.state_head.weight.register_hook(lambda gradient: gradient * torch.inf)
        before = tools.weights_of(model)
        if is_on:
            with pytest.raises(TrainingDivergedError, match="The gradient at step 1 is not finite"):
                trainer.train()
            tools.assert_same_weights(tools.weights_of(model), before)
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
    trainer = tools.make_trainer(tmp_path, mel_statistics_batches=100, save_strategy="steps", save_steps=2)
    normalizer = trainer.model.mel_normalizer
    frames = spoken_frames(trainer)
    trainer.train()
    torch.testing.assert_close(normalizer.mean, frames.mean(dim=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalizer.std, frames.std(dim=0, correction=0).clamp(min=0.05), rtol=1e-3, atol=1e-3)
    other = tools.make_trainer(tmp_path, trainer.model, tools.encoded_examples(1)[1:2], mel_statistics_batches=100)
    before = normalizer.mean.clone()
    other.train()
    assert torch.equal(normalizer.mean, before)


def test_bands_that_were_silent_are_measured_when_a_voice_reaches_them(tmp_path):
    """Only if the decoder trains."""
    for modules in (["audio_adapter"], ["speech_decoder"]):
        model = tiny_model()
        normalizer = model.mel_normalizer
        normalizer.mean.fill_(1.0)
        normalizer.mean[5:], normalizer.std[5:] = model.config.speech_config.mel_floor, 0.05
        before = normalizer.mean.clone()
        trainer = tools.make_trainer(tmp_path, model, mel_statistics_batches=100, trainable_modules=modules)
        frames = spoken_frames(trainer)
        trainer.train()
        assert torch.equal(normalizer.mean[:5], before[:5])
        if modules == ["audio_adapter"]:
            assert torch.equal(normalizer.mean, before)
        else:
            torch.testing.assert_close(normalizer.mean[5:], frames.mean(dim=0)[5:], rtol=1e-4, atol=1e-4)


def test_codebooks_are_fitted_before_the_first_step(tmp_path):
    model = deterministic_model()
    before = model.speech_head.quantizer.codebooks.detach().clone()
    tools.make_trainer(tmp_path, model, mel_statistics_batches=100, max_steps=1, learning_rate=1e-9).train()
    assert not torch.allclose(model.speech_head.quantizer.codebooks, before, atol=0.1)


def test_measuring_leaves_no_trace_in_training(tmp_path):
    """Neither in the state of the random numbers nor in the batches."""
    notes = []

    class Note(TrainerCallback):
        def on_step_begin(self, args, state, control, train_dataloader=None, **kwargs):
            notes.append((torch.get_rng_state().tolist(), list(train_dataloader.batch_sampler)))

    for num_batches in (0, 3):
        options = {"max_steps": 1, "mel_statistics_batches": num_batches, "callbacks": [Note()]}
        tools.make_trainer(tmp_path, dataset=tools.rows_dataset(), **options).train()
    assert notes[0] == notes[1]
