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
"""Generation: the state machine holds, and no way of running it changes what is said."""

import math
import re

import pytest
import torch
from tiny import AUDIO_TOKEN_ID, EOS_TOKEN_ID, PAD_TOKEN_ID, collate, spoken_prompt, tiny_model
from transformers import (
    CompileConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import StaticCache
from transformers.generation.streamers import BaseStreamer

from flow_omni.modeling_flow_omni.configuration_flow_omni import LANGUAGE_MODEL_FAMILIES
from flow_omni.modeling_flow_omni.generation_flow_omni import ends_in_repeats


PAD, START, GENERATING, STOP = range(4)


class EndTextAfter(LogitsProcessor):
    """Ends each row's text after a given number of tokens, as an untrained model would not."""

    def __init__(self, *lengths: int):
        self.lengths, self.num_calls = lengths, 0

    def __call__(self, input_ids, scores):
        self.num_calls += 1
        scores[:, EOS_TOKEN_ID] = -math.inf
        for row in range(len(scores)):
            if self.num_calls > self.lengths[row % len(self.lengths)]:
                scores[row] = -math.inf
                scores[row, EOS_TOKEN_ID] = 0.0
        return scores


def end_text_after(*lengths: int) -> LogitsProcessorList:
    return LogitsProcessorList([EndTextAfter(*lengths)])


def answer(model, *text_lengths, **options):
    """The answer to one spoken question, whose text ends after so many tokens."""
    if text_lengths:
        options["logits_processor"] = end_text_after(*text_lengths)
    return model.generate(**spoken_prompt([24], [3]), **options)


def with_state_bias(state: int, bias: float, **changes):
    """A model that prefers one speech state."""
    model = tiny_model(**changes)
    with torch.no_grad():
        model.state_head.bias[state] += bias
    return model


def assert_same(output, expected, rows=slice(None), atol=1e-5):
    torch.testing.assert_close(output.speech_states, expected.speech_states[rows])
    torch.testing.assert_close(output.mel, expected.mel[rows], atol=atol, rtol=0)


# --- the state machine


def test_spoken_answer_runs_through_the_states_in_order():
    output = answer(with_state_bias(STOP, 0.5), 5, seed=0, max_new_tokens=200)
    states = output.speech_states[0].tolist()
    num_patches = states.count(GENERATING)
    assert states == [PAD] * 3 + [START] + [GENERATING] * num_patches + [STOP]
    assert output.mel_lengths.tolist() == [num_patches * 2]
    assert output.mel.shape == (1, num_patches * 2, 20)
    assert not output.speech_truncated.any()


def test_text_is_padded_by_rule_after_its_end(model):
    output = answer(model, 5, max_new_tokens=20)
    num_steps = output.speech_states.shape[1]
    text = output.sequences[0, -num_steps:].tolist()
    assert text[5] == EOS_TOKEN_ID
    assert text[6:] == [PAD_TOKEN_ID] * (num_steps - 6) != []


def test_speech_starts_after_the_delay_or_with_the_end_of_a_shorter_text():
    for delay, text_length, start in ((0, 5, 0), (3, 5, 3), (3, 1, 2), (9, 0, 1)):
        model = tiny_model(speech={"speech_delay": delay})
        processors = end_text_after(text_length)
        output = answer(model, logits_processor=processors, max_new_tokens=12)
        assert output.speech_states[0].tolist().index(START) == start


def test_speech_does_not_stop_in_its_first_steps():
    model = with_state_bias(STOP, 100.0)
    for min_speech_steps in (1, 4):
        output = answer(model, 1, min_speech_steps=min_speech_steps)
        assert output.speech_states[0].tolist().count(GENERATING) == min_speech_steps


def test_speech_does_not_stop_before_its_text_has_ended():
    output = answer(with_state_bias(STOP, 100.0), 12, min_speech_steps=1)
    states = output.speech_states[0].tolist()
    assert states.index(STOP) == 13


def test_speech_that_never_stops_is_cut_in_proportion_to_its_text_and_marked():
    model = with_state_bias(GENERATING, 100.0)
    num_patches = {}
    for length in (3, 9):
        output = answer(model, length, max_speech_seconds_per_token=0.1, max_speech_extra_seconds=0.5)
        assert output.speech_truncated.tolist() == [True]
        num_patches[length] = output.speech_states[0].tolist().count(GENERATING)
    steps_per_second = model.config.speech_config.steps_per_second
    # the end of the text counts as one of its tokens
    assert num_patches == {n: math.ceil((0.1 * (n + 1) + 0.5) * steps_per_second) for n in (3, 9)}


def test_speech_cut_by_max_new_tokens_is_marked_and_keeps_a_patch_for_every_position(model):
    output = answer(model, max_new_tokens=9)
    assert output.sequences.shape[1] == spoken_prompt([24], [3])["input_ids"].shape[1] + 9
    assert output.speech_truncated.tolist() == [True]
    assert output.mel_lengths.item() == 2 * output.speech_states[0].tolist().count(GENERATING)


def test_text_mode_generates_no_speech(model):
    output = answer(model, generation_mode="text", logits_processor=end_text_after(4))
    assert output.sequences[0, -1] == EOS_TOKEN_ID
    assert output.speech_states.tolist() == [[PAD] * 5]
    assert output.mel.shape == (1, 0, 20)
    assert output.audio[0].shape == (0,)
    assert not output.speech_truncated.any()


def test_auto_mode_ends_a_silent_answer_as_soon_as_speech_may_no_longer_start():
    model = with_state_bias(START, 100.0, speech={"speech_delay": 3})
    with torch.no_grad():
        # the pads before the end of the text win
        model.state_head.bias[PAD] += 200.0
    inputs, options = spoken_prompt([24], [3]), {"generation_mode": "auto", "max_new_tokens": 20}
    silent = model.generate(**inputs, logits_processor=end_text_after(1), **options)
    assert silent.speech_states.tolist() == [[PAD, PAD, PAD]]
    longer = model.generate(**inputs, logits_processor=end_text_after(5), **options)
    assert longer.speech_states.tolist() == [[PAD] * 6]


def test_auto_mode_lets_the_model_decide():
    inputs, options = spoken_prompt([24], [3]), {"generation_mode": "auto", "max_new_tokens": 40}
    silent = with_state_bias(PAD, 100.0).generate(**inputs, logits_processor=end_text_after(4), **options)
    assert set(silent.speech_states[0].tolist()) == {PAD}
    spoken = with_state_bias(START, 100.0).generate(**inputs, logits_processor=end_text_after(4), **options)
    assert spoken.speech_states[0, :2].tolist() == [START, GENERATING]


def test_audio_placeholder_is_never_generated():
    model = tiny_model()
    with torch.no_grad():
        # its embedding, tied to the head, wins every comparison
        model.lm_head.weight[AUDIO_TOKEN_ID] *= 100
    output = answer(model, max_new_tokens=30, do_sample=True, temperature=5.0)
    assert AUDIO_TOKEN_ID not in output.sequences[0, -30:]


# --- invariances


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 1.5}], ids=["greedy", "sampled"])
def test_row_of_a_batch_equals_the_row_alone(model, options):
    frames, lengths, ends = [24, 61, 8], [3, 9, 1], (4, 9, 1)
    batch = spoken_prompt(frames, lengths)
    together = model.generate(
        **batch, logits_processor=end_text_after(*ends), seed=[5, 6, 7], max_new_tokens=40, **options
    )
    for row in range(3):
        kept = batch["attention_mask"][row].bool()
        alone = collate([batch["input_ids"][row][kept]], [batch["input_features"][row][:, : frames[row]]])
        output = model.generate(
            **alone, logits_processor=end_text_after(ends[row]), seed=5 + row, max_new_tokens=40, **options
        )
        num_steps, num_frames = output.speech_states.shape[1], output.mel.shape[1]
        prompt = kept.sum()
        assert torch.equal(output.sequences[0, prompt:], together.sequences[row, len(kept) : len(kept) + num_steps])
        assert torch.equal(output.speech_states[0], together.speech_states[row, :num_steps])
        assert together.mel_lengths[row] == num_frames
        torch.testing.assert_close(output.mel[0], together.mel[row, :num_frames], atol=1e-4, rtol=0)
        torch.testing.assert_close(output.audio[0], together.audio[row], atol=1e-4, rtol=0)


