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
"""Evaluation: questions of a data set, answers that can be resumed, sweeps, speed, results."""

import json

import datasets
import numpy as np
import pytest
from evaluation_tools import QUESTIONS, TONES, ToneASR, audio_of_text, perfect_answers, write_rows
from sounds import noise, tone
from tiny import tiny_model, tiny_processor

from flow_omni.evaluation import evaluate as evaluation
from flow_omni.evaluation.evaluate import Settings, batches, evaluate, load_asr_models, measure_speed
from flow_omni.evaluation.questions import EvaluationQuestion, language_code, language_of, load_questions, questions_of
from flow_omni.evaluation.results import ANSWERS_FILE, Results, ResultsError
from flow_omni.evaluation.sweeps import GENERATION_SWEEPS, SWEEPS, sweep_points, sweep_questions
from flow_omni.training.augmentation import change_tempo
from flow_omni.training.data import TASKS, RowError


RATE = 16000  # of questions
SHORT = {"max_new_tokens": 12}
ASR = {"tones": ToneASR()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set that no test changes."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def questions(folder):
    return load_questions(folder)[0]


@pytest.fixture(scope="module")
def few(folder):
    """Two questions of each task."""
    return load_questions(folder, limit=2)[0]


@pytest.fixture(scope="module")
def pair(model):
    return model, tiny_processor(model.config)


@pytest.fixture
def perfect(monkeypatch):
    monkeypatch.setattr(evaluation, "answer_batch", perfect_answers)


# --- questions


def test_rows_are_asked_in_every_task_and_written_questions_once(questions):
    numbers = {task: sum(question.task == task for question in questions) for task in TASKS}
    spoken = dict.fromkeys(("transcribe", "speech_to_speech", "speech_to_text"), 8)
    assert numbers == spoken | dict.fromkeys(("say", "text_to_speech", "text_to_text"), 4)
    by_task = {question.task: question for question in questions}
    assert by_task["transcribe"].reference in QUESTIONS
    assert by_task["say"].reference in TONES
    assert [question.is_spoken for question in by_task.values()] == [False, True, True, False, True, False]


def test_a_limit_is_per_task_and_spread_over_the_rows(folder, tmp_path):
    questions, notes = load_questions(folder, ["transcribe", "say"], limit=2)
    expected = [("transcribe", 0), ("transcribe", 4), ("say", 0), ("say", 4)]
    assert [(one.task, one.number) for one in questions] == expected and notes == []
    with pytest.raises(ValueError, match="'sing' is unknown: choose from transcribe"):
        load_questions(folder, ["sing"])
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text('{"question_text": "Hm?", "answer_text": "Hm."}\n')
    with pytest.raises(ValueError, match="None of the 1 rows serves say.*question_text=sentence"):
        load_questions(manifest, ["say"])


def test_a_folder_stands_for_its_test_rows(tmp_path):
    write_rows(tmp_path, num_speakers=1)
    (tmp_path / "train.jsonl").write_text('{"question_text": "a", "answer_text": "b"}\n')
    assert len(load_questions(tmp_path, ["transcribe"])[0]) == 4
    assert len(load_questions(tmp_path, split="train")[0]) == 1
    (tmp_path / "test.jsonl").rename(tmp_path / "dev.jsonl")
    with pytest.raises(ValueError, match=r"no test.jsonl: name one of its files \(dev.jsonl, train.jsonl\)"):
        load_questions(tmp_path)


def test_a_saved_dataset_stands_for_its_test_or_validation_split(folder, tmp_path):
    def rows(number):
        return datasets.Dataset.from_list([{"question_text": f"a{n}", "answer_text": "b"} for n in range(number)])

    splits = {"train": rows(3), "validation": rows(2)}
    for number, more in [(2, {}), (1, {"test": rows(1)})]:
        datasets.DatasetDict(splits | more).save_to_disk(tmp_path / str(number))
        assert len(load_questions(tmp_path / str(number))[0]) == number
    audio = {"bytes": (folder / "row-0-s0.wav").read_bytes(), "path": None}
    rows = [{"id": number, "audio": audio, "sentence": QUESTIONS[number]} for number in range(2)]
    datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "other")
    columns = {"question_audio": "audio", "question_text": "sentence"}
    questions, _ = load_questions(tmp_path / "other", ["transcribe"], columns=columns)
    assert [(one.id, one.reference) for one in questions] == [("0", QUESTIONS[0]), ("1", QUESTIONS[1])]


