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
"""The Trainer: what it logs, what an optimizer step is the mean of, and that transformers' own ways keep working."""

import pytest
import torch
from tiny import tiny_config, tiny_model, tiny_processor, training_batch
from training_runs import (
    DETERMINISTIC,
    assert_same_weights,
    encoded_examples,
    make_trainer,
    text_batches,
    weights_of,
)
from transformers import EarlyStoppingCallback, TrainerCallback

from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.training.lora import LoraOptions, add_lora, load_lora
from flow_omni.training.loss_shares import PARTS, count_targets
from flow_omni.training.mel_statistics import MelStatistics, are_measured, measure
from flow_omni.training.unused_modules import with_all_modalities


def deterministic_model(**changes):
    return tiny_model(speech=DETERMINISTIC | changes)


def losses_logged(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_it_trains_and_the_checkpoint_loads(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.save_final()
    loaded = FlowOmniForSpeechGeneration.from_pretrained(tmp_path)
    assert_same_weights(weights_of(trainer.model), weights_of(loaded))
    assert (tmp_path / "processor_config.json").is_file()


def test_many_processes_hold_each_gradient_once(tmp_path):
    """DDP's own default is a second copy of them all, in the buckets that it exchanges."""
    assert make_trainer(tmp_path).accelerator.ddp_handler.gradient_as_bucket_view


def test_every_part_of_the_loss_is_logged_and_they_sum_to_it(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 4
    for entry in entries:
        total = sum(getattr(trainer.model.config, f"{name}_weight") * entry.get(name, 0.0) for name in PARTS)
        assert total == pytest.approx(entry["loss"], rel=1e-4)
    assert set().union(*entries) >= set(PARTS)


@pytest.mark.parametrize("num_batches", [2, 4])
def test_accumulated_batches_equal_one_big_batch(tmp_path, num_batches):
    """Also where they have unequal numbers of text tokens and patches: a mean of means would differ."""
    examples = encoded_examples(copies=1)
    runs = {}
    for accumulation in (1, num_batches):
        trainer = make_trainer(
            tmp_path,
            deterministic_model(),
            examples,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            optim="sgd",
            learning_rate=0.1,
            train_sampling_strategy="sequential",
        )
        trainer.train()
        runs[accumulation] = trainer
    assert losses_logged(runs[1]) == pytest.approx(losses_logged(runs[num_batches]), rel=1e-4)
    assert_same_weights(weights_of(runs[1].model), weights_of(runs[num_batches].model), rtol=1e-3, atol=1e-5)


def test_the_trainers_loss_of_one_batch_is_the_models(tmp_path):
    trainer = make_trainer(tmp_path, deterministic_model())
    batch = training_batch(trainer.model.config)
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, batch)
    torch.testing.assert_close(loss, trainer.model(**batch).loss, check_dtype=False)


def test_evaluation_gives_the_means_over_all_targets(tmp_path):
    """Batches of one row and of all rows evaluate to the same."""
    examples = encoded_examples(copies=1)
    metrics = {}
    for size in (1, 4):
        trainer = make_trainer(
            tmp_path, deterministic_model(), examples, eval_dataset=examples, per_device_eval_batch_size=size
        )
        metrics[size] = trainer.evaluate()
    for name in ("loss", *PARTS):
        assert metrics[1][f"eval_{name}"] == pytest.approx(metrics[4][f"eval_{name}"], rel=1e-4), name


def test_batches_without_speech_train(tmp_path):
    """The Trainer would look for `mel_labels` and find these batches unlabelled."""
    examples = [example for example in encoded_examples() if "mel_labels" not in example]
    trainer = make_trainer(tmp_path, examples=examples, eval_dataset=examples)
    trainer.train()
    assert "speech_loss" not in trainer.state.log_history[0]
    assert "eval_text_loss" in trainer.evaluate()


def test_callbacks_and_schedulers_of_transformers_work(tmp_path):
    examples = encoded_examples(copies=1)
    trainer = make_trainer(
        tmp_path,
        eval_dataset=examples,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        lr_scheduler_type="cosine",
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9)],
    )
    trainer.train()
    assert trainer.state.global_step == 2
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[0] > rates[1]
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert (tmp_path / f"checkpoint-{best}" / "model.safetensors").is_file()


# Ready batches


def options_for_batches(**options):
    return {"save_strategy": "steps", "save_steps": 3, "max_steps": 9, "gradient_accumulation_steps": 2} | options


