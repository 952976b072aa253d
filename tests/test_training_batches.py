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
"""Batches: within the budget, little padding, the same for any number of workers and processes, resumable anywhere."""

import itertools
import json
from functools import partial

import numpy as np
import pytest
import torch
from batch_sources import BUDGET, KINDS, NUM_ROWS, as_source, assert_same, batches_of, ids, row, stream
from sounds import file_bytes, noise
from tiny import tiny_processor

from flow_omni.training import manifest
from flow_omni.training.augmentation import Augmentation
from flow_omni.training.batches import BatchOptions, group_by_length, make_batches
from flow_omni.training.examples import ExampleBuilder, Skipped, SkipReport
from flow_omni.training.manifest import load_rows
from flow_omni.training.mixing import MixedRows
from flow_omni.training.planned_batches import PlannedBatches


datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def rows():
    return [row(index) for index in range(NUM_ROWS)]


def test_groups_keep_to_the_budget_and_hold_every_row_once():
    lengths = np.random.default_rng(0).integers(1, 120, 500).tolist()
    groups = group_by_length(lengths, 300, max_rows=20)
    assert sorted(itertools.chain(*groups)) == list(range(500))
    for group in groups:
        assert len(group) <= 20
        assert len(group) * max(lengths[index] for index in group) <= 300
    assert group_by_length([500, 3], 300) == [[0], [1]]


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_has_every_row_once_within_the_budget(rows, processor, kind):
    source, options = as_source(kind, rows)
    batches = batches_of(source, processor, **options)
    seen = []
    for batch in batches:
        assert batch["input_ids"].numel() <= BUDGET * 1.05
        assert len(batch["input_ids"]) == len(batches.ids_of(batch))
        seen += batches.ids_of(batch)
    assert sorted(seen, key=int) == [str(index) for index in range(NUM_ROWS)]
    assert batches.report.num_used == NUM_ROWS
    assert batches.report.num_skipped == 0


@pytest.mark.parametrize("kind", KINDS)
def test_workers_change_nothing(rows, processor, kind):
    source, options = as_source(kind, rows)
    alone = batches_of(source, processor, **options)
    expected = list(alone)
    for num_workers in (1, 3):
        helped = batches_of(source, processor, num_workers=num_workers, **options)
        assert_same(helped, expected)
        assert str(helped.report) == str(alone.report)
        assert helped.padding_share == alone.padding_share


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_epoch_of_one(rows, processor, kind, world_size):
    source, options = as_source(kind, rows)
    alone = ids(batches_of(source, processor, **options))
    shares = [
        ids(batches_of(source, processor, rank=rank, world_size=world_size, **options)) for rank in range(world_size)
    ]
    together = list(itertools.chain(*shares))
    assert sorted(itertools.chain(*together), key=int) == sorted(itertools.chain(*alone), key=int)
    if kind == "planned":
        assert len({len(share) for share in shares}) == 1
    else:
        assert sorted(together) == sorted(alone)


def test_processes_take_turns_in_the_batches_of_one(processor):
    def first_batches(num_batches, **options):
        batches = batches_of(stream(), processor, window=2, num_lanes=4, **options)
        return list(itertools.islice(ids_as_they_come(batches), num_batches))

    alone = first_batches(60)
    shares = [first_batches(30, rank=rank, world_size=2) for rank in range(2)]
    assert list(itertools.chain(*zip(*shares))) == alone


