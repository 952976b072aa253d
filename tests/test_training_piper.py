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
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from sounds import frequency_of

from flow_omni.training import piper
from flow_omni.training.piper import PiperSynthesizer
from flow_omni.training.speaking import Voices, speak_dialogues
from flow_omni.training.synthesis import LoadsVoices, NamedVoices, SynthesisError, Synthesizer, synthesizer_named


RATE = 16000


@dataclass
class SynthesisConfig:
    speaker_id: int | None
    length_scale: float


@dataclass
class PiperVoice:
    """Each sentence is a tone of half a second, for the third speaker 100 Hz higher than for the first."""

    session: object
    config: SimpleNamespace

    def synthesize(self, text, options):
        seconds, frequency = 0.5 * options.length_scale, 400.0 + 50.0 * (options.speaker_id or 0)
        for _ in filter(str.strip, text.split(".")):
            tone = np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)
            yield SimpleNamespace(audio_float_array=tone, sample_rate=RATE)


class Library:
    """What we use of Piper and of onnxruntime, and how many voices were loaded."""

    SynthesisConfig = SynthesisConfig
    PiperVoice = PiperVoice
    PiperConfig = SimpleNamespace(
        from_dict=lambda settings: SimpleNamespace(length_scale=settings["inference"]["length_scale"])
    )
    SessionOptions = SimpleNamespace

    def __init__(self):
        self.num_loaded = 0

    def InferenceSession(self, path, options, providers):
        self.num_loaded += 1
        assert options.intra_op_num_threads == 1
        return path


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setattr(piper, "needs", lambda name, package: library)
    piper._loaded.cache_clear()
    yield library
    piper._loaded.cache_clear()


def add_voice(folder, name, **settings):
    folder.joinpath(f"{name}.onnx").touch()
    settings = {"espeak": {"voice": "en-us"}, "inference": {"length_scale": 1.0}} | settings
    folder.joinpath(f"{name}.onnx.json").write_text(json.dumps(settings))


