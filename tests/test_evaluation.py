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
"""An evaluation finds what is there: no error in perfect answers, each fault where it was put, and the same when repeated."""

import json

import numpy as np
import pytest
from evaluation_data import ANSWERS, RATE, EarsForTones, WeighedEars, oracle, sound_of, write_data
from sounds import tone

from flow_omni.evaluation import answering
from flow_omni.evaluation.answering import batches
from flow_omni.evaluation.figures import figures_of, share, stops
from flow_omni.evaluation.journal import FINISHED, UNFINISHED
from flow_omni.evaluation.judging import AnswerRecord
from flow_omni.evaluation.listeners import label_of, listeners
from flow_omni.evaluation.questions import questions_of, rows_of
from flow_omni.evaluation.results import FIGURES, HIGH, LOW, Results
from flow_omni.evaluation.run import Evaluation, Settings, evaluate
from flow_omni.evaluation.sound_measures import Silences, silences
from flow_omni.evaluation.speed import measure_speed
from flow_omni.evaluation.stops import faults
from flow_omni.processing.audio_io import write_audio
from flow_omni.untrained import untrained


SHORT = {"max_new_tokens": 12}
SPOKEN = Silences(before=0.0, longest_inside=0.1, after=0.0, voiced=2.0)


@pytest.fixture(scope="module")
def tiny():
    return untrained()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def questions(data):
    return questions_of(rows_of(data))


@pytest.fixture
def few(data):
    """Two questions of each task."""
    return questions_of(rows_of(data), limit=2)


def record(text: str = "Paris.", heard: str | None = None, **fields) -> AnswerRecord:
    heard = {} if heard is None else {"ears": heard}
    values = {"part": "", "task": "say", "id": "a-1", "topic": None, "number": 0, "question_text": None}
    values |= {"expected": "Paris.", "text": text, "is_spoken": True, "heard": heard, "speech_seconds": 1.0}
    return AnswerRecord(**values | fields)


def test_a_perfect_model_makes_no_error(tiny, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "answer_batch", oracle)
    results = evaluate(*tiny, questions, {"ears": EarsForTones()}, tmp_path, Settings(num_timed=0))
    for group in ("say", "say@ears", "speech_to_speech/facts@ears", "transcribe", "reference@ears"):
        assert results.figures[group]["cer"] == results.figures[group]["wer"] == 0.0, group
        assert results.figures[group]["exact"] == 1.0, group
    assert results.figures["say@ears"]["cer_of_own_text"] == 0.0
    assert results.figures["stops"]["clean"] == 1.0
    assert results.figures["stops"]["num_rows"] == 4 + 8 + 4
    assert results.figures["spectrum"]["mel_distance"] == pytest.approx(0.0, abs=0.02)
    assert results.figures["spectrum"]["duration_ratio"] == pytest.approx(1.0)
    assert results.figures["spectrum"]["sharpness"] == pytest.approx(
        results.figures["spectrum"]["reference_sharpness"], rel=0.1
    )


