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
"""A data set in which every answer is a tone of its own, and stand-ins for model and ASR model that know the tones."""

import json
from pathlib import Path

import numpy as np
from sounds import frequency_of, tone

from flow_omni.processing.audio_io import write_audio
from flow_omni.training.metrics import Answer


RATE = 8000
TONES = {"Two plus two is four.": 300.0, "I like it.": 500.0, "Paris.": 700.0, "Cows drink water.": 900.0}
QUESTIONS = ("What is two plus two?", "Do you?", "What is the capital of France?", "What do cows drink?")


def audio_of_text(text: str) -> np.ndarray:
    """The tone of a text, in 16 bits as it comes back from a file."""
    return (np.round(tone(1.0, RATE, TONES[text]) * 2**15) / 2**15).astype(np.float32)


def write_rows(folder: Path, num_speakers: int = 2) -> Path:
    """A manifest of every question by several speakers; rows of the same text share the answer's file."""
    rows = []
    for number, (question, answer) in enumerate(zip(QUESTIONS, TONES)):
        write_audio(folder / f"answer-{number}.wav", audio_of_text(answer), RATE)
        for speaker in range(num_speakers):
            name = f"row-{number}-s{speaker}"
            write_audio(folder / f"{name}.wav", tone(0.3 + 0.1 * speaker, 16000, 400.0), 16000)
            row = {"id": name, "question_text": question, "question_audio": f"{name}.wav"}
            rows.append(row | {"answer_text": answer, "answer_audio": f"answer-{number}.wav"})
    manifest = folder / "test.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


class ToneASR:
    """Transcribes a tone as its text, and silence as nothing."""

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        if np.abs(waveform).max(initial=0.0) < 1e-3:
            return ""
        frequency = frequency_of(waveform, sampling_rate)
        return min(TONES, key=lambda text: abs(TONES[text] - frequency))


def perfect_answers(model, processor, questions, **generation_kwargs) -> list[Answer]:
    """Replaces `answer_batch`: the references, in their tones."""
    answers = [Answer(one.task, one.reference, one.reference, one.is_spoken) for one in questions]
    for answer in answers:
        if answer.is_spoken and generation_kwargs.get("return_audio", True):
            answer.waveform = audio_of_text(answer.reference)
    return answers
