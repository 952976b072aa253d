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
"""What a step costs: the LLM alone, the whole step and each of its parts, and how long a question waits for sound."""

import math
import time
from dataclasses import dataclass
from statistics import median

import torch
from stopwatch import Measure, PartTimer, milliseconds, repeat, rounded, seconds_of
from transformers import LogitsProcessor, LogitsProcessorList, WhisperFeatureExtractor

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder


EOS_TOKEN_ID, PAD_TOKEN_ID = 0, 1
FLOW_STEPS = (1, 2, 4, 8)


@dataclass
class Effort:
    """How much is measured: an answer of so much text and speech to a question of so many seconds, so many times."""

    question_seconds: float = 3.0
    num_prompt_tokens: int = 26
    num_text_tokens: int = 12
    num_patches: int = 70
    num_rounds: int = 3
    num_flow_patches: int = 16

    @classmethod
    def quick(cls) -> "Effort":
        return cls(num_text_tokens=8, num_patches=10, num_rounds=1, num_flow_patches=2)


class EndTextAfter(LogitsProcessor):
    """Ends the text after a number of tokens: a model with random weights would never do so."""

    def __init__(self, num_tokens: int):
        self.num_tokens, self.num_written = num_tokens, 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        is_over = self.num_written >= self.num_tokens
        self.num_written += 1
        scores[:, EOS_TOKEN_ID] = math.inf if is_over else -math.inf
        return scores


def question_features(config: FlowOmniConfig, waveform: torch.Tensor) -> dict[str, torch.Tensor]:
    """Whisper's log-mel features of a waveform of 16 kHz, without padding to 30 seconds."""
    extractor = WhisperFeatureExtractor(feature_size=config.audio_config.num_mel_bins)
    features = extractor(waveform.numpy(), sampling_rate=16000, padding=False, truncation=False, return_tensors="pt")
    features = features["input_features"]
    return {
        "input_features": features,
        "input_features_mask": torch.ones(1, features.shape[-1], dtype=torch.long),
    }


