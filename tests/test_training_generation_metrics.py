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
"""Evaluation by generation: errors are counted as they should be, and samples can be heard and seen."""

import math

import numpy as np
import pytest
import torch
from test_learning import conversations
from tiny import tiny_processor
from training_runs import encoded_examples, make_trainer
from transformers import LogitsProcessor, MaxLengthCriteria

from flow_omni.processing.transcript_limit import EXTRA_CHARACTERS, MAX_CHARACTERS_PER_SECOND, transcript_limit
from flow_omni.training.generation_metrics import Answer, GenerationMetrics, Question, answer_batch, scores
from flow_omni.training.recognisers import OwnEars, recogniser_of
from flow_omni.training.samples import picture_of, show_in_tensorboard
from flow_omni.training.text_scores import character_error_rate, exact_rate, normalized, word_error_rate


def test_error_rates_on_known_cases():
    assert word_error_rate(["one two three four"], ["one too three"]) == pytest.approx(2 / 4)
    assert character_error_rate(["abcd", "ef"], ["abd", "ef"]) == pytest.approx(1 / 6)
    assert exact_rate(["Four.", "five"], ["four", "six"]) == 0.5


def test_error_rates_do_not_hear_punctuation_case_or_width():
    assert normalized("  Don’t — STOP, “now”! ") == "dont stop now"
    assert character_error_rate(["你好，世界。"], ["你 好 世界"]) == 0.0
    assert word_error_rate(["Ｆｏｕｒ!"], ["four"]) == 0.0


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(ValueError, match="no.* letter|None of the 1 expected"):
        word_error_rate(["..."], ["four"])


def test_the_figures_of_each_task():
    answers = [
        Answer("transcribe", "one two", "one too", False),
        Answer("say", "four", "four", True, heard="for", is_truncated=True),
        Answer("say", "five", "five", True, heard="five"),
    ]
    figures = scores(answers)
    assert figures["transcribe_wer"] == 0.5
    assert figures["say_exact"] == 1.0
    assert figures["say_spoken_cer"] == pytest.approx(1 / 8)
    assert figures["say_truncated"] == 0.5
    assert "transcribe_spoken_cer" not in figures


def test_an_expected_answer_without_letters_has_no_error_rate():
    assert scores([Answer("say", "!", "", True, heard="")]) == {"say_exact": 1.0, "say_truncated": 0.0}


class Deaf:
    def transcribe(self, waveform, sampling_rate):
        return ""


@pytest.fixture
def questions():
    return [Question.of(task, example) for task, example in conversations(tiny_processor()).items()]


def test_the_model_answers_every_question_in_its_place(model, questions):
    metrics = GenerationMetrics(questions, tiny_processor(model.config), Deaf(), batch_size=2, max_new_tokens=12)
    answers = metrics.answer(model, questions)
    assert [answer.task for answer in answers] == [question.task for question in questions]
    assert [answer.is_spoken for answer in answers] == [False, True, False, True]
    assert [answer.heard for answer in answers] == [None, "", None, ""]


def test_an_evaluation_is_the_same_twice_and_in_other_batches(model, questions):
    processor = tiny_processor(model.config)
    first = GenerationMetrics(questions, processor, batch_size=1, max_new_tokens=12)(model, 0)
    assert first == GenerationMetrics(questions, processor, batch_size=4, max_new_tokens=12)(model, 0)


class NeverAtAnEnd(LogitsProcessor):
    """Writes one letter after the other."""

    def __call__(self, input_ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor(ord("a")), 0.0)


def test_a_transcript_ends_where_its_sound_can_hold_no_more(model, monkeypatch):
    """In noise a model may go on and on, and one such transcript weighs as much as all others together."""
    processor = tiny_processor(model.config)
    monkeypatch.setattr(model.generation_config, "max_new_tokens", 40)
    sounds = {"transcribe": (1600, 4000), "speech_to_text": (1600,)}
    questions = [
        Question(task, processor.make_conversation("transcribe", audio=np.zeros(length)), "", False)
        for task, lengths in sounds.items()
        for length in lengths
    ]
    options = {"logits_processor": [NeverAtAnEnd()]}
    # a whole number of steps of 80 ms
    expected = [math.ceil(MAX_CHARACTERS_PER_SECOND * seconds) + EXTRA_CHARACTERS for seconds in (0.16, 0.32)]
    answers = answer_batch(model, processor, questions, False, **options)
    assert [len(answer.text) for answer in answers] == [*expected, 40]
    (alone,) = answer_batch(model, processor, questions[:1], False, **options)
    assert alone.text == answers[0].text
    # who says how long gets as much
    (longer,) = answer_batch(model, processor, questions[:1], False, max_new_tokens=30, **options)
    assert len(longer.text) == 30


