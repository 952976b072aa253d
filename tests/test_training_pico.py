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
"""Pico's voices, with a stand-in for its program, which heeds its two commands; with the program itself where it is."""

import sys

import numpy as np
import pytest
from sounds import frequency_of, pitch_of

from flow_omni.training import pico
from flow_omni.training.pico import PicoSynthesizer
from flow_omni.training.speaking import Voices, speak_dialogues
from flow_omni.training.synthesis import NamedVoices, SynthesisError, Synthesizer, synthesizer_named


# Half a second of 400 Hz, unless it is told otherwise; no file for "mute", and an error for "broken".
PROGRAM = r"""
import re, sys, wave
import numpy as np
options = dict(zip(sys.argv[1:-1:2], sys.argv[2:-1:2]))
said = sys.argv[-1]
assert options["--lang"] in {voices}
levels = {{name: int(level) for name, level in re.findall(r'<(\w+) level="(\d+)">', said)}}
if "broken" in said:
    sys.exit("out of lingware")
if "mute" not in said:
    times = np.arange(round(0.5 * 16000 * 100 / levels["speed"])) / 16000
    samples = np.round(9000 * np.sin(2 * np.pi * 4 * levels["pitch"] * times)).astype("<i2")
    with wave.open(options["--wave"], "wb") as written:
        written.setnchannels(1), written.setsampwidth(2), written.setframerate(16000)
        written.writeframes(samples.tobytes())
"""
needs_pico = pytest.mark.skipif(pico.find_program() is None, reason="pico2wave is not installed")


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM.format(voices=pico.VOICES))
    path = tmp_path / "pico2wave"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/program.py" "$@"\n')
    path.chmod(0o755)
    monkeypatch.setattr(pico, "find_program", lambda: str(path))


def test_there_is_a_voice_for_each_language(program):
    synthesizer = synthesizer_named("pico")
    assert isinstance(synthesizer, Synthesizer)
    assert synthesizer.voices("en") == ["en-US", "en-GB"]
    assert synthesizer.voices("de") == ["de-DE"]
    assert synthesizer.voices("zh") == []
    assert len(synthesizer.voices()) == 6


@pytest.mark.parametrize(
    ("rate", "pitch", "seconds", "frequency"), [(1.0, 1.0, 0.5, 400), (0.8, 1.25, 0.625, 500), (1.25, 0.7, 0.4, 280)]
)
def test_rate_and_pitch_are_told_in_percent(program, rate, pitch, seconds, frequency):
    speech = PicoSynthesizer().speak("-o hello", "en-GB", rate, pitch)
    assert speech.sampling_rate == 16000
    assert speech.seconds == pytest.approx(seconds, abs=1e-3)
    assert frequency_of(speech.waveform, speech.sampling_rate) == pytest.approx(frequency, rel=0.05)
    assert speech.word_times is None


@pytest.mark.parametrize(
    ("text", "voice", "message"),
    [
        ("Hello.", "en-AU", "Pico has no voice 'en-AU': choose one of en-US, en-GB"),
        ("...", "en-US", "Pico says nothing for '...': the text must hold a word"),
        ("a\0b", "en-US", "holds a null character: take it out"),
        ("five < six", "en-US", "holds a `<`, with which Pico's commands begin: take it out"),
        ("word " * 8_000, "en-US", "The text 'word .{70,90}' … has 400.. bytes .*: Pico takes 32000. Split it."),
        ("broken", "en-US", "Pico cannot say 'broken' in the voice 'en-US' .out of lingware.: simplify the text"),
        # it ends well where it could not write
        ("mute", "en-US", "Pico cannot say 'mute' .*it wrote no file.: simplify the text"),
    ],
)
def test_what_cannot_be_said_is_told(program, text, voice, message):
    with pytest.raises(SynthesisError, match=message):
        PicoSynthesizer().speak(text, voice)


def test_a_row_that_cannot_be_said_leaves_the_others(program, tmp_path):
    questions = ["Hello.", "word " * 50_000, "mute", "Good morning."]
    rows = [{"question_text": question, "answer_text": "Hello."} for question in questions]
    voices = Voices(answer="pico:en-US", questions=["pico:en-GB"])
    report = speak_dialogues(rows, tmp_path / "out", NamedVoices("pico"), voices)
    assert report.num_rows == 2
    assert report.skipped == {"cannot be said": 2}


def test_without_pico_one_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(pico, "find_program", lambda: None)
    with pytest.raises(ImportError, match="`pico2wave` was not found: install it .*, or use another synthesizer"):
        PicoSynthesizer()


@needs_pico
def test_pico_itself_heeds_rate_and_pitch():
    plain, slow, low, high = (
        PicoSynthesizer().speak("Seven plus eight is fifteen.", "en-US", rate, pitch)
        for rate, pitch in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (1.0, 1.4))
    )
    assert slow.seconds > 1.6 * plain.seconds
    assert low.seconds == high.seconds == plain.seconds
    assert pitch_of(low) < 0.8 * pitch_of(plain) < 0.65 * pitch_of(high)


@needs_pico
@pytest.mark.parametrize("voice", pico.VOICES)
def test_each_voice_of_pico_speaks(voice):
    assert np.abs(PicoSynthesizer().speak("Anna: 1, 2, 3.", voice).waveform).max() > 0.1