@pytest.fixture
def folder(tmp_path, monkeypatch, library):
    """Voices of one speaker and of several, with names and without, and what is no voice of Piper's."""
    add_voice(tmp_path, "en_many", num_speakers=3, speaker_id_map={"p1": 0, "p2": 1, "p3": 2})
    add_voice(tmp_path, "en_one", espeak={"voice": "en-gb-x-rp"}, num_speakers=1, speaker_id_map=None)
    add_voice(tmp_path, "zh_two", espeak={"voice": "cmn"}, language={"family": "zh"}, num_speakers=2)
    tmp_path.joinpath("other.onnx").touch()
    monkeypatch.setenv(piper.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_voices_and_their_speakers_are_those_of_the_folder(folder, monkeypatch):
    synthesizer = synthesizer_named("piper")
    assert isinstance(synthesizer, Synthesizer)
    assert synthesizer.voices() == ["en_many#p1", "en_many#p2", "en_many#p3", "en_one", "zh_two#0", "zh_two#1"]
    assert synthesizer.voices("en") == ["en_many#p1", "en_many#p2", "en_many#p3", "en_one"]
    # where Piper's own downloader puts them
    monkeypatch.delenv(piper.FOLDER_VARIABLE)
    monkeypatch.chdir(folder)
    assert synthesizer.voices("zh") == ["zh_two#0", "zh_two#1"]


def test_sentences_are_said_one_after_the_other(folder):
    one, two = (PiperSynthesizer().speak(text, "en_one") for text in ("Hello.", "Hello. There."))
    assert (one.sampling_rate, one.seconds, two.seconds) == (RATE, 0.5, 1.0)
    assert one.word_times is None


def test_each_speaker_is_another(folder):
    waveforms = [PiperSynthesizer().speak("Hello.", f"en_many#p{index}").waveform for index in (1, 2, 3)]
    assert [frequency_of(waveform, RATE) for waveform in waveforms] == pytest.approx([400, 450, 500], abs=5)


@pytest.mark.parametrize(("rate", "pitch"), [(1.0, 1.0), (2.0, 1.0), (1.0, 1.25), (0.8, 0.8)])
def test_rate_and_pitch_are_relative_to_the_voice_and_do_not_touch_each_other(folder, rate, pitch):
    add_voice(folder, "slow", inference={"length_scale": 1.2})
    speech = PiperSynthesizer().speak("Hello.", "slow", rate, pitch)
    assert speech.seconds == pytest.approx(0.5 * 1.2 / rate, abs=1e-3)
    assert frequency_of(speech.waveform, RATE) == pytest.approx(400 * pitch, rel=0.02)
    assert np.abs(speech.waveform).max() <= 1.0


@pytest.mark.parametrize(
    ("text", "voice", "message"),
    [
        ("Hello.", "en_two", "Piper has no voice 'en_two' in .*piper.download_voices"),
        ("Hello.", "en_many", "Piper has no voice 'en_many': name one of en_many#p1, en_many#p2, en_many#p3"),
        ("Hello.", "en_many#p4", "Piper has no voice 'en_many#p4': name one of en_many#p1"),
        ("Hello.", "en_one#p1", "Piper has no voice 'en_one#p1': name one of en_one"),
        ("...", "en_one", "Piper says nothing for '...': the text must hold a word"),
        ("a\0b", "en_one", "holds a null character: take it out"),
    ],
)
def test_what_cannot_be_said_is_told(folder, text, voice, message):
    with pytest.raises(SynthesisError, match=message):
        PiperSynthesizer().speak(text, voice)


@pytest.mark.parametrize("settings", ["{", "[]", '{"espeak": {}}'])
def test_a_voice_whose_settings_cannot_be_read_is_named(folder, settings):
    folder.joinpath("broken.onnx").touch()
    folder.joinpath("broken.onnx.json").write_text(settings)
    with pytest.raises(SynthesisError, match="broken.onnx' or its settings 'broken.onnx.json' cannot be read"):
        PiperSynthesizer()
    # which keeps nobody from speaking
    assert PiperSynthesizer.speak(None, "Hello.", "en_one").seconds == 0.5


def test_a_damaged_voice_is_told_when_it_is_loaded(folder, library):
    def refuse(path, options, providers):
        raise RuntimeError("Protobuf parsing failed.")

    library.InferenceSession = refuse
    synthesizer = NamedVoices("piper")
    assert isinstance(synthesizer, LoadsVoices)
    with pytest.raises(SynthesisError, match="RuntimeError: Protobuf parsing failed.*: download both files again"):
        synthesizer.load("piper:en_one")


def test_voices_are_loaded_once_for_all_parts_of_a_corpus(folder, library, tmp_path):
    rows = [{"question_text": "Hello.", "answer_text": "Hello."} for _ in range(200)]
    voices = Voices(answer="en_many#p1", questions=["en_one", "en_many#p2"])
    report = speak_dialogues(rows, tmp_path / "out", PiperSynthesizer(), voices)
    assert report.num_rows == 200
    assert library.num_loaded == 2


def test_without_piper_or_a_voice_one_is_told_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv(piper.FOLDER_VARIABLE, str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(piper, "needs", lambda name, package: None)
        with pytest.raises(SynthesisError, match="no voice of Piper in .*: `python -m piper.download_voices"):
            PiperSynthesizer()
    monkeypatch.setitem(sys.modules, "piper", None)
    with pytest.raises(ImportError, match="pip install piper-tts"):
        PiperSynthesizer()


def test_piper_itself_speaks():
    try:
        voices = PiperSynthesizer().voices("en")
    except (ImportError, SynthesisError) as error:
        pytest.skip(str(error))
    slow, fast = (PiperSynthesizer().speak("Seven plus eight is fifteen.", voices[0], rate) for rate in (0.8, 1.6))
    assert 1.5 < slow.seconds / fast.seconds < 2.5
