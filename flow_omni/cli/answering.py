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
"""One answer: streamed from the model, its text printed as it comes, its sound and its streams kept for the files."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..modeling_flow_omni.generation_flow_omni import FlowOmniStep
from ..processing.audio_io import write_audio
from .console import TextPrinter, note, progress
from .errors import UserError, users_mistakes
from .loading import LoadedModel


@dataclass
class Answer:
    """
    An answer as it grows.

    Args:
        token_ids (`list[int]`):
            The text, with its end.
        states (`list[int]`):
            The speech state of every step.
        patches (`list[torch.Tensor]`):
            What was spoken, each `(frames_per_step, num_mel_bins)`.
        samples (`list[torch.Tensor]`):
            Its sound, in pieces.
        seconds_taken (`float`):
            Time to make it, the reading of the question included.
        is_cut (`bool`):
            Whether its speech was cut.
        cache (`Cache`):
            Keys and values of the question and the answer.
    """

    token_ids: list[int] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    patches: list[torch.Tensor] = field(default_factory=list)
    samples: list[torch.Tensor] = field(default_factory=list)
    seconds_taken: float = 0.0
    is_cut: bool = False
    cache: Any = None

    def add(self, step: FlowOmniStep) -> None:
        """Takes the step of a batch of one."""
        if step.is_text[0]:
            self.token_ids.append(int(step.text_ids[0]))
        self.states.append(int(step.states[0]))
        if step.is_generating[0]:
            self.patches.append(step.mel[0].float().cpu())
        if step.audio is not None:
            self.samples.append(step.audio[0].float().cpu())
        self.is_cut = bool(step.speech_truncated[0])
        self.cache = step.cache

    @property
    def waveform(self) -> torch.Tensor:
        """All samples `(num_samples,)` so far."""
        return torch.cat(self.samples) if self.samples else torch.zeros(0)


def prepare(loaded: LoadedModel, conversation: Sequence[dict]) -> dict[str, torch.Tensor]:
    """The model's inputs for a conversation."""
    with users_mistakes():
        inputs = loaded.processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    return dict(inputs.to(loaded.model.device, dtype=loaded.model.dtype))


def answer(loaded: LoadedModel, inputs: dict[str, torch.Tensor], prefix: str | None = "", **options: Any) -> Answer:
    """
    Lets the model answer, and prints the text while it does so, after `prefix` (not at all if that is `None`).
    """
    result = Answer()
    printer = TextPrinter(loaded.processor.tokenizer, prefix) if prefix is not None else None
    start = time.perf_counter()
    steps = iter(loaded.model.stream(**inputs, **options))
    with progress("Thinking …"):
        first = next(steps)
    _take_text(first, result, printer)
    for step in steps:
        _take_text(step, result, printer)
        if not step.is_text[0]:
            break
    if printer is not None:
        printer.end()
    with progress("Speaking …"):
        _take_rest(steps, result)
    result.seconds_taken = time.perf_counter() - start
    return result


def _take_text(step: FlowOmniStep, result: Answer, printer: TextPrinter | None) -> None:
    result.add(step)
    if printer is not None and step.is_text[0]:
        printer.put(int(step.text_ids[0]))


def _take_rest(steps: Iterable[FlowOmniStep], result: Answer) -> None:
    """The steps after the end of the text, which only speak."""
    for step in steps:
        result.add(step)


def check_can_speak(loaded: LoadedModel) -> None:
    if loaded.model.vocoder is None:
        raise UserError(
            f"The model '{loaded.name}' has no vocoder, so that nothing can be heard: ask it with `--mode text`, or assemble "
            "it with one (`flow-omni init --vocoder …`)."
        )


def save_speech(loaded: LoadedModel, result: Answer, path: Path) -> None:
    """Writes the sound of an answer, and says how long it is and what it took. An answer may also have been silent."""
    waveform = result.waveform
    if len(waveform) == 0:
        note(f"The answer is not spoken: {path} was not written.")
        return
    write_audio(path, waveform.clamp(-1.0, 1.0), loaded.processor.sampling_rate)
    num_seconds = len(waveform) / loaded.processor.sampling_rate
    factor = result.seconds_taken / num_seconds
    note(
        f"{path}: {num_seconds:.1f} s of speech, made in {result.seconds_taken:.1f} s (real-time factor {factor:.2f})."
    )
    if result.is_cut:
        note("The speech was cut: it reached the most that its text, or `--max-new-tokens`, allows.")


def save_picture(loaded: LoadedModel, result: Answer, path: Path) -> None:
    """Draws the mel-spectrogram of an answer over its two streams."""
    from ..picture import draw_answer

    tokens = [loaded.processor.tokenizer.decode([token_id], skip_special_tokens=True) for token_id in result.token_ids]
    with progress(f"Drawing {path} …"):
        draw_answer(path, result.patches, result.states, tokens, loaded.model.config)
    note(f"{path}: the mel-spectrogram, and the two streams it came from.")
