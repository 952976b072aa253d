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
"""Sources that are mixed: each comes as often as its weight says, in any process, and is taken up again."""

import itertools
import json
from collections import Counter

import pytest
from batch_sources import assert_same, batches_of, datasets, ids
from sounds import file_bytes, noise
from tiny import tiny_processor

from flow_omni.training.manifest import load_rows
from flow_omni.training.mixing import Mix, MixedRows


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """Three sources of 30, 20 and 10 rows, one of them in parquet with audio in a column of another type."""
    folder = tmp_path_factory.mktemp("sources")
    for name, first, last in (("a", 0, 30), ("b", 30, 50)):
        written = [
            {"id": str(index), "question_text": f"q{index}", "answer_text": "a" * (1 + index)}
            for index in range(first, last)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    sounds = [{"bytes": file_bytes(noise(0.1 + 0.01 * index, seed=index)), "path": None} for index in range(10)]
    spoken = {"id": [str(50 + index) for index in range(10)], "question_audio": sounds, "question_text": ["a"] * 10}
    dataset = datasets.Dataset.from_dict(spoken | {"mood": ["good"] * 10})
    dataset.cast_column("question_audio", datasets.Audio(decode=False)).to_parquet(folder / "c.parquet")
    return folder


def mixed(manifests, times, **options):
    names = ("a.jsonl", "b.jsonl", "c.parquet")
    return load_rows({str(manifests / name): number for name, number in zip(names, times)}, **options)


def rows_of_epoch(batches):
    return Counter(itertools.chain(*ids(batches)))


def test_rows_of_a_mix_come_as_many_times_an_epoch_as_their_source_says(manifests, processor):
    batches = batches_of(mixed(manifests, (2, 1, 0.5)), processor)
    epochs = [rows_of_epoch(batches) for _ in range(4)]
    for epoch in epochs:
        assert {epoch[str(index)] for index in range(30)} == {2}
        assert {epoch[str(index)] for index in range(30, 50)} == {1}
        assert sum(epoch[str(index)] for index in range(50, 60)) == 5
    halves = [{index for index in epoch if int(index) >= 50} for epoch in epochs]
    assert halves[0] | halves[1] == halves[2] | halves[3] == {str(index) for index in range(50, 60)}
    assert not halves[0] & halves[1]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("times", [0.3, 1.0, 1.7, 3.0])
def test_every_row_has_had_its_turn_before_any_has_one_more(times, shuffle):
    mix, counts = Mix((7, 0, 5), (times, 2.0, 1.0)), Counter()
    for epoch in range(6):
        draws = mix.draws(epoch, seed=3, shuffle=shuffle).tolist()
        assert len(set(draws)) == len(draws)
        counts.update(draw % 12 for draw in draws)
        of_first = [counts[row] for row in range(7)]
        assert max(of_first) - min(of_first) <= 1
        assert sum(of_first) == round((epoch + 1) * times * 7)
    assert {counts[row] for row in range(7, 12)} == {6}


def test_a_row_that_comes_twice_may_teach_two_things(processor):
    sound = {"question_audio": file_bytes(noise(0.2)), "question_text": "a", "answer_text": "b"}
    rows = MixedRows([[sound | {"id": str(index)} for index in range(8)]], [3])
    batches = batches_of(rows, processor)
    taught = {}
    for batch in batches:
        info = batches.info_of(batch)
        for name, task in zip(info.ids, info.tasks):
            taught.setdefault(name, []).append(task)
    assert all(len(tasks) == 3 for tasks in taught.values())
    assert any(len(set(tasks)) > 1 for tasks in taught.values())


def test_each_row_of_a_mix_is_measured_once(manifests, processor):
    batches = batches_of(mixed(manifests, (3, 1, 2)), processor)
    assert batches.steps_by_task.shape[0] == len(batches.rows) == 60
    assert sum(map(len, batches.plan())) == 3 * 30 + 20 + 2 * 10


def test_a_mix_is_shared_and_taken_up_again_as_other_rows_are(manifests, processor):
    def source():
        return mixed(manifests, (1.5, 1, 0.5))

    whole = list(batches_of(source(), processor, num_workers=2))
    assert_same(whole, batches_of(source(), processor))
    shared = [rows_of_epoch(batches_of(source(), processor, rank=rank, world_size=2)) for rank in range(2)]
    assert sum(shared, Counter()) == rows_of_epoch(batches_of(source(), processor))

    first = batches_of(source(), processor)
    list(itertools.islice(first, 2))
    resumed = batches_of(source(), processor)
    resumed.load_state_dict(first.state_dict())
    assert_same(whole[2:], resumed)


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_streams_are_mixed_in_proportion_and_taken_up_again(manifests, processor, num_lanes):
    def batches(**options):
        streams = mixed(manifests, (2, 1, 0), streaming=True)
        return batches_of(streams, processor, num_lanes=num_lanes, window=1, **options)

    endless = batches()
    counts = Counter()
    for batch in itertools.islice(endless, 40):
        counts.update(int(name) < 30 for name in endless.ids_of(batch))
    assert counts[True] / counts.total() == pytest.approx(2 / 3, abs=0.08)

    whole = list(itertools.islice(batches(), 12))
    assert_same(whole, itertools.islice(batches(num_workers=2), 12))
    for cut in (1, 6):
        first = batches()
        list(itertools.islice(first, cut))
        resumed = batches()
        resumed.load_state_dict(first.state_dict())
        assert_same(whole[cut:], itertools.islice(resumed, 12 - cut))


def test_streams_of_other_columns_and_types_are_mixed(manifests):
    rows = list(mixed(manifests, (1, 0, 1), streaming=True))
    assert {row["id"] for row in rows} == {str(index) for index in (*range(30), *range(50, 60))}
    assert all("mood" not in row for row in rows)
    heard = next(row for row in rows if row["id"] == "50")["question_audio"]
    assert heard["bytes"] == file_bytes(noise(0.1, seed=0))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((-1, 1, 1), "a.jsonl' is -1: it must be a number"),
        (("much", 1, 1), "'much'"),
        ((0, 0, 0), "none has a weight"),
    ],
)
def test_weights_that_are_none_are_refused(manifests, times, message):
    with pytest.raises(ValueError, match=message):
        mixed(manifests, times)


def test_a_source_of_weight_zero_is_left_out(manifests):
    assert len(mixed(manifests, (0, 1, 0))) == 20
