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
"""What is found out about one answer, and about one original: heard, measured, and written down as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..training.recognisers import Recogniser
from .answering import Answered
from .questions import AskedRow
from .sound_measures import sharpness, silences, spectral_distance
from .stops import faults
from .text_errors import text_errors


@dataclass
class AnswerRecord:
    """
    One answer. The audio is gone by then, but for samples.

    Args:
        part (`str`): The evaluation itself (`""`), or the point of a sweep.
        task, id, topic, number, question_text, expected: The question's.
        text (`str`): What the model wrote.
        is_spoken (`bool`): Whether it was to be said.
        heard (`dict[str, str]`): What each recogniser heard.
        faults (`list[str]`): Of its speech; see [`stops.faults`].
        seconds (`float`): Of computing.
        speech_seconds (`float`): Of speech, with the silences in it.
        measures (`dict[str, float]`): `duration_ratio`, `sharpness`, and of right answers the distances.
        is_sample (`bool`): Whether it is shown in the report.
        files (`dict[str, str]`): The sounds and the picture of a sample.
    """

    part: str
    task: str
    id: str
    topic: str | None
    number: int
    question_text: str | None
    expected: str
    text: str
    is_spoken: bool
    heard: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    speech_seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)
    is_sample: bool = False
    files: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple:
        """What tells it from the others of an evaluation."""
        return self.part, self.task, self.number


@dataclass
class OriginalRecord:
    """
    The original of a spoken answer: what is heard of it as it is, and passed through the model's vocoder, which is the
    best that the model could do.

    Args:
        sound, text (`str`): Which recording, and what is said in it; see [`original_key`].
        heard, vocoded_heard (`dict[str, str]`): What each recogniser heard of it, as it is and through the vocoder.
        seconds (`float`): Of speech.
        measures (`dict[str, float]`): `reference_sharpness`, and the distances of what comes out of the vocoder.
    """

    sound: str
    text: str
    heard: dict[str, str] = field(default_factory=dict)
    vocoded_heard: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple:
        return self.sound, self.text


def original_key(asked: AskedRow) -> tuple[str, str]:
    """
    What tells an original from the others: rows of a question in several voices share one answer, and speakers who say the
    same may have files of the same name.
    """
    return asked.original_identity, asked.expected


class Judge:
    """
    Listens and measures.

    Args:
        model (`FlowOmniForSpeechGeneration`): Whose vocoder originals are passed through.
        processor (`FlowOmniProcessor`): The model's.
        recognisers (`dict[str, Recogniser]`): Who listens; the first decides whether an end is missing.
        language (`str`): How texts are compared.
    """

    def __init__(self, model: Any, processor: Any, recognisers: Mapping[str, Recogniser], language: str):
        self.model, self.processor, self.recognisers, self.language = model, processor, dict(recognisers), language
        self.mel_spectrogram = processor.feature_extractor.mel_spectrogram
        self.rate, self.floor = processor.sampling_rate, model.config.speech_config.mel_floor

    def answer(self, part: str, answered: Answered, original: OriginalRecord | None) -> AnswerRecord:
        """Judges an answer beside the original, where it was to be spoken."""
        asked, answer = answered.asked, answered.answer
        record = AnswerRecord(
            part,
            asked.task,
            asked.id,
            asked.topic,
            asked.number,
            asked.question_text,
            asked.expected,
            answer.text,
            asked.is_spoken,
            seconds=answered.seconds,
        )
        if original is not None and answer.waveform is not None:
            self._judge_speech(record, answered, original)
        return record

    def _judge_speech(self, record: AnswerRecord, answered: Answered, original: OriginalRecord) -> None:
        waveform, mel = answered.answer.waveform, answered.answer.mel
        found = silences(waveform, self.rate)
        record.speech_seconds = len(waveform) / self.rate
        record.heard = self.hear(waveform)
        first = next(iter(self.recognisers), None)
        record.faults = faults(
            record.text,
            found,
            answered.answer.is_truncated,
            original.seconds,
            record.expected,
            record.heard.get(first),
            original.heard.get(first),
            self.language,
        )
        if original.seconds > 0:
            record.measures["duration_ratio"] = found.voiced / original.seconds
        if found.voiced > 0:
            record.measures["sharpness"] = sharpness(mel, self.floor)
        # of other words the distance would say nothing about the voice
        if found.voiced > 0 and text_errors(record.expected, record.text, self.language).said.is_exact:
            distance = spectral_distance(
                waveform, answered.asked.original_sound(self.rate), self.mel_spectrogram, self.floor
            )
            record.measures |= {"mel_distance": distance.mel, "log_spectral_distance": distance.decibels}

    @torch.no_grad()
    def original(self, asked: AskedRow) -> OriginalRecord:
        """Judges the original of a spoken answer."""
        waveform = asked.original_sound(self.rate)
        mel = self.processor.feature_extractor.extract_mel(waveform).flatten(0, 1).clamp(min=self.floor)
        record = OriginalRecord(*original_key(asked), seconds=silences(waveform, self.rate).voiced)
        record.heard = self.hear(waveform)
        record.measures["reference_sharpness"] = sharpness(mel.numpy(), self.floor)
        if self.model.vocoder is not None:
            vocoder = self.model.vocoder
            vocoded = vocoder(mel[None].to(vocoder.device))[0].float().cpu().numpy()
            record.vocoded_heard = self.hear(vocoded)
            distance = spectral_distance(vocoded, waveform, self.mel_spectrogram, self.floor)
            record.measures |= {
                "vocoded_mel_distance": distance.mel,
                "vocoded_log_spectral_distance": distance.decibels,
            }
        return record

    def hear(self, waveform: np.ndarray) -> dict[str, str]:
        """What each recogniser makes of a waveform; of none at all, nothing."""
        if len(waveform) == 0:
            return dict.fromkeys(self.recognisers, "")
        return {
            name: recogniser.transcribe(waveform, self.rate).strip() for name, recogniser in self.recognisers.items()
        }