def test_no_dynamic_and_static_cache_give_the_same_answer_in_every_family():
    inputs = spoken_prompt([24, 40], [3, 5])
    for family in LANGUAGE_MODEL_FAMILIES:
        # a sliding window concerns the language model's layers only
        window = {"sliding_window": 6} if family in ("mistral", "phi3") else {}
        head_type = "residual_vq" if family == "qwen2" else "flow"
        model = tiny_model(text={"model_type": family, "bos_token_id": 0, **window}, speech={"head_type": head_type})
        dynamic, uncached, static = (
            model.generate(**inputs, logits_processor=end_text_after(4, 7), seed=1, max_new_tokens=14, **options)
            for options in ({}, {"use_cache": False}, {"cache_implementation": "static"})
        )
        for output in (uncached, static):
            assert torch.equal(output.sequences, dynamic.sequences), family
            assert_same(output, dynamic, atol=1e-4)
        assert dynamic.cache is not None and uncached.cache is None


def test_compiled_steps_equal_eager_ones_and_are_compiled_once_with_and_once_without_text():
    model = tiny_model(text={"num_hidden_layers": 1})
    inputs, options = spoken_prompt([24, 40], [3, 5]), {"seed": 1, "max_new_tokens": 20}
    expected = model.generate(**inputs, logits_processor=end_text_after(3), **options)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compile_config = CompileConfig(fullgraph=True, dynamic=False, backend=backend, mode=None)
    compile_config._compile_all_devices = True
    output = model.generate(
        **inputs,
        logits_processor=end_text_after(3),
        cache_implementation="static",
        compile_config=compile_config,
        **options,
    )
    assert torch.equal(output.sequences, expected.sequences)
    assert_same(output, expected, atol=1e-4)
    assert len(compiled) == 2