def question_prompt(config: FlowOmniConfig, num_frames: int, num_prompt_tokens: int) -> dict[str, torch.Tensor]:
    """Text before and after the placeholders of one audio of `num_frames` feature frames."""
    num_placeholders = math.ceil(math.ceil(num_frames / 2) / config.adapter_stack_size)
    # what stands around a question in a chat template, two thirds of it before
    text = torch.arange(2, 2 + num_prompt_tokens)
    before, after = text.split([num_prompt_tokens * 2 // 3, num_prompt_tokens - num_prompt_tokens * 2 // 3])
    input_ids = torch.cat([before, torch.full((num_placeholders,), config.audio_token_id), after])[None]
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


@dataclass
class StepTime:
    """Seconds of one step of a streamed answer, whole and by part, and what it did."""

    seconds: float
    parts: dict[str, float]
    writes: bool
    speaks: bool
    has_sound: bool


def timed_parts(model: FlowOmniForSpeechGeneration) -> dict[str, tuple[object, str]]:
    return {
        "LLM": (model.model.language_model, "forward"),
        "speech transformer": (model.speech_transformer, "forward"),
        "text head": (model.lm_head, "forward"),
        "state head": (model.state_head, "forward"),
        "flow sampling": (model.speech_head, "forward"),
        "vocoder": (model, "_sound_step"),
    }


def stream_options(num_text_tokens: int, num_steps: int) -> dict:
    """What makes a model with random weights write so many tokens and speak to the end."""
    return {
        "logits_processor": LogitsProcessorList([EndTextAfter(num_text_tokens)]),
        "max_new_tokens": num_steps,
        "min_speech_steps": num_steps,
        "max_speech_extra_seconds": float(num_steps),
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": PAD_TOKEN_ID,
        "seed": 0,
    }


def stream_answer(
    model: FlowOmniForSpeechGeneration, inputs: dict, num_text_tokens: int, num_patches: int, **options
) -> list[StepTime]:
    """The time of each step of an answer; that of the first includes the question's."""
    num_steps = steps_before_speech(model.config) + num_patches
    steps = model.stream(**inputs, **stream_options(num_text_tokens, num_steps), **options)
    times = []
    with PartTimer(timed_parts(model)) as timer:
        start = time.perf_counter()
        for step in steps:
            end = time.perf_counter()
            times.append(
                StepTime(
                    seconds=end - start,
                    parts=timer.take(),
                    # the step that ends the text no longer asks for a next token
                    writes=bool(step.is_text) and int(step.text_ids) != EOS_TOKEN_ID,
                    speaks=bool(step.is_generating),
                    has_sound=step.audio is not None and step.audio[0].numel() > 0,
                )
            )
            start = time.perf_counter()
    return times


def steps_before_speech(config: FlowOmniConfig) -> int:
    """Steps of an answer before its first patch: the text that runs ahead, and the `start`."""
    return config.speech_config.speech_delay + 1


def llm_steps(model: FlowOmniForSpeechGeneration, context: int, num_steps: int) -> tuple[list[float], list[float]]:
    """
    Seconds of decode steps of the LLM alone, without and with its vocabulary head: the very weights of the model, at the
    same context, in the barest of loops.
    """
    llm = model.model.language_model
    token = torch.tensor([[2]])
    cache = llm(input_ids=token.expand(1, context), use_cache=True).cache
    without_head, with_head = [], []
    for _ in range(num_steps):
        start = time.perf_counter()
        hidden_states = llm(input_ids=token, cache=cache, use_cache=True).last_hidden_state
        middle = time.perf_counter()
        model.lm_head(hidden_states)
        end = time.perf_counter()
        without_head.append(middle - start)
        with_head.append(end - start)
    return without_head, with_head


def measure_prefill(model: FlowOmniForSpeechGeneration, inputs: dict, repetitions: int) -> dict[str, Measure]:
    """Time to read a prompt of the question's length, by the LLM alone and by the whole; and to encode the question."""
    llm = model.model.language_model
    prompt = torch.full_like(inputs["input_ids"], 2)
    length = prompt.shape[1]

    def llm_alone():
        outputs = llm(input_ids=prompt, use_cache=True)
        model.lm_head(outputs.last_hidden_state[:, -1:])

    def whole():
        model(input_ids=prompt, use_cache=True, logits_to_keep=1)

    def encode():
        model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])

    seconds = {"llm": [], "whole": [], "encode": []}
    for _ in range(repetitions + 1):
        for name, function in (("llm", llm_alone), ("whole", whole), ("encode", encode)):
            seconds[name].append(seconds_of(function))
    # the first round warms up
    return {
        f"prefill of {length} steps, LLM alone": milliseconds(seconds["llm"][1:]),
        f"prefill of {length} steps, whole model": milliseconds(seconds["whole"][1:]),
        "encoding the question": milliseconds(seconds["encode"][1:]),
    }


def measure_steps(
    model: FlowOmniForSpeechGeneration, inputs: dict, effort: Effort
) -> tuple[dict[str, Measure], dict[str, str]]:
    """Decode steps of the LLM alone and of the whole in turns, real-time factors; and the share of each part."""
    answer = {"num_text_tokens": effort.num_text_tokens, "num_patches": effort.num_patches}
    stream_answer(model, inputs, num_text_tokens=6, num_patches=6)
    llm, llm_and_head, answers = [], [], []
    for _ in range(effort.num_rounds):
        without_head, with_head = llm_steps(model, inputs["input_ids"].shape[1], effort.num_patches)
        llm += without_head[1:]
        llm_and_head += with_head[1:]
        answers.append(stream_answer(model, inputs, **answer))
    steps = [step for times in answers for step in times]
    speaking = [step for step in steps if step.speaks and not step.writes]
    both = [step for step in steps if step.speaks and step.writes]

    steps_per_second = model.config.speech_config.steps_per_second
    speech_seconds = effort.num_patches / steps_per_second
    speaking_times, both_times = (Measure([step.seconds for step in chosen]) for chosen in (speaking, both))
    rows = {
        "step of the LLM alone, without text head": milliseconds(llm),
        "step of the LLM alone, with text head": milliseconds(llm_and_head),
        "whole step, speaking": speaking_times.scaled(1000),
        "whole step, speaking and writing": both_times.scaled(1000),
        "real-time factor, speaking": speaking_times.scaled(steps_per_second),
        "real-time factor, speaking and writing": both_times.scaled(steps_per_second),
        "real-time factor, whole answer with its question": Measure(
            [sum(step.seconds for step in times) / speech_seconds for times in answers]
        ),
        "whole step, speaking / LLM alone, without text head": Measure([speaking_times.median / Measure(llm).median]),
    }
    return rows, part_rows(speaking, both)