def test_unreadable_recordings_are_found_before_anything_is_asked_and_can_be_skipped(tmp_path):
    """A valid header says nothing about what comes after it, and one bad file must not end hours of evaluation."""
    write_rows(tmp_path)
    whole = (tmp_path / "row-0-s0.wav").read_bytes()
    (tmp_path / "row-0-s0.wav").write_bytes(whole[:44])
    (tmp_path / "answer-2.wav").write_bytes(b"not audio")
    with pytest.raises(RowError, match='row-0-s0: `question_audio` cannot be read: .*on_error="skip"'):
        load_questions(tmp_path)
    readable, notes = load_questions(tmp_path, on_error="skip")
    assert len(readable) == 36 - 3 - 4
    assert notes == ["7 questions with unreadable recordings were left out."]
    assert not [one for one in readable if one.id == "row-0-s0" and one.has_audio]
    assert not [one for one in readable if one.id.startswith("row-2") and one.is_spoken]
    for name in tmp_path.glob("*.wav"):
        name.write_bytes(b"not audio")
    with pytest.raises(ValueError, match="None of the 12 recordings can be read"):
        load_questions(tmp_path, ["say", "transcribe"], on_error="skip")


def test_recordings_behind_addresses_are_not_downloaded_before_they_are_asked(monkeypatch, tmp_path):
    monkeypatch.setattr("flow_omni.processing.audio_io.download", lambda url: pytest.fail(f"downloaded {url}"))
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text('{"question_text": "a", "question_audio": "https://example.org/a.wav"}\n')
    assert len(load_questions(manifest, ["transcribe"])[0]) == 1