def test_a_run_on_ready_batches_resumes_in_the_middle_of_an_epoch(tmp_path):
    """Seven batches an epoch, two a step: the checkpoints lie within the first, the second and the third epoch."""
    runs = {}
    for name, checkpoint in {"whole": None, "resumed": str(tmp_path / "whole" / "checkpoint-6")}.items():
        batches = text_batches(14, max_rows_per_batch=2)
        assert len(batches) == 7
        runs[name] = make_trainer(tmp_path / name, train_batches=batches, **options_for_batches())
        runs[name].train(resume_from_checkpoint=checkpoint)
    assert_same_weights(weights_of(runs["whole"].model), weights_of(runs["resumed"].model))
    assert losses_logged(runs["whole"])[6:] == losses_logged(runs["resumed"])[6:]
    assert runs["whole"].state.epoch == runs["resumed"].state.epoch == pytest.approx(18 / 7)


def test_a_run_that_is_resumed_at_another_rate_trains_at_that(tmp_path):
    """As the error for a loss that is no number tells to do: the rate of the checkpoint took its place in silence."""
    options = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}
    make_trainer(tmp_path, learning_rate=1e-3, weight_decay=0.0, **options).train()
    resumed = make_trainer(tmp_path, learning_rate=1e-5, weight_decay=0.1, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rates = [entry["learning_rate"] for entry in resumed.state.log_history if "loss" in entry]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-5, 0.25e-5])
    assert max(group["weight_decay"] for group in resumed.optimizer.param_groups) == 0.1


