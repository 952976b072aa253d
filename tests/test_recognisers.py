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
"""Recognisers of others hear the same speech the same way every time, and in the language that they are told."""

from types import SimpleNamespace

import numpy as np
import pytest
import transformers

from flow_omni.training import recognisers
from flow_omni.training.recognisers import recogniser_of


SOUND = np.zeros(1600, dtype=np.float32)


class Listener:
    """Stands in for a recogniser of others, and keeps what it is told."""

    def __init__(self, **fields):
        self.told: dict = {}
        self.model = SimpleNamespace(generation_config=SimpleNamespace(**fields))

    def __call__(self, sound, **told):
        self.told = told
        return {"text": "heard"}

    transcribe = __call__


def test_whisper_draws_no_words_and_keeps_no_mistakes(monkeypatch):
    """By default it samples where it is unsure: two evaluations of one answer differed."""
    whisper = Listener()
    monkeypatch.setattr(recognisers, "needs", lambda name: SimpleNamespace(load_model=lambda size: whisper))
    assert recogniser_of("whisper:base", None, None, "zh").transcribe(SOUND, 16000) == "heard"
    assert whisper.told["language"] == "zh"
    assert whisper.told["temperature"] == 0.0
    assert whisper.told["condition_on_previous_text"] is False


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"is_multilingual": True}, {"generate_kwargs": {"language": "zh", "task": "transcribe"}}),
        ({"is_multilingual": False}, {}),
        ({}, {}),
    ],
)
def test_a_recogniser_of_the_hub_is_told_the_language_if_it_knows_many(monkeypatch, fields, told):
    """Whisper without one guesses, and of a short answer guesses wrong."""
    listener = Listener(**fields)
    monkeypatch.setattr(transformers, "pipeline", lambda task, name, device: listener)
    assert recogniser_of("someone/ears", None, None, "zh").transcribe(SOUND, 16000) == "heard"
    assert listener.told == told


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub():
    with pytest.raises(FileNotFoundError, match="there is no folder '/nowhere'"):
        recogniser_of("ctc:/nowhere", None, None)
