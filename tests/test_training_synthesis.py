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
"""Synthesis: the interface with a synthesizer of tones, everywhere; espeak-ng and flite where they are installed."""

import os
import threading

import numpy as np
import pytest
from sounds import frequency_of, pitch_of

from flow_omni.training.espeak import EspeakSynthesizer, find_library, find_program
from flow_omni.training.examples import ExampleBuilder
from flow_omni.training.flite import FliteSynthesizer
from flow_omni.training.flite import find_library as find_flite_library
from flow_omni.training.flite import find_program as find_flite_program
from flow_omni.training.manifest import load_rows
from flow_omni.training.rows import WORD, words_of
from flow_omni.training.speaking import CAN_FORK, ROWS_PER_PART, Voices, speak_dialogues
from flow_omni.training.synthesis import Speech, SynthesisError, Synthesizer, onsets_of_words, synthesizer_named
from flow_omni.training.validation import validate


needs_library = pytest.mark.skipif(find_library() is None, reason="the library of espeak-ng is not installed")
needs_program = pytest.mark.skipif(find_program() is None, reason="the program of espeak-ng is not installed")
needs_flite_library = pytest.mark.skipif(find_flite_library() is None, reason="the library of flite is not installed")


class ToneSynthesizer:
    """A tone for each word, as high as the voice; it says nothing that begins with a question mark."""

    SECONDS = 0.05

    def voices(self, language=None):
        return ["220", "440"]

    def speak(self, text, voice, rate=1.0, pitch=1.0):
        if text.startswith("?"):
            raise SynthesisError(f"{text!r} cannot be said.")
        words = words_of(text)
        seconds = self.SECONDS / rate
        time = np.arange(round(len(words) * seconds * 8000)) / 8000
        waveform = 0.3 * np.sin(2 * np.pi * float(voice) * pitch * time).astype(np.float32)
        return Speech(waveform, 8000, [index * seconds for index in range(len(words))])


class HigherSynthesizer(ToneSynthesizer):
    def speak(self, text, voice, *arguments):
        return super().speak(text, "1500", *arguments)


class LatinSynthesizer(ToneSynthesizer):
    """For letters that it does not know it makes a breath, as flite and Pico do."""

    def speak(self, text, *arguments):
        speech = super().speak(text, *arguments)
        return speech if text.isascii() else Speech(0.003 * speech.waveform, speech.sampling_rate)


class CountingSynthesizer(ToneSynthesizer):
    """It counts in a file, as it may speak in other processes."""

    def __init__(self, path):
        self.path = path

    def speak(self, *arguments):
        with open(self.path, "a") as file:
            file.write("1")
        return super().speak(*arguments)


VOICES = Voices(answer="700", questions=["220", "440", "880"])


def dialogues(count):
    return [
        {"id": str(index), "question_text": f"how much is {index}", "answer_text": f"it is {index} coins"}
        for index in range(count)
    ]


def test_written_dialogues_become_spoken_pairs_that_can_be_learnt(tmp_path):
    report = speak_dialogues(dialogues(3), tmp_path, ToneSynthesizer(), VOICES)
    assert (report.num_rows, report.skipped) == (3, {})
    assert validate(report.manifest).tasks["speech_to_speech"] == 3
    rows = load_rows(report.manifest)
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    row = rows[1]
    assert row["answer_audio"]["path"] == str(tmp_path / "audio" / "000000" / "000000001_answer.flac")
    assert row["answer_seconds"] == pytest.approx(0.2)
    assert row["answer_word_times"] == pytest.approx([0, 0.05, 0.1, 0.15])
    assert row["speaker"] in VOICES.questions
    assert report.seconds == pytest.approx(sum(row["question_seconds"] + row["answer_seconds"] for row in rows))
    from tiny import tiny_processor

    builder = ExampleBuilder(tiny_processor(), {"speech_to_speech": 1}, text_layout="timed", on_error="stop")
    assert builder.build(row, 1).task == "speech_to_speech"


def test_questions_are_in_many_voices_and_answers_in_one(tmp_path):
    speak_dialogues(dialogues(30), tmp_path, ToneSynthesizer(), VOICES)
    rows = load_rows(tmp_path / "manifest.jsonl")
    assert set(rows["speaker"]) == set(VOICES.questions)
    assert len(set(rows["question_seconds"])) > 20
    assert len(set(rows["answer_seconds"])) == 1


def test_questions_may_have_a_synthesizer_of_their_own(tmp_path):
    voices = Voices(answer="700", questions=["110"], question_rates=(1, 1), question_pitches=(1, 1))
    speak_dialogues(dialogues(1), tmp_path, ToneSynthesizer(), voices, question_synthesizer=HigherSynthesizer())
    row = load_rows(tmp_path / "manifest.jsonl")[0]
    from flow_omni.processing.audio_io import load_audio

    assert frequency_of(load_audio(row["question_audio"], 8000), 8000) == pytest.approx(1500, abs=6)
    assert frequency_of(load_audio(row["answer_audio"], 8000), 8000) == pytest.approx(700, abs=6)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "parts" not in path.parts
    }


