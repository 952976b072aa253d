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
"""Rows of many lengths, as lists and as streams, and the batches made of them."""

from functools import cache

import numpy as np
import pytest
import torch
from sounds import file_bytes, noise

from flow_omni.training.batches import make_batches
from flow_omni.training.examples import ExampleBuilder


datasets = pytest.importorskip("datasets")

NUM_ROWS = 60
BUDGET = 400


@cache
def row(index):
    """A row of a length of its own; every third one is spoken."""
    generator = np.random.default_rng(index)
    text = "".join(generator.choice(list("abcde "), size=int(generator.integers(1, 60)))) + str(index)
    if index % 3:
        return {"id": str(index), "question_text": text, "answer_text": text[::-1]}
    sound = file_bytes(noise(float(generator.uniform(0.1, 0.5)), seed=index))
    return {"id": str(index), "question_text": text, "question_audio": sound}


def generate(shards, size):
    for shard in shards:
        for index in range(shard * size, (shard + 1) * size):
            yield row(index)


def stream(num_shards=10):
    size = NUM_ROWS // num_shards
    return datasets.IterableDataset.from_generator(
        generate, gen_kwargs={"shards": list(range(num_shards)), "size": size}
    )


def batches_of(source, processor, builder=None, **options):
    builder = builder or ExampleBuilder(processor)
    return make_batches(source, builder, **{"max_steps_per_batch": BUDGET, **options})


def as_source(kind, rows):
    """Rows that can be counted, a stream of as many shards as lanes or more, and one of fewer."""
    if kind == "planned":
        return rows, {}
    return stream(10 if kind == "streamed" else 3), {"num_epochs": 1, "window": 2, "num_lanes": 4}


KINDS = ["planned", "streamed", "streamed in few shards"]


def assert_same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        assert mine.keys() == other.keys()
        for name in mine:
            assert torch.equal(mine[name], other[name]), name


def ids(batches):
    return [batches.ids_of(batch) for batch in batches]
