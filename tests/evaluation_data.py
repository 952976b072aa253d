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
"""A data set whose every text is a tone of its own, for tests of the evaluation: who listens for tones makes no mistake."""

import json
from pathlib import Path

import numpy as np
import torch
from sounds import frequency_of, tone

from flow_omni.processing.audio_io import write_audio
from flow_omni.training.generation_metrics import Answer


RATE = 24000
ANSWERS = {
    "Two plus two is four.": 300.0,
    "Three plus four is seven.": 500.0,
    "Paris.": 700.0,
    "Cows drink water.": 900.0,
}
QUESTIONS = (
    "What is two plus two?",
    "What is three plus four?",
    "What is the capital of France?",
    "What do cows drink?",
)
TOPICS = ("sums", "sums", "facts", "facts")


def sound_of(answer: str) -> np.ndarray:
    """In steps of 16 bits, as it comes back from a file."""
    return (np.round(tone(1.0, RATE, ANSWERS[answer]) * 2**15) / 2**15).astype(np.float32)


def write_data(folder: Path, num_voices: int = 2) -> Path:
    """A manifest of every question in several voices; rows of a text share the answer's file."""
    rows = []
    for number, (question, answer, topic) in enumerate(zip(QUESTIONS, ANSWERS, TOPICS)):
        write_audio(folder / f"answer-{number}.wav", sound_of(answer), RATE)
        for voice in range(num_voices):
            name = f"{topic}-{number}-v{voice}"
            write_audio(folder / f"{name}.wav", tone(0.3 + 0.1 * voice, 16000, 400.0), 16000)
            row = {"id": name, "question_text": question, "question_audio": f"{name}.wav"}
            rows.append(row | {"answer_text": answer, "answer_audio": f"answer-{number}.wav"})
    manifest = folder / "test.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


class EarsForTones:
    """Hears the text whose tone it is; in silence nothing."""

    def __init__(self):
        self.num_heard = 0

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        self.num_heard += 1
        if np.abs(waveform).max(initial=0.0) < 1e-3:
            return ""
        frequency = frequency_of(waveform, sampling_rate)
        return min(ANSWERS, key=lambda text: abs(ANSWERS[text] - frequency))


class WeighedEars(EarsForTones):
    """The same with weights, as recognisers have them that were trained apart."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.model = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(self.model.weight, weight)
        torch.nn.init.zeros_(self.model.bias)


def oracle(model, processor, questions, is_spoken: bool, **options) -> list[Answer]:
    """In the place of `answer_batch`: always right, in the original's voice."""
    answers = []
    for question in questions:
        answer = Answer(question.task, question.expected, question.expected, is_spoken)
        if is_spoken:
            answer.waveform = sound_of(question.expected)
            answer.mel = processor.feature_extractor.extract_mel(answer.waveform).flatten(0, 1).numpy()
        answers.append(answer)
    return answers
