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
"""What a training step costs, with the vocabulary head where text is labelled, and with it everywhere (the naive way)."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from decoding import question_prompt
from shapes import DTYPES, build_config, build_model
from stopwatch import Measure, peak_resident_bytes, resident_bytes, rounded, seconds_of
from torch import nn

from flow_omni.modeling_flow_omni import modeling_flow_omni as modeling
from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniConfig


IGNORED = -100
NUM_FEATURE_FRAMES = 300
NUM_PROMPT_TOKENS = 26
NUM_TEXT_TOKENS = 16


def training_batch(
    config: FlowOmniConfig,
    batch_size: int,
    num_patches: int,
    num_text_tokens: int = NUM_TEXT_TOKENS,
    num_feature_frames: int = NUM_FEATURE_FRAMES,
) -> dict[str, torch.Tensor]:
    """
    Rows of a question of so many feature frames (of 10 ms) and an answer of so many tokens and patches, with all labels.
    """
    prompt = question_prompt(config, num_feature_frames, NUM_PROMPT_TOKENS)["input_ids"][0]
    pad, start, generating, stop = config.state_ids
    delay = config.speech_config.speech_delay
    answer_states = torch.tensor([pad] * delay + [start] + [generating] * num_patches + [stop])
    text = torch.arange(2, 2 + num_text_tokens)
    num_steps = max(len(answer_states), len(text))
    answer_ids = nn.functional.pad(text, (0, num_steps - len(text)))
    answer_labels = nn.functional.pad(text, (0, num_steps - len(text)), value=IGNORED)
    answer_states = nn.functional.pad(answer_states, (0, num_steps - len(answer_states)), value=pad)
    ignored = torch.full_like(prompt, IGNORED)
    rows = {
        "input_ids": torch.cat([prompt, answer_ids]),
        "labels": torch.cat([ignored, answer_labels]),
        "speech_states": torch.cat([torch.full_like(prompt, pad), answer_states]),
        "state_labels": torch.cat([ignored, answer_states]),
    }
    batch = {name: row.repeat(batch_size, 1) for name, row in rows.items()}
    speech = config.speech_config
    return batch | {
        "attention_mask": torch.ones_like(batch["input_ids"]),
        "input_features": torch.randn(batch_size, config.audio_config.num_mel_bins, num_feature_frames),
        "input_features_mask": torch.ones(batch_size, num_feature_frames, dtype=torch.long),
        "mel_labels": torch.randn(batch_size, num_patches, speech.frames_per_step, speech.num_mel_bins),
    }


def naive_text_loss(lm_head: nn.Module, hidden_states: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
    """The same number as the model's own text loss, from the logits of every step, of which most are then ignored."""
    logits = lm_head(hidden_states).float()[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


@contextmanager
def vocabulary_head_everywhere() -> Iterator[None]:
    with mock.patch.object(modeling, "text_loss", naive_text_loss):
        yield


class TrainingStep:
    """Forward and backward pass of one batch, in either way; no optimiser."""

    def __init__(self, size: str, dtype: str, batch_size: int, num_patches: int):
        config = build_config(size)
        self.model = build_model(config, DTYPES[dtype]).train()
        self.batch = training_batch(config, batch_size, num_patches)

    def __call__(self, naive: bool) -> None:
        self.model.zero_grad(set_to_none=True)
        with vocabulary_head_everywhere() if naive else nullcontext():
            self.model(**self.batch).loss.backward()


def in_fresh_process(function: Callable, *arguments):
    """The result of `function(*arguments)` in a process of its own, whose peak of memory is nobody else's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def memory_of_step(num_threads: int, naive: bool, *case) -> tuple[int, int]:
    """Bytes that the process held with the model built, and the most it held during one step."""
    torch.set_num_threads(num_threads)
    step = TrainingStep(*case)
    before = resident_bytes() or peak_resident_bytes()
    step(naive)
    return before, peak_resident_bytes()


def times_of_steps(num_threads: int, repetitions: int, *case) -> dict[bool, list[float]]:
    """Seconds of the steps in both ways, in turns, so that a busy moment meets both."""
    torch.set_num_threads(num_threads)
    step = TrainingStep(*case)
    seconds = {False: [], True: []}
    for _ in range(repetitions + 1):
        for naive in seconds:
            seconds[naive].append(seconds_of(lambda naive=naive: step(naive)))
    return {naive: samples[1:] for naive, samples in seconds.items()}


def measure_training(size: str, dtype: str, batch_size: int, num_patches: int, repetitions: int) -> dict:
    """The rows of the training table."""
    case = (size, dtype, batch_size, num_patches)
    threads = torch.get_num_threads()
    seconds = in_fresh_process(times_of_steps, threads, repetitions, *case)
    (before, ours), (_, naive) = (in_fresh_process(memory_of_step, threads, way, *case) for way in (False, True))
    times = {way: Measure(samples) for way, samples in seconds.items()}
    gib = 2**30
    return {
        "seconds, head where text is labelled": times[False],
        "seconds, head everywhere": times[True],
        "seconds, everywhere / labelled": Measure([times[True].median / times[False].median]),
        "memory before the step (GiB)": rounded(before / gib),
        "peak memory, head where text is labelled (GiB)": rounded(ours / gib),
        "peak memory, head everywhere (GiB)": rounded(naive / gib),
        "memory of the step itself, everywhere / labelled": rounded((naive - before) / (ours - before)),
    }
