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
"""Batches: similar lengths under a budget, the same in every run, and every row in its turn."""

import itertools

import pytest
import torch
import training_tools as tools
from tiny import tiny_config, tiny_model, tiny_processor

from flow_omni.training.batching import LengthBatchSampler, StreamedBatches, TrainingCollator, bucket
from flow_omni.training.data import load_rows, write_rows
from flow_omni.training.examples import ExampleBuilder, ExampleDataset, LengthEstimator
from flow_omni.training.trainer import LOSSES, count_targets, freeze


def text_dataset(num_rows: int = 200, **options) -> ExampleDataset:
    rows = [{"id": f"{n}", "question_text": "a", "answer_text": "b" * (1 + n * n % 97)} for n in range(num_rows)]
    return ExampleDataset(rows, ExampleBuilder(tiny_processor(tiny_config()), **options))


def test_an_epoch_has_every_row_once_within_the_budget():
    dataset = text_dataset()
    sampler = LengthBatchSampler(dataset, max_positions=900)
    lengths = dict(dataset.draw(0))
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert sorted(draw.index for batch in batches for draw in batch) == list(range(200))
        for batch in batches:
            longest = max(next(iter(dataset.lengths[draw.index].values())) for draw in batch)
            assert len(batch) * longest <= 900
        padded = sum(len(b) * max(dataset.lengths[d.index][d.task] for d in b) for b in batches)
        assert sum(lengths.values()) / padded > 0.85


def test_batches_depend_on_seed_and_epoch_alone():
    for length in range(1, 5000):
        assert length <= bucket(length) <= max(length, 1.125 * length)
    samplers = [LengthBatchSampler(text_dataset(seed=seed), 900) for seed in (0, 0, 1)]
    first, again, other = (list(sampler) for sampler in samplers)
    assert first == again != other
    samplers[0].set_epoch(1)
    assert list(samplers[0]) != first
    sets = [{frozenset(draw.index for draw in batch) for batch in batches} for batches in (first, list(samplers[0]))]
    assert len(sets[0] & sets[1]) < len(sets[0]) / 2, "rows of similar length should change places between epochs"


def test_every_epoch_has_the_same_number_of_batches_whatever_tasks_are_drawn():
    """The Trainer counts the batches of the first epoch only, and finds its place by them when it resumes."""
    dataset = tools.rows_dataset(30)
    sampler = LengthBatchSampler(dataset, max_positions=200)
    tasks = set()
    for epoch in range(6):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) and all(batches)
        tasks |= {draw.task for batch in batches for draw in batch}
    assert len(tasks) == 6


def test_processes_share_the_epoch_of_one():
    dataset = text_dataset(50)
    alone = list(LengthBatchSampler(dataset, 900))
    together = list(LengthBatchSampler(dataset, 900, num_processes=4))
    assert together[: len(alone)] == alone and len(together) % 4 == 0
    assert together[len(alone) :] == [[]] * (len(together) - len(alone))


def test_a_row_that_cannot_be_decoded_is_left_out_and_reported():
    processor = tiny_processor(tiny_config())
    collate, (example, *_) = TrainingCollator(processor), tools.encoded_examples(1)
    batch = collate([example | {"id": "good"}, {"id": "bad", "error": "bad: no such file"}])
    assert batch["ids"] == ["good"] and batch["skipped"] == ["bad: no such file"] and len(batch["input_ids"]) == 1
    alone = collate([{"id": "bad", "error": "bad: no such file"}])
    assert count_targets(alone, tiny_model()).sum() == 0