def test_processes_and_interruptions_change_nothing(tmp_path):
    rows = dialogues(2 * ROWS_PER_PART + 5)
    speak_dialogues(rows, tmp_path / "alone", ToneSynthesizer(), VOICES)

    def interrupted():
        yield from rows[: ROWS_PER_PART + 3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        speak_dialogues(interrupted(), tmp_path / "resumed", ToneSynthesizer(), VOICES)
    assert not (tmp_path / "resumed" / "manifest.jsonl").exists()
    speak_dialogues(rows, tmp_path / "resumed", ToneSynthesizer(), VOICES, num_processes=2)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "alone")


def test_what_is_finished_is_not_said_again_unless_it_changed(tmp_path):
    rows = dialogues(ROWS_PER_PART + 5)

    def num_spoken(rows, voices=VOICES):
        count = tmp_path / "count"
        count.write_text("")
        report = speak_dialogues(rows, tmp_path, CountingSynthesizer(count), voices)
        assert report.num_rows == len(rows)
        return len(count.read_text())

    assert num_spoken(rows) == 2 * len(rows)
    assert num_spoken(rows) == 0
    changed = rows[:-1] + [rows[-1] | {"answer_text": "nothing"}]
    assert num_spoken(changed) == 2 * 5
    assert load_rows(tmp_path / "manifest.jsonl")[len(rows) - 1]["answer_text"] == "nothing"
    assert len(list((tmp_path / "parts").iterdir())) == 2
    assert num_spoken(changed, Voices(answer="500", questions=["220"])) == 2 * len(rows)


def test_what_cannot_be_said_is_skipped_and_counted_or_stops(tmp_path):
    rows = dialogues(4)
    rows[2]["answer_text"] = "? ? ?"
    report = speak_dialogues(rows, tmp_path, ToneSynthesizer(), VOICES)
    assert report.skipped == {"cannot be said": 1}
    assert str(report).endswith("skipped: 1 cannot be said")
    assert [row["id"] for row in load_rows(report.manifest)] == ["0", "1", "3"]
    with pytest.raises(SynthesisError, match="cannot be said") as caught:
        speak_dialogues(rows[1:], tmp_path, ToneSynthesizer(), VOICES, on_error="stop")
    assert caught.value.__notes__ == ["The row is 2."]


def test_silence_is_no_speech(tmp_path):
    rows = dialogues(3)
    rows[1]["question_text"] = "你好"
    report = speak_dialogues(rows, tmp_path, LatinSynthesizer(), VOICES)
    assert report.skipped == {"cannot be said": 1}
    with pytest.raises(
        SynthesisError, match="The voice '...' says nothing for '你好': name one of the text's language"
    ):
        speak_dialogues(rows, tmp_path / "stop", LatinSynthesizer(), VOICES, on_error="stop")


def test_sound_that_is_there_is_kept(tmp_path):
    row = dialogues(1)[0] | {"question_audio": str(tmp_path / "mine.wav"), "speaker": "me"}
    report = speak_dialogues([row], tmp_path / "out", ToneSynthesizer(), VOICES)
    spoken = load_rows(report.manifest)[0]
    assert spoken["question_audio"]["path"] == str(tmp_path / "mine.wav")
    assert spoken["speaker"] == "me"
    assert spoken["answer_audio"]["path"].startswith(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"questions": []}, "`questions` names no voice"),
        ({"questions": ["a"], "question_rates": (1.2, 0.8)}, r"is \(1.2, 0.8\): it must be two numbers above 0"),
    ],
)
def test_wrong_voices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Voices(answer="a", **arguments)


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match='"flac" or "wav"'):
        speak_dialogues([], tmp_path, ToneSynthesizer(), VOICES, file_format="mp3")
    with pytest.raises(ValueError, match="choose one of espeak, flite"):
        synthesizer_named("parrot")


def test_words_begin_where_their_first_character_sounds():
    text = "Well, it is $5 - now."
    at = {match.group(): match.start() for match in WORD.finditer(text)}
    events = [
        (at["Well,"], 0.0),
        (at["it"], 0.5),
        (at["is"], 0.6),
        (at["$5"] + 1, 0.8),
        (at["$5"], 1.0),
        (at["now."], 1.5),
    ]
    assert onsets_of_words(text, events) == [0.0, 0.5, 0.6, 0.8, 1.5, 1.5]
    assert onsets_of_words("a b", []) == [0.0, 0.0]
    assert onsets_of_words("", []) == []