def test_one_wrong_answer_is_counted_where_it_belongs(tiny, questions, tmp_path, monkeypatch):
    def mistaken(model, processor, asked, is_spoken, **options):
        answers = oracle(model, processor, asked, is_spoken)
        for answer in answers:
            if answer.task == "say" and answer.expected == "Paris.":
                answer.text, answer.waveform = "Cows drink water.", sound_of("Cows drink water.")
        return answers

    monkeypatch.setattr(answering, "answer_batch", mistaken)
    results = evaluate(*tiny, questions, {"ears": EarsForTones()}, tmp_path, Settings(num_timed=0))
    assert results.figures["say"]["exact"] == results.figures["say@ears"]["exact"] == 3 / 4
    assert results.figures["say/facts"]["exact"] == 1 / 2
    assert results.figures["say/sums"]["exact"] == 1.0
    assert results.figures["text_to_speech"]["exact"] == 1.0
    # it said what it wrote, though that was wrong
    assert results.figures["say@ears"]["cer_of_own_text"] == 0.0
    (sample,) = [sample for sample in results.samples if sample.task == "say" and not sample.is_exact]
    assert sample.text == sample.heard["ears"] == "Cows drink water."
    assert (tmp_path / sample.wavs["answer"]).is_file() and (tmp_path / sample.wavs["original"]).is_file()
    assert (tmp_path / sample.mel_picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "change, fault",
    [
        ({}, None),
        ({"text": " "}, "empty"),
        ({"found": Silences(1.5, 0.0, 0.0, 0.0)}, "no_start"),
        ({"is_truncated": True}, "hit_cap"),
        ({"found": Silences(0.0, 1.2, 0.0, 3.0)}, "silent_inside"),
        ({"found": Silences(1.2, 0.0, 0.0, 2.0)}, "silent_start"),
        ({"found": Silences(0.0, 0.0, 1.2, 2.0)}, "silent_end"),
        ({"found": Silences(0.0, 0.0, 0.0, 1.0)}, "cut_short"),
        ({"found": Silences(0.0, 0.0, 0.0, 1.7), "heard": "one two three"}, "cut_short"),
        # a recogniser that misses the end of a whole answer, and one that misses it in the original too
        ({"heard": "one two three"}, None),
        (
            {"found": Silences(0, 0, 0, 1.8), "heard": "one two three", "original_heard": "one two three"},
            None,
        ),
        # a shorter text takes less time
        ({"text": "one two", "found": Silences(0.0, 0.0, 0.0, 0.9), "heard": "one two"}, None),
        # a number takes as long in digits as in words
        ({"text": "Nineteen eighty-four.", "expected": "1984.", "heard": "1984"}, None),
        ({"text": "五加五等于十。", "expected": "5+5=10", "heard": "五加五等于十", "language": "zh"}, None),
        (
            {"text": "1984", "expected": "Nineteen eighty-four.", "heard": "1984", "found": Silences(0, 0, 0, 0.7)},
            "cut_short",
        ),
        # of what the normaliser takes for nothing said, the letters count
        ({"text": "Yes.", "expected": "Hmm.", "heard": "Yes", "found": Silences(0.0, 0.0, 0.0, 2.0)}, None),
        ({"text": "Yes.", "expected": "Hmm.", "heard": "Yes", "found": Silences(0.0, 0.0, 0.0, 0.5)}, "cut_short"),
        ({"text": "Hmm.", "expected": "Yes.", "heard": "", "found": Silences(0.0, 0.0, 0.0, 0.5)}, "cut_short"),
    ],
)
def test_each_fault_of_an_ending_is_found(change, fault):
    usual = {"text": "one two three four", "found": SPOKEN, "is_truncated": False, "original_seconds": 2.0}
    usual |= {"expected": "one two three four", "heard": "one two three four"}
    assert faults(**usual | change) == ([] if fault is None else [fault])