def test_static_cache_serves_shorter_and_longer_answers_after_one_another(model):
    inputs = spoken_prompt([24], [3])
    for num_steps in (15, 5, 20):
        expected = model.generate(**inputs, seed=1, max_new_tokens=num_steps)
        output = model.generate(**inputs, seed=1, max_new_tokens=num_steps, cache_implementation="static")
        assert_same(output, expected, atol=1e-4)
    cache = StaticCache(config=model.config, max_cache_len=64)
    assert_same(model.generate(**inputs, seed=1, max_new_tokens=20, cache=cache), expected, atol=1e-4)


def test_embeddings_instead_of_ids_give_the_same_answer(model):
    inputs = spoken_prompt([24], [3])
    expected = model.generate(**inputs, seed=1, max_new_tokens=12)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    output = model.generate(inputs_embeds=embeds, **inputs, seed=1, max_new_tokens=12)
    assert_same(output, expected)
    assert torch.equal(output.sequences, expected.sequences[:, -12:])


def test_speech_transformer_keeps_its_keys_in_the_shared_cache(model):
    output = answer(model, max_new_tokens=6)
    assert len(output.cache.layers) == 3
    lengths = {layer.get_seq_length() for layer in output.cache.layers}
    assert len(lengths) == 1


def test_positions_of_the_stream_add_up_to_generate(model):
    inputs, options = spoken_prompt([24, 40], [3, 5]), {"seed": 3, "max_new_tokens": 30}
    whole = model.generate(**inputs, logits_processor=end_text_after(4, 6), **options)
    steps = list(model.stream(**inputs, logits_processor=end_text_after(4, 6), **options))
    num_steps = whole.speech_states.shape[1]
    assert torch.equal(torch.stack([step.text_ids for step in steps], dim=1), whole.sequences[:, -num_steps:])
    assert torch.equal(torch.stack([step.states for step in steps], dim=1), whole.speech_states)
    for row in range(2):
        patches = [step.mel[row] for step in steps if step.is_generating[row]]
        torch.testing.assert_close(torch.cat(patches), whole.mel[row, : whole.mel_lengths[row]])


