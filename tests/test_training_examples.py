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
"""Examples: the draw of tasks, the inputs of the model, and rows that cannot be used."""

import re
from collections import Counter
from copy import copy

import pytest
import torch
from sounds import file_bytes, noise, tone
from tiny import tiny_processor

from flow_omni.training.augmentation import Augmentation
from flow_omni.training.examples import Example, ExampleBuilder, Skipped, SkipReport
from flow_omni.training.lengths import StepCounter
from flow_omni.training.planned_batches import measure_rows
from flow_omni.training.rows import TASKS, RowError, conversation_of, tasks_of


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture
def row():
    return {
        "id": "r",
        "question_text": "how old are you",
        "question_audio": {"bytes": file_bytes(noise(0.4)), "path": None},
        "answer_text": "two days",
        "answer_audio": {"bytes": file_bytes(tone(0.5)), "path": None},
        "answer_word_times": [0.1, 0.3],
    }


def test_tasks_are_drawn_in_the_shares_given(processor, row):
    shares = {"transcribe": 1, "say": 2, "speech_to_speech": 5, "text_to_text": 0}
    builder = ExampleBuilder(processor, shares)
    drawn = Counter(builder.draw_task(tasks_of(row), key) for key in range(4000))
    assert drawn.keys() == {"transcribe", "say", "speech_to_speech"}
    for task in drawn:
        assert drawn[task] / 4000 == pytest.approx(shares[task] / 8, abs=0.03)


def test_transcripts_come_along_where_speech_is_heard_and_they_are_asked_for(processor, row):
    batch = {}
    for task, is_heard in {"transcribe": True, "speech_to_speech": True, "say": False}.items():
        example = ExampleBuilder(processor, {task: 1}, transcripts=True).build(row, 0).inputs
        assert ("audio_labels" in example) == is_heard
        assert "audio_labels" not in ExampleBuilder(processor, {task: 1}).build(row, 0).inputs
        batch[task] = example
    del row["question_text"]
    batch["unknown"] = ExampleBuilder(processor, {"speech_to_text": 1}, transcripts=True).build(row, 0).inputs
    labels = processor.collate(list(batch.values()))["audio_labels"]
    transcripts = [processor.tokenizer.decode(labels_of[labels_of >= 0]) for labels_of in labels]
    assert transcripts == ["how old are you", "how old are you", ""]


def test_shares_are_among_what_a_row_offers(processor, row):
    del row["answer_audio"]
    builder = ExampleBuilder(processor, {"transcribe": 1, "say": 8, "speech_to_text": 1})
    drawn = Counter(builder.draw_task(tasks_of(row), key) for key in range(1000))
    assert drawn.keys() == {"transcribe", "speech_to_text"}
    assert drawn["transcribe"] == pytest.approx(500, abs=60)


def test_a_draw_depends_on_seed_epoch_and_row_alone(processor, row):
    def draws(seed, epoch):
        return [ExampleBuilder(processor, seed=seed).draw_task(tasks_of(row), key, epoch) for key in range(50)]

    assert draws(0, 0) == draws(0, 0)
    assert draws(0, 0) != draws(0, 1)
    assert draws(0, 0) != draws(1, 0)


@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_what_the_processor_makes_of_the_conversation(processor, row, task):
    example = ExampleBuilder(processor, {task: 1}).build(row, 0)
    expected = processor.encode_training_example(conversation_of(row, task, processor))
    assert (example.id, example.task, example.num_steps) == ("r", task, len(expected["input_ids"]))
    assert example.inputs.keys() == expected.keys()
    torch.testing.assert_close(example.inputs, expected)


def test_the_part_of_a_recording_is_what_is_heard(processor, row):
    row |= {"question_start": 0.1, "question_end": 0.3}
    example = ExampleBuilder(processor, {"transcribe": 1}).build(row, 0)
    frames = example.inputs["input_features"][0].shape[-1]
    assert frames == pytest.approx(20, abs=8)