@pytest.mark.parametrize("indices", [[0], [1], [2], [0, 2], [], [0, 1, 2, 3]])
def test_a_batch_that_lacks_a_modality_reaches_every_module_and_keeps_its_losses(indices):
    """DDP and FSDP wait for the gradients of every module."""
    model = tiny_model(speech=tools.DETERMINISTIC).train()
    freeze(model, ["audio_encoder", "audio_adapter", "language_model", "speech_inputs", "speech_decoder"])
    examples = [tools.encoded_examples(1)[index] for index in indices]
    full = TrainingCollator(tiny_processor(model.config), all_modalities=True)(examples)
    full = {name: value for name, value in full.items() if name not in ("ids", "skipped")}
    outputs, counts = model(**full), count_targets(full, model)
    if examples:
        batch = {
            k: v for k, v in TrainingCollator(tiny_processor(model.config))(examples).items() if torch.is_tensor(v)
        }
        expected = model(**batch)
        assert counts.tolist() == count_targets(batch, model).tolist()
        for name, count in zip(LOSSES, counts):
            if count > 0:
                torch.testing.assert_close(outputs[name], expected[name], rtol=1e-4, atol=1e-5)
    assert len(examples) < 4 or len(full["input_ids"]) == len(examples)
    sum(outputs[name] for name in LOSSES if outputs.get(name) is not None).backward()
    assert not [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


# Streams


def stream(tmp_path, num_rows=30, length=300, **options):
    for part in range(2):
        rows = [
            {"id": f"{part}-{n}", "question_text": "a", "answer_text": "b" * (1 + n)} for n in range(num_rows // 2)
        ]
        write_rows(tmp_path / f"part{part}.jsonl", rows)
    rows = load_rows(str(tmp_path / "part*.jsonl"), streaming=True)
    processor = tiny_processor(tiny_config())
    builder = ExampleBuilder(processor, {"text_to_text": 1})
    return StreamedBatches(rows, TrainingCollator(processor), 300, builder, length, **options)


def test_rows_that_cannot_be_used_are_judged_over_the_whole_stream(tmp_path):
    """The last window may be small: one row that is too long, or unreadable, was all of it."""
    longest = LengthEstimator(ExampleBuilder(tiny_processor(tiny_config())))
    length = longest({"question_text": "a", "answer_text": "bbb"}, "text_to_text")
    batches = itertools.islice(stream(tmp_path, num_rows=10, length=length, window=3), 40)
    assert {id_ for batch in batches for id_ in batch["ids"]} == {f"{part}-{n}" for part in range(2) for n in range(3)}
    (tmp_path / "broken.flac").write_bytes(b"fLaC")
    rows = [{"id": f"{n}", "question_text": "a", "answer_text": "b"} for n in range(20)]
    # the duration in the row hides it until it is decoded
    rows[3] |= {"answer_audio": str(tmp_path / "broken.flac"), "answer_seconds": 0.3}
    write_rows(tmp_path / "rows.jsonl", rows)
    processor = tiny_processor(tiny_config())
    builder = ExampleBuilder(processor, {"say": 1, "text_to_text": 0.1})
    rows = load_rows(str(tmp_path / "rows.jsonl"), streaming=True)
    dataset = StreamedBatches(rows, TrainingCollator(processor), 300, builder)
    trainer = tools.make_trainer(tmp_path, dataset=dataset, max_steps=6)
    trainer.train()
    assert len(trainer.skipped) == trainer.state.log_history[-2]["skipped_rows"] == 1
    dataset.max_skipped_fraction, dataset.window, trainer.skipped = 0.0, 1, {"3", "4"}
    with pytest.raises(ValueError, match="Too many rows could not be read, see `max_skipped_fraction`"):
        trainer.train()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_is_read_round_after_round_within_the_budget(tmp_path, num_workers):
    trainer = tools.make_trainer(tmp_path / "run", dataset=stream(tmp_path), dataloader_num_workers=num_workers)
    ids = []
    for batch in itertools.islice(trainer.get_train_dataloader(), 40):
        assert batch["input_ids"].numel() <= 300
        ids += batch["ids"]
    assert len(set(ids)) == 30
    rounds = [ids.count(id_) for id_ in set(ids)]
    assert max(rounds) - min(rounds) <= 1 + num_workers


def test_a_run_on_a_stream_trains_and_resumes(tmp_path):
    runs = [
        tools.make_trainer(tmp_path, dataset=stream(tmp_path), save_strategy="steps", save_steps=2) for _ in range(2)
    ]
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [run.state.global_step for run in runs] == [4, 4]
    with pytest.raises(ValueError, match="None of 30 rows can be used for the tasks say"):
        dataset = stream(tmp_path)
        dataset.builder = ExampleBuilder(tiny_processor(tiny_config()), {"say": 1})
        next(iter(dataset))