def part_rows(speaking: list[StepTime], both: list[StepTime]) -> dict[str, str]:
    """Milliseconds of each part of a speaking step, and its share; of the text head, what it adds while text runs."""
    total = median(step.seconds for step in speaking)
    seconds = {part: median(step.parts[part] for step in speaking) for part in speaking[0].parts}
    seconds["everything else"] = median(step.seconds - sum(step.parts.values()) for step in speaking)
    seconds["text head"] = median(step.parts["text head"] for step in both)
    rows = {part: f"{rounded(value * 1000)} ({value / total:.0%})" for part, value in seconds.items()}
    rows["text head"] = f"+{rows['text head'].replace('(', '(+')}"
    return rows | {"whole step, speaking": rounded(total * 1000)}


def measure_flow(model: FlowOmniForSpeechGeneration, inputs: dict, effort: Effort) -> dict[str, Measure]:
    """Time of the flow sampling of one patch, inside the decoding loop, for each number of solver steps."""
    rows = {}
    for num_flow_steps in FLOW_STEPS:
        steps = stream_answer(
            model, inputs, num_text_tokens=2, num_patches=effort.num_flow_patches, num_flow_steps=num_flow_steps
        )
        seconds = [step.parts["flow sampling"] for step in steps if step.speaks]
        rows[f"flow sampling, num_flow_steps={num_flow_steps}"] = milliseconds(seconds)
    return rows


def with_both_directions(vocoder: FlowOmniVocoder) -> FlowOmniVocoder:
    """A vocoder of the same size whose convolutions look ahead, as those of published Vocos do; with the same weights."""
    config = type(vocoder.config).from_dict(vocoder.config.to_dict() | {"causal": False, "num_lookahead_frames": 0})
    other = FlowOmniVocoder(config).to(vocoder.dtype).eval()
    other.load_state_dict(vocoder.state_dict())
    return other


def measure_first_sound(model: FlowOmniForSpeechGeneration, effort: Effort) -> dict[str, Measure | int]:
    """
    Time from the last sample of the question to the first of the answer: log-mel features, encoder, prefill, and steps
    until the vocoder gives sound.
    """
    waveform = torch.randn(int(effort.question_seconds * 16000), generator=torch.Generator().manual_seed(0)) * 0.1
    causal = model.vocoder
    rows = {}
    for name, vocoder in (("causal", causal), ("non-causal", with_both_directions(causal))):
        model.vocoder = vocoder
        seconds = repeat(lambda: wait_for_sound(model, waveform, effort), effort.num_rounds)
        rows[f"first sound, {name} vocoder"] = milliseconds(seconds)
        rows[f"first sound, {name} vocoder: steps"] = steps_before_speech(model.config) + steps_to_sound(model)
    model.vocoder = causal
    return rows


def steps_to_sound(model: FlowOmniForSpeechGeneration) -> int:
    """Patches that the vocoder takes before it gives the first sample."""
    return model.vocoder.streaming_latency_frames // model.config.speech_config.frames_per_step + 1


def wait_for_sound(model: FlowOmniForSpeechGeneration, waveform: torch.Tensor, effort: Effort) -> None:
    features = question_features(model.config, waveform)
    prompt = question_prompt(model.config, features["input_features"].shape[-1], effort.num_prompt_tokens)
    for step in model.stream(**features, **prompt, **stream_options(effort.num_text_tokens, num_steps=100)):
        if step.audio[0].numel() > 0:
            return
    raise RuntimeError("100 steps gave no sound: the vocoder looks too far ahead for this benchmark.")


@torch.inference_mode()
def measure_decoding(
    model: FlowOmniForSpeechGeneration, effort: Effort
) -> tuple[dict[str, Measure | int], dict[str, Measure | str]]:
    """Everything about one model: the rows of the table of times, and those of the table of parts."""
    waveform = torch.randn(int(effort.question_seconds * 16000), generator=torch.Generator().manual_seed(0)) * 0.1
    inputs = question_features(model.config, waveform)
    inputs |= question_prompt(model.config, inputs["input_features"].shape[-1], effort.num_prompt_tokens)
    rows = measure_prefill(model, inputs, repetitions=2 * effort.num_rounds + 1)
    step_rows, parts = measure_steps(model, inputs, effort)
    rows |= step_rows | measure_first_sound(model, effort)
    return rows, parts | measure_flow(model, inputs, effort)
