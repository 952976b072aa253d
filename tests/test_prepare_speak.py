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
"""Spoken rows, with a synthesizer of tones; espeak-ng, flite and Piper, which is a script here, on the same interface."""

import ctypes
import json
import os
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest
import soundfile
from sounds import frequency_of, pitch_of

from flow_omni.training.data import WORD, RowError, load_rows, words_of
from flow_omni.training.prepare import SynthesisError, list_voices, speak_dialogues, validate_rows
from flow_omni.training.prepare import espeak as espeak_engine
from flow_omni.training.prepare import flite as flite_engine
from flow_omni.training.prepare.espeak import EspeakSynthesizer
from flow_omni.training.prepare.flite import FliteSynthesizer
from flow_omni.training.prepare.piper import PiperSynthesizer
from flow_omni.training.prepare.synthesis import Speech, word_onsets


ROWS = [{"id": str(n), "question_text": f"how much is {n}", "answer_text": f"it is {n} coins"} for n in range(37)]


class Tones:
    """A tone per word at the pitch that names the voice. It does not speak texts with a question mark, counts the others
    in a file if it has one, and is almost silent in other scripts, as flite is."""

    def __init__(self, count=None):
        self.count = count

    def voices(self, language=None):
        return ["220", "440", "880", "700"] if language in (None, "en") else []

    def speak(self, text, voice, rate=1.0, pitch=1.0):
        if self.count is not None:
            with open(self.count, "a") as file:
                file.write("1")
        if "?" in text:
            raise SynthesisError(f"{text!r} cannot be spoken.")
        seconds = 0.05 / rate
        time = np.arange(round(len(words_of(text)) * seconds * 8000)) / 8000
        waveform = (0.3 if text.isascii() else 0.003) * np.sin(2 * np.pi * float(voice) * pitch * time)
        return Speech(waveform.astype(np.float32), 8000, [index * seconds for index in range(len(words_of(text)))])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("flow_omni.training.prepare.speak.ROWS_PER_CHUNK", 16)


@pytest.fixture
def speak(tmp_path):
    def speak(rows, output, synthesizer=None, **options):
        source = tmp_path / "dialogues.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return speak_dialogues(
            str(source), tmp_path / output, synthesizer or Tones(), **({"answer_voice": "700"} | options)
        )

    return speak


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".progress")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_written_dialogues_become_spoken_rows(speak, tmp_path):
    finished = []
    report = speak(ROWS[:30], "out", progress=finished.append)
    assert (report.num_rows, report.errors, sum(finished)) == (30, [], 30)
    assert validate_rows(report.manifest).tasks["speech_to_speech"] == 30
    rows = load_rows(report.manifest)
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS[:30]]
    assert rows[1]["answer_audio"]["path"] == str(tmp_path / "out" / "audio" / "000000" / "000000001_answer.flac")
    assert rows[1]["answer_word_times"] == pytest.approx([0, 0.05, 0.1, 0.15])
    assert report.seconds == pytest.approx(sum(row["question_seconds"] + row["answer_seconds"] for row in rows))
    # questions in many voices at many rates, answers in one
    assert set(rows["speaker"]) == {"220", "440", "880"}
    assert len(set(rows["question_seconds"])) > 20
    assert len(set(rows["answer_seconds"])) == 1
    others = load_rows(speak(ROWS[:30], "other", seed=1, file_format="wav").manifest)
    assert others["speaker"] != rows["speaker"]
    assert others[1]["answer_audio"]["path"].endswith("000000001_answer.wav")
    with pytest.raises(ValueError, match='"flac" or "wav"'):
        speak(ROWS, "other", file_format="mp3")


def test_processes_and_interruptions_change_nothing(speak, tmp_path):
    speak(ROWS, "alone")

    def interrupt(_):
        raise KeyboardInterrupt

    resumed, count = tmp_path / "resumed", tmp_path / "count"
    with pytest.raises(KeyboardInterrupt):
        speak(ROWS, "resumed", Tones(count), progress=interrupt)
    assert not (resumed / "manifest.jsonl").exists()
    # as if it had been killed while it wrote its progress
    with open(resumed / ".progress", "a") as progress:
        progress.write('{"keys": [')
    count.write_text("")
    speak(ROWS, "resumed", Tones(count), num_processes=2)
    assert 0 < len(count.read_text()) < 2 * len(ROWS)
    assert contents(resumed) == contents(tmp_path / "alone")
    count.write_text("")
    assert speak(ROWS, "resumed", Tones(count)).num_rows == len(ROWS)
    assert count.read_text() == ""


