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
"""The sound of tinytalk: who speaks, what becomes of silence, and a whole corpus, with tones and with real voices."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import tone

from flow_omni.training import espeak, flite, synthesis
from flow_omni.training.augmentation import Augmentation, mean_power
from flow_omni.training.mandarin import PinyinSynthesizer, pinyin_of
from flow_omni.training.manifest import load_rows
from flow_omni.training.rows import words_of
from flow_omni.training.synthesis import NamedVoices, Speech, SynthesisError
from flow_omni.training.tinytalk.corpus import HEARD_WORD, make_corpus, settle, synthesizer_of
from flow_omni.training.tinytalk.sounds import Microphone, Trim, babble_of, sound_of
from flow_omni.training.tinytalk.voices import ACCENTS, ANSWER_VOICES, PEOPLE, VARIANTS, asking_voices, corpus_voices
from flow_omni.training.validation import validate


SPLITS = ("train", "validation", "test")
has_espeak = espeak.find_library() is not None or espeak.find_program() is not None
has_flite = flite.find_library() is not None or flite.find_program() is not None
needs_espeak = pytest.mark.skipif(not has_espeak, reason="espeak-ng is not installed")
needs_both = pytest.mark.skipif(not (has_espeak and has_flite), reason="espeak-ng or flite is not installed")


class Tones:
    """Says each letter as a tone, with silence around, and nothing that begins with a question mark."""

    # counted in a file, as they may speak in other processes
    count = None

    def voices(self, language=None):
        return ["slt", "en-us", "low"] if language in (None, "en") else []

    def speak(self, text, voice, rate=1.0, pitch=1.0):
        if text.startswith("?"):
            raise SynthesisError(f"{text!r} cannot be said.")
        if Tones.count is not None:
            with open(Tones.count, "a") as file:
                file.write("1")
        sound = tone(0.02 * len(text) / rate, 16000, 300 * pitch)
        silence = np.zeros(4000, np.float32)
        onsets = [0.25 + 0.02 * text.index(word) / rate for word in words_of(text)]
        return Speech(np.concatenate([silence, sound, silence]), 16000, onsets)


@pytest.fixture
def tones(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(Tones, "count", tmp_path_factory.mktemp("count") / "count")
    monkeypatch.setattr(synthesis, "synthesizer_named", lambda name: Tones())
    babble_of.cache_clear()
    yield
    babble_of.cache_clear()


def generate(split, num_rows, seed=0, language="en"):
    """Texts of which every third has the same answer."""
    for index in range(num_rows):
        question = f"How much is {split} {index} plus {seed}?"
        answer = "It's twenty-one." if index % 3 == 0 else f"That is answer {index}."
        topic = "facts" if index % 3 == 1 else "arithmetic"
        yield {"id": f"{topic}-{index}", "question_text": question, "answer_text": answer, "language": language}


def make(folder, **options):
    sizes = {"num_rows": 6, "voices_per_question": 2, "num_asked_rows": 3, "num_said_rows": 1, "num_text_rows": 9}
    sizes |= {"num_answered_rows": 0, "num_test_rows": 3, "num_validation_rows": 3}
    return make_corpus(folder, **({"generate": generate} | sizes | options))


def num_spoken_by(*arguments, **options):
    Tones.count.write_text("")
    make(*arguments, **options)
    return len(Tones.count.read_text())


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "parts" not in path.parts
    }


# -- voices ------------------------------------------------------------------------------------------------------------


def test_no_variant_and_no_person_speaks_in_two_splits():
    for groups in (VARIANTS, PEOPLE["en"], PEOPLE["zh"]):
        names = [name for split in SPLITS for name in groups[split]]
        assert len(names) == len(set(names))
    accents = ACCENTS["en"]
    assert set(accents["train"]) & (set(accents["validation"]) | set(accents["test"])) == {"en-us"}
    assert set(accents["validation"]) & set(accents["test"]) == {"en-us"}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_voices_of_a_split_are_all_heard(split, language):
    voices = corpus_voices(split, language)
    drawn = [voices.of_question(index) for index in range(4000)]
    names = [name for name, _, _ in drawn]
    variants = {name.partition("+")[2] for name in names if not name.startswith("flite")}
    assert variants == {*VARIANTS[split], *([""] if split == "train" else [])}
    people = PEOPLE[language][split]
    assert {name for name in names if name.startswith("flite")} == set(people)
    assert np.mean([name.startswith("flite") for name in names]) == pytest.approx(0.2 if people else 0, abs=0.03)
    for values, (low, high) in zip(list(zip(*drawn))[1:], (voices.rates, voices.pitches)):
        assert low <= min(values) < low + 0.02 < high - 0.02 < max(values) <= high


def test_who_answers_nothing_may_ask_too_and_people_ask_more():
    voices = asking_voices("train")
    names = [voices.of_question(index)[0] for index in range(4000)]
    assert voices.answer is None
    assert {name for name in names if name.startswith("flite")} == {"flite:rms", "flite:kal16", "flite:slt"}
    assert np.mean([name.startswith("flite") for name in names]) == pytest.approx(0.4, abs=0.03)
    assert not any(asking_voices("train", "zh").of_question(index)[0].startswith("flite") for index in range(100))


def test_more_people_ask_in_the_training_and_nowhere_else():
    joe = "piper:en_US-joe-medium"
    for voices_of in (corpus_voices, asking_voices):
        asking = {
            split: [voices_of(split, more_people=[joe]).of_question(index)[0] for index in range(4000)]
            for split in SPLITS
        }
        people = voices_of("train", more_people=[joe]).people
        # one of the people, and heard as often as each of them
        assert asking["train"].count(joe) == pytest.approx(asking["train"].count("flite:rms"), rel=0.2)
        assert joe in people and len(people) == 1 + len(voices_of("train").people)
        assert joe not in asking["validation"] + asking["test"]


@needs_both
def test_every_voice_of_the_corpus_exists_and_speaks():
    synthesizer = synthesizer_of("en", None)
    known = set(synthesizer.voices())
    for split in SPLITS:
        voices = corpus_voices(split)
        names = {voices.of_question(index)[0] for index in range(4000)}
        assert names <= known
        plain = {name for name in names if "en-us+" in name or name.startswith("flite")}
        assert all(0.4 < synthesizer.speak("Good morning.", name).seconds < 3.0 for name in plain)


def test_wrong_languages_and_voices_are_refused(tones):
    with pytest.raises(ValueError, match="no voices for the language 'tlh': choose one of en, zh"):
        corpus_voices("train", "tlh")
    with pytest.raises(ValueError, match="There is no voice 'flite:tom': flite has flite:slt, flite:en-us"):
        synthesizer_of("en", "flite:tom")
    with pytest.raises(ValueError, match="no voice 'flite:jane' that speaks 'en': flite has flite:slt, flite:en-us"):
        synthesizer_of("en", None, ["flite:low", "flite:jane"])
    with pytest.raises(
        ValueError, match="no voice 'flite:low' that speaks 'zh': flite has none. Name another, or leave it out"
    ):
        synthesizer_of("zh", "flite:slt", ["flite:low"])
    for taken in ("flite:slt", "espeak:en-us", "flite:awb", "espeak:en-gb-x-rp", "espeak:en-us+f3"):
        with pytest.raises(
            ValueError, match=f"'{re.escape(taken)}' cannot ask in the training: it answers, or is kept"
        ):
            corpus_voices("train", answer="espeak:en-us", more_people=["espeak:en-gb+f2", taken])
    with pytest.raises(SynthesisError, match="no voice 'parrot:polly': name one of espeak, a colon"):
        NamedVoices("espeak").speak("hello", "parrot:polly")
    assert NamedVoices("espeak", "flite").voices()[-1] == "flite:low"


# -- sounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.0), (0.3, 0.02), (0.01, 0.5)])
def test_answers_keep_a_short_silence_around_whatever_there_was(before, after):
    sound = tone(0.4)
    waveform = np.concatenate([np.zeros(round(before * 16000)), sound, np.zeros(round(after * 16000))])
    trimmed = Trim(0.06, 0.15)(Speech(waveform.astype(np.float32), 16000, [before, before + 0.2]))
    assert trimmed.seconds == pytest.approx(0.06 + 0.4 + 0.15, abs=0.01)
    assert sound_of(trimmed.waveform, 16000)[0] / 16000 == pytest.approx(0.06, abs=0.01)
    assert trimmed.word_times == pytest.approx([0.06, 0.26], abs=0.01)


def test_words_do_not_begin_before_the_sound():
    waveform = np.concatenate([np.zeros(8000, np.float32), tone(0.2)])
    assert Trim()(Speech(waveform, 16000, [0.0, 0.6])).word_times == pytest.approx([0.0, 0.16])
    assert Trim()(Speech(waveform, 16000)).word_times is None


def test_soft_ends_of_speech_are_not_cut():
    waveform = np.concatenate([tone(0.3), 0.01 * tone(0.3), np.zeros(4800, np.float32)])
    assert sound_of(waveform, 16000) == (0, 9600)
    assert sound_of(np.zeros(1000, np.float32), 16000) == (0, 1000)


def test_questions_have_silence_of_different_lengths_around_and_one_rate():
    spoken = Speech(tone(0.5, 22050), 22050)
    heard = [Microphone(silences=(0.05, 0.4))(spoken, index) for index in range(20)]
    assert {speech.sampling_rate for speech in heard} == {16000}
    before = [sound_of(speech.waveform, 16000)[0] / 16000 for speech in heard]
    assert 0.02 <= min(before) < 0.15 < 0.3 < max(before) <= 0.4
    assert len({speech.seconds for speech in heard}) == 20
    assert Microphone()(spoken, 3).seconds == heard[3].seconds


def test_questions_are_augmented_by_their_index(tones):
    spoken = Speech(tone(0.5), 16000)
    noisy = Microphone(
        augmentation=Augmentation(share=1.0, noise_share=1.0, noises=("babble",)), babblers=("espeak:low", "flite:slt")
    )
    first, again, other = (noisy(spoken, index).waveform for index in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert mean_power(first[:400]) > 0


# -- the corpus --------------------------------------------------------------------------------------------------------


def test_a_corpus_has_all_its_parts(tones, tmp_path):
    report = make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("train.jsonl", "validation.jsonl", "test.jsonl", "test_seen_voices.jsonl", "answers.jsonl", "words.txt"),
        *("train_words.jsonl", "text_train.jsonl", "text_validation.jsonl", "text_sums.jsonl"),
        *("heard_text_train.jsonl", "heard_text_validation.jsonl"),
        *("asked_train.jsonl", "said_train.jsonl"),
        *("audio", "parts"),
    }
    assert report.num_rows == {
        "validation": 3,
        "test": 3,
        "test_seen_voices": 3,
        "train": 12,
        "asked_train": 3,
        "said_train": 1,
        "train_words": 4,
        "text_train": 9,
        "text_validation": 3,
        "heard_text_train": 9,
        "text_sums": 1,
        "heard_text_validation": 3,
    }
    for name in ("train", "validation", "test", "test_seen_voices"):
        checked = validate(tmp_path / f"{name}.jsonl")
        assert checked.num_problems == 0
        assert checked.tasks["speech_to_speech"] == report.num_rows[name]
    # texts with many words that are not among those of `train`, and whose answers stay written
    asked = lines_of(tmp_path / "asked_train.jsonl")
    assert [row["question_text"] for row in asked] == [f"How much is train {index} plus 0?" for index in (7, 10, 13)]
    assert validate(tmp_path / "asked_train.jsonl").tasks == {"transcribe": 3, "speech_to_text": 3, "text_to_text": 3}
    said = lines_of(tmp_path / "said_train.jsonl")
    assert [row["answer_text"] for row in said] == ["That is answer 7."]
    assert validate(tmp_path / "said_train.jsonl").tasks == {"say": 1}
    assert [row["question_text"] for row in lines_of(tmp_path / "text_train.jsonl")] == [
        f"How much is train {index} plus 0?" for index in range(9)
    ]
    words = (tmp_path / "words.txt").read_text().split()
    # nobody says the requests of text_sums.jsonl
    assert {*words} == {*"how much is train validation test plus it's twenty one that answer".split()}
    assert "train: 12 rows" in str(report)


@pytest.mark.parametrize(
    "sizes, left_out",
    [
        ({"num_asked_rows": 0}, {"asked_train.jsonl", "said_train.jsonl"}),
        ({"num_said_rows": 0}, {"said_train.jsonl"}),
    ],
)
def test_a_corpus_can_do_without_further_questions_and_answers(tones, tmp_path, sizes, left_out):
    make(tmp_path, **sizes)
    assert {"asked_train.jsonl", "said_train.jsonl"} - {path.name for path in tmp_path.iterdir()} == left_out


def test_answers_by_themselves_are_each_said_once(tones, tmp_path):
    def texts(split, num_rows, seed=0, language="en"):
        for row in generate(split, num_rows, seed, language):
            yield row | ({"answer_text": "That is the same."} if row["id"].startswith("facts-") else {})

    make(tmp_path, generate=texts, num_said_rows=3)
    assert len(lines_of(tmp_path / "asked_train.jsonl")) == 3
    assert [row["answer_text"] for row in lines_of(tmp_path / "said_train.jsonl")] == ["That is the same."]


def test_rows_with_many_words_can_come_more_often(tones, tmp_path):
    make(tmp_path)
    wordy = lines_of(tmp_path / "train_words.jsonl")
    assert wordy == [row for row in lines_of(tmp_path / "train.jsonl") if row["id"].startswith("facts-")]
    assert len(load_rows(tmp_path / "train_words.jsonl")) == len(wordy) == 4


def test_each_answer_is_said_once_and_shared(tones, tmp_path):
    report = make(tmp_path)
    answers = lines_of(tmp_path / "answers.jsonl")
    # "It's twenty-one.", and that is answer 1, 2, 4, 5
    assert len(answers) == report.answers.num_rows == 5
    rows = lines_of(tmp_path / "train.jsonl")
    assert [row["id"].partition("-")[2] for row in rows] == [
        f"{index}-v{voice}" for index in range(6) for voice in (0, 1)
    ]
    paths = {row["answer_text"]: row["answer_audio"] for row in rows}
    assert len(set(paths.values())) == len(paths) == 5
    assert {row["answer_audio"] for row in rows if row["answer_text"] == "It's twenty-one."} == {
        answers[0]["answer_audio"]
    }
    assert len({row["question_audio"] for row in rows}) == 12
    assert not any(Path(row[side]).is_absolute() for row in rows for side in ("question_audio", "answer_audio"))
    row = load_rows(tmp_path / "train.jsonl")[0]
    waveform, rate = soundfile.read(row["answer_audio"]["path"])
    assert (len(waveform) / rate, rate) == (pytest.approx(row["answer_seconds"]), 16000)
    assert row["answer_word_times"] == pytest.approx([0.06, 0.06 + 0.02 * 5])


def test_further_questions_of_knowledge_stay_written_and_their_answers_are_said(tones, tmp_path):
    make(tmp_path, num_answered_rows=4)
    rows = lines_of(tmp_path / "answered_train.jsonl")
    # texts that nobody asks, of which the stand-in has no phrases to repeat
    assert [row["question_text"] for row in rows] == [f"How much is train {index} plus 0?" for index in (6, 7, 8, 9)]
    assert not any("question_audio" in row or Path(row["answer_audio"]).is_absolute() for row in rows)
    # an answer of the others is shared
    (shared,) = {
        row["answer_audio"] for row in lines_of(tmp_path / "train.jsonl") if "twenty-one" in row["answer_text"]
    }
    assert rows[0]["answer_audio"] == rows[3]["answer_audio"] == shared
    row = load_rows(tmp_path / "answered_train.jsonl")[1]
    waveform, rate = soundfile.read(row["answer_audio"]["path"])
    assert len(waveform) / rate == pytest.approx(row["answer_seconds"])
    assert len(row["answer_word_times"]) == len(words_of(row["answer_text"]))


def test_what_is_only_repeated_is_not_answered_apart(tones, tmp_path):
    def phrases(*arguments, **options):
        for row in generate(*arguments, **options):
            yield row | {"id": row["id"].replace("facts", "repeat")}

    make(tmp_path, num_answered_rows=4, generate=phrases)
    topics = {row["id"].partition("-")[0] for row in lines_of(tmp_path / "answered_train.jsonl")}
    assert topics == {"arithmetic"}


def test_a_question_is_asked_in_other_voices_each_time(tones, tmp_path):
    make(tmp_path, voices_per_question=5)
    rows = lines_of(tmp_path / "train.jsonl")
    for index in range(6):
        assert len({row["speaker"] for row in rows[5 * index : 5 * index + 5]}) > 2
    test, seen = (lines_of(tmp_path / f"{name}.jsonl") for name in ("test", "test_seen_voices"))
    assert [row["question_text"] for row in test] == [row["question_text"] for row in seen]
    trained = {corpus_voices("train").of_question(index)[0] for index in range(4000)}
    assert {row["speaker"] for row in seen} <= trained
    assert not {row["speaker"] for row in test} & trained


def test_only_questions_for_training_are_augmented(tones, tmp_path):
    make(tmp_path, num_rows=20)

    def share_with_noise(name):
        rows = load_rows(tmp_path / f"{name}.jsonl")
        starts = [soundfile.read(row["question_audio"]["path"])[0][:400] for row in rows]
        return np.mean([mean_power(start) > 0 for start in starts])

    assert share_with_noise("train") > 0.2
    assert share_with_noise("test") == share_with_noise("test_seen_voices") == share_with_noise("validation") == 0


def test_a_corpus_that_was_stopped_goes_on_and_equals_one_that_was_not(tones, tmp_path):
    make(tmp_path / "whole")

    def stopped(what, count):
        if what == "test_seen_voices":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "stopped", progress=stopped)
    assert not (tmp_path / "stopped" / "train.jsonl").exists()
    # the questions for training and the further answer, and what babbles behind questions with answers and without
    assert 12 + 4 <= num_spoken_by(tmp_path / "stopped", num_processes=2) <= 12 + 4 + 2 * 12
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_finished_corpus_is_not_said_again_wherever_it_lies(tones, tmp_path):
    assert num_spoken_by(tmp_path / "here") > 20
    before = contents(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert num_spoken_by(tmp_path / "there") == 0
    assert contents(tmp_path / "there") == before


def test_people_of_other_synthesizers_ask_in_the_training(tones, tmp_path):
    low = "parrot:low"
    make(tmp_path / "more", num_rows=20, num_asked_rows=20, more_people=[low])
    speakers = {
        name: {row["speaker"] for row in lines_of(tmp_path / "more" / f"{name}.jsonl")}
        for name in ("train", "asked_train", "validation", "test")
    }
    assert low in speakers["train"] and low in speakers["asked_train"]
    assert low not in speakers["validation"] | speakers["test"]
    with pytest.raises(
        ValueError, match=r"holds another corpus, of `more_people` \['parrot:low'\] in the place of \[\]"
    ):
        make(tmp_path / "more", num_rows=20, num_asked_rows=20)
    # so did one that was made before there could be more people
    make(tmp_path / "before")
    file = tmp_path / "before" / "parts" / "corpus.json"
    file.write_text(json.dumps({name: value for name, value in lines_of(file)[0].items() if name != "more_people"}))
    with pytest.raises(ValueError, match=r"holds another corpus, of `more_people` \[\] in the place of"):
        make(tmp_path / "before", more_people=[low])


def test_another_seed_draws_other_voices(tones, tmp_path):
    make(tmp_path / "0")
    make(tmp_path / "1", seed=1)
    speakers = [[row["speaker"] for row in lines_of(tmp_path / seed / "train.jsonl")] for seed in "01"]
    assert speakers[0] != speakers[1]


@pytest.mark.parametrize(
    "options, told",
    [
        ({"seed": 1}, "`seed` 0 in the place of 1"),
        ({"answer_voice": "flite:low"}, "`answer_voice` 'flite:slt' in the place of 'flite:low'"),
        ({"language": "zh"}, "`language` 'en', `answer_voice` 'flite:slt' in the place of 'zh', 'pinyin:slt'"),
    ],
)
def test_another_corpus_is_not_written_over(tones, tmp_path, monkeypatch, options, told):
    """An English one was, by a Mandarin one that was meant for another folder."""
    monkeypatch.setitem(ANSWER_VOICES, "zh", "pinyin:slt")
    make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"holds another corpus, of {told}: name another folder"):
        make(tmp_path, **options)
    assert contents(tmp_path) == before


def test_a_corpus_of_before_settings_were_kept_is_told_by_its_rows(tmp_path):
    """Whatever was asked for was taken to be there."""
    asked = {"language": "zh", "answer_voice": "a", "seed": 0}
    (tmp_path / "answers.jsonl").write_text('{"id": "answer-0", "answer_text": "Yes."}\n')
    (tmp_path / "train.jsonl").write_text('{"question_text": "Is it?", "answer_text": "Yes.", "language": "en"}\n')
    with pytest.raises(ValueError, match="holds another corpus, of `language` 'en' in the place of 'zh'"):
        settle(tmp_path, asked)
    settle(tmp_path, asked | {"language": "en"})
    with pytest.raises(ValueError, match="of `language` 'en', `seed` 0 in the place of 'zh', 1"):
        settle(tmp_path, asked | {"seed": 1})


@pytest.mark.parametrize("content", ["", "{", "3"])
def test_settings_that_cannot_be_read_are_told(tmp_path, content):
    settle(tmp_path, {"language": "en"})
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["corpus.json"]
    (tmp_path / "parts" / "corpus.json").write_text(content)
    with pytest.raises(ValueError, match="corpus.json' cannot be read .* Delete it if they are those"):
        settle(tmp_path, {"language": "en"})


@pytest.mark.parametrize("options", [{"language": "tlh"}, {"answer_voice": "flite:tom"}])
def test_what_cannot_be_spoken_leaves_no_folder_behind(tones, tmp_path, options):
    with pytest.raises(ValueError, match="no voice"):
        make(tmp_path / "corpus", **options)
    assert not (tmp_path / "corpus").exists()


def test_answers_that_cannot_be_said_take_their_questions_with_them(tones, tmp_path):
    def texts(split, num_rows, seed=0, language="en"):
        for row in generate(split, num_rows):
            yield row | ({"answer_text": "???"} if row["id"].endswith("-1") else {})

    report = make(tmp_path, generate=texts)
    assert report.skipped == {"cannot be said": 1}
    assert [row["id"] for row in lines_of(tmp_path / "test.jsonl")] == ["arithmetic-0-v0", "arithmetic-2-v0"]


@needs_both
def test_real_voices_make_a_corpus_that_can_be_heard(tmp_path):
    make(tmp_path)
    assert {row["speaker"].partition(":")[0] for row in lines_of(tmp_path / "train.jsonl")} <= {"espeak", "flite"}
    for row in load_rows(tmp_path / "train.jsonl"):
        question, rate = soundfile.read(row["question_audio"]["path"])
        assert rate == 16000
        assert 0.02 < np.abs(question).max() <= 1.0
        answer, _ = soundfile.read(row["answer_audio"]["path"])
        assert 0.2 < np.abs(answer).max() < 1.0


# -- Mandarin ----------------------------------------------------------------------------------------------------------


def test_characters_are_spelled_in_pinyin_with_tones_and_pauses():
    pytest.importorskip("pypinyin")
    assert pinyin_of("你好，三加五等于几？") == ["ni3", "hao3,", "san1", "jia1", "wu3", "deng3", "yu2", "ji3?"]
    assert HEARD_WORD.findall("三加五，等于 ok!") == ["三", "加", "五", "等", "于", "ok"]


@needs_espeak
def test_mandarin_is_spoken_and_tells_when_each_character_begins():
    pytest.importorskip("pypinyin")
    mandarin = PinyinSynthesizer()
    assert {voice.partition("+")[0] for voice in mandarin.voices("zh")} == {"cmn-latn-pinyin"}
    assert mandarin.voices("en") == []
    text = "你好，三加五等于八。"
    speech = mandarin.speak(text, "cmn-latn-pinyin+f3")
    assert 1.0 < speech.seconds < 4.0
    if espeak.find_library() is not None:
        assert len(speech.word_times) == len(words_of(text)) == 8
        assert speech.word_times == sorted(speech.word_times)
    with pytest.raises(SynthesisError, match="'en-us' does not read Mandarin"):
        mandarin.speak(text, "en-us")


@needs_espeak
def test_a_corpus_can_be_mandarin(tmp_path):
    pytest.importorskip("pypinyin")

    def texts(split, num_rows, seed=0, language="en"):
        for index, number in enumerate("一二三四五六七八九"[:num_rows]):
            row = {"id": f"sum-{index}", "question_text": f"{number}加一等于几？", "answer_text": f"比{number}多一。"}
            yield row | {"language": language}

    make(tmp_path, language="zh", generate=texts)
    row = lines_of(tmp_path / "train.jsonl")[0]
    assert row["language"] == "zh"
    assert row["speaker"].startswith("pinyin:cmn-latn-pinyin")
    assert validate(tmp_path / "train.jsonl").num_problems == 0
    assert "多" in (tmp_path / "words.txt").read_text().split()
