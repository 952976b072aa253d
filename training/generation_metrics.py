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
"""Evaluation by generation: the model answers as it will in use, and its answers are compared with what was expected."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..processing.transcript_limit import transcript_limit
from .recognisers import Recogniser
from .text_scores import character_error_rate, exact_rate, normalized, word_error_rate


@dataclass
class Question:
    """A conversation without its last message, which is the expected answer."""

    task: str
    prompt: list[dict]
    expected: str
    is_spoken: bool

    @classmethod
    def of(cls, task: str, conversation: Sequence[dict]) -> "Question":
        *prompt, answer = conversation
        content = answer["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(item["text"] for item in items if item["type"] == "text")
        return cls(task, prompt, text, any(item["type"] == "audio" for item in items))


@dataclass
class Answer:
    """What the model wrote, said and drew, and what was heard of it."""

    task: str
    expected: str
    text: str
    is_spoken: bool
    heard: str | None = None
    is_truncated: bool = False
    waveform: np.ndarray | None = None
    mel: np.ndarray | None = None


class GenerationMetrics:
    """
    Called by the Trainer at each evaluation. Gives for each task, with its name in front:

    - `cer`, `wer`: errors of the written answer, by character and by word;
    - `exact`: the share of answers that are right to the last letter;
    - `spoken_cer`: errors of the spoken answer as the recogniser heard it, against what was expected;
    - `truncated`: the share of spoken answers that hit the cap on their length.

    Args:
        questions (`list[Question]`):
            What is asked. Each of several processes answers its own share.
        processor (`FlowOmniProcessor`):
            The model's.
        recogniser (`Recogniser` or `Callable`, *optional*):
            Who listens, or a function of the model that makes one.
        batch_size (`int`, *optional*, defaults to 4):
            Questions answered at once.
        on_answers (`list[Callable]`, *optional*):
            Called with the answers of this process, the step and the Trainer: `samples.show_in_tensorboard` is one.
        options:
            Of `generate`, such as `max_new_tokens` or `num_flow_steps`.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        processor: Any,
        recogniser: Recogniser | Callable[[Any], Recogniser] | None = None,
        batch_size: int = 4,
        on_answers: Sequence[Callable] = (),
        **options: Any,
    ):
        self.questions, self.processor, self.recogniser = list(questions), processor, recogniser
        self.batch_size, self.on_answers = batch_size, list(on_answers)
        # the same noise at every evaluation: what changes is the model
        self.options = {"do_sample": False, "seed": 0} | options

    def __call__(self, model: Any, step: int, trainer: Any = None) -> dict[str, float]:
        rank, world_size = (trainer.args.process_index, trainer.args.world_size) if trainer is not None else (0, 1)
        if trainer is not None and trainer.is_fsdp_enabled:
            rank, world_size = 0, 1  # every process holds a part of every weight: they answer together, step by step
        answers = self.answer(model, self.questions[rank::world_size])
        for show in self.on_answers:
            show(answers, step, trainer)
        if world_size > 1:
            answers = self._of_all_processes(answers)
        return scores(answers)

    @torch.no_grad()
    def answer(self, model: Any, questions: Sequence[Question]) -> list[Answer]:
        """The model's answers, in the order of the questions."""
        was_training = model.training
        model.eval()
        recogniser = self.recogniser(model) if callable(self.recogniser) else self.recogniser
        answers: list[Answer | None] = [None] * len(questions)
        for is_spoken in (False, True):
            alike = [index for index, question in enumerate(questions) if question.is_spoken == is_spoken]
            for start in range(0, len(alike), self.batch_size):
                indices = alike[start : start + self.batch_size]
                asked = [questions[index] for index in indices]
                answered = answer_batch(model, self.processor, asked, is_spoken, **self.options)
                for index, answer in zip(indices, answered):
                    answers[index] = answer
        for answer in answers:
            if recogniser is not None and answer.is_spoken:
                answer.heard = self._hear(recogniser, answer)
        model.train(was_training)
        return answers

    def _hear(self, recogniser: Recogniser, answer: Answer) -> str:
        if answer.waveform is None or len(answer.waveform) == 0:
            return ""
        return recogniser.transcribe(answer.waveform, self.processor.sampling_rate)

    def _of_all_processes(self, answers: list[Answer]) -> list[Answer]:
        from accelerate.utils import gather_object

        texts = [Answer(a.task, a.expected, a.text, a.is_spoken, a.heard, a.is_truncated) for a in answers]
        return gather_object(texts)


def answer_batch(
    model: Any, processor: Any, questions: Sequence[Question], is_spoken: bool, **options: Any
) -> list[Answer]:
    """
    What the model answers to some questions at once: to all in writing, or to all in speech. Without `max_new_tokens`,
    transcripts end where no more can have been said.
    """
    if (options.get("num_return_sequences") or 1) > 1:
        raise ValueError(
            f"`num_return_sequences` is {options['num_return_sequences']}: a question has one answer here. Leave it out, or "
            "ask the question several times."
        )
    inputs = processor.apply_chat_template(
        [question.prompt for question in questions],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device, dtype=model.dtype)
    # shards make transformers wait for processes that answer other questions: these answer the same
    options = {"synced_gpus": False} | options
    if options.get("max_new_tokens") is None:
        is_transcript = [question.task == "transcribe" for question in questions]
        limit = transcript_limit(processor, inputs["input_ids"], is_transcript)
        options["stopping_criteria"] = [*(options.get("stopping_criteria") or ()), *limit]
    output = model.generate(**inputs, generation_mode="speech" if is_spoken else "text", **options)
    answers = []
    for row, (question, decoded) in enumerate(zip(questions, processor.post_process_generation(output))):
        answer = Answer(question.task, question.expected, decoded["text"], is_spoken)
        if is_spoken:
            answer.waveform = decoded["audio"]
            answer.mel = output.mel[row, : int(output.mel_lengths[row])].float().cpu().numpy()
            answer.is_truncated = bool(output.speech_truncated[row])
        answers.append(answer)
    return answers


def scores(answers: Sequence[Answer]) -> dict[str, float]:
    """The figures of each task."""
    by_task: Mapping[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_task[answer.task].append(answer)
    figures = {}
    for task, group in by_task.items():
        expected, written = [answer.expected for answer in group], [answer.text for answer in group]
        # of nothing but punctuation there are no errors to count, and an evaluation is no reason to stop a run
        if any(map(normalized, expected)):
            figures[f"{task}_cer"] = character_error_rate(expected, written)
            figures[f"{task}_wer"] = word_error_rate(expected, written)
        figures[f"{task}_exact"] = exact_rate(expected, written)
        spoken = [answer for answer in group if answer.is_spoken]
        if spoken:
            figures[f"{task}_truncated"] = sum(answer.is_truncated for answer in spoken) / len(spoken)
        heard = [answer for answer in spoken if answer.heard is not None]
        if any(normalized(answer.expected) for answer in heard):
            figures[f"{task}_spoken_cer"] = character_error_rate(
                [answer.expected for answer in heard], [answer.heard for answer in heard]
            )
    return figures