# -- espeak-ng ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["library", "program"])
def espeak(request):
    is_library = request.param == "library"
    if (find_library() if is_library else find_program()) is None:
        pytest.skip(f"the {request.param} of espeak-ng is not installed")
    return EspeakSynthesizer(use_library=is_library)


def test_espeak_speaks(espeak):
    assert isinstance(espeak, Synthesizer)
    speech = espeak.speak("Good morning, how are you?", "en-us")
    assert speech.sampling_rate == 22050
    assert 1.0 < speech.seconds < 3.0
    assert 0.05 < np.abs(speech.waveform).max() <= 1.0


def test_espeak_has_many_voices(espeak):
    voices = espeak.voices("en")
    assert {"en-us", "en-gb", "en-us+f3", "en-gb-scotland+m2"} <= set(voices)
    assert all(voice.startswith("en") for voice in voices)
    assert len(espeak.voices()) > len(voices) > 100
    for base in ("en-us", "en-gb"):
        brightness = [brightness_of(espeak.speak("hello there", voice)) for voice in (base, f"{base}+f3")]
        assert brightness[1] > 1.08 * brightness[0]


def brightness_of(speech):
    """Where the middle of the spectrum lies: higher for shorter vocal tracts."""
    spectrum = np.abs(np.fft.rfft(speech.waveform))
    return (
        float((spectrum * np.arange(len(spectrum))).sum() / spectrum.sum())
        * speech.sampling_rate
        / len(speech.waveform)
    )


def test_espeak_speaks_faster_and_higher(espeak):
    normal = espeak.speak("one two three four five", "en-us")
    assert espeak.speak("one two three four five", "en-us", rate=1.5).seconds < 0.8 * normal.seconds
    high = espeak.speak("one two three four five", "en-us", pitch=1.9)
    assert pitch_of(high) > 1.2 * pitch_of(normal)
    again = espeak.speak("one two three four five", "en-us")
    assert again.seconds == pytest.approx(normal.seconds, abs=0.05)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_espeak_refuses_what_it_cannot_read(espeak, text):
    with pytest.raises(SynthesisError, match="says nothing for"):
        espeak.speak(text, "en-us")


@pytest.mark.parametrize("voice", ["parrot", "en-us+parrot", "", "en-us;reboot", "../en"])
def test_espeak_refuses_voices_that_it_has_not(espeak, voice):
    with pytest.raises(SynthesisError, match="espeak-ng has no voice"):
        espeak.speak("hello", voice)


def test_espeak_reads_other_scripts_and_says_no_options(espeak):
    assert espeak.speak("ni3 hao3", "cmn-latn-pinyin").seconds > 0.3
    assert espeak.speak("Wie heißt du?", "de").seconds > 0.3
    assert espeak.speak("--version", "en-us").seconds > 0.3
    with pytest.raises(SynthesisError, match="null character"):
        espeak.speak("a\0b", "en-us")


@needs_library
@pytest.mark.parametrize("text", ["Well, it is 42 p.m.! Isn't it nice - now?", "Für Ölbäume läuft's früh: 3.5 Äpfel."])
def test_espeak_tells_when_each_word_begins(text):
    speech = EspeakSynthesizer().speak(text, "en-us" if text.isascii() else "de")
    times = speech.word_times
    assert len(times) == len(words_of(text))
    assert times == sorted(times)
    assert times[0] == 0.0
    assert 0.6 * speech.seconds < times[-1] < speech.seconds


@needs_library
def test_word_times_are_where_the_sound_is():
    """Between two words with a long pause, the second begins where the silence ends."""
    speech = EspeakSynthesizer().speak("Stop. Talk.", "en-us")
    onset = round(speech.word_times[1] * speech.sampling_rate)
    before = speech.waveform[onset - 1000 : onset]
    assert np.abs(before).max() < 0.02
    assert np.abs(speech.waveform[onset : onset + 4000]).max() > 0.1


