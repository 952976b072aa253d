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
"""What it takes to turn rows with sounds on disk into batches, beside the steps that are taken on them."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from shapes import training_config
from training_cases import NUM_PATCHES, QUESTION_SECONDS, Case, Step, clock_of

from flow_omni.processing.byte_level_tokenizer import byte_level_tokenizer
from flow_omni.processing.processing_flow_omni import FlowOmniProcessor
from flow_omni.training.batches import Batches, make_batches
from flow_omni.training.examples import ExampleBuilder
from flow_omni.training.manifest import load_rows


SAMPLING_RATE = 16000
QUESTION_TEXT = "What is seven plus eight?"
ANSWER_TEXT = "Seven plus eight is fifteen."


def measure_data(size: str, batch_size: int, num_batches: int) -> list[float]:
    """
    Seconds to build each batch in the process that trains: rows read, FLAC decoded, features and mels computed, padded.
    Of one thread, as every worker has.
    """
    torch.set_num_threads(1)
    clock, seconds = clock_of(1), []
    with batches_of_noise(size, batch_size, num_batches + 1) as batches:
        iterator = iter(batches)
        for _ in range(num_batches + 1):
            start = clock()
            next(iterator)
            seconds.append(clock() - start)
    return seconds[1:]


def measure_waiting(case: Case, num_batches: int) -> float:
    """
    The share of the time by the clock in which a loop of training steps waits for its next batch, which one worker builds
    meanwhile. The first steps are not counted: the worker is being started.
    """
    torch.set_num_threads(case.num_threads)
    step, num_warm_up = Step(case), 2
    waited = whole = 0.0
    with batches_of_noise(case.size, case.batch_size, num_batches + num_warm_up, num_workers=1) as batches:
        iterator = iter(batches)
        for index in range(num_batches + num_warm_up):
            start = time.perf_counter()
            step.batch = next(iterator)
            ready = time.perf_counter()
            step()
            if index >= num_warm_up:
                waited += ready - start
                whole += time.perf_counter() - start
    return waited / whole


@contextmanager
def batches_of_noise(size: str, batch_size: int, num_batches: int, num_workers: int = 0) -> Iterator[Batches]:
    """Batches of rows that lie on the disk, planned, as training reads them."""
    config = training_config(size)
    processor = FlowOmniProcessor.from_parts(byte_level_tokenizer(), config)
    with tempfile.TemporaryDirectory() as folder:
        rows = load_rows(write_rows(Path(folder), config.speech_config.steps_per_second, batch_size * num_batches))
        builder = ExampleBuilder(processor, {"speech_to_speech": 1.0})
        # rows are all as long, so it is the number of rows that fills a batch
        batches = make_batches(
            rows, builder, max_steps_per_batch=10**6, max_rows_per_batch=batch_size, num_workers=num_workers
        )
        batches.plan()
        yield batches


def write_rows(folder: Path, steps_per_second: float, num_rows: int) -> Path:
    """A manifest of exchanges in noise, which compresses worse than speech and so takes the longest to read."""
    generator = np.random.default_rng(0)
    lines = []
    for index in range(num_rows):
        row = {"id": str(index), "question_text": QUESTION_TEXT, "answer_text": ANSWER_TEXT}
        for name, seconds in (("question", QUESTION_SECONDS), ("answer", NUM_PATCHES / steps_per_second)):
            sound = generator.standard_normal(round(seconds * SAMPLING_RATE)) * 0.1
            soundfile.write(folder / f"{name}{index}.flac", sound.clip(-1, 1), SAMPLING_RATE)
            row[f"{name}_audio"] = f"{name}{index}.flac"
        lines.append(json.dumps(row) + "\n")
    manifest = folder / "train.jsonl"
    manifest.write_text("".join(lines))
    return manifest
