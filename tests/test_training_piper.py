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
"""Piper's voices, with a stand-in for its library, which says every text as a tone; with the library itself where it is."""

import json
import os
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from sounds import frequency_of

from flow_omni.training import piper
from flow_omni.training.piper import PiperSynthesizer
from flow_omni.training.synthesis import SynthesisError, Synthesizer, synthesizer_named


RATE = 16000


@dataclass
class SynthesisConfig:
    speaker_id: int | None = None
    length_scale: float | None = None


@dataclass
class PiperVoice:
    """Each sentence is a tone of half a second, for the third speaker 100 Hz higher than for the first."""

    session: object
    config: dict

    def synthesize(self, text, options):
        seconds, frequency = 0.5 * options.length_scale, 400.0 + 50.0 * (options.speaker_id or 0)
        for _ in filter(str.strip, text.split(".")):
            tone = np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)
            yield SimpleNamespace(audio_float_array=tone, sample_rate=RATE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two voices of English, of which one has three speakers, and one of German; the stand-in for the library."""
    speakers = {"p1": 0, "p2": 1, "p3": 2}
    for name, language, speaker_ids in (
        ("en_many", "en-us", speakers),
        ("en_one", "en-gb-x-rp", {}),
        ("de_one", "de", {}),
    ):
        tmp_path.joinpath(f"{name}.onnx").touch()
        settings = {"espeak": {"voice": language}, "speaker_id_map": speaker_ids}
        tmp_path.joinpath(f"{name}.onnx.json").write_text(json.dumps(settings))
    library, runtime = ModuleType("piper"), ModuleType("onnxruntime")
    library.SynthesisConfig, library.PiperVoice = SynthesisConfig, PiperVoice
    library.PiperConfig = SimpleNamespace(from_dict=dict)
    runtime.SessionOptions, runtime.InferenceSession = SimpleNamespace, lambda path, options, providers: options
    monkeypatch.setitem(sys.modules, "piper", library)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setenv(piper.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_voices_and_their_speakers_are_those_of_the_folder(folder, monkeypatch):
    synthesizer = synthesizer_named("piper")
    assert isinstance(synthesizer, Synthesizer)
    assert synthesizer.voices() == ["de_one", "en_many#p1", "en_many#p2", "en_many#p3", "en_one"]
    assert synthesizer.voices("en") == ["en_many#p1", "en_many#p2", "en_many#p3", "en_one"]
    # where Piper's own downloader puts them
    monkeypatch.delenv(piper.FOLDER_VARIABLE)
    monkeypatch.chdir(folder)
    assert synthesizer.voices("de") == ["de_one"]


def test_sentences_are_said_one_after_the_other(folder):
    one, two = (PiperSynthesizer().speak(text, "en_one") for text in ("Hello.", "Hello. There."))
    assert (one.sampling_rate, one.seconds, two.seconds) == (RATE, 0.5, 1.0)
    assert one.word_times is None


def test_each_speaker_is_another(folder):
    heard = [
        frequency_of(PiperSynthesizer().speak("Hello.", f"en_many#p{index}").waveform, RATE) for index in (1, 2, 3)
    ]
    assert heard == pytest.approx([400, 450, 500], abs=5)


@pytest.mark.parametrize(("rate", "pitch"), [(2.0, 1.0), (1.0, 1.25), (0.8, 0.8)])
def test_rate_and_pitch_do_not_touch_each_other(folder, rate, pitch):
    speech = PiperSynthesizer().speak("Hello.", "en_one", rate, pitch)
    assert speech.seconds == pytest.approx(0.5 / rate, abs=1e-3)
    assert frequency_of(speech.waveform, RATE) == pytest.approx(400 * pitch, rel=0.02)


def test_a_voice_that_is_not_there_and_a_text_without_words_are_told(folder):
    synthesizer = PiperSynthesizer()
    for voice in ("en_two", "en_many", "en_many#p4"):
        with pytest.raises(SynthesisError, match=f"Piper has no voice '{voice}' in .*piper.download_voices"):
            synthesizer.speak("Hello.", voice)
    with pytest.raises(SynthesisError, match="Piper says nothing for '...': the text must hold a word"):
        synthesizer.speak("...", "en_one")


@pytest.mark.parametrize("settings", [None, "{", "[]", '{"espeak": {}}'])
def test_a_voice_whose_settings_cannot_be_read_is_named(folder, settings):
    folder.joinpath("broken.onnx").touch()
    if settings is not None:
        folder.joinpath("broken.onnx.json").write_text(settings)
    with pytest.raises(SynthesisError, match="broken.onnx' has no settings that can be read in 'broken.onnx.json'"):
        PiperSynthesizer().voices("en")


def test_without_piper_one_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "piper", None)
    with pytest.raises(ImportError, match="pip install piper-tts"):
        PiperSynthesizer()


def test_piper_itself_speaks():
    pytest.importorskip("piper", reason="piper-tts is not installed")
    voices = PiperSynthesizer().voices("en")
    if not voices:
        pytest.skip(f"no voice of English lies in the folder of the variable {piper.FOLDER_VARIABLE}")
    slow, fast = (PiperSynthesizer().speak("Seven plus eight is fifteen.", voices[0], rate) for rate in (0.8, 1.6))
    assert 1.5 < slow.seconds / fast.seconds < 2.5
    assert os.path.isfile(piper._folder() / f"{voices[0].partition('#')[0]}.onnx")
