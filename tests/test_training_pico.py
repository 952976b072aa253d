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
from sounds import frequency_of

from flow_omni.training import pico
from flow_omni.training.pico import PicoSynthesizer
from flow_omni.training.synthesis import SynthesisError, Synthesizer, synthesizer_named


# Half a second of 400 Hz, unless it is told otherwise; nothing at all for "mute", and an error for "broken".
PROGRAM = """#!{python}
import re, sys, wave
import numpy as np
_, language_option, language, file_option, file, dashes, text = sys.argv
assert (language_option, file_option, dashes) == ("--lang", "--wave", "--") and language in {voices}
speed, pitch, said = re.fullmatch(r'<speed level="(\\d+)"><pitch level="(\\d+)">([^<]*)</pitch></speed>', text).groups()
if "broken" in said:
    sys.exit("out of lingware")
if "mute" not in said:
    times = np.arange(round(0.5 * 16000 * 100 / int(speed))) / 16000
    samples = np.round(9000 * np.sin(2 * np.pi * 4 * int(pitch) * times)).astype("<i2")
    with wave.open(file, "wb") as written:
        written.setnchannels(1), written.setsampwidth(2), written.setframerate(16000)
        written.writeframes(samples.tobytes())
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    path = tmp_path / "pico2wave"
    path.write_text(PROGRAM.format(python=sys.executable, voices=pico.VOICES))
    path.chmod(0o755)
    monkeypatch.setattr(pico, "find_program", lambda: str(path))


def test_there_is_a_voice_for_each_language(program):
    synthesizer = synthesizer_named("pico")
    assert isinstance(synthesizer, Synthesizer)
    assert synthesizer.voices("en") == ["en-US", "en-GB"]
    assert synthesizer.voices("de") == ["de-DE"]
    assert synthesizer.voices("zh") == []
    assert len(synthesizer.voices()) == 6


# the last is faster and lower than it goes
@pytest.mark.parametrize(
    ("rate", "pitch", "seconds", "frequency"),
    [(1.0, 1.0, 0.5, 400), (0.8, 1.25, 0.625, 500), (1.25, 0.7, 0.4, 280), (9.0, 0.1, 0.1, 200)],
)
def test_rate_and_pitch_are_told_in_percent(program, rate, pitch, seconds, frequency):
    speech = PicoSynthesizer().speak("-o hello, 5 < 6", "en-GB", rate, pitch)
    assert speech.sampling_rate == 16000
    assert speech.seconds == pytest.approx(seconds, abs=1e-3)
    assert frequency_of(speech.waveform, speech.sampling_rate) == pytest.approx(frequency, rel=0.05)
    assert speech.word_times is None


@pytest.mark.parametrize(
    ("text", "voice", "message"),
    [
        ("Hello.", "en-AU", "Pico has no voice 'en-AU': name one of en-US, en-GB"),
        ("...", "en-US", "Pico says nothing for '...': the text must hold a word"),
        ("a\0b", "en-US", "holds a null character: take it out"),
        ("broken", "en-US", "pico2wave could not say 'broken' .*: out of lingware"),
        # it ends well where it could not write
        ("mute", "en-US", "pico2wave could not say 'mute'"),
    ],
)
def test_what_cannot_be_said_is_told(program, text, voice, message):
    with pytest.raises(SynthesisError, match=message):
        PicoSynthesizer().speak(text, voice)


def test_without_pico_one_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(pico, "find_program", lambda: None)
    with pytest.raises(ImportError, match="`pico2wave` was not found: install it .*, or use another synthesizer"):
        PicoSynthesizer()


@pytest.mark.skipif(pico.find_program() is None, reason="pico2wave is not installed")
def test_pico_itself_speaks():
    us, slow, british, tagged = (
        PicoSynthesizer().speak(text, voice, rate)
        for text, voice, rate in (
            ("Seven plus eight.", "en-US", 1.0),
            ("Seven plus eight.", "en-US", 0.5),
            ("Seven plus eight.", "en-GB", 1.0),
            # no command of Pico's, whoever wrote it
            ('<speed level="500">Seven plus eight.</speed>', "en-US", 1.0),
        )
    )
    assert slow.seconds > 1.5 * us.seconds
    assert us.waveform.shape != british.waveform.shape or np.any(us.waveform != british.waveform)
    assert tagged.seconds > us.seconds
