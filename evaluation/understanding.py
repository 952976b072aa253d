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
How well a model understands speech: what it answers to a spoken question beside what it answers to the written one,
and what its adapter transcribes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.functional import kl_div

from .text_errors import contains_answer, error_rate, fraction


@dataclass
class Agreement:
    """
    Over the tokens of the greedy answer to the written question: how many are there, of how many the model that hears
    the question ranks the same token first as the model that reads it, and the sum of KL(reading || hearing) in nats.
    """

    num_tokens: int
    num_agreeing: int
    divergence: float


@torch.no_grad()
def measure_agreement(
    model: Any, processor: Any, spoken: Sequence[dict], written: Sequence[dict], max_new_tokens: int
) -> tuple[str, Agreement]:
    """The greedy answer to the `written` prompt, and how far the model agrees with it after the `spoken` one."""
    inputs = _inputs(model, processor, written)
    options = {"generation_mode": "text", "do_sample": False, "return_dict_in_generate": False}
    ids = model.generate(**inputs, **options, max_new_tokens=max_new_tokens)
    answer = ids[:, inputs["input_ids"].shape[1] :]
    read = _log_probs(model, inputs, answer)
    heard = _log_probs(model, _inputs(model, processor, spoken), answer)
    agreement = Agreement(
        num_tokens=answer.shape[1],
        num_agreeing=int((read.argmax(dim=-1) == heard.argmax(dim=-1)).sum()),
        divergence=float(kl_div(heard, read, reduction="sum", log_target=True)),
    )
    return processor.decode(answer[0], skip_special_tokens=True), agreement


@torch.no_grad()
def transcribe_by_ctc(model: Any, processor: Any, prompts: Sequence[Sequence[dict]]) -> list[str]:
    """The transcripts of the audio of prompts, by the CTC of the adapter alone (`adapter_compression="ctc"`)."""
    inputs = _inputs(model, processor, prompts)
    return processor.transcripts_of(model.get_audio_features(inputs["input_features"], inputs["input_features_mask"]))


def _inputs(model: Any, processor: Any, prompt: Sequence) -> Any:
    return processor.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, dtype=model.dtype)


def _log_probs(model: Any, inputs: Any, answer: torch.Tensor) -> torch.Tensor:
    """The log probabilities `(num_tokens, vocab_size)` at the tokens `(1, num_tokens)` of an answer, given it."""
    ids = torch.cat([inputs["input_ids"], answer], dim=1)
    inputs = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits = model(**inputs, use_cache=False, logits_to_keep=answer.shape[1] + 1).logits
    return logits[0, :-1].float().log_softmax(dim=-1)


def agreement_metrics(agreements: Sequence[Agreement], seed: int = 0) -> dict[str, float]:
    """`agreement`, the fraction of tokens, and `kl`, the mean over tokens, with intervals."""
    values = [asdict(one) for one in agreements]
    num_tokens, num_agreeing, divergence = (
        [one[name] for one in values] for name in ("num_tokens", "num_agreeing", "divergence")
    )
    metrics = error_rate("agreement", num_agreeing, num_tokens, seed) | error_rate("kl", divergence, num_tokens, seed)
    return {"num_rows": len(agreements)} | metrics


def knowledge_metrics(
    answers: Sequence[tuple[str, str, Sequence[str]]],
    written: Sequence[tuple[str, str, Sequence[str]]] = (),
    language: str = "en",
    seed: int = 0,
) -> dict[str, float]:
    """
    `correct`, the fraction of answers that contain an accepted one. Each is a question, the model's text and the
    accepted answers. Of spoken questions, `over_written` is their number of correct answers over that of the `written`
    answers to the same questions.
    """
    correct = [(question, contains_answer(text, accepted, language)) for question, text, accepted in answers]
    metrics = {"num_rows": len(correct)} | fraction("correct", [hit for _, hit in correct])
    reading = {question: contains_answer(text, accepted, language) for question, text, accepted in written}
    pairs = [(hit, reading[question]) for question, hit in correct if question in reading]
    return metrics | (error_rate("over_written", *map(list, zip(*pairs)), seed) if pairs else {})
