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
"""Texts that go round in circles are ended, where that is asked for."""

import pytest
import torch
from tiny import EOS_TOKEN_ID, PAD_TOKEN_ID, spoken_prompt, tiny_model
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from flow_omni.modeling_flow_omni.generation_flow_omni import ends_in_repeats


PHRASE = [3, 4, 5, 6, 7]
GAP = PAD_TOKEN_ID


class Writes(LogitsProcessor):
    """Each row of a batch likes the tokens of its own text best, in turn and round and round."""

    def __init__(self, prompt_length, *texts):
        self.prompt_length, self.texts = prompt_length, texts

    def __call__(self, input_ids, scores):
        step = input_ids.shape[1] - self.prompt_length
        best = torch.tensor([text[step % len(text)] for text in self.texts])
        return torch.zeros_like(scores).scatter(1, best[:, None], 1.0)


def answer_of(model, *texts, prompt=None, **options):
    prompt = prompt or spoken_prompt([24], [3])
    writes = Writes(prompt["input_ids"].shape[1], *texts)
    options = {"generation_mode": "text", "max_new_tokens": 40} | options
    return model.generate(**prompt, logits_processor=LogitsProcessorList([writes]), **options)


def text_of(model, *text, **options):
    output = answer_of(model, text, **options)
    return output.sequences[0, -output.speech_states.shape[1] :].tolist()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize(
    ("text", "num_repeats", "is_repeating"),
    [
        ([1, 2, 3, 4] * 3, 3, True),
        ([9, *[1, 2, 3, 4] * 3], 3, True),
        ([1, 2, 3, 4] * 3, 4, False),
        ([*[1, 2, 3, 4] * 3, 9], 3, False),
        ([1, 2, 3] * 3, 3, False),
        ([1, 2, 3] * 6, 3, True),
        ([1] * 11, 3, False),
        ([1] * 12, 3, True),
        ([*range(64)] * 2, 2, True),
        ([*range(65)] * 2, 2, False),
        ([], 2, False),
    ],
)
def test_a_phrase_counts_from_4_to_64_tokens_and_shorter_ones_as_their_multiples(text, num_repeats, is_repeating):
    assert ends_in_repeats(text, num_repeats) == is_repeating


def test_a_text_that_repeats_itself_is_ended(model):
    assert text_of(model, *PHRASE) == PHRASE * 8
    assert text_of(model, *PHRASE, end_after_repeats=3) == [*PHRASE * 3, EOS_TOKEN_ID]


def test_gaps_between_words_are_none_of_the_phrase(model):
    # six other tokens, then the phrase with gaps elsewhere each time
    text = [*PHRASE, GAP, 3, GAP, 4, 5, 6, GAP, 7, GAP, GAP]
    assert text_of(model, *text, end_after_repeats=2) == [*text[:13], EOS_TOKEN_ID]


def test_phrases_of_the_prompt_do_not_count(model):
    prompt = {"input_ids": torch.tensor([PHRASE * 3])}
    output = answer_of(model, [*PHRASE, 9, 10], prompt=prompt, max_new_tokens=7, end_after_repeats=2)
    assert output.sequences[0, 15:].tolist() == [*PHRASE, 9, 10]


def test_a_checkpoint_may_ask_for_it_and_a_call_may_not_want_it():
    model = tiny_model()
    model.generation_config.end_after_repeats = 2
    assert text_of(model, *PHRASE) == [*PHRASE * 2, EOS_TOKEN_ID]
    assert text_of(model, *PHRASE, end_after_repeats=0) == PHRASE * 8


def test_each_row_of_a_batch_is_ended_by_itself(model):
    texts = (PHRASE, [*range(3, 35)], [8, EOS_TOKEN_ID])
    prompt = {"input_ids": torch.tensor([[GAP, GAP, 11, 12], [13, 14, 15, 16], [GAP, 11, 12, 13]])}
    prompt["attention_mask"] = (prompt["input_ids"] != GAP).long()
    output = answer_of(model, *texts, prompt=prompt, max_new_tokens=20, end_after_repeats=2)
    repeating, going_on, over = output.sequences[:, 4:].tolist()
    assert repeating == [*PHRASE * 2, EOS_TOKEN_ID, *[GAP] * 9]
    assert going_on == [*range(3, 23)]
    assert over == [8, EOS_TOKEN_ID, *[GAP] * 18]


def test_what_is_said_of_it_ends_by_itself():
    model = tiny_model()
    with torch.no_grad():
        model.state_head.bias[model.config.stop_state_id] += 100.0
    output = answer_of(model, PHRASE, generation_mode="speech", end_after_repeats=2, max_new_tokens=200)
    assert output.speech_states[0, -1] == model.config.stop_state_id
    assert not output.speech_truncated.any()
    assert output.sequences.shape[1] < 60


def test_steps_one_by_one_and_embeddings_in_place_of_ids_are_ended_too(model):
    prompt = {"input_ids": torch.tensor([[11, 12, 13, 14]])}
    writes = LogitsProcessorList([Writes(4, PHRASE)])
    options = {"generation_mode": "text", "end_after_repeats": 2, "max_new_tokens": 40}
    steps = [step.text_ids.item() for step in model.stream(**prompt, logits_processor=writes, **options)]
    assert steps == [*PHRASE * 2, EOS_TOKEN_ID]
    embeds = model.get_input_embeddings()(prompt["input_ids"])
    writes = LogitsProcessorList([Writes(0, PHRASE)])
    output = model.generate(inputs_embeds=embeds, logits_processor=writes, **options)
    assert output.sequences.tolist() == [[*PHRASE * 2, EOS_TOKEN_ID]]


def test_processors_can_be_had_without_an_answer(model):
    """Continuous batching asks with a generation config alone, which knows none of our options."""
    assert len(model._get_logits_processor(GenerationConfig())) > 0
