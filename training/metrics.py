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
"""Error rates of transcripts and answers, and the metrics of generated answers during training."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from ..processing.transcript_limit import transcript_limit
from .asr import ASRModel, load_asr, transcribe


LANGUAGES_WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")


def normalize_text(text: str, language: str = "en") -> str:
    """
    A text after Whisper's normaliser: lower case, no punctuation, numbers in digits, American spelling (English). Chinese
    becomes simplified, and in languages that are written without spaces every character is a word.
    """
    # Whisper's normaliser leaves signs on their own in place, and splits words at typographic apostrophes
    words = _normalizer(language)(text.replace("’", "'")).split()
    return " ".join(word for word in words if any(map(str.isalnum, word)))


def word_error_rate(references: Sequence[str], transcripts: Sequence[str], language: str = "en") -> float:
    """Substituted, deleted and inserted words over the words of all references together."""
    counts = _count_all(references, transcripts, language)
    return sum(one.words for one in counts) / sum(one.num_words for one in counts)


def character_error_rate(references: Sequence[str], transcripts: Sequence[str], language: str = "en") -> float:
    """Substituted, deleted and inserted characters over those of all references together, without spaces."""
    counts = _count_all(references, transcripts, language)
    return sum(one.characters for one in counts) / sum(one.num_characters for one in counts)


def exact_match_rate(references: Sequence[str], transcripts: Sequence[str], language: str = "en") -> float:
    """The fraction of transcripts without an error, spaces not counted."""
    counts = [count_errors(*pair, language) for pair in zip(references, transcripts, strict=True)]
    return sum(one.characters == 0 for one in counts) / len(counts)


@dataclass(frozen=True)
class ErrorCounts:
    """Edit distance of one transcript in characters and words, and the length of its reference."""

    characters: int
    num_characters: int
    words: int
    num_words: int


@lru_cache(maxsize=2**16)
def count_errors(reference: str, transcript: str, language: str = "en") -> ErrorCounts:
    """Counts the errors of one transcript after [`normalize_text`]."""
    words, transcript_words = (normalize_text(text, language).split() for text in (reference, transcript))
    characters, transcript_characters = "".join(words), "".join(transcript_words)
    return ErrorCounts(
        characters=_edit_distance(characters, transcript_characters),
        num_characters=len(characters),
        words=_edit_distance(words, transcript_words),
        num_words=len(words),
    )


def _edit_distance(reference: Sequence[str], transcript: Sequence[str]) -> int:
    import jiwer

    if not reference or not transcript:
        return max(len(reference), len(transcript))
    output = jiwer.process_words(" ".join(reference), " ".join(transcript))
    return output.substitutions + output.deletions + output.insertions


def _count_all(references: Sequence[str], transcripts: Sequence[str], language: str) -> list[ErrorCounts]:
    counts = [count_errors(*pair, language) for pair in zip(references, transcripts, strict=True)]
    if not any(one.num_words for one in counts):
        raise ValueError(
            f"None of the {len(counts)} references has a letter or a digit: an error rate needs one that has."
        )
    return counts


@cache
def _normalizer(language: str) -> Callable[[str], str]:
    if language == "en":
        # openai-whisper's table of British to American spellings; importing the package would take seconds
        file = Path(_location("whisper", "openai-whisper"), "normalizers", "english.json")
        return EnglishTextNormalizer(json.loads(file.read_text(encoding="utf-8")))
    normalize = BasicTextNormalizer(split_letters=language in LANGUAGES_WITHOUT_SPACES)
    if language != "zh":
        return normalize
    _location("opencc", "opencc-python-reimplemented")
    from opencc import OpenCC

    simplify = OpenCC("t2s").convert
    return lambda text: normalize(simplify(text))


def _location(package: str, requirement: str) -> str:
    spec = find_spec(package)
    if spec is None:
        raise ImportError(f"Normalising text needs `{requirement}`: `pip install 'flow-omni[train]'`.")
    return spec.submodule_search_locations[0]


@dataclass
class Question:
    """A question in one of `TASKS`: a conversation with the reference answer as its last message."""

    task: str
    conversation: Sequence[dict]

    @property
    def prompt(self) -> list[dict]:
        return list(self.conversation[:-1])

    @property
    def reference(self) -> str:
        return "".join(item["text"] for item in self._answer_items if item["type"] == "text")

    @property
    def is_spoken(self) -> bool:
        return any(item["type"] == "audio" for item in self._answer_items)

    @property
    def kind(self) -> str:
        """Questions of one kind are answered in one batch."""
        return ("read" if self.task == "say" else "speech") if self.is_spoken else "text"

    @property
    def _answer_items(self) -> list[dict]:
        content = self.conversation[-1]["content"]
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


@dataclass
class Answer:
    """
    The answer to a question: the model's text and, if spoken, the waveform `(num_samples,)`, its transcript by the ASR
    model, and whether the speech was ended by its length limit.
    """

    task: str
    reference: str
    text: str
    is_spoken: bool
    transcript: str | None = None
    is_truncated: bool = False
    waveform: np.ndarray | None = None


def answer_batch(model: Any, processor: Any, questions: Sequence[Question], **generation_kwargs: Any) -> list[Answer]:
    """
    Answers questions of one kind in one batch: all in writing, all in speech, or texts that are read aloud. Without `max_new_tokens`, the length of
    transcripts is limited by the length of their audio.
    """
    is_spoken = questions[0].is_spoken
    if any(question.kind != questions[0].kind for question in questions):
        raise ValueError(
            "Got questions with written answers, spoken ones and texts to read: pass them in separate batches."
        )
    prompts = [question.prompt for question in questions]
    inputs = processor.apply_chat_template(
        prompts, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, dtype=model.dtype)
    # under FSDP, transformers would wait for processes with other questions: all of ours have the same
    generation_kwargs = {"synced_gpus": False} | generation_kwargs
    if generation_kwargs.get("max_new_tokens") is None:
        is_transcript = [question.task == "transcribe" for question in questions]
        limit = transcript_limit(processor, inputs["input_ids"], is_transcript)
        generation_kwargs["stopping_criteria"] = [*(generation_kwargs.get("stopping_criteria") or ()), *limit]
    if model.speech_decoder is not None and questions[0].task == "say":
        generation_kwargs["answer_ids"] = processor.answer_ids([question.reference for question in questions])
    output = model.generate(**inputs, generation_mode="speech" if is_spoken else "text", **generation_kwargs)
    answers = []
    for row, (question, decoded) in enumerate(zip(questions, processor.post_process_generation(output))):
        answer = Answer(question.task, question.reference, decoded["text"], is_spoken)
        if is_spoken:
            if output.audio is not None:
                answer.waveform = np.zeros(0, np.float32) if decoded["audio"] is None else decoded["audio"]
            answer.is_truncated = bool(output.speech_truncated[row])
        answers.append(answer)
    return answers


class GenerationMetrics:
    """
    Metrics of generated answers, for the Trainer to measure at each evaluation. For each task, with its name in front:
    `cer`, `wer` and `exact` of the written answers; of spoken answers also `spoken_cer` and `spoken_wer` (of the ASR
    model's transcripts against the references) and `truncated`, the fraction ended by the length limit.

    Args:
        questions (`list[Question]`): The questions. They are divided among the processes.
        processor (`FlowOmniProcessor`): The processor of the model.
        asr (`ASRModel` or `"own"`, *optional*): Transcribes spoken answers; `"own"` is the model being trained.
        batch_size (`int`, *optional*, defaults to 4): Number of questions per batch.
        language (`str`, *optional*, defaults to `"en"`): Language of the normaliser.
        generation_kwargs: Arguments of `generate`, such as `max_new_tokens`.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        processor: Any,
        asr: ASRModel | str | None = None,
        batch_size: int = 4,
        language: str = "en",
        **generation_kwargs: Any,
    ):
        self.questions, self.processor, self.asr = list(questions), processor, asr
        self.batch_size, self.language = batch_size, language
        # the same noise at every evaluation, so that only the model changes
        self.generation_kwargs = {"do_sample": False, "seed": 0} | generation_kwargs

    def __call__(self, model: Any, step: int, trainer: Any = None) -> dict[str, float]:
        rank, world_size = (trainer.args.process_index, trainer.args.world_size) if trainer is not None else (0, 1)
        if trainer is not None and trainer.is_fsdp_enabled:
            rank, world_size = 0, 1  # every process holds a part of every weight: all answer the same questions
        answers = self.answer(model, self.questions[rank::world_size])
        if world_size > 1:
            from accelerate.utils import gather_object

            answers = gather_object([replace(answer, waveform=None) for answer in answers])
        return answer_metrics(answers, self.language)

    @torch.no_grad()
    def answer(self, model: Any, questions: Sequence[Question]) -> list[Answer]:
        """Answers and transcribes, in the order of the questions."""
        was_training = model.training
        model.eval()
        asr = load_asr("own", model, self.processor) if self.asr == "own" else self.asr
        answers: dict[int, Answer] = {}
        for kind in sorted({question.kind for question in questions}):
            indices = [index for index, question in enumerate(questions) if question.kind == kind]
            for start in range(0, len(indices), self.batch_size):
                batch = indices[start : start + self.batch_size]
                batch_questions = [questions[index] for index in batch]
                answered = answer_batch(model, self.processor, batch_questions, **self.generation_kwargs)
                answers |= dict(zip(batch, answered))
        for answer in answers.values():
            if asr is not None and answer.waveform is not None:
                answer.transcript = transcribe(asr, answer.waveform, self.processor.sampling_rate)
        model.train(was_training)
        return [answers[index] for index in range(len(questions))]


def answer_metrics(answers: Sequence[Answer], language: str = "en") -> dict[str, float]:
    """The metrics of each task, its name in front of theirs. Rates without anything to count are left out."""
    metrics: dict[str, float] = {}
    for task in dict.fromkeys(answer.task for answer in answers):
        group = [answer for answer in answers if answer.task == task]
        pairs = [(answer.reference, answer.text) for answer in group]
        spoken = [answer for answer in group if answer.is_spoken]
        spoken_pairs = [(answer.reference, answer.transcript) for answer in spoken if answer.transcript is not None]
        for prefix, rows in ((task, pairs), (f"{task}_spoken", spoken_pairs)):
            # references of punctuation alone must not end a training run
            if any(normalize_text(reference, language) for reference, _ in rows):
                metrics[f"{prefix}_cer"] = character_error_rate(*zip(*rows), language)
                metrics[f"{prefix}_wer"] = word_error_rate(*zip(*rows), language)
        metrics[f"{task}_exact"] = exact_match_rate(*zip(*pairs), language)
        if spoken:
            metrics[f"{task}_truncated"] = sum(answer.is_truncated for answer in spoken) / len(spoken)
    return metrics