def test_only_appended_rows_are_added_to_a_folder(speak, tmp_path):
    speak(ROWS, "out", limit=10)
    assert speak(ROWS, "out", limit=20).num_rows == 20
    before = contents(tmp_path / "out")
    changed = [*ROWS[:3], ROWS[3] | {"answer_text": "nothing"}, *ROWS[4:20]]
    for rows, options in ((changed, {}), (ROWS[:20], {"seed": 1}), (ROWS[:20], {"answer_voice": "440"})):
        with pytest.raises(ValueError, match="rows spoken with other settings: choose another folder"):
            speak(rows, "out", **options)
    with pytest.raises(ValueError, match="holds more rows than the source"):
        speak(ROWS[:16], "out")
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / ".progress").unlink()
    with pytest.raises(ValueError, match="holds another corpus"):
        speak(ROWS, "out")


def test_rows_that_cannot_be_spoken_are_skipped_and_named(speak):
    rows = [*ROWS[:3], ROWS[3] | {"answer_text": "? ?"}, ROWS[4] | {"question_text": "你好"}]
    report = speak(rows, "out")
    assert (report.num_rows, len(report.errors)) == (3, 2)
    assert report.errors[0] == "3: '? ?' cannot be spoken."
    assert "is silent for '你好': choose one of the text's language" in report.errors[1]
    assert "skipped 2, the first: 3: " in str(report)
    for unspeakable, message in ((rows[3:], "could be spoken: 3: '"), ([], "could be spoken: there are none")):
        with pytest.raises(SynthesisError, match=message):
            speak(unspeakable, "none")


def test_audio_of_the_source_is_kept(speak, tmp_path):
    row = ROWS[0] | {"question_audio": str(tmp_path / "mine.wav"), "speaker": "me"}
    spoken = load_rows(speak([row], "out").manifest)[0]
    assert (spoken["question_audio"]["path"], spoken["speaker"]) == (str(tmp_path / "mine.wav"), "me")
    assert spoken["answer_audio"]["path"].startswith(str(tmp_path / "out"))
    row = ROWS[0] | {"question_audio": {"bytes": b"RIFF", "path": None}}
    with pytest.raises(RowError, match="only audio files can be kept"):
        speak_dialogues(datasets.Dataset.from_list([row]), tmp_path / "bytes", Tones())


def test_texts_are_written_as_they_are_said_and_transcripts_are_kept(speak, tmp_path):
    row = {"question_text": "Is it 5?", "question_audio": str(tmp_path / "mine.wav"), "answer_text": "No, 21 kg."}
    spoken = load_rows(speak([row], "out").manifest)[0]
    assert (spoken["question_text"], spoken["answer_text"]) == ("Is it 5?", "No, twenty-one kilograms.")
    assert len(spoken["answer_word_times"]) == len(words_of(spoken["answer_text"]))
    row = {"question_text": "it is 5", "answer_text": "it is 6"}
    spoken = load_rows(speak([row], "de", language="xx", question_voices=["440"]).manifest)[0]
    assert (spoken["question_text"], spoken["answer_text"]) == ("it is 5", "it is 6")


def test_unknown_synthesizers_voices_and_languages_are_refused(speak):
    for synthesizer, options, message in (
        ("parrot", {}, "choose one of espeak, flite, kokoro, piper"),
        (None, {"answer_voice": "tom"}, "There is no voice 'tom': choose from 220, 440"),
        (None, {"question_voices": ["440", "tim"]}, "There is no voice 'tim'"),
        (None, {"language": "tlh"}, "There is no voice of the language 'tlh'"),
    ):
        with pytest.raises(SynthesisError, match=message):
            speak(ROWS, "out", synthesizer, **options)


def test_words_begin_where_their_first_character_sounds():
    text = "Well, it is $5 - now."
    at = {match.group(): match.start() for match in WORD.finditer(text)}
    events = [(at["Well,"], 0.0), (at["it"], 0.5), (at["is"], 0.6)]
    events += [(at["$5"] + 1, 0.8), (at["$5"], 1.0), (at["now."], 1.5)]
    assert word_onsets(text, events) == [0.0, 0.5, 0.6, 0.8, 1.5, 1.5]
    assert word_onsets("a b", []) == [0.0, 0.0]


def installed(engine):
    try:
        engine().voices()
    except SynthesisError as error:
        pytest.skip(str(error))
    return engine()


@pytest.fixture
def espeak():
    return installed(EspeakSynthesizer)


@pytest.fixture
def flite():
    return installed(FliteSynthesizer)


def test_espeak_has_many_voices(espeak):
    voices = espeak.voices("en")
    assert {"en-us", "en-gb", "en-us+f3", "en-gb-scotland+m2"} <= set(voices)
    assert all(voice.startswith("en") for voice in voices)
    assert len(list_voices("espeak")) > len(voices) > 100
    for base in ("en-us", "en-gb"):
        spectra = [np.abs(np.fft.rfft(espeak.speak("hello there", voice).waveform)) for voice in (base, f"{base}+f3")]
        # shorter vocal tracts are brighter
        plain, variant = ((spectrum * np.linspace(0, 1, len(spectrum))).sum() / spectrum.sum() for spectrum in spectra)
        assert variant > 1.08 * plain