@pytest.mark.parametrize("schedule, rates", [("linear", [0.5e-3, 0.25e-3]), ("constant", [1e-3, 1e-3])])
def test_the_first_step_of_a_run_that_is_extended_is_taken_at_its_own_rate(tmp_path, schedule, rates):
    """It was taken at the rate that the old schedule had ended with: at none."""
    options = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    make_trainer(tmp_path, lr_scheduler_type="linear", max_steps=2, **options).train()
    resumed = make_trainer(tmp_path, lr_scheduler_type=schedule, max_steps=4, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    logged = [entry["learning_rate"] for entry in resumed.state.log_history if "loss" in entry]
    assert logged == pytest.approx([1e-3, 0.5e-3, *rates])


@pytest.mark.parametrize("save_steps, steps, saved", [(0.5, 12, [6, 12]), (3, 10, [6, 9, 10])])
def test_how_often_a_resumed_run_saves_logs_and_evaluates_is_its_own(tmp_path, save_steps, steps, saved):
    """All were those of the checkpoint: an extended run saved more often than it was told, or as often as before."""
    first = tmp_path / "first"
    make_trainer(first, max_steps=4, save_strategy="steps", save_steps=0.5).train()
    options = {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 0.5, "logging_steps": 2}
    options |= {"max_steps": steps, "save_steps": save_steps, "eval_dataset": encoded_examples(1)}
    resumed = make_trainer(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(first / "checkpoint-4"))
    assert sorted(int(path.name.partition("-")[2]) for path in (tmp_path / "resumed").glob("checkpoint-*")) == saved
    log = resumed.state.log_history
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [steps // 2, steps]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4, *range(6, steps + 1, 2)]


def test_a_schedule_that_multiplies_goes_on_where_it_was(tmp_path):
    """Its factors are of the last rate, not of the first one."""

    def trainer():
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.5)
        return make_trainer(tmp_path, model, optimizers=(optimizer, schedule), save_strategy="steps", save_steps=2)

    trainer().train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    logged = [entry["learning_rate"] for entry in resumed.state.log_history if "loss" in entry]
    assert logged == pytest.approx([1e-3, 0.5e-3, 0.25e-3, 0.125e-3])


class CountingSGD(torch.optim.SGD):
    """Counts its steps in its groups, among the options, as schedule-free optimizers do."""

    def __init__(self, params, lr: float, momentum: float):
        super().__init__(params, lr=lr, momentum=momentum)
        self.defaults["count"] = 0
        for group in self.param_groups:
            group["count"] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
        return super().step(closure)


def test_what_an_optimizer_counts_goes_on_where_it_was_and_what_it_is_told_is_new(tmp_path):
    """The count began anew with each resumption, and with it the averages of schedule-free optimizers."""

    def trainer(momentum: float):
        model = tiny_model()
        optimizer = CountingSGD(model.parameters(), lr=1e-3, momentum=momentum)
        return make_trainer(tmp_path, model, optimizers=(optimizer, None), save_strategy="steps", save_steps=2)

    trainer(momentum=0.9).train()
    resumed = trainer(momentum=0.5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    (group,) = resumed.optimizer.param_groups
    assert (group["count"], group["momentum"]) == (4, 0.5)


@pytest.mark.parametrize("is_tied", [True, False])
def test_resuming_complains_of_nothing(tmp_path, caplog, is_tied):
    """Of a tied text head the Trainer would say that it is missing from the checkpoint."""

    def trainer():
        model = tiny_model(text={"tie_word_embeddings": is_tied})
        return make_trainer(tmp_path, model, save_strategy="steps", save_steps=2)

    trainer().train()
    caplog.clear()
    trainer().train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert "missing" not in caplog.text and "unexpected" not in caplog.text


def test_epochs_of_ready_batches_become_steps(tmp_path):
    batches = text_batches(14, max_rows_per_batch=2)
    trainer = make_trainer(
        tmp_path, train_batches=batches, max_steps=-1, num_train_epochs=2, gradient_accumulation_steps=2
    )
    trainer.train()
    assert trainer.state.global_step == 7


def test_no_steps_and_no_epochs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`num_train_epochs` is 0, and `max_steps` -1: one of them must be above 0"):
        make_trainer(tmp_path, train_batches=text_batches(), max_steps=-1, num_train_epochs=0)


def test_training_goes_on_as_if_nobody_had_evaluated(tmp_path):
    """Evaluation draws noise too: it must not be that of the steps behind it."""
    alone = make_trainer(tmp_path)
    alone.train()
    watched = make_trainer(tmp_path, eval_dataset=encoded_examples(1), eval_strategy="steps", eval_steps=1)
    watched.train()
    assert_same_weights(weights_of(watched.model), weights_of(alone.model))
    assert watched.evaluate()["eval_loss"] == watched.evaluate()["eval_loss"]


def test_every_evaluation_is_on_the_same_batches(tmp_path):
    eval_batches = text_batches(6, max_rows_per_batch=2, shuffle=False)
    trainer = make_trainer(tmp_path, train_batches=text_batches(2), eval_batches=eval_batches)
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]


def test_measuring_leaves_ready_batches_where_they_were(tmp_path):
    batches = text_batches(14, max_rows_per_batch=2)
    trainer = make_trainer(tmp_path, train_batches=batches, mel_statistics_batches=3)
    before = batches.state_dict()
    trainer.measure_mel_statistics()
    assert batches.state_dict() == before


# The mel statistics


def test_mel_statistics_are_those_of_the_spoken_frames_alone():
    config = tiny_config()
    batch = training_batch(config)
    batch["mel_labels"][1, 2:] = 1e6  # padding: the second row says two patches
    frames = torch.cat([batch["mel_labels"][0].flatten(0, 1), batch["mel_labels"][1, :2].flatten(0, 1)])
    frames = frames.clamp(min=config.speech_config.mel_floor)
    statistics = measure([batch], tiny_model().mel_normalizer, config.generating_state_id)
    torch.testing.assert_close(statistics.mean.float(), frames.mean(dim=0))
    torch.testing.assert_close(statistics.std.float(), frames.std(dim=0, correction=0))


def test_mel_statistics_of_parts_add_up():
    frames = torch.randn(40, 5) * 3 - 2
    whole, parts = MelStatistics(5, -7.0), MelStatistics(5, -7.0)
    whole.add(frames)
    parts.add(frames[:13])
    parts.add(frames[13:])
    torch.testing.assert_close(whole.mean, parts.mean)
    torch.testing.assert_close(whole.std, parts.std)


def test_a_band_that_never_varies_is_not_divided_by_nothing():
    statistics = MelStatistics(3, -7.0)
    statistics.add(torch.full((10, 3), -16.0))
    assert (statistics.std > 0).all()
    assert (statistics.mean == -7.0).all()


def test_mel_statistics_are_measured_before_the_first_step_and_kept_afterwards(tmp_path):
    model = tiny_model()
    assert not are_measured(model.mel_normalizer)
    make_trainer(tmp_path, model, mel_statistics_batches=100, max_steps=1).train()
    assert are_measured(model.mel_normalizer)
    before = model.mel_normalizer.mean.clone()
    text_only = [example for example in encoded_examples() if "mel_labels" not in example]
    make_trainer(tmp_path, model, text_only, mel_statistics_batches=100, max_steps=1).train()
    assert torch.equal(model.mel_normalizer.mean, before)


def test_a_band_that_was_silent_so_far_is_measured_when_a_voice_reaches_it(tmp_path):
    model = tiny_model()
    normalizer = model.mel_normalizer
    normalizer.mean.fill_(-1.0), normalizer.std.fill_(2.0)
    normalizer.mean[3], normalizer.std[3] = -7.0, 0.05
    make_trainer(tmp_path, model, mel_statistics_batches=100, max_steps=1).train()
    others = torch.arange(len(normalizer.mean)) != 3
    assert (normalizer.mean[others] == -1.0).all() and (normalizer.std[others] == 2.0).all()
    patches = torch.cat([example["mel_labels"] for example in encoded_examples() if "mel_labels" in example])
    assert normalizer.normalize(patches)[..., 3].abs().max() < 10


def test_the_codebooks_of_the_baseline_are_fitted_before_the_first_step(tmp_path):
    model = tiny_model(speech={"head_type": "residual_vq", "codebook_size": 4})
    trainer = make_trainer(tmp_path, model, mel_statistics_batches=100)
    patches = [example["mel_labels"] for example in encoded_examples() if "mel_labels" in example]

    def error() -> float:
        normalized = model.mel_normalizer.normalize(torch.cat(patches)).flatten(1)
        quantizer = model.speech_head.quantizer
        levels = zip(quantizer.codebooks, quantizer.encode(normalized).unbind(dim=1))
        return (sum(codebook[codes] for codebook, codes in levels) - normalized).abs().mean().item()

    before = error()
    trainer.measure_mel_statistics()
    assert error() < 0.6 * before


def test_measuring_does_not_change_what_is_trained_on(tmp_path):
    """The statistics aside, a run that measures them draws the same batches and the same noise."""
    seen = {}
    for num_batches in (0, 100):

        class Watch(TrainerCallback):
            def on_step_end(self, args, state, control, num_batches=num_batches, **kwargs):
                seen.setdefault(num_batches, []).append(torch.random.get_rng_state())

        trainer = make_trainer(tmp_path, mel_statistics_batches=num_batches, callbacks=[Watch()])
        trainer.train()
    assert all(torch.equal(first, second) for first, second in zip(seen[0], seen[100]))


# LoRA


def test_a_lora_run_resumes_and_loads(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")

    def trainer_of(folder, **options):
        model = FlowOmniForSpeechGeneration.from_pretrained(tmp_path / "base")
        adapted = add_lora(model, "finetune", LoraOptions(rank=2), base=tmp_path / "base")
        options |= {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2}
        return make_trainer(tmp_path / folder, adapted, **options)

    whole = trainer_of("whole")
    whole.train()
    resumed = trainer_of("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same_weights(weights_of(whole.model), weights_of(resumed.model))
    frozen = [name for name, weight in resumed.model.named_parameters() if "embed_positions" in name]
    assert frozen and not any(dict(resumed.model.named_parameters())[name].requires_grad for name in frozen)
    loaded = load_lora(tmp_path / "resumed" / "checkpoint-4")
    batch = training_batch(loaded.config, seed=3)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).loss, whole.model.eval()(**batch).loss)


@pytest.mark.parametrize("rank", [3, None])
def test_a_run_with_other_adapters_or_none_does_not_take_up_those_of_a_checkpoint(tmp_path, rank):
    adapted = add_lora(tiny_model(), "align", LoraOptions(rank=2))
    make_trainer(tmp_path, adapted, max_steps=2, save_strategy="steps", save_steps=2).train()
    model = tiny_model() if rank is None else add_lora(tiny_model(), "align", LoraOptions(rank=rank))
    with pytest.raises(ValueError, match="checkpoint-2' do not fit the model .*LoRA options that it was written with"):
        make_trainer(tmp_path, model).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


# Many processes: batches that every module has a part in


@pytest.mark.parametrize("without", [("mel_labels",), ("input_features", "input_features_mask"), "both"])
def test_a_batch_that_lacks_sound_reaches_every_module_and_its_loss_stays(without):
    model = deterministic_model()
    processor = tiny_processor(model.config)
    lacks_speech, lacks_audio = (
        "mel_labels" in without or without == "both",
        "input_features" in without or without == "both",
    )
    examples = [
        example
        for example in encoded_examples()
        if ("mel_labels" in example) != lacks_speech and bool(example["input_features"]) != lacks_audio
    ]
    batch = dict(processor.collate(examples))
    counts = count_targets(batch, model.config)
    full = with_all_modalities(batch, model.config)
    outputs, expected = model(**full), model(**batch)
    for name, count in zip(PARTS, counts):
        if count > 0:
            torch.testing.assert_close(outputs[name], expected[name], rtol=1e-4, atol=1e-5)
    outputs.loss.backward()
    unused = {name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None}
    assert unused == {"speech_head.empty_condition"}  # no condition is dropped here


def test_a_batch_with_both_kinds_of_sound_stays_as_it_is():
    batch = training_batch(tiny_config())
    assert all(with_all_modalities(batch, tiny_config())[name] is tensor for name, tensor in batch.items())