@pytest.mark.parametrize("layout", ["leading", "timed", "auto"])
def test_the_layout_of_text_is_as_asked(processor, row, layout):
    build = ExampleBuilder(processor, {"say": 1}, text_layout=layout).build
    is_timed = layout != "leading"
    pad = processor.tokenizer.pad_token_id
    assert (pad in build(row, 0).inputs["labels"]) == is_timed
    del row["answer_word_times"]
    untimed = build(row, 0)
    if layout == "timed":
        assert isinstance(untimed, Skipped)
        assert "`word_times`" in untimed.message
    else:
        assert pad not in untimed.inputs["labels"]


def test_written_answers_have_no_times_in_any_layout(processor, row):
    for task in ("text_to_text", "transcribe"):
        assert isinstance(ExampleBuilder(processor, {task: 1}, text_layout="timed").build(row, 0), Example)


@pytest.mark.parametrize(
    ("change", "tasks", "reason", "message"),
    [
        ({"question_audio": b"no sound"}, {"transcribe": 1}, "corrupt audio", "r: `question_audio`: Cannot decode"),
        ({"question_audio": "none.wav"}, {"transcribe": 1}, "corrupt audio", "There is no audio file at 'none.wav'"),
        ({"question_start": 5.0}, {"transcribe": 1}, "corrupt audio", "it must lie within the recording"),
        ({"answer_text": "a<|audio|>b"}, {"say": 1}, "wrong row", "stands for audio"),
        ({"answer_text": 3}, {"say": 1}, "wrong row", "`answer_text` is 3: it must be a string"),
        ({"answer_text": None}, {"say": 1}, "no task", "it offers transcribe, and say are trained"),
        ({}, {"say": 1}, "too long", "it has .* steps as say, and `max_steps` is 20"),
    ],
)
def test_rows_that_cannot_be_used_say_why(processor, row, change, tasks, reason, message):
    skipped = ExampleBuilder(processor, tasks, max_steps=20 if reason == "too long" else None).build(row | change, 0)
    assert isinstance(skipped, Skipped)
    assert (skipped.id, skipped.reason) == ("r", reason)
    assert re.search(message, skipped.message)


def test_corrupt_audio_of_another_task_does_not_matter(processor, row):
    row["question_audio"] = b"no sound"
    assert isinstance(ExampleBuilder(processor, {"say": 1}).build(row, 0), Example)


def test_a_builder_may_stop_instead_and_names_the_row(processor, row):
    builder = ExampleBuilder(processor, {"transcribe": 1}, on_error="stop")
    with pytest.raises(RowError, match="r: `question_audio`: There is no audio file") as caught:
        builder.build(row | {"question_audio": "none.wav"}, 0)
    assert caught.value.__notes__ == ["The row is r."]


def test_what_was_skipped_is_summed_and_told():
    report = SkipReport(max_shown=1)
    report.add(5, [Skipped("a", "corrupt audio", "broken")])
    report.add(4, [Skipped("b", "corrupt audio", "broken"), Skipped("c", "too long", "endless")])
    assert str(report) == "9 rows used, 3 skipped (2 corrupt audio, 1 too long)\n  a: broken"
    other = SkipReport()
    other.load_state_dict(report.state_dict())
    assert str(other) == str(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": {"trancribe": 1}}, "the tasks are transcribe, .* Did you mean `transcribe`"),
        ({"tasks": {"say": -1}}, "The share of the task 'say' is -1: it must be a number, 0 or more"),
        ({"tasks": {"say": 0}}, "give at least one task a share above 0"),
        ({"text_layout": "late"}, 'is \'late\': choose "leading", "timed" or "auto"'),
        ({"max_steps": 0}, "`max_steps` is 0: it must be a number of steps"),
        ({"on_error": "cry"}, 'is \'cry\': it must be "stop" or "skip"'),
    ],
)
def test_wrong_settings_are_refused(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        ExampleBuilder(processor, **arguments)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("with_history", [False, True])
def test_steps_are_counted_without_building(processor, row, task, with_history):
    if with_history:
        row |= {
            "system": "Be brief.",
            "history": [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "yes?"}],
        }
    example = ExampleBuilder(processor, {task: 1}).build(row, 0)
    assert StepCounter(processor).count(row, task) == pytest.approx(example.num_steps, abs=3)