def test_espeak_speaks_at_any_rate_and_pitch(espeak):
    text = "one two three four five"
    normal = espeak.speak(text, "en-us")
    assert normal.sampling_rate == 22050 and 1.0 < normal.seconds < 3.0
    assert 0.05 < np.abs(normal.waveform).max() <= 1.0
    assert espeak.speak(text, "en-us", rate=1.5).seconds < 0.8 * normal.seconds
    assert pitch_of(espeak.speak(text, "en-us", pitch=1.9)) > 1.2 * pitch_of(normal)
    assert espeak.speak("--version", "en-us").seconds > 0.3
    for voice in ("parrot", "en-us+parrot", "", "en-us;reboot", "../en"):
        with pytest.raises(SynthesisError, match="espeak-ng has no voice"):
            espeak.speak("hello", voice)
    for text in ("", "\n", "...", "a\0b"):
        with pytest.raises(SynthesisError, match="must hold a word, and no null character"):
            espeak.speak(text, "en-us")


def test_espeak_gives_the_times_of_words(espeak):
    for text, voice in (
        ("Well, it is 42 p.m.! Isn't it nice - now?", "en-us"),
        ("Für Ölbäume läuft's früh: 3.5 Äpfel.", "de"),
        ("今天天气很好，你好吗？", "cmn-latn-pinyin+f3"),
    ):
        speech = espeak.speak(text, voice)
        assert len(speech.word_times) == len(words_of(text))
        assert speech.word_times == sorted(speech.word_times)
        assert speech.word_times[0] == 0.0
        assert 0.6 * speech.seconds < speech.word_times[-1] < speech.seconds
    # after a long pause, the second word begins where the silence ends
    speech = espeak.speak("Stop. Talk.", "en-us")
    onset = round(speech.word_times[1] * speech.sampling_rate)
    assert np.abs(speech.waveform[onset - 1000 : onset]).max() < 0.02
    assert np.abs(speech.waveform[onset : onset + 4000]).max() > 0.1


def test_espeak_speaks_the_same_in_one_process_and_in_two(speak, espeak, tmp_path):
    """The library keeps state from text to text."""
    options = {"answer_voice": None, "question_voices": espeak.voices("en")[:50]}
    for number in (1, 2):
        speak(ROWS[:20], str(number), "espeak", num_processes=number, **options)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_flite_speaks_as_its_program_does(flite, tmp_path):
    """Twice: rate and pitch are those of one text, and the noise of each text begins again."""
    if shutil.which("flite") is None:
        pytest.skip("the program flite is not installed")
    for voice in flite.voices("en"):
        command = ["flite", "-voice", voice, "-t", "Seven plus eight is fifteen.", "-o", str(tmp_path / "a.wav")]
        subprocess.run(command, check=True)
        expected, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
        first, slow, again = (flite.speak("Seven plus eight is fifteen.", voice, *how) for how in ((), (0.8, 1.2), ()))
        assert first.sampling_rate == rate and slow.seconds > 1.15 * first.seconds
        for speech in (first, again):
            np.testing.assert_array_equal(speech.waveform, expected)
    for voice in ("slt", "kal16"):
        high, low = (flite.speak("hello there", voice, pitch=pitch) for pitch in (1.4, 0.9))
        assert pitch_of(high) / pitch_of(low) == pytest.approx(1.4 / 0.9, rel=0.1)
    with pytest.raises(SynthesisError, match="flite has no voice 'tom'"):
        flite.speak("hello", "tom")


def test_flite_gives_the_times_of_words_and_clips_what_is_too_loud(flite):
    text = "Well - it's Dr. Foo's \"$5\" (twenty-one)! Is it?"
    speech = flite.speak(text, "slt")
    assert len(speech.word_times) == len(words_of(text))
    assert speech.word_times == sorted(speech.word_times)
    assert speech.word_times[1] == speech.word_times[2], "a dash is silent: it begins with the word after it"
    assert 0 < speech.word_times[0] < 0.3
    assert 0.8 * speech.seconds < speech.word_times[-1] < speech.seconds
    # at this pitch `awb` exceeds full scale, and the 16-bit samples of the library overflow to the other sign
    waveform = flite.speak("The capital of France is Paris.", "awb", rate=0.8, pitch=0.7).waveform
    assert np.abs(waveform).max() == 1.0 and np.abs(np.diff(waveform)).max() < 1.0


