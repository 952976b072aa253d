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
"""How long an example will be, in steps of the model, from texts and headers of files: nothing is decoded."""

import io
import os
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from math import ceil
from typing import Any

from ..processing.audio_io import existing_file, read_audio
from .augmentation import Augmentation
from .rows import file_of, has, spec_of


def audio_seconds(row: Mapping, side: str, trust_columns: bool = True) -> float:
    """
    Length of a row's `question` or `answer` audio: what its column says, or else the header of the file. Only what has
    no header to read (a URL, an array) is read.
    """
    if trust_columns and row.get(f"{side}_seconds") is not None:
        return row[f"{side}_seconds"]
    total = None
    if side == "question" and row.get("question_end") is not None and trust_columns:
        total = row["question_end"]
    if total is None:
        total = source_seconds(row[f"{side}_audio"])
    if side != "question":
        return total
    end = row.get("question_end")
    if end is not None and end > total + 0.1:
        raise ValueError(f"The question ends at {end:g} s of a recording of {total:.2f} s: it must lie within it.")
    return max(0.0, (total if end is None else min(end, total)) - (row.get("question_start") or 0.0))


def source_seconds(source: Any) -> float:
    import soundfile

    file = file_of(source)
    if file is None:
        waveform, rate = read_audio(source)
        if rate is None:
            raise ValueError("An array without `sampling_rate` has no length in seconds: add it.")
        return len(waveform) / rate
    try:
        header = soundfile.info(file if isinstance(file, io.BytesIO) else existing_file(file))
    except soundfile.LibsndfileError as error:
        name = f"'{file}'" if isinstance(file, str | os.PathLike) else "the bytes given"
        raise ValueError(
            f"Cannot read the header of {name} ({error.error_string.strip()}): convert it to wav or flac."
        ) from error
    if header.frames == 0:
        raise ValueError(f"'{file}' holds no samples: pass a recording with sound in it.")
    return header.frames / header.samplerate


@dataclass(frozen=True)
class RowLengths:
    """Steps that the parts of a row take up, a recorded question both as heard and as said; 0 for what is not needed."""

    question_tokens: int
    question_steps: int
    question_patches: int
    answer_tokens: int
    answer_patches: int
    history_tokens: int = 0
    system_tokens: int = 0


def texts_of(row: Mapping) -> list[str]:
    """All that is written in a row and becomes tokens."""
    texts = (row.get(name) for name in ("question_text", "answer_text", "system"))
    return [text for text in (*texts, *(turn["text"] for turn in row.get("history") or [])) if text]


class StepCounter:
    """
    Counts the steps of examples before they are built, within a step or two: enough to group them by length.

    Args:
        processor (`FlowOmniProcessor`):
            Builds the examples.
        augmentation ([`Augmentation`], *optional*):
            What happens to recorded questions: they are counted as long as they can become.
    """

    def __init__(self, processor: Any, augmentation: Augmentation | None = None):
        self.tokenizer = processor.tokenizer
        extractor = processor.feature_extractor
        self.steps_per_second_heard = extractor.sampling_rate / extractor.samples_per_position
        if augmentation is not None:
            self.steps_per_second_heard *= augmentation.longest
        self.patches_per_second = extractor.patches_per_second
        self.speech_delay = processor.speech_delay
        self.prompt_tokens = {
            prompt: self._prompt_tokens(processor, prompt) for prompt in ("ask", "say", "transcribe")
        }
        system, user, answer = ({"role": role, "content": "a"} for role in ("system", "user", "assistant"))
        alone, own = self._rendered(processor, [user]), self._length("a")
        self.turn_tokens = (self._rendered(processor, [user, answer, user]) - alone) // 2 - own
        self.system_tokens = self._rendered(processor, [system, user]) - alone - own

    def num_tokens(self, texts: Iterable[str]) -> dict[str, int]:
        """The tokens of each text. To ask for many at once is several times faster than to ask for each."""
        texts = list(dict.fromkeys(text for text in texts if text))
        return {text: len(tokens) for text, tokens in zip(texts, self._tokens(texts))}

    def measure(self, row: Mapping, tasks: Iterable[str], num_tokens: Mapping[str, int] | None = None) -> RowLengths:
        """
        The lengths of the parts of a row that these tasks need. Raises what reading a header raises.

        Args:
            row (`Mapping`):
                The row, checked.
            tasks (`Iterable[str]`):
                What is to be learnt from it.
            num_tokens (`dict[str, int]`, *optional*):
                The tokens of its texts ([`texts_of`]), where they were counted together with those of other rows.
        """
        if num_tokens is None:
            num_tokens = self.num_tokens(texts_of(row))
        needed = {name for task in tasks for name in spec_of(row, task).needs}
        seconds = {side: audio_seconds(row, side) for side in ("question", "answer") if f"{side}_audio" in needed}
        return RowLengths(
            question_tokens=num_tokens.get(row.get("question_text"), 0),
            question_steps=ceil(seconds.get("question", 0.0) * self.steps_per_second_heard),
            question_patches=ceil(seconds.get("question", 0.0) * self.patches_per_second),
            answer_tokens=num_tokens.get(row.get("answer_text"), 0),
            answer_patches=ceil(seconds.get("answer", 0.0) * self.patches_per_second),
            history_tokens=sum(
                num_tokens.get(turn["text"], 0) + self.turn_tokens for turn in row.get("history") or []
            ),
            system_tokens=num_tokens[row["system"]] + self.system_tokens if has(row, "system") else 0,
        )

    def count(self, row: Mapping, task: str, lengths: RowLengths | None = None) -> int:
        """Steps of the example that the row makes in this task."""
        lengths = self.measure(row, [task]) if lengths is None else lengths
        spec = spec_of(row, task)
        steps = {"question_audio": lengths.question_steps} | self._texts(lengths)
        patches = {"question_audio": lengths.question_patches, "answer_audio": lengths.answer_patches}
        num_steps = num_tokens = self._texts(lengths)[spec.answer_text] + 1
        if spec.answer_audio is not None:
            num_steps = max(num_tokens, min(self.speech_delay, num_tokens) + patches[spec.answer_audio] + 2)
        history = lengths.history_tokens if spec.prompt == "ask" else 0
        return self.prompt_tokens[spec.prompt] + lengths.system_tokens + history + steps[spec.question] + num_steps

    def _texts(self, lengths: RowLengths) -> dict[str, int]:
        return {"question_text": lengths.question_tokens, "answer_text": lengths.answer_tokens}

    def _prompt_tokens(self, processor: Any, prompt: str) -> int:
        """Tokens of a rendered prompt around the user's own text or speech."""
        if prompt == "transcribe":
            return self._rendered(processor, [{"role": "user", "content": processor.task_prompts["transcribe"]}])
        return self._rendered(processor, processor.make_conversation(prompt, text="a")) - self._length("a")

    def _rendered(self, processor: Any, conversation: list[dict]) -> int:
        rendered = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        return self._length(rendered)

    def _tokens(self, texts: list[str]) -> Iterable[Sized]:
        """The tokens of each text, as something that has a length."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if hasattr(backend, "encode_batch_fast") and backend.truncation is None and backend.padding is None:
            # lists of ids, which nobody reads, would take as long again
            return backend.encode_batch_fast(texts, add_special_tokens=False)
        return self.tokenizer(texts, add_special_tokens=False).input_ids if texts else []

    def _length(self, text: str) -> int:
        return self.num_tokens([text])[text]