def test_a_silence_in_the_middle_of_an_answer_is_found():
    half = len(sound_of("Paris.")) // 2
    waveform = np.concatenate([sound_of("Paris.")[:half], np.zeros(RATE * 3 // 2), sound_of("Paris.")[half:]])
    found = silences(waveform, RATE)
    assert faults("Paris.", found, False, found.voiced, "Paris.") == ["silent_inside"]


def test_stops_are_shares_of_the_answers():
    figures = stops([record(), record(faults=["cut_short", "hit_cap"]), record(faults=["cut_short"]), record()])
    assert (figures["clean"], figures["cut_short"], figures["hit_cap"], figures["empty"]) == (0.5, 0.5, 0.25, 0.0)
    assert figures["clean_low"] < 0.5 < figures["clean_high"]


def test_what_was_heard_is_told_apart_by_recogniser_and_from_what_was_written():
    records = [record("Paris.", heard="parrots"), record("Rome.", heard="Rome")]
    figures = figures_of(records, [], "en")
    assert figures["say"]["exact"] == 0.5
    assert figures["say@ears"]["exact"] == 0.0
    assert figures["say@ears"]["cer_of_own_text"] == pytest.approx(3 / 9)


def test_every_figure_that_is_given_is_explained(tiny, few, tmp_path):
    settings = Settings(options=SHORT, sweeps=["telephone", "guidance"], sweep_limit=2, num_timed=1)
    results = evaluate(*tiny, few, {"ears": EarsForTones()}, tmp_path, settings)
    names = {name for values in results.figures.values() for name in values} | set(results.speed)
    for rows in results.sweeps.values():
        names |= {name for row in rows for name in list(row)[1:]}
    tasks = {asked.task for asked in few}
    for name in names:
        name = name.removesuffix(LOW).removesuffix(HIGH)
        assert name in FIGURES or any(name.removeprefix(f"{task}_") in FIGURES for task in tasks), name


def test_an_evaluation_is_the_same_twice_and_in_other_batches(tiny, few, tmp_path):
    settings = [Settings(options=SHORT, num_timed=0, batch_size=size) for size in (1, 1, 2)]
    first, again, other = (
        evaluate(*tiny, few, {"ears": EarsForTones()}, tmp_path / str(index), one)
        for index, one in enumerate(settings)
    )
    assert first.figures == again.figures
    assert first.samples == again.samples
    assert first.figures["transcribe"] == other.figures["transcribe"]
    assert first.figures["stops"] == other.figures["stops"]


def test_an_evaluation_that_was_stopped_goes_on_where_it_was(tiny, few, tmp_path, monkeypatch):
    settings = Settings(options=SHORT, num_timed=0, batch_size=2, sweeps=["telephone"], sweep_limit=2)
    whole = evaluate(*tiny, few, {"ears": EarsForTones()}, tmp_path / "whole", settings)
    ask, num_asked = answering.answer_batch, []

    def stopped(model, processor, asked, *rest, **options):
        if len(num_asked) == 4:
            raise KeyboardInterrupt
        num_asked.append(len(asked))
        return ask(model, processor, asked, *rest, **options)

    monkeypatch.setattr(answering, "answer_batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(*tiny, few, {"ears": EarsForTones()}, tmp_path / "stopped", settings)
    with open(tmp_path / "stopped" / UNFINISHED, "a") as file:
        file.write('{"answer": {"part": "", "ta')  # as a machine that loses power leaves it
    num_before = sum(num_asked)
    num_asked.clear()
    monkeypatch.setattr(answering, "answer_batch", lambda *a, **o: num_asked.append(len(a[2])) or ask(*a, **o))
    resumed = evaluate(*tiny, few, {"ears": EarsForTones()}, tmp_path / "stopped", settings)
    assert sum(num_asked) == len(few) + 4 - num_before
    assert resumed.figures == whole.figures and resumed.sweeps == whole.sweeps
    assert [sample.id for sample in resumed.samples] == [sample.id for sample in whole.samples]
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == [FINISHED, "results.json", "samples"]


def test_answers_of_another_model_another_listener_or_to_another_sound_are_not_taken_over(tiny, tmp_path, monkeypatch):
    """Rows of a test set and of another may share ids and texts; recognisers of two folders may share their label."""
    monkeypatch.setattr(answering, "answer_batch", oracle)
    (model, processor), settings = tiny, Settings(num_timed=0, num_samples=0)
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
    usual, others = (questions_of(rows_of(write_data(tmp_path / name)), ["transcribe"]) for name in ("data", "other"))
    ears = {"ears": EarsForTones()}
    evaluate(model, processor, usual, ears, tmp_path, settings)
    left = (tmp_path / FINISHED).read_text()

    def num_taken_over(questions=usual, model=model, listeners=ears, settings=settings) -> int:
        (tmp_path / UNFINISHED).write_text(left)
        evaluation = Evaluation(model, processor, questions, listeners, tmp_path, settings, None, True)
        evaluation.journal.close()
        return evaluation.journal.num_found

    assert num_taken_over() == len(usual)
    assert num_taken_over(settings=Settings(num_timed=0, num_samples=0, seed=1)) == 0
    assert num_taken_over(listeners={"ears": WeighedEars()}) == 0
    assert num_taken_over(model=untrained()[0].double()) == 0
    assert num_taken_over(questions=others) == 0
    write_audio(tmp_path / "data" / "sums-0-v0.wav", tone(0.3, 16000, 450.0), 16000)
    assert num_taken_over() == 0


def test_every_answer_is_written_down(tiny, questions, tmp_path):
    evaluate(*tiny, questions, {}, tmp_path, Settings(options=SHORT, num_timed=0))
    lines = [json.loads(line) for line in (tmp_path / FINISHED).read_text().splitlines()]
    answers = [line["answer"] for line in lines if "answer" in line]
    assert {(answer["task"], answer["number"]) for answer in answers} == {(one.task, one.number) for one in questions}
    # rows of a text in several voices share an answer, which is heard once
    assert sum("original" in line for line in lines) == len(ANSWERS)


def test_results_are_written_and_say_how_they_came_about(tiny, few, tmp_path):
    about = {"checkpoint": "tiny", "data": "test.jsonl", "command": "flow-omni evaluate", "notes": ["a note"]}
    results = evaluate(*tiny, few, {}, tmp_path, Settings(options=SHORT, num_timed=0), **about)
    assert Results.load(tmp_path) == results
    assert results.settings["options"]["num_flow_steps"] == 2
    assert results.settings["options"]["max_new_tokens"] == 12
    assert results.settings["num_questions"] == len(few)
    assert results.notes == ["a note"]
    assert "torch" in results.machine["versions"]


def test_without_a_recogniser_all_else_is_measured(tiny, few, tmp_path):
    results = evaluate(*tiny, few, {}, tmp_path, Settings(options=SHORT, num_timed=0))
    assert not [group for group in results.figures if "@" in group]
    assert results.figures["stops"]["num_rows"] == 6


def test_a_model_without_a_vocoder_is_judged_by_its_text(questions, tmp_path):
    model, processor = untrained()
    model.vocoder = None
    settings = Settings(options=SHORT, sweeps=["steps", "telephone"], sweep_limit=2)
    results = evaluate(model, processor, questions, {"ears": EarsForTones()}, tmp_path, settings)
    assert "cer" in results.figures["say"] and "stops" not in results.figures
    assert list(results.sweeps) == ["telephone"]
    assert "no vocoder" in results.notes[0]
    assert "sweep steps is left out: without a vocoder" in results.notes[1]


def test_batches_are_of_one_task_and_of_answers_of_a_length(questions):
    found = list(batches(questions, 3))
    assert sum(map(len, found)) == len(questions)
    for batch in found:
        assert len({asked.task for asked in batch}) == 1 and len(batch) <= 3
        assert [len(asked.expected) for asked in batch] == sorted((len(one.expected) for one in batch), reverse=True)


def test_waits_are_measured_on_single_questions(tiny, questions):
    figures = measure_speed(questions, *tiny, num_questions=2, **SHORT)
    assert figures["num_rows"] == 2
    assert 0 < figures["first_text_ms"] < figures["first_sound_ms"]
    assert figures["real_time_factor"] > 0 and figures["speech_seconds"] > 0
    assert measure_speed([asked for asked in questions if not asked.is_spoken], *tiny) == {}


def test_shares_of_nothing_are_no_figure():
    assert share("exact", []) == {}
    assert figures_of([], [], "en") == {}


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"sweeps": ["wind"]}, {"num_samples": -1}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match="at least|unknown"):
        Settings(**options)


def test_without_a_connection_nobody_listens_and_a_note_says_so(tiny, monkeypatch):
    def refuse(*arguments):
        raise OSError("no route to host")

    monkeypatch.setattr("flow_omni.evaluation.listeners.recogniser_of", refuse)
    found, notes = listeners([], *tiny)
    assert found == {}
    assert "whisper:base.en could not be loaded (no route to host)" in notes[0] and "--recogniser" in notes[0]
    with pytest.raises(ValueError, match=r"'whisper:tiny' cannot be loaded \(no route to host\)"):
        listeners(["whisper:tiny"], *tiny)


def test_recognisers_are_named_once_and_without_their_folder(tiny, tmp_path):
    assert list(listeners(["own"], *tiny)[0]) == ["own"]
    assert listeners(["none"], *tiny)[0] == {}
    with pytest.raises(ValueError, match="second one called 'own'"):
        listeners(["own", "own"], *tiny)
    with pytest.raises(ValueError, match="stands alone"):
        listeners(["own", "none"], *tiny)
    (tmp_path / "ears").mkdir()
    assert label_of(f"ctc:{tmp_path / 'ears'}") == "ctc:ears"
    assert label_of("openai/whisper-tiny") == "openai/whisper-tiny"