@needs_library
def test_espeak_serves_threads_one_by_one():
    espeak = EspeakSynthesizer()
    texts = [f"number {index} " * (index + 1) for index in range(6)]
    expected = [espeak.speak(text, "en-us").seconds for text in texts]
    heard = [None] * len(texts)

    def say(index):
        heard[index] = espeak.speak(texts[index], "en-us").seconds

    threads = [threading.Thread(target=say, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == pytest.approx(expected, abs=0.05)


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_espeak_speaks_after_a_fork_even_in_the_middle_of_a_text():
    espeak = EspeakSynthesizer()
    expected = espeak.speak("hello", "en-us").seconds
    from flow_omni.training.espeak import _engine

    with _engine.lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if abs(espeak.speak("hello", "en-us").seconds - expected) < 0.05 else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@needs_library
def test_espeak_says_the_same_in_one_process_and_in_two(tmp_path):
    """The library goes on from where its generator of waves was, so that a text depends on the one before it."""
    espeak = synthesizer_named("espeak")
    voices = Voices(answer="en-us", questions=espeak.voices("en")[:50])
    for number in (1, 2):
        report = speak_dialogues(dialogues(70), tmp_path / str(number), espeak, voices, num_processes=number)
        assert report.num_rows == 70
        assert validate(report.manifest).tasks["speech_to_speech"] == 70
    one, two = (contents(tmp_path / number) for number in "12")
    if CAN_FORK:
        assert one == two


def test_without_espeak_one_is_told_how_to_get_it(monkeypatch):
    from flow_omni.training import espeak

    monkeypatch.setattr(espeak, "find_library", lambda: None)
    monkeypatch.setattr(espeak, "find_program", lambda: None)
    with pytest.raises(ImportError, match="Neither the library nor the program of espeak-ng was found: install"):
        EspeakSynthesizer()
    with pytest.raises(ImportError, match="The library of espeak-ng was not found: install"):
        EspeakSynthesizer(use_library=True)


# -- flite -------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["library", "program"])
def flite(request):
    is_library = request.param == "library"
    if (find_flite_library() if is_library else find_flite_program()) is None:
        pytest.skip(f"the {request.param} of flite is not installed")
    return FliteSynthesizer(use_library=is_library)


def test_flite_speaks(flite):
    assert isinstance(flite, Synthesizer)
    assert "slt" in flite.voices("en")
    assert flite.voices("de") == []
    slow = flite.speak("-o hello there", "rms")
    assert slow.seconds > 1.4 * flite.speak("-o hello there", "rms", rate=2.0).seconds
    high, low = (flite.speak("hello there", "kal16", pitch=pitch) for pitch in (1.4, 0.7))
    assert pitch_of(high) > 1.2 * pitch_of(low)
    with pytest.raises(SynthesisError, match="flite has no voice 'tom'"):
        flite.speak("hello", "tom")
    with pytest.raises(SynthesisError, match="says nothing for '...'"):
        flite.speak("...", "slt")
    with pytest.raises(SynthesisError, match="null character"):
        flite.speak("a\0b", "slt")


@needs_flite_library
@pytest.mark.skipif(find_flite_program() is None, reason="the program of flite is not installed")
@pytest.mark.parametrize("voice", ["slt", "rms", "awb", "kal16"])
def test_the_library_of_flite_says_what_its_program_says(voice):
    library, program = FliteSynthesizer(use_library=True), FliteSynthesizer(use_library=False)
    # twice: a rate and a pitch are those of one text, and noise begins anew with each
    for rate, pitch in ((1.0, 1.0), (1.25, 0.8), (1.0, 1.0)):
        ours, theirs = (
            engine.speak("Seven plus eight is fifteen.", voice, rate, pitch) for engine in (library, program)
        )
        assert (ours.sampling_rate, theirs.sampling_rate) == (16000, 16000)
        np.testing.assert_array_equal(ours.waveform, theirs.waveform)


@needs_flite_library
def test_flite_tells_when_each_word_begins():
    text = "Well - it's Dr. Foo's \"$5\" (twenty-one)! Is it?"
    speech = FliteSynthesizer().speak(text, "slt")
    assert len(speech.word_times) == len(words_of(text))
    assert speech.word_times == sorted(speech.word_times)
    # a dash is said in silence: it begins with the word after it
    assert speech.word_times[1] == speech.word_times[2]
    assert 0 < speech.word_times[0] < 0.3
    assert 0.8 * speech.seconds < speech.word_times[-1] < speech.seconds


@needs_flite_library
def test_loud_flite_is_clipped_and_does_not_overflow():
    """At this rate `awb` goes beyond full scale, and the library's 16-bit samples from there to the other sign."""
    waveform = FliteSynthesizer().speak("The capital of France is Paris.", "awb", rate=0.8, pitch=0.9).waveform
    assert np.abs(waveform).max() == 1.0
    assert np.abs(np.diff(waveform)).max() < 1.0


@needs_flite_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_flite_speaks_after_a_fork_even_in_the_middle_of_a_text():
    flite = FliteSynthesizer()
    expected = flite.speak("hello", "slt").waveform
    from flow_omni.training.flite import _engine

    with _engine.lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(flite.speak("hello", "slt").waveform, expected) else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_without_flite_one_is_told_how_to_get_it(monkeypatch):
    from flow_omni.training import flite

    monkeypatch.setattr(flite, "find_library", lambda: None)
    monkeypatch.setattr(flite, "find_program", lambda: None)
    with pytest.raises(ImportError, match="flite was not found: install it"):
        FliteSynthesizer()
    with pytest.raises(ImportError, match="The library of flite was not found: install it"):
        FliteSynthesizer(use_library=True)
