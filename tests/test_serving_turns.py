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
"""Turn detection: where speech starts, may have ended, and has ended."""

import importlib.metadata
import sys

import numpy as np
import pytest
import soundfile
from serving_tools import detect, noise, silence

from flow_omni.bundled import EXAMPLE_QUESTION
from flow_omni.serving.turns import (
    SmartTurn,
    TurnDetection,
    file_of_distribution,
    make_detector,
)


def question() -> np.ndarray:
    samples, rate = soundfile.read(EXAMPLE_QUESTION, dtype="float32")
    assert rate == 16000
    return samples


def test_a_turn_starts_may_end_at_a_pause_goes_on_and_ends_after_the_silence():
    samples = np.concatenate([silence(1), noise(1), silence(0.3), noise(1), silence(1)])
    signals = detect(samples, silence_duration_ms=500)
    assert [signal.kind for signal in signals] == ["started", "candidate", "continued", "candidate", "stopped"]
    started, candidate, _, _, stopped = [signal.sample / 16000 for signal in signals]
    assert started == pytest.approx(1.0, abs=0.04)
    assert candidate == pytest.approx(2.192, abs=0.04)
    assert stopped == pytest.approx(3.8, abs=0.06)
    assert signals[-1].speech_ms == pytest.approx(2000, abs=100)


def test_signals_do_not_depend_on_the_size_of_the_chunks():
    samples = np.concatenate([silence(0.5), noise(0.7), silence(1), noise(0.4), silence(1)])
    expected = detect(samples, 512)
    assert len(expected) == 6
    for chunk in (1, 160, 5000, len(samples)):
        assert detect(samples, chunk) == expected


def test_a_click_starts_no_turn():
    assert detect(np.concatenate([silence(1), noise(0.01), silence(1)])) == []


def test_smart_turn_ends_a_complete_turn_at_once_and_waits_for_the_rest_of_another():
    samples = np.concatenate([silence(0.5), noise(1), silence(3)])
    asked = []

    def judge(probability):
        return lambda turn: asked.append(len(turn)) or probability

    complete = detect(samples, smart_turn=judge(0.9), type="semantic_vad")
    assert complete[-1].kind == "stopped" and complete[-1].sample / 16000 < 1.8
    incomplete = detect(samples, smart_turn=judge(0.1), type="semantic_vad", eagerness="high")
    assert incomplete[-1].kind == "stopped" and incomplete[-1].sample / 16000 == pytest.approx(3.5, abs=0.06)
    assert detect(samples, smart_turn=judge(0.1), type="semantic_vad", eagerness="low")[-1].kind == "candidate"
    # once for each pause
    assert len(asked) == 3


def test_silero_finds_the_question_and_needs_not_its_package():
    samples = np.concatenate([silence(1), question(), silence(1)])
    signals = make_detector(TurnDetection()).push(samples)
    assert [signal.kind for signal in signals if signal.kind != "continued"][-1] == "stopped"
    assert signals[0].kind == "started" and signals[0].sample / 16000 == pytest.approx(1.0, abs=0.2)
    assert signals[-1].sample / 16000 == pytest.approx(1 + 1.86 + 0.5, abs=0.25)
    assert "silero_vad" not in sys.modules


def test_smart_turn_takes_a_whole_question_for_complete_and_half_of_it_not():
    whole = question()
    judge = SmartTurn()
    assert judge(whole) > 0.8
    assert judge(whole[:8000]) < 0.5


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    with pytest.raises(ImportError, match="`no-such-package` is not installed: run `pip install it`"):
        file_of_distribution("no-such-package", "file.onnx", "run `pip install it`")

    installed = importlib.metadata.distribution

    def missing(name):
        if name == "pipecat-ai":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)  # the voice activity of Silero is read first

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setattr(SmartTurn, "_session", None)
    with pytest.raises(ImportError, match="pip install --no-deps pipecat-ai"):
        make_detector(TurnDetection(type="semantic_vad"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "loudness"}, "turn_detection.type"),
        ({"threshold": 1.0}, "threshold"),
        ({"silence_duration_ms": 10}, "silence_duration_ms"),
        ({"prefix_padding_ms": 1.5}, "prefix_padding_ms"),
        ({"eagerness": "very"}, "eagerness"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TurnDetection(**settings)