@pytest.mark.parametrize("num_rows", [1, 2, 5])
def test_processes_have_as_many_batches_even_of_too_few_rows(rows, processor, num_rows):
    shares = [ids(batches_of(rows[:num_rows], processor, rank=rank, world_size=3)) for rank in range(3)]
    assert len({len(share) for share in shares}) == 1
    assert {name for share in shares for batch in share for name in batch} == {str(i) for i in range(num_rows)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rank", "num_workers"), [(0, 0), (1, 0), (1, 2)])
def test_training_goes_on_at_any_batch(rows, processor, kind, rank, num_workers):
    source, options = as_source(kind, rows)
    options |= {"num_workers": num_workers, "rank": rank, "world_size": 2}
    if kind != "planned":
        options["num_epochs"] = 2
    uninterrupted = batches_of(source, processor, **options)
    whole = list(uninterrupted)
    middle = len(whole) // 2
    for position in [middle] if num_workers else [0, 1, middle, len(whole) - 1, len(whole)]:
        first = batches_of(source, processor, **options)
        begun = list(itertools.islice(first, position))
        second = batches_of(source, processor, **options)
        second.load_state_dict(first.state_dict())
        if kind == "planned" and position == len(whole):
            assert (second.epoch, second.position) == (1, 0)
            continue
        assert_same(begun + list(second), whole)
        assert second.report == uninterrupted.report


@pytest.mark.parametrize("max_steps", [100, 900])
def test_training_goes_on_at_the_same_share_of_the_epoch_under_another_budget(rows, processor, max_steps):
    """The position of small batches would lie behind the last of large ones, where training just ended."""
    first = batches_of(rows, processor, max_steps_per_batch=300)
    for _ in itertools.islice(first, len(first) // 2):
        continue
    second = batches_of(rows, processor, max_steps_per_batch=max_steps)
    second.load_state_dict(first.state_dict())
    assert len(second) != len(first)
    assert second.epoch == 0
    assert len(list(second)) == pytest.approx(len(second) / 2, abs=1.5)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("change", ["nothing", "another text", "another order", "rows that are gone"])
def test_other_rows_than_those_of_the_checkpoint_are_noticed(rows, processor, is_streamed, change, caplog):
    """As many batches, of other rows, were gone on with in silence."""
    changed = {
        "nothing": rows,
        "another text": [row | {"question_text": f"{row['question_text'][:-1]}e"} for row in rows],
        "another order": rows[::-1],
        "rows that are gone": rows[:20],
    }[change]

    def batches(rows):
        if not is_streamed:
            return batches_of(rows, processor)
        source = datasets.IterableDataset.from_generator(partial(iter, rows))
        return batches_of(source, processor, num_epochs=2, window=1, num_lanes=2)

    first, second = batches(rows), batches(changed)
    list(itertools.islice(first, 10))
    second.load_state_dict(first.state_dict())
    next(iter(second))
    told = [
        message for message in caplog.messages if "will not end with the weights that it would have had" in message
    ]
    assert len(told) == (change != "nothing")


def test_a_stream_of_more_files_is_not_taken_up_again(processor, tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.jsonl").write_text(json.dumps({"question_text": "a", "answer_text": "b"}) + "\n")
    two, three = (
        load_rows([tmp_path / f"{index}.jsonl" for index in range(number)], streaming=True) for number in (2, 3)
    )
    state = batches_of(two, processor, num_lanes=2).state_dict()
    with pytest.raises(ValueError, match="a stream of 2 shards .files., and there are 3"):
        batches_of(three, processor, num_lanes=2).load_state_dict(state)


def test_every_epoch_has_another_order_and_other_tasks_and_comes_back(rows, processor):
    batches = batches_of(rows, processor)
    epochs = [list(batches) for _ in range(3)]
    assert (batches.epoch, batches.position) == (3, 0)
    again = batches_of(rows, processor)
    again.set_epoch(2)
    assert_same(again, epochs[2])
    assert not torch.equal(epochs[0][0]["input_ids"], epochs[1][0]["input_ids"])
    other = batches_of(rows, processor, seed=1)
    assert not torch.equal(epochs[0][0]["input_ids"], next(iter(other))["input_ids"])


def test_the_report_at_the_end_of_an_epoch_is_that_of_this_epoch(rows, processor):
    batches = batches_of(rows, processor)
    for epoch in range(3):
        list(batches)
        assert list(batches.state_dict()["reports"]) == [epoch]
        assert batches.report.num_used == len(rows)


def test_setting_the_epoch_under_way_begins_it_anew(rows, processor):
    """An evaluation that was interrupted must not leave the next one half of the rows."""
    batches = batches_of(rows, processor)
    list(itertools.islice(batches, 2))
    batches.set_epoch(0)
    assert_same(batches, batches_of(rows, processor))


@pytest.mark.parametrize("kind", ["planned", "streamed"])
def test_without_shuffling_rows_come_in_their_order_but_for_the_grouping(rows, processor, kind):
    source, options = as_source(kind, rows)
    options |= {"shuffle": False, "window": 2} | ({"num_lanes": 1} if kind == "streamed" else {})
    seen = [int(name) for batch in ids(batches_of(source, processor, **options)) for name in batch]
    assert max(abs(position - index) for position, index in enumerate(seen)) < 25
    assert seen != sorted(seen)


def test_a_stream_without_end_goes_through_its_rows_again(processor):
    batches = batches_of(stream(), processor, num_lanes=2)
    seen = [name for batch in itertools.islice(ids_as_they_come(batches), 90) for name in batch]
    assert len(seen) > 2 * NUM_ROWS
    assert len(set(seen)) == NUM_ROWS


def ids_as_they_come(batches):
    for batch in batches:
        yield batches.ids_of(batch)


def test_a_stream_is_read_no_further_than_its_windows(processor):
    num_read = 0

    def generate_endlessly():
        nonlocal num_read
        for index in itertools.count():
            num_read += 1
            yield row(index % NUM_ROWS)

    endless = datasets.IterableDataset.from_generator(generate_endlessly)
    batches = iter(batches_of(endless, processor, window=2, num_lanes=1))
    next(batches)
    assert num_read <= 64


def test_parquet_shards_are_streamed_and_taken_up_again(rows, processor, tmp_path):
    table = datasets.Dataset.from_list(
        [row | {"question_audio": row.get("question_audio"), "answer_text": row.get("answer_text")} for row in rows]
    )
    for index in range(4):
        table.shard(4, index).to_parquet(tmp_path / f"{index}.parquet")

    def batches():
        loaded = datasets.load_dataset(
            "parquet", data_files=str(tmp_path / "*.parquet"), split="train", streaming=True, cache_dir=str(tmp_path)
        )
        return batches_of(loaded, processor, window=1, num_lanes=2, num_epochs=1)

    whole = list(batches())
    assert sum(len(batch["input_ids"]) for batch in whole) == NUM_ROWS
    for position in (1, 4):
        first, second = batches(), batches()
        begun = list(itertools.islice(first, position))
        second.load_state_dict(first.state_dict())
        assert_same(begun + list(second), whole)


def broken(rows, every=5):
    """The rows with corrupt audio in some that are only spoken."""
    return [
        {"id": row["id"], "question_audio": b"no sound", "question_text": "a"} if index % every == 0 else row
        for index, row in enumerate(rows)
    ]


@pytest.mark.parametrize("kind", ["planned", "streamed"])
@pytest.mark.parametrize("num_workers", [0, 3])
def test_corrupt_audio_is_counted_whichever_worker_meets_it(rows, processor, kind, num_workers):
    source = broken(rows)
    options = {"num_workers": num_workers}
    if kind == "streamed":
        source = datasets.Dataset.from_list([row | {"answer_text": row.get("answer_text")} for row in source])
        source = source.to_iterable_dataset(num_shards=4)
        options |= {"num_lanes": 2, "num_epochs": 1, "window": 2}
    batches = batches_of(source, processor, **options)
    seen = sorted(int(name) for batch in ids(batches) for name in batch)
    assert seen == [index for index in range(NUM_ROWS) if index % 5]
    assert batches.report.counts == {"corrupt audio": NUM_ROWS // 5}
    assert batches.report.num_used == NUM_ROWS - NUM_ROWS // 5
    assert "Cannot read the header of the bytes given" in str(batches.report)


def test_what_is_skipped_adds_up_over_processes(rows, processor):
    reports = []
    for rank in range(3):
        batches = batches_of(broken(rows), processor, rank=rank, world_size=3)
        ids(batches)
        reports.append(batches.report)
    assert sum(report.counts["corrupt audio"] for report in reports) == NUM_ROWS // 5


def truncated(seconds=0.3):
    """A file whose header is fine and whose sound is not."""
    return file_bytes(noise(seconds), kind="FLAC")[:200]


def test_a_batch_of_which_nothing_can_be_used_is_replaced(rows, processor):
    spoilt = [{"id": f"x{index}", "question_audio": truncated(), "question_text": "a"} for index in range(4)]
    batches = batches_of([*spoilt, *rows[:6]], processor, max_rows_per_batch=1, max_skipped_share=1.0)
    assert len(list(batches)) == 10
    assert batches.report.counts == {"corrupt audio": 4}


def test_too_many_broken_rows_stop_the_training(processor):
    good = {"question_text": "a", "answer_text": "b"}
    spoilt = {"question_audio": truncated(), "question_text": "a"}
    mixed = [spoilt if index % 3 == 0 else good for index in range(400)]
    with pytest.raises(ValueError, match=r"of \d+ rows are broken, more than `max_skipped_share` \(0.2\) allows"):
        list(batches_of(mixed, processor))


WRITTEN = {"question_text": "a", "answer_text": "b"}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_broken_rows_count_once_in_an_epoch_and_are_judged_in_it(processor, is_streamed, caplog):
    """Over some epochs, or evaluations, what is allowed added up to what is not; a row counted as often as it came."""
    source = [WRITTEN | {"id": str(index)} for index in range(24)]
    source[::6] = [
        {"id": str(index), "question_audio": truncated(), "question_text": "a"} for index in range(0, 24, 6)
    ]
    options = {"max_skipped_share": 4 / 24}
    if is_streamed:
        source = datasets.IterableDataset.from_generator(partial(iter, source))
        options |= {"num_lanes": 2, "num_epochs": 4, "window": 1}
    batches = batches_of(source, processor, **options)
    for _ in range(1 if is_streamed else 4):
        list(batches)
        assert batches.report.counts == {"corrupt audio": 4}
    assert sum(message.startswith("Skipped ") for message in caplog.messages) == 4


def test_few_rows_are_judged_too_before_they_are_trained_on_if_that_is_seen(processor):
    good, spoilt = [WRITTEN] * 8, {"question_text": "a"}
    unreadable = batches_of([*good, *[spoilt | {"question_audio": b"no sound"}] * 4], processor)
    with pytest.raises(ValueError, match=r"^4 of 12 rows are broken.*\n8 rows used, 4 skipped"):
        len(unreadable)
    undecodable = [*good, *[spoilt | {"question_audio": truncated()}] * 4]
    with pytest.raises(ValueError, match=r"of \d+ rows are broken"):
        list(batches_of(undecodable, processor))
    streamed = datasets.IterableDataset.from_generator(partial(iter, undecodable))
    with pytest.raises(ValueError, match="4 of 12 rows are broken"):
        list(batches_of(streamed, processor, num_lanes=1, num_epochs=1))


@pytest.mark.parametrize("is_streamed", [False, True])
def test_broken_rows_that_are_found_at_once_are_judged_among_the_rows_to_come(processor, is_streamed):
    """Hundreds of them were compared with the rows of the first batch."""
    source = [{"question_audio": b"no sound", "question_text": "a"} if i % 7 == 0 else WRITTEN for i in range(1500)]
    options = {"max_rows_per_batch": 4}
    if is_streamed:
        source = datasets.IterableDataset.from_generator(partial(iter, source))
        options |= {"num_lanes": 1, "window": 50}
    batches = batches_of(source, processor, **options)
    list(itertools.islice(batches, 2))
    assert batches.report.counts["corrupt audio"] > 0


def test_most_rows_of_many_batches_are_enough_to_judge_an_epoch_and_those_of_a_few_are_not():
    """Rows of like length come together, and so may those of a recorder that was broken."""
    report, spoilt = SkipReport(), [Skipped("a", "corrupt audio", "broken")]
    report.add(0, spoilt * 20)
    report.check(0.2, num_rows=1000)
    for _ in range(40):
        report.add(4, spoilt * 6)
    with pytest.raises(ValueError, match="260 of 420 rows are broken"):
        report.check(0.2)
    with pytest.raises(ValueError, match="260 of 1000 rows are broken"):
        report.check(0.2, num_rows=1000)
    report.check(1.0, num_rows=420)


def test_a_broken_row_that_comes_again_in_an_epoch_counts_once(processor):
    source = [WRITTEN, {"question_audio": truncated(), "question_text": "a"}]
    batches = batches_of(MixedRows([source], [3.0]), processor, max_skipped_share=1.0)
    list(batches)
    assert batches.report.counts == {"corrupt audio": 1}
    assert "row 1: `question_audio`" in str(batches.report)


@pytest.mark.parametrize("kind", ["in memory", "on disk", "streamed"])
def test_broken_lines_of_a_manifest_are_counted_named_once_and_judged(processor, tmp_path, monkeypatch, caplog, kind):
    """They were left out before anybody counted, and of a stream each was named in every epoch by every lane."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "MAX_BYTES_IN_MEMORY", 0 if kind == "on disk" else 2**20)
    lines = [json.dumps(WRITTEN)] * 8 + ["{", '{"question_text": 3}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    rows = load_rows(tmp_path / "rows.jsonl", streaming=kind == "streamed", on_error="skip", keep_wrong=True)
    options = {"num_lanes": 2, "num_epochs": 3} if kind == "streamed" else {}
    batches = batches_of(rows, processor, **options)
    for _ in range(1 if kind == "streamed" else 3):
        list(batches)
    assert batches.report.counts == {"wrong row": 2}
    assert batches.report.num_used == 8
    told = sorted(message for message in caplog.messages if "Skipped" in message)
    assert [message.split(": ")[0] for message in told] == [f"Skipped {tmp_path}/rows.jsonl:{n}" for n in (10, 9)]
    with pytest.raises(ValueError, match="2 of 10 rows are broken"):
        list(batches_of(rows, processor, max_skipped_share=0.1, **options))


def test_nothing_but_broken_rows_says_so(processor):
    spoilt = [{"id": "x", "question_audio": b"no sound", "question_text": "a"}]
    with pytest.raises(ValueError, match="None of 1 rows can be used. The first of them, x: .*Cannot read the header"):
        list(batches_of(spoilt, processor))
    spoilt[0]["question_audio"] = truncated()
    with pytest.raises(RuntimeError, match="None of the rows of a batch can be used"):
        list(batches_of(spoilt, processor))


def test_rows_of_other_tasks_are_told_with_what_they_offer_and_a_remedy(processor):
    written = [{"id": "x", "question_text": "a", "answer_text": "b", "mood": "good"}] * 3
    builder = ExampleBuilder(processor, {"say": 1, "transcribe": 2})
    with pytest.raises(ValueError) as error:
        list(batches_of(written, processor, builder))
    message = str(error.value)
    assert "None of 3 rows can be used" in message
    assert "say `answer_text` + `answer_audio`; transcribe `question_audio` + `question_text`" in message
    assert "3 have `question_text`, 3 have `answer_text`, and `mood`, which training does not read" in message
    assert "`data.columns`" in message and "`data.tasks={text_to_text: 1}`" in message


def test_rows_that_are_all_too_long_ask_for_a_larger_budget(processor):
    with pytest.raises(ValueError, match=r"None of 1 rows can be used.*Raise `data.max_steps_per_batch`") as error:
        list(batches_of([{"question_text": "a" * 999, "answer_text": "b"}], processor))
    assert "data.tasks" not in str(error.value)


@pytest.mark.parametrize("kind", ["planned", "streamed"])
def test_rows_longer_than_the_budget_are_counted(rows, processor, kind):
    source, options = as_source(kind, rows)
    batches = batches_of(source, processor, **options | {"max_steps_per_batch": 100})
    used = sum(len(batch) for batch in ids(batches))
    assert 0 < used < NUM_ROWS
    assert batches.report.counts == {"too long": NUM_ROWS - used}


def test_tasks_that_are_not_trained_leave_their_rows_out(rows, processor):
    batches = batches_of(rows, processor, ExampleBuilder(processor, {"transcribe": 1}))
    assert sum(len(batch) for batch in ids(batches)) == NUM_ROWS // 3
    assert batches.report.counts == {"no task": NUM_ROWS - NUM_ROWS // 3}


def test_a_batch_is_known_even_when_its_tensors_moved(rows, processor):
    batches = batches_of(rows, processor)
    held = [(batch, batches.info_of(batch)) for batch in batches]
    for batch, info in held:
        moved = {name: tensor.clone() for name, tensor in batch.items()}
        assert batches.info_of(moved) is info
        assert len(info.tasks) == len(info.ids)
    with pytest.raises(KeyError, match="was not yielded lately"):
        batches.ids_of({"input_ids": torch.zeros(1, 3)})


@pytest.mark.parametrize("kind", KINDS)
def test_padding_stays_under_a_tenth(processor, kind):
    """Lengths as of chat: most answers are short, some long."""
    lengths = np.clip(np.random.default_rng(1).lognormal(3.5, 0.7, 1000), 1, 400).astype(int)
    source = [{"id": str(index), "question_text": "q", "answer_text": "a" * n} for index, n in enumerate(lengths)]
    options = {}
    if kind != "planned":
        num_shards = 2 if kind == "streamed" else 1
        source = datasets.Dataset.from_list(source).to_iterable_dataset(num_shards=num_shards)
        options = {"num_lanes": 2, "num_epochs": 1}
    batches = batches_of(source, processor, max_steps_per_batch=2000, **options)
    masks = [batch["attention_mask"] for batch in batches]
    padding = 1 - sum(mask.sum().item() for mask in masks) / sum(mask.numel() for mask in masks)
    assert batches.padding_share == pytest.approx(padding)
    assert 0.0 < padding < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps_per_batch": 0}, "`max_steps_per_batch` is 0: it must be at least 1"),
        ({"rank": 2, "world_size": 2}, "`rank` is 2 of `world_size` 2: ranks count from 0 to 1"),
        ({"num_workers": -1}, "`num_workers` is -1: it must be at least 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BatchOptions(**options)


def test_wrong_sources_are_refused(rows, processor):
    builder = ExampleBuilder(processor)
    with pytest.raises(ValueError, match="There are no rows to make batches of"):
        PlannedBatches([], builder, BatchOptions())
    with pytest.raises(ValueError, match="`num_epochs` is 2: it is for streams"):
        make_batches(rows, builder, num_epochs=2)
    with pytest.raises(ValueError, match="must be a multiple of the 2 processes, such as 4"):
        make_batches(stream(), builder, num_lanes=3, world_size=2)
    batches = make_batches(stream(), builder, num_lanes=4)
    with pytest.raises(ValueError, match="is that of 4 lanes, and there are 8: pass `num_lanes=4`"):
        make_batches(stream(), builder).load_state_dict(batches.state_dict())


def test_augmented_questions_are_the_same_in_any_worker_and_within_the_budget(processor):
    sound = {"question_text": "a", "answer_text": "b"}
    spoken = [sound | {"id": str(n), "question_audio": file_bytes(noise(1 + 0.1 * n, seed=n))} for n in range(12)]
    augmentation = Augmentation(share=1.0, speed_share=1.0, noise_share=1.0)
    builder = ExampleBuilder(processor, {"speech_to_text": 1}, augmentation=augmentation)
    alone = list(batches_of(spoken, processor, builder))
    assert_same(alone, batches_of(spoken, processor, builder, num_workers=2))
    assert all(batch["input_ids"].numel() <= BUDGET for batch in alone)
