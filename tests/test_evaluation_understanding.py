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

"""Understanding of speech: agreement with the model that reads the question, and questions of common knowledge."""

import json

import numpy as np
import pytest
import torch
from evaluation_tools import perfect_answers
from sounds import tone
from tiny import tiny_model, tiny_processor

from flow_omni.evaluation import evaluate as evaluation
from flow_omni.evaluation.evaluate import Settings, evaluate
from flow_omni.evaluation.questions import KNOWLEDGE_FILE, load_questions
from flow_omni.evaluation.report import write_report
from flow_omni.evaluation.text_errors import contains_answer
from flow_omni.evaluation.understanding import Agreement, agreement_metrics, knowledge_metrics, measure_agreement
from flow_omni.processing.audio_io import write_audio
from flow_omni.training.data import RowError, load_rows
from flow_omni.training.metrics import Answer
from flow_omni.training.prepare.texts import is_speakable


QUESTIONS = {"What is the capital of France?": ["Paris"], "How many legs has a dog?": ["four"]}
UNDERSTANDING = ["knowledge", "spoken_knowledge", "agreement"]


@pytest.fixture(scope="module")
def pair(model):
    return model, tiny_processor(model.config)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Each question by two speakers, with its accepted answers and a system prompt."""
    folder = tmp_path_factory.mktemp("knowledge")
    lines = []
    for speaker in range(2):
        for number, (question, accepted) in enumerate(QUESTIONS.items()):
            name = f"{number}-{speaker}.wav"
            write_audio(folder / name, tone(0.3, 16000, 300.0 + 100 * number), 16000)
            row = {
                "question_text": question,
                "question_audio": name,
                "accepted_answers": accepted,
                "system": "Be brief.",
            }
            lines.append(json.dumps(row) + "\n")
    (folder / "test.jsonl").write_text("".join(lines))
    return folder / "test.jsonl"


def test_questions_of_knowledge_can_be_spoken_and_do_not_hold_their_answers():
    rows = load_rows(KNOWLEDGE_FILE)
    assert len(rows) >= 320
    assert len({row["question_text"].lower() for row in rows}) == len(rows)
    for row in rows:
        assert is_speakable(row["question_text"], min_words=3) and row["question_text"].endswith(("?", ".")), row
        assert row["system"] == "Answer in one short sentence."
        for answer in row["accepted_answers"]:
            assert len(answer.split()) <= 5
            assert contains_answer(f"It is {answer}.", [answer]), row
            assert not contains_answer(row["question_text"], [answer]), row


def test_correct_answer_contains_an_accepted_one_as_whole_words():
    assert contains_answer("It's Paris, of course!", ["Rome", "paris"])
    assert contains_answer("A dog has 4 legs.", ["four"]) and contains_answer("Twenty-four.", ["24"])
    assert contains_answer("The colour is gray.", ["color"])
    assert not contains_answer("Parisian cafés", ["Paris"])
    assert not contains_answer("in york, new", ["New York"])
    assert not contains_answer("", ["Paris"]) and not contains_answer("Well …", ["…"])


def test_accepted_answers_are_a_list_of_texts(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('question_text,accepted_answers\nHm?,"[""a"", ""b""]"\n')
    assert load_rows(file)[0]["accepted_answers"] == ["a", "b"]
    (tmp_path / "rows.jsonl").write_text('{"question_text": "Hm?", "accepted_answers": ["a", " "]}\n')
    with pytest.raises(RowError, match="`accepted_answers` is .*: it must be a list of strings that are not blank"):
        load_rows(tmp_path / "rows.jsonl")


def prompts(manifest, processor):
    question = load_questions(manifest, ["agreement"])[0][0]
    return question.to_question(processor).prompt, question.to_question(processor, in_writing=True).prompt


@pytest.fixture(scope="module")
def compressing():
    """A model whose CTC drops most positions of the audio."""
    model = tiny_model(adapter_compression="ctc", adapter_hidden_size=16, adapter_num_attention_heads=2)
    model.model.audio_adapter.letter_head.bias.data[-1] += 1
    return model, tiny_processor(model.config)


def test_agreement_is_that_of_a_model_that_shortens_audio_too(compressing, manifest):
    model, processor = compressing
    spoken, written = prompts(manifest, processor)
    _, agreement = measure_agreement(model, processor, spoken, written, max_new_tokens=6)
    inputs = processor.apply_chat_template(
        spoken, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    audio = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
    assert 0 < agreement.divergence and audio.audio_lengths.sum() < (inputs["input_ids"] == 259).sum()


def test_transcripts_of_the_ctc_are_scored_without_the_language_model(compressing, pair, manifest, tmp_path):
    questions, _ = load_questions(manifest, ["transcribe_ctc"])
    results = evaluate(*compressing, questions, {}, tmp_path, Settings(batch_size=4))
    assert results.metrics["transcribe_ctc"]["num_rows"] == 4 and results.metrics["transcribe_ctc"]["cer"] > 0
    model, processor = compressing
    prompt = questions[0].to_question(processor).prompt
    inputs = processor.apply_chat_template(prompt, tokenize=True, return_dict=True, return_tensors="pt")
    audio = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
    texts = {record.number: record.text for record in results.samples}
    assert [texts[0]] == processor.transcripts_of(audio)
    with pytest.raises(ValueError, match="does not spell"):
        evaluate(*pair, questions, {}, tmp_path / "other", Settings())


def test_model_agrees_with_itself(pair, manifest):
    _, written = prompts(manifest, pair[1])
    _, agreement = measure_agreement(*pair, written, written, max_new_tokens=6)
    assert agreement.num_agreeing == agreement.num_tokens <= 6 and agreement.divergence == 0.0


def test_agreement_compares_the_distributions_at_the_tokens_of_the_written_answer(pair, manifest):
    """Against all logits of one sequence each, and the sum of the definition."""
    model, processor = pair
    spoken, written = prompts(manifest, processor)
    assert written[0] == {"role": "system", "content": "Be brief."} and written[0] == spoken[0]
    text, agreement = measure_agreement(model, processor, spoken, written, max_new_tokens=6)
    inputs = [
        processor.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        for prompt in (written, spoken)
    ]
    options = {"generation_mode": "text", "do_sample": False, "max_new_tokens": 6, "return_dict_in_generate": False}
    answer = model.generate(**inputs[0], **options)[:, inputs[0]["input_ids"].shape[1] :]
    assert text == processor.decode(answer[0], skip_special_tokens=True)
    assert agreement.num_tokens == answer.shape[1]
    probabilities = []
    for one in inputs:
        length = one["input_ids"].shape[1]
        one = {**one, "input_ids": torch.cat([one["input_ids"], answer], dim=1)}
        del one["attention_mask"]
        with torch.no_grad():
            logits = model(**one).logits[0, length - 1 : length - 1 + answer.shape[1]]
        probabilities.append(logits.double().softmax(dim=-1))
    read, heard = probabilities
    assert torch.equal(read.argmax(dim=-1), answer[0])
    assert agreement.num_agreeing == int((heard.argmax(dim=-1) == answer[0]).sum())
    expected = float((read * (read / heard).log()).sum())
    assert expected > 1e-4 and agreement.divergence == pytest.approx(expected, rel=1e-2)


def test_agreement_is_over_all_tokens():
    metrics = agreement_metrics([Agreement(8, 8, 0.4), Agreement(2, 0, 1.6)])
    assert metrics == {"num_rows": 2, "agreement": 0.8, "kl": 0.2}
    metrics = agreement_metrics([Agreement(8, 8, 0.4), Agreement(2, 0, 1.6)] * 20)
    assert metrics["agreement_low"] < 0.8 < metrics["agreement_high"]
    assert metrics["kl_low"] < 0.2 < metrics["kl_high"]


def test_spoken_score_is_over_the_written_one_of_the_same_questions():
    def answers(*texts):
        return [(f"question {number}", text, ["yes"]) for number, text in enumerate(texts)]

    assert knowledge_metrics(answers("yes", "no"))["correct"] == 0.5
    written = answers("yes", "yes", "yes", "yes", "no", "yes")
    metrics = knowledge_metrics(answers("yes", "no", "yes", "yes", "no"), written)
    assert metrics["num_rows"] == 5 and metrics["correct"] == 0.6 and metrics["over_written"] == 0.75
    assert "over_written" not in knowledge_metrics(answers("yes"), answers("no"))
    many = knowledge_metrics(answers(*["yes", "no"] * 50), answers(*["yes"] * 100))
    assert many["over_written_low"] < many["over_written"] == 0.5 < many["over_written_high"]


def test_understanding_is_evaluated_in_writing_and_by_voice(pair, manifest, tmp_path, monkeypatch):
    def answers(model, processor, questions, **options):
        """Right in writing; by voice only about legs."""
        assert options["max_new_tokens"] == evaluation.MAX_NEW_TOKENS
        is_right = [one.task == "knowledge" or one.reference == "four" for one in questions]
        texts = [f"I say {one.reference}." if right else "What?" for one, right in zip(questions, is_right)]
        return [Answer(one.task, one.reference, text, False) for one, text in zip(questions, texts)]

    monkeypatch.setattr(evaluation, "answer_batch", answers)
    questions, _ = load_questions(manifest, UNDERSTANDING)
    assert [sum(one.task == task for one in questions) for task in UNDERSTANDING] == [2, 4, 4]
    settings = Settings(num_samples=1)
    results = evaluate(*pair, questions, {}, tmp_path, settings)
    assert results.metrics["knowledge"]["correct"] == 1.0
    assert results.metrics["spoken_knowledge"]["correct"] == results.metrics["spoken_knowledge"]["over_written"] == 0.5
    assert 0.0 <= results.metrics["agreement"]["agreement"] <= 1.0 < 1.0 + results.metrics["agreement"]["kl"]
    assert not any("cer" in metrics for metrics in results.metrics.values())
    names = {metric["metric"] for metric in results.headlines}
    assert {"agreement", "kl", "correct", "over_written"} <= names
    report = write_report(tmp_path).read_text()
    assert "correct, spoken over written" in report and "| spoken knowledge | 4 | 50.0 %" in report
    # what has been answered is not answered again
    monkeypatch.setattr(evaluation, "measure_agreement", None)
    monkeypatch.setattr(evaluation, "answer_batch", None)
    assert evaluate(*pair, questions, {}, tmp_path, settings).metrics == results.metrics


def test_agreement_hears_the_changed_audio(pair, manifest, tmp_path):
    questions, _ = load_questions(manifest, ["agreement"], limit=1)
    running = evaluation.Evaluation(*pair, questions, {}, tmp_path, Settings(), False)
    options = {"max_new_tokens": 4}
    (_, plain), (_, changed) = (
        running.ask(questions, [questions[0].to_question(pair[1], change)], options)[0]
        for change in (None, lambda waveform, rate, number: np.flip(waveform)[: rate // 5].copy())
    )
    assert plain.num_tokens == changed.num_tokens and plain.divergence != changed.divergence


def test_agreement_is_measured_on_demand_only(manifest):
    assert {one.task for one in load_questions(manifest)[0]} == {"transcribe", "say", "knowledge", "spoken_knowledge"}


def test_answers_without_accepted_ones_are_scored_as_before(pair, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "answer_batch", perfect_answers)
    questions, _ = load_questions(manifest, ["transcribe"])
    metrics = evaluate(*pair, questions, {}, tmp_path, Settings()).metrics
    assert metrics["transcribe"]["exact"] == 1.0 and "correct" not in metrics["transcribe"]