def test_speech_of_any_script_is_transcribed_to_its_end(model):
    """A letter of Russian is two tokens of a tokenizer of bytes, one of Hindi three: transcripts were cut off."""
    processor = tiny_processor(model.config)
    for text, seconds in [
        ("Сегодня утром правительство сообщило о новых мерах поддержки предприятий, которые пострадали.", 4.4),
        ("आज सुबह सरकार ने घोषणा की कि बाढ़ से प्रभावित क्षेत्रों में रहने वाले लोगों को सहायता दी जाएगी।", 4.6),
        ("This morning the government announced new measures to support companies that suffered.", 3.2),
    ]:
        conversation = processor.make_conversation("transcribe", audio=np.zeros(int(16000 * seconds)))
        prompt = processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )["input_ids"]
        is_done = transcript_limit(processor, prompt)
        for repeats, is_over in [(1, False), (3, True)]:
            written = processor.tokenizer(text * repeats, return_tensors="pt")["input_ids"]
            assert is_done(torch.cat([prompt, written], dim=-1), None).tolist() == [is_over], text


def test_a_limit_goes_with_several_answers_and_other_limits(model, monkeypatch):
    processor = tiny_processor(model.config)
    monkeypatch.setattr(model.generation_config, "max_new_tokens", 40)
    prompts = [processor.make_conversation("transcribe", audio=np.zeros(length)) for length in (1600, 4000)]
    inputs = processor.apply_chat_template(
        prompts, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    options = {"logits_processor": [NeverAtAnEnd()], "do_sample": True, "num_return_sequences": 2}
    limit = transcript_limit(processor, inputs["input_ids"])
    output = model.generate(**inputs, generation_mode="text", stopping_criteria=limit, **options)
    assert [decoded["text"].count("a") for decoded in processor.post_process_generation(output)] == [17, 17, 23, 23]
    # that of the caller is not put aside, and answers are those of their questions
    questions = [Question("transcribe", prompt, "", False) for prompt in prompts]
    options = {"logits_processor": [NeverAtAnEnd()]}
    options["stopping_criteria"] = [MaxLengthCriteria(inputs["input_ids"].shape[1] + 5)]
    assert [len(answer.text) for answer in answer_batch(model, processor, questions, False, **options)] == [5, 5]
    with pytest.raises(ValueError, match="`num_return_sequences` is 2"):
        answer_batch(model, processor, questions, False, num_return_sequences=2)


def test_the_model_can_listen_to_itself(model):
    ears = recogniser_of("own", model, tiny_processor(model.config))
    assert isinstance(ears, OwnEars)
    assert isinstance(ears.transcribe(np.zeros(8000, dtype=np.float32), 8000), str)


def test_the_trainer_logs_the_figures_and_tensorboard_gets_sound_picture_and_text(tmp_path, questions):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    processor = tiny_processor()
    metrics = GenerationMetrics(questions, processor, on_answers=[show_in_tensorboard], max_new_tokens=12)
    trainer = make_trainer(
        tmp_path,
        generation_metrics=metrics,
        eval_dataset=encoded_examples(1),
        eval_strategy="steps",
        eval_steps=2,
        max_steps=2,
        report_to="tensorboard",
    )
    trainer.train()
    evaluation = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert {"eval_transcribe_wer", "eval_say_cer", "eval_ask_exact", "eval_answer_truncated"} <= set(evaluation)
    events = next(path.parent for path in tmp_path.rglob("events.out*"))
    log = EventAccumulator(str(events)).Reload()
    assert "say/0" in log.Tags()["images"]
    assert "say/0/text_summary" in log.Tags()["tensors"]
    assert "eval/transcribe_wer" in log.Tags()["scalars"]


def test_a_picture_has_low_bands_below():
    mel = np.full((5, 10), -7.0)
    mel[:, 0] = 3.0
    picture = picture_of(mel)
    assert picture.shape == (20, 10, 3)
    assert picture.dtype == np.uint8
    assert picture[-1].mean() > picture[0].mean()
