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
"""
Speed and memory of a training step on this machine, with random weights: forward, backward and update, the modules of the
forward pass, and a step of the bare language model on as many positions.

    python benchmarks/training.py                      # both sizes, fp32 and bf16: about ten minutes
    python benchmarks/training.py --quick              # the tiny model: seconds
"""

import itertools
import os
import sys
import time
from statistics import median

import torch
from common import (
    DTYPES,
    SIZES,
    ModuleTimer,
    build_model,
    describe_machine,
    in_new_process,
    parse_arguments,
    peak_bytes,
    question_prompt,
    rounded,
    show,
    summary,
)
from torch import nn

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni import IGNORE_INDEX, text_logits, text_losses


QUESTION_FRAMES = 256
NUM_TEXT_TOKENS, NUM_PATCHES = 30, 58
BATCH_SIZE = 8


def training_batch(config: FlowOmniConfig, batch_size: int, num_patches: int = NUM_PATCHES) -> dict[str, torch.Tensor]:
    """Equal rows of a spoken question and a spoken answer, with all labels."""
    question = question_prompt(config, QUESTION_FRAMES)
    prompt = question["input_ids"][0]
    pad, start, generating, stop = config.state_ids
    delay = config.speech_config.speech_delay
    states = torch.tensor([pad] * delay + [start] + [generating] * num_patches + [stop])
    text = torch.arange(2, 2 + NUM_TEXT_TOKENS)
    length = max(len(states), len(text))
    states = nn.functional.pad(states, (0, length - len(states)), value=pad)
    labels = nn.functional.pad(text, (0, length - len(text)), value=IGNORE_INDEX)
    ignored = torch.full_like(prompt, IGNORE_INDEX)
    row = {
        "input_ids": torch.cat([prompt, labels.clamp(min=0)]),
        "attention_mask": torch.ones(len(prompt) + length, dtype=torch.long),
        "labels": torch.cat([ignored, labels]),
        "speech_states": torch.cat([torch.full_like(prompt, pad), states]),
        "state_labels": torch.cat([ignored, states]),
        "input_features": question["input_features"][0],
        "input_features_mask": question["input_features_mask"][0],
        "mel_labels": torch.randn(
            num_patches, config.speech_config.frames_per_step, config.speech_config.num_mel_bins
        ),
    }
    return {name: torch.stack([value] * batch_size) for name, value in row.items()}


class TrainingStep:
    """A step of training, ready to be repeated on one batch: of the model, or of its language model alone."""

    def __init__(
        self, config: FlowOmniConfig, dtype: torch.dtype, is_bare: bool = False, batch_size: int = BATCH_SIZE
    ):
        self.model = build_model(config, dtype).train()
        self.is_bare, self.batch = is_bare, training_batch(config, batch_size)
        self.trained = self.model.model.language_model if is_bare else self.model
        parameters = [value for name, value in self.trained.named_parameters() if not name.startswith("vocoder.")]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def loss(self) -> torch.Tensor:
        if not self.is_bare:
            return self.model(**self.batch).loss
        inputs = {name: self.batch[name] for name in ("input_ids", "attention_mask")}
        hidden_states = self.trained(**inputs, use_cache=False).last_hidden_state
        logits = text_logits(self.model.lm_head, hidden_states, self.batch["labels"])
        return text_losses(*logits, None)["text_loss"]

    def __call__(self) -> dict[str, float]:
        times = [time.perf_counter()]
        loss = self.loss()
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)
        times.append(time.perf_counter())
        forward, backward, update = (after - before for before, after in itertools.pairwise(times))
        return {"step": times[-1] - times[0], "forward": forward, "backward": backward, "update": update}


def measure(size: str, dtype: str, is_bare: bool, num_threads: int, repetitions: int) -> dict:
    """Seconds of each repetition, the seconds of the modules in a forward pass, and the peak memory."""
    torch.set_num_threads(num_threads)
    # the vocoder is trained apart
    fields = SIZES[size] | {"vocoder_config": None}
    step = TrainingStep(FlowOmniConfig(**fields), DTYPES[dtype], is_bare)
    # the first allocates the optimizer's state
    step()
    with ModuleTimer(step.model) as timer:
        samples = [step() for _ in range(repetitions)]
        modules = timer.take()
    seconds = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {"seconds": seconds, "modules": modules, "bytes": peak_bytes()}


def rows_of(
    config: FlowOmniConfig, whole: dict, bare: dict, repetitions: int
) -> tuple[dict[str, str], dict[str, str]]:
    """The columns of the tables of steps and of modules."""
    step = median(whole["seconds"]["step"])
    speech = QUESTION_FRAMES / 100 + NUM_PATCHES / config.speech_config.steps_per_second
    steps = {f"{name} (s)": summary(samples) for name, samples in whole["seconds"].items()}
    steps |= {
        "examples per second": rounded(BATCH_SIZE / step),
        "seconds of speech per second": rounded(BATCH_SIZE * speech / step),
        "peak memory (GiB)": rounded(whole["bytes"] / 2**30),
        "bare language model: step (s)": summary(bare["seconds"]["step"]),
        "bare language model: peak memory (GiB)": rounded(bare["bytes"] / 2**30),
        "time / bare language model": rounded(step / median(bare["seconds"]["step"])),
        "memory / bare language model": rounded(whole["bytes"] / bare["bytes"]),
    }
    forward = sum(whole["seconds"]["forward"])
    modules = {
        name: f"{rounded(seconds / repetitions)} ({seconds / forward:.0%})"
        for name, seconds in whole["modules"].items()
        if seconds
    }
    return steps, modules


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(__doc__, arguments)
    machine = describe_machine()
    steps, modules, repetitions = {}, {}, 1 if options.quick else 3
    for size, dtype in itertools.product(options.sizes, options.dtypes):
        column = f"{size} {dtype}"
        print(f"{column} …", file=sys.stderr)
        case = (torch.get_num_threads(), repetitions)
        whole, bare = (in_new_process(measure, size, dtype, is_bare, *case) for is_bare in (False, True))
        steps[column], modules[column] = rows_of(FlowOmniConfig(**SIZES[size]), whole, bare, repetitions)
    machine["load after the run"] = f"{os.getloadavg()[0]:.2f}"
    title = f"Training: a batch of {BATCH_SIZE}, AdamW"
    show({"Machine": {"value": machine}, title: steps, "Modules, forward (s)": modules}, options.markdown)


if __name__ == "__main__":
    main()
