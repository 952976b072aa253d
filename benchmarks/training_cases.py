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
"""Whole training steps that are compared: of Flow-Omni in several ways, and of the bare language model inside it."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from shapes import build_language_model, build_model, training_config
from stopwatch import peak_resident_bytes, resident_bytes
from torch import nn
from training_step import training_batch

from flow_omni.modeling_flow_omni.modeling_flow_omni import text_loss
from flow_omni.training.allocator import keep_freed_memory
from flow_omni.training.cpu_attention import plain_backward
from flow_omni.training.stages import freeze_for


QUESTION_SECONDS = 2.56
NUM_TEXT_TOKENS = 30
NUM_PATCHES = 58

MODELS = ("flow-omni", "bare LLM", "bare LLM, head everywhere")


@dataclass(frozen=True)
class Case:
    """
    One way to take a training step.

    Attributes:
        size: of the model, a key of `TRAINING_SIZES`.
        precision: `"bf16"` is autocast over weights in fp32, `"bf16 weights"` has nothing else, `"fp32"` nothing of it.
        batch_size: rows, all of the same length.
        model: the whole, or the language model alone on as many steps, with the text head where text is labelled (as in
            Flow-Omni), or at every step (as in transformers).
        has_optimizer: whether gradients are clipped and AdamW takes its step.
        num_noise_draws: of the flow head; `None` is the package's default.
        stage: of training, which decides what is frozen.
        kernel: whether attention is PyTorch's own also in the backward pass.
        is_compiled: by `torch.compile`.
    """

    size: str
    precision: str = "bf16"
    batch_size: int = 32
    num_threads: int = 1
    model: str = "flow-omni"
    has_optimizer: bool = True
    num_noise_draws: int | None = None
    stage: str = "finetune"
    kernel: bool = False
    is_compiled: bool = False

    def seconds_of_speech(self) -> float:
        """In the batch: heard and said."""
        speech = training_config(self.size).speech_config
        return self.batch_size * (QUESTION_SECONDS + NUM_PATCHES / speech.steps_per_second)


class Step:
    """The step of a case, ready to be taken again and again on the same batch."""

    def __init__(self, case: Case):
        torch.manual_seed(0)
        self.case = case
        draws = {} if case.num_noise_draws is None else {"num_noise_draws": case.num_noise_draws}
        config = training_config(case.size, **draws)
        dtype = torch.bfloat16 if case.precision == "bf16 weights" else torch.float32
        self.batch = training_batch(
            config, case.batch_size, NUM_PATCHES, NUM_TEXT_TOKENS, round(QUESTION_SECONDS * 100)
        )
        if case.model == "flow-omni":
            self.model = build_model(config, dtype).train()
            freeze_for(self.model, case.stage)
        else:
            self.model = build_language_model(config, dtype).train()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True) if case.has_optimizer else None
        if case.is_compiled:
            self.model.compile()

    def loss(self) -> torch.Tensor:
        if self.case.model == "flow-omni":
            return self.model(**self.batch).loss
        text = {name: self.batch[name] for name in ("input_ids", "attention_mask")}
        if self.case.model == "bare LLM, head everywhere":
            return self.model(**text, labels=self.batch["labels"], use_cache=False).loss
        hidden_states = self.model.model(**text, use_cache=False).last_hidden_state
        return text_loss(self.model.lm_head, hidden_states, self.batch["labels"])

    def precision(self) -> AbstractContextManager:
        return torch.autocast("cpu", torch.bfloat16) if self.case.precision == "bf16" else nullcontext()

    def attention(self) -> AbstractContextManager:
        return nullcontext() if self.case.kernel or self.case.precision == "fp32" else plain_backward(self.model)

    def __call__(self) -> dict[str, float]:
        """Takes the step, and tells the seconds of its parts."""
        clock = clock_of(self.case.num_threads)
        times = [clock()]
        with self.attention(), self.precision():
            loss = self.loss()
        times.append(clock())
        loss.backward()
        times.append(clock())
        if self.optimizer is not None:
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
        self.model.zero_grad(set_to_none=True)
        times.append(clock())
        forward, backward, update = (after - before for before, after in zip(times, times[1:]))
        return {"step": times[-1] - times[0], "forward": forward, "backward": backward, "update": update}


def clock_of(num_threads: int):
    """
    Of one thread the seconds that the processor spent on this process, which other programs hardly change; several
    threads have to be timed by the wall clock, on a machine that is idle.
    """
    return time.process_time if num_threads == 1 else time.perf_counter


def measure_case(case: Case, repetitions: int) -> dict:
    """
    The seconds of each repetition, by part, and the memory of a step. For a fresh process: it takes what its memory was
    before the model was built from the peak.
    """
    torch.set_num_threads(case.num_threads)
    keep_freed_memory()
    before = resident_bytes() or peak_resident_bytes()
    step = Step(case)
    # the first lets PyTorch prepare, and the optimizer make its moments
    first = step()["step"]
    samples = [step() for _ in range(repetitions)]
    seconds = {part: [sample[part] for sample in samples] for part in samples[0]}
    return {"first": first, "seconds": seconds, "bytes": peak_resident_bytes() - before}


def measure_parts(case: Case, repetitions: int) -> dict[str, list[float]]:
    """Seconds forward and backward of each part of the model, alone with inputs as large as those in the whole."""
    torch.set_num_threads(case.num_threads)
    keep_freed_memory()
    step = Step(case)
    parts = {name: [] for name in _parts_of(step)}
    for _ in range(repetitions + 1):
        for name, run in _parts_of(step).items():
            clock = clock_of(case.num_threads)
            start = clock()
            with step.attention(), step.precision():
                output = run()
            output.float().sum().backward()
            parts[name].append(clock() - start)
            step.model.zero_grad(set_to_none=True)
    return {name: seconds[1:] for name, seconds in parts.items()}


def _parts_of(step: Step) -> dict:
    model, batch = step.model, step.batch
    llm, text_config = model.model.language_model, model.config.text_config
    num_rows, num_steps = batch["input_ids"].shape
    hidden_states = torch.randn(num_rows, num_steps, text_config.hidden_size, dtype=model.dtype, requires_grad=True)
    patches, previous = model.prepare_targets(batch["mel_labels"], batch["speech_states"], None)
    targets = patches[batch["speech_states"] == model.config.generating_state_id]
    condition = torch.randn(len(targets), text_config.hidden_size, dtype=model.dtype, requires_grad=True)
    positions = torch.arange(num_steps)[None]

    def speech_transformer() -> torch.Tensor:
        rotary = llm.rotary_emb(hidden_states, positions)
        return model.speech_transformer(hidden_states, previous, None, positions, rotary)

    return {
        "encoder and adapter": lambda: (
            model.get_audio_features(
                batch["input_features"], batch["input_features_mask"], return_dict=True
            ).pooler_output
        ),
        "LLM": lambda: llm(inputs_embeds=hidden_states, use_cache=False).last_hidden_state,
        "speech transformer": speech_transformer,
        "flow head": lambda: sum(model.speech_head(condition, targets)),
        "text head and loss": lambda: text_loss(model.lm_head, hidden_states, batch["labels"]),
    }