def test_streamed_audio_equals_audio_decoded_at_once():
    inputs, options = spoken_prompt([24, 40], [3, 5]), {"seed": 3, "max_new_tokens": 30}
    for causal in (True, False):
        model = tiny_model(vocoder={"causal": causal, "num_lookahead_frames": 2 if causal else 0})
        whole = model.generate(**inputs, logits_processor=end_text_after(4, 6), **options)
        steps = list(model.stream(**inputs, logits_processor=end_text_after(4, 6), **options))
        for row in range(2):
            streamed = torch.cat([step.audio[row] for step in steps])
            assert len(streamed) == len(whole.audio[row]) > 0
            torch.testing.assert_close(streamed, whole.audio[row], atol=1e-5, rtol=0)


def test_audio_arrives_during_generation(model):
    steps = list(model.stream(**spoken_prompt([24], [3]), max_new_tokens=30))
    with_audio = [index for index, step in enumerate(steps) if len(step.audio[0])]
    assert with_audio[0] < 10
    assert not steps[0].is_finished.any() and steps[-1].is_finished.all()


def test_stream_can_be_left_early(model):
    stream = model.stream(**spoken_prompt([24], [3]), max_new_tokens=30)
    next(stream)
    stream.close()
    assert torch.is_grad_enabled()


# --- randomness