# Of the standard library alone, so that it starts fast.
PIPER = """#!{python} -IS
import argparse, array, math, sys, wave
parser = argparse.ArgumentParser()
for name, kind in (("model", str), ("length_scale", float), ("output_file", str), ("speaker", int)):
    parser.add_argument("--" + name, type=kind, default=0)
options, lines = parser.parse_args(), sys.stdin.read().splitlines()
if "mute" in options.model:
    sys.exit("INFO\\nno such model")
assert len(lines) == 1 and options.output_file == "-"
step = 2 * math.pi * (400 + 50 * options.speaker) / 16000
samples = [round(29000 * math.sin(step * n)) for n in range(round(8000 * options.length_scale))]
with wave.open(sys.stdout.buffer, "wb") as file:
    file.setparams((1, 2, 16000, len(samples), "NONE", ""))
    file.writeframes(array.array("h", samples).tobytes())
"""


@pytest.fixture
def piper(tmp_path, monkeypatch):
    """The program as a script whose voices are tones, and a folder of voices of one and of several speakers."""
    script = tmp_path / "bin" / "piper"
    script.parent.mkdir()
    script.write_text(PIPER.format(python=sys.executable))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PIPER_VOICES", str(tmp_path))
    for name, settings in {
        "en_many": {"num_speakers": 3, "speaker_id_map": {"p1": 0, "p2": 1, "p3": 2}},
        "en_mute": {},
        "en_slow": {"espeak": {"voice": "en-gb-x-rp"}, "inference": {"length_scale": 1.2}},
        "zh_two": {"espeak": {"voice": "cmn"}, "language": {"family": "zh"}, "num_speakers": 2},
    }.items():
        (tmp_path / f"{name}.onnx").touch()
        (tmp_path / f"{name}.onnx.json").write_text(json.dumps({"espeak": {"voice": "en-us"}} | settings))
    return tmp_path


def test_piper_is_called_as_a_program(speak, piper):
    synthesizer = PiperSynthesizer()
    assert synthesizer.voices("en") == ["en_many#p1", "en_many#p2", "en_many#p3", "en_mute", "en_slow"]
    assert synthesizer.voices("zh") == ["zh_two#0", "zh_two#1"]
    for number in (0, 2):
        waveform = synthesizer.speak("Hello.\nThere.", f"en_many#p{number + 1}").waveform
        assert frequency_of(waveform, 16000) == pytest.approx(400 + 50 * number, abs=5)
    for rate, pitch in ((2.0, 1.0), (0.8, 1.25)):
        speech = synthesizer.speak("Hello.", "en_slow", rate, pitch)
        assert speech.seconds == pytest.approx(0.5 * 1.2 / rate, abs=1e-3)
        assert frequency_of(speech.waveform, 16000) == pytest.approx(400 * pitch, rel=0.02)
    voices = {"answer_voice": "en_many#p1", "question_voices": ["en_slow", "en_many#p2"]}
    assert speak(ROWS[:1], "out", "piper", **voices).num_rows == 1


def test_errors_of_piper_name_the_voice(piper, monkeypatch):
    for voice, message in (
        ("en_two", "Piper has no voice 'en_two' in .*piper.download_voices"),
        ("en_many", "Piper has no voice 'en_many'"),
        ("en_many#p4", "Piper has no voice 'en_many#p4'"),
        ("en_slow#p1", "Piper has no voice 'en_slow#p1'"),
        ("en_mute", "cannot speak 'Hello.' with the voice 'en_mute': no such model"),
    ):
        with pytest.raises(SynthesisError, match=message):
            PiperSynthesizer().speak("Hello.", voice)
    for settings in ("{", "[]", '{"espeak": {}}'):
        (piper / "broken.onnx").touch()
        (piper / "broken.onnx.json").write_text(settings)
        with pytest.raises(SynthesisError, match="broken.onnx.json' cannot be read"):
            PiperSynthesizer().voices()
    monkeypatch.setenv("PIPER_VOICES", str(piper / "bin"))
    with pytest.raises(SynthesisError, match="There is no voice of Piper in"):
        PiperSynthesizer().voices()
    monkeypatch.setenv("PATH", str(piper))
    with pytest.raises(SynthesisError, match="`piper` is not installed: `pip install piper-tts`"):
        PiperSynthesizer()


def test_piper_itself_speaks():
    voice = installed(PiperSynthesizer).voices("en")[0]
    slow, fast = (PiperSynthesizer().speak("Seven plus eight is fifteen.", voice, rate) for rate in (0.8, 1.6))
    assert 1.5 < slow.seconds / fast.seconds < 2.5


def test_a_missing_engine_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: (_ for _ in ()).throw(OSError))
    for load, message in (
        (espeak_engine._load_library, "apt install espeak-ng"),
        (flite_engine._load, "apt install flite"),
    ):
        with pytest.raises(SynthesisError, match=message):
            load(*[] if load is espeak_engine._load_library else ["flite"])
