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
"""Metrics and ASR models of training and evaluation."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from tiny import tiny_processor, tiny_speech_decoder
from transformers import LogitsProcessor, MaxLengthCriteria

from flow_omni.processing.transcript_limit import EXTRA_CHARACTERS, MAX_CHARACTERS_PER_SECOND, transcript_limit
from flow_omni.training.asr import OwnASR, load_asr, transcribe
from flow_omni.training.metrics import (
    Answer,
    GenerationMetrics,
    Question,
    answer_batch,
    answer_metrics,
    character_error_rate,
    count_errors,
    exact_match_rate,
    normalize_text,
    word_error_rate,
)


AUDIO = {"array": np.sin(np.arange(6400) / 20.0).astype(np.float32), "sampling_rate": 16000}


class SilentASR:
    def transcribe(self, waveform, sampling_rate):
        return ""


@pytest.fixture
def questions():
    """A question of each task, two of them with spoken answers."""
    processor = tiny_processor()

    def answer(text, *audio):
        return [{"role": "assistant", "content": [{"type": "text", "text": text}, *audio]}]

    speech = {"type": "audio", "audio": AUDIO}
    return [
        Question("ask", processor.make_conversation("ask", text="two and two") + answer("four")),
        Question("say", processor.make_conversation("say", text="tin") + answer("tin", speech)),
        Question("transcribe", processor.make_conversation("transcribe", audio=AUDIO) + answer("why")),
        Question("speech_to_speech", processor.make_conversation("ask", audio=AUDIO) + answer("so so", speech)),
    ]


def transcription(processor, num_samples: int, task: str = "transcribe") -> Question:
    prompt = processor.make_conversation("transcribe", audio=np.zeros(num_samples))
    return Question(task, [*prompt, {"role": "assistant", "content": "…"}])


def test_error_rates_are_those_of_all_rows_together():
    """Spaces are not characters, and in languages without spaces every character is a word."""
    assert word_error_rate(["red green blue grey"], ["red greed blue"]) == pytest.approx(2 / 4)
    assert character_error_rate(["abcd", "ef"], ["abd", "ef"]) == pytest.approx(1 / 6)
    assert exact_match_rate(["Red.", "blue"], ["red", "grey"]) == 0.5
    counts = count_errors("every day", "everyday")
    assert (counts.characters, counts.words, counts.num_words) == (0, 2, 2)
    assert word_error_rate(["你好，世界。"], ["你 好 时 界"], "zh") == pytest.approx(1 / 4)
    assert character_error_rate(["你好"], ["你 好。"], "zh") == 0.0
    for rate in (word_error_rate, character_error_rate):
        with pytest.raises(ValueError, match="None of the 2 references"):
            rate(["...", ""], ["four", ""])


def test_text_is_normalised_as_whisper_does():
    for text, language, expected in (
        ("  Don’t — STOP, “now”! ", "en", "do not stop now"),
        ("It is twenty-one.", "en", "it is 21"),
        ("My favourite colour", "en", "my favorite color"),
        ("Über 21 Katzen!", "de", "über 21 katzen"),
        ("你好，世界。", "zh", "你 好 世 界"),
        ("十減三", "zh", "十 减 三"),
    ):
        assert normalize_text(text, language) == expected


def test_missing_packages_of_the_normaliser_are_named(monkeypatch):
    monkeypatch.setattr("flow_omni.training.metrics.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="openai-whisper.*flow-omni\\[train\\]"):
        normalize_text.__globals__["_normalizer"].__wrapped__("en")


def test_answers_become_metrics_of_each_task():
    answers = [
        Answer("transcribe", "red dog", "red fog", False),
        Answer("say", "blue", "blue", True, transcript="glue", is_truncated=True),
        Answer("say", "grey", "grey", True, transcript="grey"),
    ]
    metrics = answer_metrics(answers)
    assert metrics["transcribe_wer"] == 0.5
    assert metrics["say_exact"] == 1.0
    assert metrics["say_spoken_cer"] == pytest.approx(1 / 8)
    assert metrics["say_spoken_wer"] == metrics["say_truncated"] == 0.5
    assert "transcribe_spoken_cer" not in metrics and "transcribe_truncated" not in metrics
    # a reference of punctuation does not end a training run
    punctuation = [Answer("say", "!", "", True, transcript="")]
    assert answer_metrics(punctuation) == {"say_exact": 1.0, "say_truncated": 0.0}


def test_answers_are_in_order_and_the_same_in_any_batch(model, questions):
    metrics = GenerationMetrics(questions, tiny_processor(), SilentASR(), batch_size=2, max_new_tokens=12)
    answers = metrics.answer(model, questions)
    assert [answer.task for answer in answers] == [question.task for question in questions]
    assert [answer.reference for answer in answers] == ["four", "tin", "why", "so so"]
    assert [answer.is_spoken for answer in answers] == [False, True, False, True]
    assert [answer.transcript for answer in answers] == [None, "", None, ""]
    for size in (1, 4):
        other = GenerationMetrics(questions, tiny_processor(), SilentASR(), batch_size=size, max_new_tokens=12)
        assert other(model, 0) == metrics(model, 0)
    for mode in (True, False):
        GenerationMetrics(questions[:1], tiny_processor(), max_new_tokens=2)(model.train(mode), 0)
        assert model.training is mode


def test_processes_answer_their_own_questions_and_all_see_all_metrics(model, questions, monkeypatch):
    gathered = []

    def gather(answers):
        assert all(answer.waveform is None for answer in answers)
        gathered.extend(answers)
        return gathered

    monkeypatch.setattr("accelerate.utils.gather_object", gather)
    metrics = GenerationMetrics(questions, tiny_processor(), max_new_tokens=12)
    for rank in (0, 1):
        args = SimpleNamespace(process_index=rank, world_size=2)
        both = metrics(model, 0, SimpleNamespace(args=args, is_fsdp_enabled=False))
    assert sorted(answer.task for answer in gathered) == sorted(question.task for question in questions)
    assert both == metrics(model, 0)
    # under FSDP every process has parts of all weights, so that all answer every question
    assert metrics(model, 0, SimpleNamespace(args=args, is_fsdp_enabled=True)) == both


def test_an_answer_has_a_seed_of_its_own(model, questions):
    with pytest.raises(ValueError, match="separate batches"):
        answer_batch(model, tiny_processor(), questions)
    spoken = [question for question in questions if question.kind == "speech"] * 2
    options = {"max_new_tokens": 8, "flow_temperature": 1.0}
    both = answer_batch(model, tiny_processor(), spoken, seed=[1, 2], **options)
    (alone,) = answer_batch(model, tiny_processor(), spoken[1:], seed=[2], **options)
    np.testing.assert_allclose(both[1].waveform, alone.waveform, atol=1e-4)


def test_a_spoken_answer_without_speech_is_an_empty_waveform(model, questions, monkeypatch):
    processor = tiny_processor()
    found = {"text": "tin", "audio": None, "sampling_rate": processor.sampling_rate}
    monkeypatch.setattr(type(processor), "decode", lambda *args, **kwargs: [found])
    (answer,) = answer_batch(model, processor, questions[1:2], max_new_tokens=4)
    assert answer.waveform.shape == (0,)
    (written,) = answer_batch(model, processor, questions[1:2], max_new_tokens=4, return_audio=False)
    assert written.waveform is None


class OnlyTheLetterA(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor(ord("a")), 0.0)


def test_a_transcript_ends_where_its_audio_cannot_hold_more(model, monkeypatch):
    """On noise a model may go on and on, and one such transcript weighs as much as all others together."""
    processor = tiny_processor(model.config)
    monkeypatch.setattr(model.generation_config, "max_new_tokens", 40)
    questions = [transcription(processor, number) for number in (1600, 4000)]
    questions.append(transcription(processor, 1600, "speech_to_text"))
    options = {"logits_processor": [OnlyTheLetterA()]}
    # a whole number of positions of 80 ms
    expected = [math.ceil(MAX_CHARACTERS_PER_SECOND * seconds) + EXTRA_CHARACTERS for seconds in (0.16, 0.32)]
    answers = answer_batch(model, processor, questions, **options)
    assert [len(answer.text) for answer in answers] == [*expected, 40]
    (alone,) = answer_batch(model, processor, questions[:1], **options)
    assert alone.text == answers[0].text
    (longer,) = answer_batch(model, processor, questions[:1], max_new_tokens=30, **options)
    assert len(longer.text) == 30
    prompts = [question.prompt for question in questions[:2]]
    inputs = processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
    length = inputs["input_ids"].shape[1]
    options["stopping_criteria"] = [MaxLengthCriteria(length + 5)]
    assert [len(answer.text) for answer in answer_batch(model, processor, questions[:2], **options)] == [5, 5]


def test_speech_of_any_script_is_transcribed_to_its_end(model):
    """A letter of Russian is two tokens of a tokenizer of bytes, one of Hindi three: transcripts were cut off."""
    processor = tiny_processor(model.config)
    for text, seconds in [
        ("Сегодня утром правительство сообщило о новых мерах поддержки предприятий, которые пострадали.", 4.4),
        ("आज सुबह सरकार ने घोषणा की कि बाढ़ से प्रभावित क्षेत्रों में रहने वाले लोगों को सहायता दी जाएगी।", 4.6),
        ("This morning the government announced new measures to support companies that suffered.", 3.2),
    ]:
        conversation = transcription(processor, int(16000 * seconds)).prompt
        prompt = processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )["input_ids"]
        is_done = transcript_limit(processor, prompt)
        for repeats, is_over in [(1, False), (3, True)]:
            written = processor.tokenizer(text * repeats, return_tensors="pt")["input_ids"]
            assert is_done(torch.cat([prompt, written], dim=-1), None).tolist() == [is_over], text


class RecordingASR:
    """Stands for an ASR model, and records the options of its calls."""

    def __init__(self, can_generate: bool = True, **fields):
        self.options: dict = {}
        self.type = "seq2seq_whisper"
        self.model = SimpleNamespace(
            config=SimpleNamespace(max_target_positions=448),
            generation_config=SimpleNamespace(**fields),
            can_generate=lambda: can_generate,
        )

    def __call__(self, audio, **options):
        self.options = options
        return {"text": " found "}

    transcribe = __call__


def test_whisper_neither_samples_nor_continues_earlier_mistakes(monkeypatch):
    """By default it samples where it is unsure: two evaluations of one answer differed."""
    import whisper

    asr = RecordingASR()
    monkeypatch.setattr(whisper, "load_model", lambda name, device: asr)
    loaded = load_asr("whisper:base", language="zh")
    assert transcribe(loaded, AUDIO["array"], 16000) == "found"
    assert transcribe(loaded, np.zeros(0, np.float32), 16000) == ""
    expected = {"language": "zh", "temperature": 0.0, "condition_on_previous_text": False}
    assert expected.items() <= asr.options.items()


def test_a_pipeline_knows_the_language_and_its_length_is_limited(monkeypatch):
    """Whisper guesses the language otherwise, and of a short answer guesses wrong; in noise it may not end."""
    language = {"language": "zh", "task": "transcribe"}
    for fields, expected in [
        ({"is_multilingual": True}, {"generate_kwargs": language | {"max_new_tokens": 18}}),
        ({}, {"generate_kwargs": {"max_new_tokens": 18}}),
        ({"can_generate": False}, {}),  # such as a CTC model
    ]:
        asr = RecordingASR(**fields)
        monkeypatch.setattr(transformers, "pipeline", lambda task, name, device, asr=asr: asr)
        loaded = load_asr("someone/asr", language="zh")
        assert transcribe(loaded, AUDIO["array"], 16000) == "found"
        assert asr.options == expected
    asr = RecordingASR()
    monkeypatch.setattr(transformers, "pipeline", lambda task, name, device: asr)
    load_asr("someone/asr").transcribe(np.zeros(16000 * 40, np.float32), 16000)
    assert asr.options == {"generate_kwargs": {"max_new_tokens": 440}, "return_timestamps": True}


def test_the_model_can_be_its_own_asr_model(model, questions):
    asr = load_asr("own", model, tiny_processor())
    assert isinstance(asr, OwnASR)
    assert isinstance(asr.transcribe(np.zeros(1600, dtype=np.float32), 8000), str)
    metrics = GenerationMetrics(questions[1:2], tiny_processor(), "own", max_new_tokens=4)(model, 0)
    assert "say_spoken_cer" in metrics


def test_an_asr_model_that_cannot_be_loaded_is_named(tmp_path):
    for name in ("own", "whisper:gigantic", f"whisper:{tmp_path / 'none.pt'}", str(tmp_path / "none")):
        with pytest.raises(ValueError, match=f"ASR model '{name}' cannot be loaded .*`asr` is `own`"):
            load_asr(name)


def test_a_speech_decoder_reads_the_texts_of_say_and_answers_other_questions(questions):
    model = tiny_speech_decoder(text={"vocab_size": 264})
    answers = GenerationMetrics(questions, tiny_processor(model.config), max_new_tokens=12).answer(model, questions)
    read = next(answer for answer in answers if answer.task == "say")
    assert read.text == "tin" and len(read.waveform) > 0
    assert next(answer for answer in answers if answer.task == "speech_to_speech").text != "so so"