def test_speech_repeats_with_its_seed_or_at_temperature_zero(model):
    inputs = spoken_prompt([24], [3])
    first, again, other = (model.generate(**inputs, max_new_tokens=12, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.mel, again.mel)
    assert not torch.allclose(first.mel, other.mel)
    typical, again = (model.generate(**inputs, max_new_tokens=12, flow_temperature=0.0) for _ in range(2))
    assert torch.equal(typical.mel, again.mel)


def test_generator_is_used_and_moves_on(model):
    inputs, generator = spoken_prompt([24], [3]), torch.Generator().manual_seed(1)
    first = model.generate(**inputs, max_new_tokens=12, generator=generator)
    second = model.generate(**inputs, max_new_tokens=12, generator=generator)
    assert torch.equal(first.mel, model.generate(**inputs, max_new_tokens=12, seed=1).mel)
    assert not torch.equal(first.mel, second.mel)


def test_each_option_of_the_flow_changes_the_speech(model):
    inputs = spoken_prompt([24], [3])
    plain = model.generate(**inputs, max_new_tokens=12, seed=1)
    for option in ({"num_flow_steps": 5}, {"flow_guidance_scale": 2.0}, {"flow_temperature": 0.3}):
        assert not torch.allclose(plain.mel, model.generate(**inputs, max_new_tokens=12, seed=1, **option).mel)


def test_options_come_from_the_generation_config_unless_the_call_sets_them():
    model, inputs = tiny_model(), spoken_prompt([24], [3])
    expected = model.generate(**inputs, max_new_tokens=12, seed=1, num_flow_steps=5)
    model.generation_config.num_flow_steps = 5
    assert torch.equal(model.generate(**inputs, max_new_tokens=12, seed=1).mel, expected.mel)
    other = model.generate(**inputs, max_new_tokens=12, seed=1, num_flow_steps=1)
    assert not torch.allclose(other.mel, expected.mel)


@pytest.mark.parametrize("has_file", [True, False])
def test_generation_options_survive_saving(tmp_path, has_file):
    model = tiny_model()
    model.save_pretrained(tmp_path / "first")
    if not has_file:
        (tmp_path / "first" / "generation_config.json").unlink()
    model = type(model).from_pretrained(tmp_path / "first")
    model.generation_config.num_flow_steps = 7
    model.save_pretrained(tmp_path / "second")
    assert type(model).from_pretrained(tmp_path / "second").generation_config.num_flow_steps == 7


def test_generation_config_of_the_call_may_hold_the_options(model):
    inputs = spoken_prompt([24], [3])
    expected = model.generate(**inputs, max_new_tokens=12, seed=3, num_flow_steps=5)
    config = GenerationConfig(max_new_tokens=12, seed=3, num_flow_steps=5, eos_token_id=EOS_TOKEN_ID)
    assert torch.equal(model.generate(**inputs, generation_config=config).mel, expected.mel)
    assert torch.equal(model.generate(inputs.pop("input_ids"), config, **inputs).mel, expected.mel)


# --- transformers' own options


def test_several_answers_to_one_prompt_with_several_audios(model):
    first, second = torch.randn(80, 16), torch.randn(80, 24)
    rows = [torch.tensor([AUDIO_TOKEN_ID] * 2 + [7] + [AUDIO_TOKEN_ID] * 3 + [9, 11])]
    inputs = collate(rows, [first, second])
    single = model.generate(**inputs, seed=[4], max_new_tokens=12, do_sample=True)
    several = model.generate(**inputs, seed=[4, 4, 8], max_new_tokens=12, do_sample=True, num_return_sequences=3)
    assert several.sequences.shape[0] == 3
    torch.testing.assert_close(several.mel[0], single.mel[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(several.mel[1], single.mel[0], atol=1e-5, rtol=0)


def test_return_dict_false_returns_the_text_ids(model):
    inputs = spoken_prompt([24], [3])
    expected = model.generate(**inputs, max_new_tokens=8, seed=1).sequences
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, seed=1, return_dict_in_generate=False), expected)


def test_scores_and_hidden_states_are_returned_on_request(model):
    output = answer(
        model,
        max_new_tokens=8,
        logits_processor=end_text_after(3),
        output_scores=True,
        output_logits=True,
        output_hidden_states=True,
    )
    assert len(output.scores) == len(output.logits) == 4
    # of every position, also after the text, as the speech continues
    assert 4 < len(output.hidden_states) <= 8
    assert len(output.hidden_states[0]) == 3
    # raw ones: nothing has been ruled out yet
    assert all(torch.isfinite(logits).all() for logits in output.logits)


class Recorder(BaseStreamer):
    def __init__(self):
        self.received, self.has_ended = [], False

    def put(self, value):
        self.received.append(value.flatten().tolist())

    def end(self):
        self.has_ended = True


def test_streamer_receives_the_text_and_its_end(model):
    inputs, options = spoken_prompt([24], [3]), {"max_new_tokens": 12, "seed": 0}
    sequences = model.generate(**inputs, logits_processor=end_text_after(4), **options).sequences
    for method in (model.generate, model.stream):
        recorder = Recorder()
        list(method(**inputs, logits_processor=end_text_after(4), streamer=recorder, **options))
        prompt, *tokens = recorder.received
        assert prompt == inputs["input_ids"][0].tolist()
        assert [token for (token,) in tokens] == sequences[0, len(prompt) : len(prompt) + 5].tolist()
        assert recorder.has_ended


def test_stopping_criterion_ends_a_row(model):
    class After(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.tensor([input_ids.shape[1] >= 14, input_ids.shape[1] >= 20])

    inputs = spoken_prompt([24, 24], [3, 3])
    output = model.generate(**inputs, stopping_criteria=StoppingCriteriaList([After()]), max_new_tokens=40)
    assert output.sequences.shape[1] == 20
    assert output.mel_lengths[0] < output.mel_lengths[1]
    assert output.speech_truncated.all()


def test_next_turn_from_the_cache_equals_the_next_turn_from_scratch(model):
    """The history holds the answer's text, not its speech: the cache is cropped to the first prompt and read on."""
    prompt = spoken_prompt([24], [3])
    first = model.generate(**prompt, logits_processor=end_text_after(4), seed=1, max_new_tokens=20)
    prompt_length = prompt["input_ids"].shape[1]
    answer = first.sequences[:, prompt_length : prompt_length + 5]
    next_audio, next_question = torch.randn(80, 16), torch.tensor([[AUDIO_TOKEN_ID] * 2 + [17, 18]])
    second = collate(
        [torch.cat([prompt["input_ids"], answer, next_question], dim=1)[0]], [prompt["input_features"][0], next_audio]
    )
    expected = model.generate(**second, seed=2, max_new_tokens=20)
    cache = first.cache
    cache.crop(-(cache.get_seq_length() - prompt_length))
    output = model.generate(**second, cache=cache, seed=2, max_new_tokens=20)
    assert torch.equal(output.sequences, expected.sequences)
    assert_same(output, expected, atol=1e-4)


def test_model_without_vocoder_returns_mel_and_refuses_audio():
    model = tiny_model(vocoder=None)
    output = answer(model, max_new_tokens=10)
    assert output.audio is None
    assert output.mel.shape[1] > 0
    with pytest.raises(ValueError, match="needs a vocoder"):
        answer(model, return_audio=True)


def test_return_audio_false_skips_the_vocoder(model):
    assert answer(model, max_new_tokens=8, return_audio=False).audio is None
    assert next(model.stream(**spoken_prompt([24], [3]), return_audio=False)).audio is None


def test_bad_options_are_refused_with_a_remedy(model):
    for options, message in (
        ({"generation_mode": "sing"}, "choose one of speech, text, auto"),
        ({"num_beams": 4}, "leave `num_beams` at 1"),
        ({"num_flow_steps": 0}, "an integer of at least 1"),
        ({"num_flow_steps": 2.5}, "an integer of at least 1"),
        ({"flow_temperature": -1.0}, "a number of at least 0"),
        ({"flow_temperature": math.nan}, "a number of at least 0"),
        ({"end_after_repeats": 1}, "use 2 or more, or 0"),
        ({"end_after_repeats": 2.5}, "an integer of at least 0"),
        ({"seed": 1, "generator": torch.Generator()}, "pass one of them"),
        ({"seed": [1, 2]}, "Got 2 seeds for 1 rows"),
        ({"num_flow_step": 2}, "num_flow_step"),
        ({"synced_gpus": True}, "gather the weights"),
    ):
        with pytest.raises(ValueError, match=message):
            answer(model, max_new_tokens=3, **options)


def test_placeholders_that_do_not_match_the_audio_are_refused(model):
    inputs = spoken_prompt([24], [3])
    cut = {name: inputs[name][:, 1:] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match=re.escape("placeholders of 1 rows do not match 1 audios of [3] positions")):
        model.generate(**inputs | cut, max_new_tokens=3)
    with pytest.raises(ValueError, match="3 `<.audio.>` placeholders but no audio"):
        model.generate(inputs["input_ids"], max_new_tokens=3)
    # audio that would end up in another row
    ids = torch.full((2, 6), 7)
    ids[0, :2] = ids[1, :4] = AUDIO_TOKEN_ID
    with pytest.raises(ValueError, match=re.escape("of 2 rows do not match 2 audios of [3, 3] positions")):
        model.generate(ids, input_features=torch.randn(2, 80, 24), max_new_tokens=3)


def test_answer_cannot_be_continued_in_the_middle_of_its_speech(model):
    first = answer(model, max_new_tokens=10)
    with pytest.raises(ValueError, match="nothing is left to read"):
        model.generate(first.sequences, cache=first.cache, max_new_tokens=3)


# --- texts that repeat themselves


PHRASE = [3, 4, 5, 6, 7]
GAP = PAD_TOKEN_ID


class Writes(LogitsProcessor):
    """Makes each row of a batch write the tokens of its own text, over and over."""

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


def test_a_phrase_counts_from_4_to_64_tokens_and_shorter_ones_as_their_multiples():
    for text, num_repeats, is_repeating in (
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
    ):
        assert ends_in_repeats(text, num_repeats) == is_repeating


def test_a_text_that_repeats_itself_is_ended(model):
    assert text_of(model, *PHRASE) == PHRASE * 8
    assert text_of(model, *PHRASE, end_after_repeats=3) == [*PHRASE * 3, EOS_TOKEN_ID]


def test_gaps_between_words_do_not_count(model):
    # six other tokens, then the phrase with gaps elsewhere each time
    text = [*PHRASE, GAP, 3, GAP, 4, 5, 6, GAP, 7, GAP, GAP]
    assert text_of(model, *text, end_after_repeats=2) == [*text[:13], EOS_TOKEN_ID]


def test_phrases_of_the_prompt_do_not_count(model):
    prompt = {"input_ids": torch.tensor([PHRASE * 3])}
    output = answer_of(model, [*PHRASE, 9, 10], prompt=prompt, max_new_tokens=7, end_after_repeats=2)
    assert output.sequences[0, 15:].tolist() == [*PHRASE, 9, 10]


def test_a_checkpoint_may_set_end_after_repeats_and_a_call_may_disable_it():
    model = tiny_model()
    model.generation_config.end_after_repeats = 2
    assert text_of(model, *PHRASE) == [*PHRASE * 2, EOS_TOKEN_ID]
    assert text_of(model, *PHRASE, end_after_repeats=0) == PHRASE * 8


def test_each_row_of_a_batch_is_ended_on_its_own(model):
    texts = (PHRASE, [*range(3, 35)], [8, EOS_TOKEN_ID])
    prompt = {"input_ids": torch.tensor([[GAP, GAP, 11, 12], [13, 14, 15, 16], [GAP, 11, 12, 13]])}
    prompt["attention_mask"] = (prompt["input_ids"] != GAP).long()
    output = answer_of(model, *texts, prompt=prompt, max_new_tokens=20, end_after_repeats=2)
    repeating, continuing, ended = output.sequences[:, 4:].tolist()
    assert repeating == [*PHRASE * 2, EOS_TOKEN_ID, *[GAP] * 9]
    assert continuing == [*range(3, 23)]
    assert ended == [8, EOS_TOKEN_ID, *[GAP] * 18]


def test_speech_of_an_ended_text_stops():
    model = tiny_model()
    with torch.no_grad():
        model.state_head.bias[model.config.stop_state_id] += 100.0
    output = answer_of(model, PHRASE, generation_mode="speech", end_after_repeats=2, max_new_tokens=200)
    assert output.speech_states[0, -1] == model.config.stop_state_id
    assert not output.speech_truncated.any()
    assert output.sequences.shape[1] < 60


def test_streams_and_embeddings_instead_of_ids_are_ended_too(model):
    prompt = {"input_ids": torch.tensor([[11, 12, 13, 14]])}
    writes = LogitsProcessorList([Writes(4, PHRASE)])
    options = {"generation_mode": "text", "end_after_repeats": 2, "max_new_tokens": 40}
    steps = [step.text_ids.item() for step in model.stream(**prompt, logits_processor=writes, **options)]
    assert steps == [*PHRASE * 2, EOS_TOKEN_ID]
    embeds = model.get_input_embeddings()(prompt["input_ids"])
    writes = LogitsProcessorList([Writes(0, PHRASE)])
    output = model.generate(inputs_embeds=embeds, logits_processor=writes, **options)
    assert output.sequences.tolist() == [[*PHRASE * 2, EOS_TOKEN_ID]]


def test_logits_processors_need_no_prompt(model):
    """Continuous batching asks with a generation config alone, which has none of our options."""
    assert len(model._get_logits_processor(GenerationConfig())) > 0