def test_a_question_is_changed_by_its_number_and_named_by_its_row(questions, tmp_path):
    question = next(one for one in questions if one.has_audio and one.number == 2)
    changed = question.to_question(tiny_processor(), lambda waveform, rate, number: waveform[: rate // 10] * number)
    audio = changed.prompt[0]["content"][0]["audio"]
    assert audio["sampling_rate"] == RATE
    np.testing.assert_array_equal(audio["array"], question.load("question_audio")[: RATE // 10] * 2)
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text('{"question_text": "a", "answer_text": "b"}\n')
    ((question,), _) = load_questions(manifest)
    assert question.id == "rows.jsonl:1", "without the folder of its file"
    assert EvaluationQuestion({"question_text": "a", "answer_text": "b"}, "text_to_text", 4).id == "row 5"


def test_the_language_is_that_of_most_rows():
    codes = {"en-us": "en", "English": "en", "zh_TW": "zh", "cmn": "zh", "German": "de", "xyz": "xyz"}
    assert {language: language_code(language) for language in codes} == codes
    for languages, expected in [(["en-us", "cmn", "zh"], "zh"), ([None], "en")]:
        rows = [{"language": one, "question_text": str(n), "answer_text": "b"} for n, one in enumerate(languages)]
        assert language_of(questions_of(rows, ["text_to_text"])) == expected


def test_a_recording_without_an_answer_is_transcribed_and_spoken(folder):
    row = {"id": "r1", "question_text": "hello", "question_audio": str(folder / "row-0-s0.wav")}
    questions = {one.task: one for one in questions_of([row], list(TASKS))}
    assert set(questions) == {"transcribe", "say"}
    assert questions["say"].reference == "hello"
    assert len(questions["say"].load("question_audio", 24000)) == pytest.approx(0.3 * 24000, abs=2)


# --- sweeps


def test_sweeps_are_known_by_name_and_take_the_tasks_that_show_their_effect(questions):
    assert Settings(sweeps=["all"]).sweeps == list(SWEEPS)
    assert Settings(sweeps=["solver_steps", "noise"]).sweeps == ["noise", "solver_steps"]
    with pytest.raises(ValueError, match="'wind' is unknown: choose from noise, speed"):
        Settings(sweeps=["noise", "wind"])
    chosen = sweep_questions("noise", questions, 2)
    assert sorted(one.task for one in chosen) == ["speech_to_speech"] * 2 + ["transcribe"] * 2
    assert {one.task for one in sweep_questions("solver_steps", questions, None)} == {"say"}
    written = [one for one in questions if one.task == "text_to_text"]
    assert sweep_questions("noise", written, None) == []


def test_a_sweep_has_one_unchanged_point_and_repeatable_changes(questions):
    waveform = tone(0.5, RATE) + noise(0.5, RATE)
    for name in SWEEPS:
        all_points = sweep_points(name, questions)
        for sweep in {point.sweep for point in all_points}:
            points = [point for point in all_points if point.sweep == sweep]
            assert len({point.axis for point in points}) == 1 and len({point.part for point in points}) == len(points)
            changed = [point for point in points if point.change is not None]
            if name in GENERATION_SWEEPS:
                assert not changed and all(point.generation == {point.axis: point.value} for point in points)
                continue
            assert len(changed) == len(points) - 1
            for point in changed:
                audio = point.change(waveform, RATE, 3)
                np.testing.assert_array_equal(audio, point.change(waveform, RATE, 3))
                assert len(audio) != len(waveform) or not np.allclose(audio, waveform, atol=1e-3), point.part
    # noise has its level, and is the same at every level but not for every question
    points = {(point.sweep, point.value): point for point in sweep_points("noise", questions)}
    waveform = 0.2 * tone(1.0, RATE)
    cases = ((10, 1), (20, 1), (10, 2))
    loud, soft, other = (points["noise/white", snr].change(waveform, RATE, number) - waveform for snr, number in cases)
    assert 10 * np.log10((waveform**2).mean() / (loud**2).mean()) == pytest.approx(10.0, abs=0.1)
    np.testing.assert_allclose(loud, soft * 10**0.5, atol=1e-4)
    assert abs(np.corrcoef(loud, other)[0, 1]) < 0.1


def test_any_length_has_any_tempo():
    """Rounding once put the last frame of some lengths behind the end."""
    for num_samples in (9776, 16658, 19655, 20543):
        for tempo in (0.7, 1.15):
            changed = change_tempo(np.zeros(num_samples, dtype=np.float32), RATE, tempo)
            assert len(changed) == round(num_samples / tempo)


def test_unchanged_questions_are_not_asked_again(pair, questions, tmp_path, monkeypatch):
    calls = []

    def counted(model, processor, asked, **options):
        calls.append((len(asked), options.get("num_flow_steps"), options.get("return_audio", True)))
        return perfect_answers(model, processor, asked, **options)

    monkeypatch.setattr(evaluation, "answer_batch", counted)
    settings = Settings(num_timed=0, sweeps=["telephone", "solver_steps"], sweep_limit=2, batch_size=64)
    results = evaluate(*pair, questions, ASR, tmp_path, settings)
    assert sum(number for number, steps, _ in calls if steps is None) == len(questions) + 4
    assert [(number, steps) for number, steps, _ in calls if steps] == [(2, steps) for steps in (1, 2, 4, 8, 16)]
    # the answer to a changed question is judged by its text, so that no audio is made
    assert [number for number, _, has_audio in calls if not has_audio] == [2, 2]
    telephone = results.sweeps["telephone"]
    assert telephone["axis"] == "line"
    assert [point["value"] for point in telephone["points"]] == ["unchanged", "telephone"]
    assert telephone["points"][1]["metrics"]["transcribe"]["cer"] == 0.0
    assert telephone["points"][1]["metrics"]["speech_to_speech"]["exact"] == 1.0
    points = results.sweeps["solver_steps"]["points"]
    assert [point["metrics"]["say@tones"]["exact"] for point in points] == [1.0] * 5


# --- the evaluation


def test_a_perfect_model_has_no_errors(pair, questions, tmp_path, perfect):
    results = evaluate(*pair, questions, ASR, tmp_path, Settings(num_timed=0))
    for task in TASKS:
        assert results.metrics[task]["cer"] == 0.0 and results.metrics[task]["exact"] == 1.0
    for group in ("say@tones", "speech_to_speech@tones", "text_to_speech@tones", "reference@tones"):
        assert results.metrics[group]["cer"] == results.metrics[group]["wer"] == 0.0
    assert results.metrics["speech"]["clean"] == 1.0
    assert results.metrics["reference@tones"]["num_rows"] == results.metrics["vocoded@tones"]["num_rows"] == len(TONES)
    head, *lines = (json.loads(line) for line in (tmp_path / ANSWERS_FILE).read_text().splitlines())
    assert head["num_questions"] == len(questions)
    answers = [(line["task"], line["number"]) for line in lines if line["part"] == ""]
    assert sorted(answers) == sorted((one.task, one.number) for one in questions)
    # rows that share a text share its audio, which is transcribed once
    assert sum(line["part"] == "reference" for line in lines) == len(TONES)


def test_wrong_and_silent_answers_are_counted_where_they_belong(pair, questions, tmp_path, monkeypatch):
    def mistaken(*args, **options):
        answers = perfect_answers(*args, **options)
        for answer in answers:
            if answer.task == "say" and answer.reference == "Paris.":
                answer.text, answer.waveform = "Cows drink water.", audio_of_text("Cows drink water.")
        return answers

    def silent(*args, **options):
        answers = perfect_answers(*args, **options)
        for answer in answers:
            answer.waveform = np.zeros(0, np.float32) if answer.is_spoken else None
        return answers

    monkeypatch.setattr(evaluation, "answer_batch", mistaken)
    results = evaluate(*pair, questions, ASR, tmp_path, Settings(num_timed=0))
    assert results.metrics["say"]["exact"] == results.metrics["say@tones"]["exact"] == 3 / 4
    assert results.metrics["text_to_speech"]["exact"] == 1.0
    # it said what it wrote, though that was wrong
    assert results.metrics["say@tones"]["cer_of_own_text"] == 0.0
    (sample,) = [one for one in results.samples if one.task == "say" and one.text != one.reference]
    assert sample.transcripts["tones"] == "Cows drink water."
    assert set(sample.files) == {"answer", "reference"}
    assert all((tmp_path / file).is_file() for file in sample.files.values())
    monkeypatch.setattr(evaluation, "answer_batch", silent)
    results = evaluate(*pair, questions, ASR, tmp_path / "silent", Settings(num_timed=0))
    assert results.metrics["speech"]["no_start"] == results.metrics["say@tones"]["cer"] == 1.0


def timeless(results: Results) -> dict[str, dict[str, float]]:
    return {
        group: {name: value for name, value in values.items() if name != "batch_real_time_factor"}
        for group, values in results.metrics.items()
    }


def test_an_evaluation_is_the_same_twice_and_in_other_batches(pair, few, tmp_path):
    questions = [one for one in few if one.task in ("transcribe", "say")]
    metrics = []
    for index, batch_size in enumerate((1, 1, 2)):
        settings = Settings(generation=SHORT, num_timed=0, batch_size=batch_size)
        metrics.append(timeless(evaluate(*pair, questions, ASR, tmp_path / str(index), settings)))
    assert metrics[0] == metrics[1]
    for group in ("transcribe", "say", "speech"):
        assert metrics[0][group] == metrics[2][group]


def test_an_interrupted_evaluation_goes_on_where_it_was(pair, few, tmp_path, monkeypatch):
    settings = Settings(num_timed=0, batch_size=1, sweeps=["telephone"], sweep_limit=2)
    answered = []

    def counted(*args, stop_at=10**9, **options):
        if len(answered) == stop_at:
            raise KeyboardInterrupt
        answered.append(len(args[2]))
        return perfect_answers(*args, **options)

    monkeypatch.setattr(evaluation, "answer_batch", counted)
    whole = evaluate(*pair, few, ASR, tmp_path / "whole", settings)
    num_answers = len(answered)
    assert num_answers == len(few) + 4
    for stop_at in (0, 5, 13):
        answered.clear()
        folder = tmp_path / str(stop_at)
        monkeypatch.setattr(evaluation, "answer_batch", lambda *a, n=stop_at, **o: counted(*a, stop_at=n, **o))
        with pytest.raises(KeyboardInterrupt):
            evaluate(*pair, few, ASR, folder, settings)
        with open(folder / ANSWERS_FILE, "a") as file:
            file.write('{"part": "", "ta')  # as a machine that loses power leaves it
        monkeypatch.setattr(evaluation, "answer_batch", counted)
        resumed = evaluate(*pair, few, ASR, folder, settings)
        assert sum(answered) == num_answers
        assert timeless(resumed) == timeless(whole) and resumed.sweeps == whole.sweeps
        assert [sample.files for sample in resumed.samples] == [sample.files for sample in whole.samples]
    answered.clear()
    evaluate(*pair, few, ASR, tmp_path / "whole", settings)  # a finished one has all its answers
    assert answered == []


def test_answers_of_another_evaluation_are_not_taken_over(pair, few, tmp_path, perfect):
    settings = Settings(num_timed=0)
    evaluate(*pair, few, ASR, tmp_path, settings)
    before = (tmp_path / ANSWERS_FILE).read_text()
    model, processor = pair
    others = [
        ("`seed` was 0, now it is 1", pair, few, ASR, Settings(num_timed=0, seed=1)),
        ("`asr` was ..tones.., now it is ", pair, few, {}, settings),
        ("`weights` was", (tiny_model(seed=1), processor), few, ASR, settings),
        ("`num_questions` was 12, now it is 11", pair, few[1:], ASR, settings),
        ("`generation` was", pair, few, ASR, Settings(num_timed=0, generation={"num_flow_steps": 3})),
    ]
    for message, model_and_processor, questions, asr, other in others:
        with pytest.raises(ResultsError, match=f"{message}.*choose another output folder"):
            evaluate(*model_and_processor, questions, asr, tmp_path, other)
    assert (tmp_path / ANSWERS_FILE).read_text() == before


def test_results_say_how_they_came_about(pair, few, tmp_path):
    about = {"checkpoint": "runs/tiny", "data": "data/sums/test.jsonl", "command": "flow-omni evaluate"}
    lines = []
    settings = Settings(generation=SHORT, num_timed=1)
    results = evaluate(*pair, few, ASR, tmp_path, settings, **about, notes=["a note"], log=lines.append)
    assert Results.load(tmp_path) == Results.load(tmp_path / "results.json") == results
    assert results.settings["generation"]["num_flow_steps"] == 2
    assert results.settings["generation"]["max_new_tokens"] == 12
    assert (results.command, results.notes) == ("flow-omni evaluate", ["a note"])
    assert "torch" in results.machine["versions"]
    assert len(lines) == 2
    headlines = {headline["name"]: headline for headline in results.headlines}
    headline = headlines["CER: transcribe"]
    assert headline["value"] == results.metrics["transcribe"]["cer"]
    assert (headline["dataset_name"], headline["dataset_split"]) == ("sums", "test")
    assert headline["task_type"] == "automatic-speech-recognition"
    assert "CER: reference audio, tones" in headlines
    assert any(name.startswith("first audio (ms): single questions on cpu") for name in headlines)


def test_without_an_asr_model_all_else_is_measured(pair, few, tmp_path, perfect):
    results = evaluate(*pair, few, {}, tmp_path, Settings(num_timed=0))
    assert not [group for group in results.metrics if "@" in group]
    assert results.metrics["speech"]["num_rows"] == 6


def test_a_model_without_a_vocoder_is_evaluated_by_its_text(few, tmp_path):
    model = tiny_model(vocoder=None)
    settings = Settings(generation=SHORT, sweeps=["solver_steps", "telephone"], sweep_limit=2)
    results = evaluate(model, tiny_processor(model.config), few, ASR, tmp_path, settings)
    assert "cer" in results.metrics["say"] and "speech" not in results.metrics
    assert list(results.sweeps) == ["telephone"] and results.speed == {}
    assert "no vocoder" in results.notes[0]
    assert "sweep solver_steps was left out" in results.notes[1]


def test_batches_hold_one_task_and_references_of_similar_length(questions):
    found = list(batches(questions, 3))
    assert sum(map(len, found)) == len(questions)
    for batch in found:
        lengths = [len(one.reference) for one in batch]
        assert len({one.task for one in batch}) == 1 and len(batch) <= 3
        assert lengths == sorted(lengths, reverse=True)


def test_latencies_are_measured_on_single_questions(pair, questions):
    speed = measure_speed(questions, *pair, Settings(num_timed=2, generation=SHORT))
    assert speed["num_rows"] == 2
    assert 0 < speed["first_text_ms"] < speed["first_audio_ms"]
    assert speed["real_time_factor"] > 0
    assert measure_speed([one for one in questions if not one.is_spoken], *pair, Settings()) == {}


def test_asr_models_are_named_once_and_a_missing_default_is_a_note(pair, monkeypatch):
    assert list(load_asr_models(["own"], *pair)[0]) == ["own"]
    assert load_asr_models(["none"], *pair)[0] == {}
    for names in (["own", "own"], ["own", "none"]):
        with pytest.raises(ValueError, match="name each once, or `none` alone"):
            load_asr_models(names, *pair)
    monkeypatch.setattr(
        "flow_omni.training.asr.WhisperASR", lambda *args: (_ for _ in ()).throw(OSError("No network."))
    )
    models, notes = load_asr_models([], *pair)
    assert models == {} and "not transcribed. The ASR model 'whisper:base.en' cannot be loaded" in notes[0]
    with pytest.raises(ValueError, match="No network"):
        load_asr_models(["whisper:tiny"], *pair)


def test_files_that_are_not_results_are_refused(pair, few, tmp_path, perfect):
    with pytest.raises(ResultsError, match="nowhere"):
        Results.load(tmp_path / "nowhere")
    evaluate(*pair, few, {}, tmp_path, Settings(num_timed=0))
    path = tmp_path / "results.json"
    whole = json.loads(path.read_text())
    for change in ({"format": 0}, {"colour": "red"}, {"samples": [{"id": "1"}]}):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(ResultsError, match="cannot be read as results"):
            Results.load(path)
    results = Results(**{name: whole[name] for name in whole if name not in ("format", "samples")})
    results.speed["real_time_factor"] = float("inf")
    with pytest.raises(ValueError, match="JSON"):
        results.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3  # answers, results and samples, and nothing unfinished
