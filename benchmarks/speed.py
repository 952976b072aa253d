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
Speed and memory of generation on this machine, with random weights: first-audio latency, real-time factor by batch size and
solver steps, the time of each module, and the language model alone.

    python benchmarks/speed.py                                     # both sizes, fp32 and bf16: about ten minutes
    python benchmarks/speed.py --quick                             # the tiny model: seconds
    python benchmarks/speed.py --sizes qwen2-0.5b --dtypes bf16 --markdown table.md
"""

import itertools
import math
import os
import sys
import time
from dataclasses import dataclass
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
from transformers import LogitsProcessor, LogitsProcessorList

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration, count_parameters
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder


QUESTION_FRAMES = 300
NUM_TEXT_TOKENS, NUM_PATCHES = 12, 70
EOS_TOKEN_ID, PAD_TOKEN_ID = 0, 1
FLOW_STEPS = (1, 2, 4, 8)
BATCH_SIZES = (1, 4)


class EndTextAfter(LogitsProcessor):
    """Ends the text after a number of tokens: random weights would never do so."""

    def __init__(self, num_tokens: int):
        self.num_tokens, self.num_generated = num_tokens, 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        scores[:, EOS_TOKEN_ID] = math.inf if self.num_generated >= self.num_tokens else -math.inf
        self.num_generated += 1
        return scores


@dataclass
class Step:
    """Seconds of one position of a streamed answer, in all and by module, and what it generated."""

    seconds: float
    modules: dict[str, float]
    has_text: bool
    has_patch: bool
    has_audio: bool


def num_positions_before_speech(config: FlowOmniConfig) -> int:
    """The text that runs ahead, and the `start` state."""
    return config.speech_config.speech_delay + 1


def stream_answer(
    model: FlowOmniForSpeechGeneration, inputs: dict, num_text_tokens: int, num_patches: int, **options
) -> list[Step]:
    """The positions of an answer of that length; the first includes the prompt."""
    num_positions = num_positions_before_speech(model.config) + num_patches
    stream = model.stream(
        **inputs,
        logits_processor=LogitsProcessorList([EndTextAfter(num_text_tokens)]),
        max_new_tokens=num_positions,
        min_speech_steps=num_positions,
        max_speech_extra_seconds=float(num_positions),
        eos_token_id=EOS_TOKEN_ID,
        pad_token_id=PAD_TOKEN_ID,
        seed=0,
        **options,
    )
    steps = []
    with ModuleTimer(model) as timer:
        start = time.perf_counter()
        for step in stream:
            end = time.perf_counter()
            # the position that ends the text does not ask for a next token
            has_text = bool(step.is_text[0]) and int(step.text_ids[0]) != EOS_TOKEN_ID
            has_audio = step.audio is not None and step.audio[0].numel() > 0
            steps.append(Step(end - start, timer.take(), has_text, bool(step.is_generating[0]), has_audio))
            start = time.perf_counter()
    return steps


def language_model_steps(model: FlowOmniForSpeechGeneration, context: int, num_steps: int) -> list[float]:
    """Seconds of decoding positions of the language model alone, with the weights and context of the whole."""
    language_model, token = model.model.language_model, torch.tensor([[2]])
    cache = language_model(input_ids=token.expand(1, context), use_cache=True).cache
    seconds = []
    for _ in range(num_steps):
        start = time.perf_counter()
        language_model(input_ids=token, cache=cache, use_cache=True)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def with_non_causal_vocoder(model: FlowOmniForSpeechGeneration) -> FlowOmniVocoder:
    """A vocoder with the same weights whose convolutions look ahead, as those of published Vocos models do."""
    causal = model.vocoder
    config = type(causal.config).from_dict(causal.config.to_dict() | {"causal": False, "num_lookahead_frames": 0})
    vocoder = FlowOmniVocoder(config).to(causal.dtype).eval()
    vocoder.load_state_dict(causal.state_dict())
    return vocoder


def first_audio_latency(model: FlowOmniForSpeechGeneration, inputs: dict, num_rounds: int) -> list[float]:
    """Seconds from the features of the question to the first samples of the answer."""
    seconds = []
    for _ in range(num_rounds + 1):
        steps = stream_answer(model, inputs, NUM_TEXT_TOKENS, num_patches=16)
        first = next(index for index, step in enumerate(steps) if step.has_audio)
        seconds.append(sum(step.seconds for step in steps[: first + 1]))
    return seconds[1:]


@torch.inference_mode()
def measure(size: str, dtype: str, num_threads: int, num_rounds: int, num_patches: int) -> tuple[dict, dict, dict]:
    """The columns of one model: its parameters, times, and modules."""
    torch.set_num_threads(num_threads)
    model = build_model(FlowOmniConfig(**SIZES[size]), DTYPES[dtype])
    counts = {group.replace("_", " "): f"{count / 1e6:.1f}" for group, (count, _) in count_parameters(model).items()}
    inputs = question_prompt(model.config, QUESTION_FRAMES)
    per_second = model.config.speech_config.steps_per_second
    stream_answer(model, inputs, num_text_tokens=4, num_patches=4)
    alone, answers = [], []
    # in turns, so that other load on the machine affects both
    for _ in range(num_rounds):
        alone += language_model_steps(model, inputs["input_ids"].shape[1], num_patches)
        answers.append(stream_answer(model, inputs, NUM_TEXT_TOKENS, num_patches))
    speaking = [step for steps in answers for step in steps if step.has_patch and not step.has_text]
    writing = [step for steps in answers for step in steps if step.has_patch and step.has_text]
    seconds = [step.seconds for step in speaking]
    times = {
        "language model alone, one position (ms)": summary(alone, 1000),
        "one position, speech (ms)": summary(seconds, 1000),
        "one position, speech and text (ms)": summary([step.seconds for step in writing], 1000),
        "one position, speech / language model alone": rounded(median(seconds) / median(alone)),
        "real-time factor, speech": summary(seconds, per_second),
    }
    for batch_size in BATCH_SIZES:
        batch = {name: value.repeat_interleave(batch_size, 0) for name, value in inputs.items()}
        # with the prompt, and for all rows together
        totals = [
            sum(step.seconds for step in stream_answer(model, batch, NUM_TEXT_TOKENS, num_patches))
            for _ in range(num_rounds)
        ]
        factors = summary(totals, per_second / num_patches / batch_size)
        times[f"real-time factor, whole answer, batch of {batch_size}"] = factors
    times["first audio, causal vocoder (ms)"] = summary(first_audio_latency(model, inputs, num_rounds), 1000)
    causal, model.vocoder = model.vocoder, with_non_causal_vocoder(model)
    times["first audio, non-causal vocoder (ms)"] = summary(first_audio_latency(model, inputs, num_rounds), 1000)
    model.vocoder = causal
    times["peak memory of the process (GiB)"] = rounded(peak_bytes() / 2**30)
    return counts, times, module_rows(model, inputs, speaking, writing)


def module_rows(model: FlowOmniForSpeechGeneration, inputs: dict, speaking: list[Step], writing: list[Step]) -> dict:
    """The time of each module at a position with speech, and of the speech head for each number of solver steps."""
    total = median(step.seconds for step in speaking)
    rows = {name: median(step.modules[name] for step in speaking) for name in speaking[0].modules}
    rows["text head"] = median(step.modules["text head"] for step in writing)
    rows["everything else"] = median(step.seconds - sum(step.modules.values()) for step in speaking)
    rows = {name: f"{rounded(seconds * 1000)} ({seconds / total:.0%})" for name, seconds in rows.items() if seconds}
    for num_flow_steps in FLOW_STEPS:
        steps = stream_answer(model, inputs, 2, num_patches=10, num_flow_steps=num_flow_steps)
        seconds = [step.modules["speech head"] for step in steps if step.has_patch]
        rows[f"speech head, {num_flow_steps} solver steps"] = summary(seconds, 1000)
    return rows


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(__doc__, arguments)
    machine = describe_machine()
    times, modules, parameters = {}, {}, {}
    for size, dtype in itertools.product(options.sizes, options.dtypes):
        print(f"{size} {dtype} …", file=sys.stderr)
        case = (torch.get_num_threads(), *((1, 10) if options.quick else (3, NUM_PATCHES)))
        columns = in_new_process(measure, size, dtype, *case)
        parameters[size], times[f"{size} {dtype}"], modules[f"{size} {dtype}"] = columns
    machine["load after the run"] = f"{os.getloadavg()[0]:.2f}"
    tables = {"Machine": {"value": machine}, "Parameters (millions)": parameters, "Generation": times}
    show(tables | {"Modules, at a position with speech (ms)": modules}, options.markdown)


if __name__ == "__main__":
    main()