def test_steps_of_many_rows_are_those_of_each(processor, row):
    rows = [{"id": str(index), "question_text": "a b" * index, "answer_text": "ü" * (index % 3)} for index in range(9)]
    rows += [row, {"id": "wrong", "answer_text": 3}, row | {"question_audio": {"bytes": b"no sound"}}]
    builder, counter = ExampleBuilder(processor), StepCounter(processor)
    together = measure_rows([(f"row {index}", row) for index, row in enumerate(rows)], builder, counter)
    alone = [measure_rows([(f"row {index}", row)], builder, counter)[0] for index, row in enumerate(rows)]
    assert together == alone
    assert [skipped.reason for _, skipped in together[-2:]] == ["wrong row", "corrupt audio"]
    counted = [counter.count(rows[4], task) if task in tasks_of(rows[4]) else -1 for task in TASKS]
    assert together[4] == (counted, None)


def test_tokens_are_counted_as_the_tokenizer_makes_them_even_where_it_would_cut_or_pad(processor):
    texts, counter = ["a", "größer", "ab <|audio|> ab"], StepCounter(processor)
    expected = {text: len(processor.tokenizer(text, add_special_tokens=False).input_ids) for text in texts}
    assert counter.num_tokens([*texts, "", "a"]) == expected
    backend = processor.tokenizer.backend_tokenizer
    try:
        backend.enable_truncation(1)
        backend.enable_padding(length=20)
        assert counter.num_tokens(texts) == expected
    finally:
        backend.no_truncation()
        backend.no_padding()


NOISY = Augmentation(share=1.0, speed_share=1.0, speeds=(0.8, 0.9), noise_share=1.0)


def features_of(builder, row, **place):
    return torch.as_tensor(builder.build(row, **{"key": 0} | place).inputs["input_features"][0])


def test_questions_are_augmented_by_seed_epoch_and_row_alone(processor, row):
    tasks = {"transcribe": 1}
    plain = features_of(ExampleBuilder(processor, tasks), row)
    builder = ExampleBuilder(processor, tasks, augmentation=NOISY)
    heard = features_of(builder, row, epoch=1)
    same = features_of(ExampleBuilder(processor, tasks, augmentation=NOISY), row, epoch=1)
    assert torch.equal(heard, same)
    assert heard.shape != plain.shape
    seeded = ExampleBuilder(processor, tasks, seed=1, augmentation=NOISY)
    others = [features_of(builder, row, epoch=2), features_of(builder, row, key=1, epoch=1)]
    for other in (*others, features_of(seeded, row, epoch=1)):
        assert other.shape != heard.shape or not torch.equal(other, heard)


def test_what_is_to_be_said_is_never_augmented(processor, row):
    recording = {name: row[name] for name in ("question_text", "question_audio")}
    for said, task in ((row, "say"), (row, "text_to_speech"), (recording, "say")):
        plain, noisy = (ExampleBuilder(processor, {task: 1}, augmentation=how).build(said, 0) for how in (None, NOISY))
        assert torch.equal(torch.as_tensor(plain.inputs["mel_labels"]), torch.as_tensor(noisy.inputs["mel_labels"]))


def test_a_question_that_slowed_down_would_be_too_long_stays_as_it_is(processor, row):
    short = copy(processor)
    short.max_audio_seconds = 0.41
    heard = features_of(ExampleBuilder(short, {"transcribe": 1}, augmentation=NOISY), row)
    plain = features_of(ExampleBuilder(short, {"transcribe": 1}), row)
    assert torch.equal(heard, plain)


def test_steps_are_counted_as_long_as_questions_can_become(processor, row):
    row["question_audio"] = {"bytes": file_bytes(noise(1.5)), "path": None}
    builder = ExampleBuilder(processor, {"speech_to_text": 1}, augmentation=NOISY)
    counted = StepCounter(processor, NOISY).count(row, "speech_to_text")
    longest = max(builder.build(row, key).num_steps for key in range(20))
    assert longest <= counted + 1
    assert longest > StepCounter(processor).count(row, "speech_to_text")
    assert Augmentation(speed_share=0.0).longest == Augmentation(speeds=(1.1, 1.2)).longest == 1.0
