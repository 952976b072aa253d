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
"""The speech decoder: it speaks what the language model writes, whatever the language model, and changes no text."""

import math
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from tiny import (
    AUDIO_TOKEN_ID,
    EOS_TOKEN_ID,
    PAD_TOKEN_ID,
    SPEECH_FIELDS,
    byte_level_tokenizer,
    collate,
    spoken_prompt,
    tiny_config,
    tiny_model,
    tiny_processor,
    tiny_speech_decoder,
)
from tiny_parts import save_llm, save_vocos, save_whisper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from training_tools import make_trainer, sound, spoken_rows
from transformers import (
    AutoModelForCausalLM,
    CompileConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from flow_omni.modeling_flow_omni.answer_states import FlowOmniAnswer
from flow_omni.modeling_flow_omni.modeling_flow_omni import (
    FlowOmniForSpeechGeneration,
    count_parameters,
    shift_patches,
)
from flow_omni.modeling_flow_omni.speech_decoder import (
    END_OF_TEXT,
    MAX_TOKEN_BYTES,
    NUM_NEIGHBOURS,
    advance_labels,
    advance_loss,
    places_of_steps,
    spelling_table,
)
from flow_omni.modeling_flow_omni.text_normalization import FlowOmniNumberReader
from flow_omni.processing.parallel_streams import separate_streams, spread_bytes
from flow_omni.training import data
from flow_omni.training.examples import ExampleBuilder, LengthEstimator
from flow_omni.training.trainer import count_targets, freeze


PAD, START, GENERATING, STOP = range(4)
READS = (True, False)


class Writes(LogitsProcessor):
    """Makes each row write its own text, freely where a token is `None`, and then end it."""

    def __init__(self, prompt_length: int, *texts: list[int], end: int = EOS_TOKEN_ID):
        self.prompt_length, self.texts, self.end = prompt_length, texts, end

    def __call__(self, input_ids, scores):
        step = input_ids.shape[1] - self.prompt_length
        scores[:, self.end] = -math.inf
        for row, text in enumerate(self.texts):
            token = text[step] if step < len(text) else self.end
            if token is not None:
                scores[row] = -math.inf
                scores[row, token] = 0.0
        return scores


def speak(model, *texts, **options):
    """The spoken answers to written prompts, whose texts are given."""
    prompt = torch.arange(1, 5).repeat(len(texts), 1)
    processors = LogitsProcessorList([Writes(4, *texts, end=options.pop("end", EOS_TOKEN_ID))])
    return model.generate(prompt, logits_processor=processors, **{"seed": 0} | options)


def with_bias(model, head: str, index: int, bias: float):
    with torch.no_grad():
        getattr(model, head).bias[index] += bias
    return model


def batch_of(model, texts=("ab c d", "e fg"), num_patches=(16, 9), gap=3, seed=0) -> dict[str, torch.Tensor]:
    """Answers of which each letter is said for `gap` patches, with random patches, as a processor and its collator write them."""
    config, tokenizer = model.config.speech_config, byte_level_tokenizer()
    generator = torch.Generator().manual_seed(seed)
    processor, examples = tiny_processor(model.config), []
    for text, number in zip(texts, num_patches):
        ids = tokenizer(text)["input_ids"]
        example = separate_streams([1, 2, 3], [*ids, EOS_TOKEN_ID], number)
        offsets = [(index, index + 1) for index in range(len(text))]
        times = [(index, float(min(gap * index, number - 1))) for index in range(len(text))]
        example |= spread_bytes(text, offsets, times, 3, 1.0, number)
        mel = torch.randn(number, config.frames_per_step, config.num_mel_bins, generator=generator)
        examples.append(example | {"input_features": [], "mel_labels": mel, "voice_id": len(examples)})
    return dict(processor.collate(examples))


def count_calls(module: torch.nn.Module, monkeypatch) -> list:
    calls, forward = [], module.forward
    monkeypatch.setattr(module, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    return calls


@pytest.fixture(scope="module", params=READS, ids=["states", "spelling"])
def model(request):
    """A tiny model that reads hidden states, and one that reads spelling alone; tests must not change them."""
    return tiny_speech_decoder(speech={"reads_hidden_states": request.param})


# --- spelling


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Tokens as Llama's: a sign for each space, and bytes written as numbers."""
    vocabulary = {"<s>": 0, "\u2581the": 1, "the": 2, "<0xE2>": 3, "\u2581": 4, "\u00e9t\u00e9": 5, "a": 6}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def spelled(table: torch.Tensor) -> list[bytes]:
    return [bytes(byte for byte in row if byte) for row in table.tolist()]


def test_tokens_are_spelled_with_their_spaces_and_parts_of_characters_in_both_kinds_of_tokenizers():
    assert spelled(spelling_table(sentencepiece_tokenizer(), 7)) == [
        b"",
        b" the",
        b"the",
        b"\xe2",
        b" ",
        "\u00e9t\u00e9".encode(),
        b"a",
    ]
    expected = [bytes([byte]) for byte in range(1, 256)] + [b""] * 8
    assert spelled(spelling_table(byte_level_tokenizer(), 264))[1:] == expected


def test_a_long_token_is_spelled_by_its_first_bytes():
    word = "antidisestablishmentarianism"
    tokenizer = Tokenizer(models.BPE({word: 0}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    table = spelling_table(PreTrainedTokenizerFast(tokenizer_object=tokenizer), 2)
    assert spelled(table) == [word[:MAX_TOKEN_BYTES].encode(), b""]


def vectors_of(decoder, text: bytes):
    with torch.no_grad():
        return decoder.spelling(torch.tensor([list(text)]))[0]


def test_a_byte_is_spelled_by_itself_and_its_neighbours_and_nothing_else():
    decoder = tiny_speech_decoder().speech_decoder
    text = b"the quick brown fox jumps over the lazy dog"
    whole, part = vectors_of(decoder, text), vectors_of(decoder, text[: 20 + NUM_NEIGHBOURS])
    torch.testing.assert_close(part[:20], whole[:20])
    assert not torch.allclose(part[20], whole[20], atol=1e-4)
    no, on = vectors_of(decoder, b"no"), vectors_of(decoder, b"on")
    assert not torch.allclose(no[1], on[0], atol=1e-3)
    # a capital is nearly its small letter; padding is nothing
    assert not torch.allclose(vectors_of(decoder, b"No")[0], no[0], atol=1e-4)
    padded = vectors_of(decoder, b"no\0\0")
    torch.testing.assert_close(padded[:2], no)
    assert torch.equal(padded[2:], torch.zeros_like(no))


def test_symbols_are_read_as_the_config_says_and_spaces_once():
    symbols = {"5": " five ", "*": "", "\n": ". "}
    model = tiny_speech_decoder(speech={"spoken_symbols": symbols, "reads_hidden_states": False})
    plain = tiny_speech_decoder(speech={"reads_hidden_states": False})
    for one in (model, plain):
        with_bias(one, "state_head", STOP, 100.0)  # as soon as the text is over
        with torch.no_grad():
            # slowly, so that no token waits for another one
            one.advance_head.weight.zero_()
            one.advance_head.bias.fill_(math.log(0.4))
    written, said = (speak(one, list(text)) for one, text in ((model, b" *a  55\nb"), (plain, b"a five five . b")))
    assert written.mel.shape[1] > 15
    torch.testing.assert_close(written.mel, said.mel)
    with pytest.raises(StrictDataclassError, match="each must be one ASCII character"):
        tiny_speech_decoder(speech={"spoken_symbols": {"etc": "and so on"}})


def test_numbers_are_said_in_the_words_of_the_language():
    model = tiny_speech_decoder(speech={"spoken_language": "en", "reads_hidden_states": False})
    with_bias(model, "state_head", STOP, 100.0)  # as soon as the text is over
    with torch.no_grad():
        # slowly, so that no token waits for another one
        model.advance_head.weight.zero_()
        model.advance_head.bias.fill_(math.log(0.4))
    texts = (
        (b"In 1969, 3.5 kg and more", b"In nineteen sixty-nine, three point five kilograms and more"),
        (b"5 is $6", b"five is six dollars"),
    )
    for written, said in texts:
        one, other = (speak(model, list(text)) for text in (written, said))
        torch.testing.assert_close(one.mel, other.mel)
        assert bytes(one.sequences[0, 4 : 4 + len(written)].tolist()) == written


@pytest.mark.parametrize("size", (1, 2, 3, 7, 100))
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("On July 20, 1969 it was -5 °C", "On July twentieth, nineteen sixty-nine it was minus five degrees Celsius"),
        ("7.50 dollars - or £20 - is it 42", "seven point five zero dollars - or twenty pounds - is it forty-two"),
        ("7 - 5 is 2", "seven minus five is two"),
        ("1. Milk\n2. Eggs", "one. Milk two. Eggs"),
        ("No number - none... at all", "No number - none... at all"),
        ("10, 11, 12, 13, 14, 15, 16, 17, 18, 19", "ten, eleven, twelve, thirteen, fourteen, fifteen, sixteen, "
         "seventeen, eighteen, nineteen"),
    ],
)  # fmt: skip
def test_a_number_is_said_when_the_word_after_it_is_over(text, said, size):
    reader, read, text = FlowOmniNumberReader("en"), [], text.encode()
    for start in range(0, len(text), size):
        read += reader.push(text[start : start + size])
    read += reader.push(b"", is_last=True)
    assert " ".join(b"".join(read).decode().split()) == said


def test_a_number_waits_for_its_unit_and_no_longer():
    reader = FlowOmniNumberReader("en")
    assert [reader.push(part) for part in (b"It", b" weighs", b" ", b"5", b" kg")][1:] == [
        (b"", b" weighs"), (b"", b" "), (b"", b""), (b"", b"")
    ]  # fmt: skip
    assert reader.push(b" and") == (b" five kilograms", b" and")
    endless = FlowOmniNumberReader("en")
    assert [bool(endless.push(b"7" * 10)[0]) for _ in range(5)] == [False, False, False, False, True]
    assert FlowOmniNumberReader(None).push(b"5 kg") == (b"", b"5 kg")


def test_part_of_a_text_is_embedded_as_in_the_whole(model):
    decoder, text = model.speech_decoder, [*b"a longer text of some words", END_OF_TEXT]
    positions = torch.arange(len(text))[None]
    states = torch.randn(1, len(text), 32)
    with torch.no_grad():
        whole = decoder.embed_text(torch.tensor([text]), states, positions)[0]
        for index in (0, 9, len(text) - 1):
            part = decoder.embed_part(text, index, index + 1, states[0, index])
            torch.testing.assert_close(part[0], whole[index])


def test_model_that_was_never_told_its_tokens_says_so():
    model = tiny_model(speech_loop="speech_decoder")
    with pytest.raises(ValueError, match="does not know the tokens' characters: call"):
        speak(model, [97])


# --- generation: the state machine


def test_speech_runs_through_its_states_and_stops_only_after_its_last_token(model):
    biased = with_bias(tiny_speech_decoder(), "state_head", STOP, 100.0)
    for speaker in (model, biased):
        steps = list(
            speaker.stream(torch.arange(1, 5)[None], logits_processor=LogitsProcessorList([Writes(4, [97] * 6)]))
        )
        states = [step.states.item() for step in steps]
        num_patches = states.count(GENERATING)
        assert states == [START] + [GENERATING] * num_patches + [STOP]
        due = [index for index, step in enumerate(steps) if step.is_text]
        assert due[0] == 0 and len(due) == 7 and states.index(STOP) > due[-1]
    assert states.index(STOP) == max(due[-1] + 1, 3)  # as soon as the text and `min_speech_steps` allow


def test_tokens_are_due_at_the_pace_at_which_the_decoder_reads_them():
    text = list(b"abcdef")
    # a byte is reached when its middle is; at most one token is due in a step
    for rate, due in ((1.0, [0, 1, 2, 3, 4, 5, 6]), (0.4, [0, 2, 4, 7, 9, 12, 14]), (3.0, [0, 1, 2, 3, 4, 5, 6])):
        model = tiny_speech_decoder()
        with torch.no_grad():
            model.advance_head.weight.zero_()
            model.advance_head.bias.fill_(math.log(rate))
        output = speak(model, text)
        steps = list(model.stream(torch.arange(1, 5)[None], logits_processor=LogitsProcessorList([Writes(4, text)])))
        assert [index for index, step in enumerate(steps) if step.is_text] == due
        assert output.sequences[0, 4:11].tolist() == [*text, EOS_TOKEN_ID]
        assert set(output.sequences[0, 11:].tolist()) <= {PAD_TOKEN_ID}


def test_decoder_that_never_advances_is_pushed_on_and_one_that_never_stops_is_cut_and_marked():
    model = with_bias(tiny_speech_decoder(), "advance_head", 0, -100.0)
    text = list(b"a b cd")
    output = speak(model, text, max_speech_seconds_per_token=0.1, max_speech_extra_seconds=0.2)
    assert output.sequences[0, 4:11].tolist() == [*text, EOS_TOKEN_ID]
    assert output.speech_states.shape[1] > 2 * 6  # it did wait
    model = with_bias(tiny_speech_decoder(), "state_head", GENERATING, 100.0)
    for length in (3, 9):
        output = speak(model, [97] * length, max_speech_seconds_per_token=0.1, max_speech_extra_seconds=0.5)
        assert output.speech_truncated.tolist() == [True]
        steps_per_second = model.config.speech_config.steps_per_second
        assert output.speech_states[0].tolist().count(GENERATING) == math.ceil(
            (0.1 * (length + 1) + 0.5) * steps_per_second
        )


def test_row_reads_on_as_it_expects_to_unless_it_is_late():
    options = {"generation_mode": "speech", "min_speech_steps": 2}
    options |= {"max_speech_seconds_per_token": 0.0, "max_speech_extra_seconds": 1.0}
    config = tiny_config(speech_loop="speech_decoder")
    answer = FlowOmniAnswer(3, config, SimpleNamespace(**options), torch.device("cpu"))
    answer.num_patches = torch.tensor([0, 0, 1000])
    rates = answer.bytes_to_read(torch.tensor([0.25, 1e9, 0.25]).log())
    assert rates.tolist() == pytest.approx([0.25, math.exp(3.0), 1.0])


def test_text_of_the_maximum_length_is_spoken_to_its_end(model):
    output = speak(model, [97] * 50, max_new_tokens=6)
    assert output.sequences[0, 4:11].tolist() == [97] * 6 + [PAD_TOKEN_ID]
    assert output.speech_states[0, -1] == STOP and not output.speech_truncated.any()


def test_given_text_is_read_as_if_the_language_model_had_written_it(monkeypatch):
    for reads in READS:
        model = tiny_speech_decoder(speech={"reads_hidden_states": reads})
        expected = speak(model, list(b"a b cd"), list(b"ef"), flow_temperature=0.0)
        calls = count_calls(model.model.language_model, monkeypatch)
        given = torch.tensor([[*b"a b cd"], [*b"ef", *[EOS_TOKEN_ID] * 4]])
        output = model.generate(torch.arange(1, 5).repeat(2, 1), answer_ids=given, seed=0, flow_temperature=0.0)
        assert torch.equal(output.sequences, expected.sequences) and bool(calls) == reads
        assert_same(output, expected)
    with pytest.raises(ValueError, match="only a speech decoder reads a text as it is"):
        tiny_model().generate(torch.ones(1, 4, dtype=torch.long), answer_ids=given)


def test_a_stopping_criterion_cuts_a_row_at_once(model):
    class AfterThreeTokens(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.tensor([input_ids.shape[1] >= 7, False])

    output = speak(model, [97] * 9, [98] * 9, stopping_criteria=StoppingCriteriaList([AfterThreeTokens()]))
    assert output.speech_truncated.tolist() == [True, False]
    assert output.sequences[0, 4:].tolist().count(97) < 9


# --- generation: the text


def text_of(sequences, prompt_length, num_tokens):
    return sequences[:, prompt_length : prompt_length + num_tokens]


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 1.5}], ids=["greedy", "sampled"])
def test_text_is_exactly_what_the_language_model_writes_without_speech(model, options):
    inputs = spoken_prompt([24, 61, 8], [3, 9, 1])
    written, spoken = (
        model.generate(
            **inputs, generation_mode=mode, seed=[5, 6, 7], max_new_tokens=25, output_logits=True, **options
        )
        for mode in ("text", "speech")
    )
    length = inputs["input_ids"].shape[1]
    num_tokens = written.sequences.shape[1] - length
    assert num_tokens > 5
    assert torch.equal(text_of(spoken.sequences, length, num_tokens), text_of(written.sequences, length, num_tokens))
    assert all(torch.equal(*logits) for logits in zip(written.logits, spoken.logits, strict=True))
    assert written.mel.shape[1] == 0 < spoken.mel.shape[1]


def test_text_is_that_of_the_bare_language_model(model):
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    llm.base_model.load_state_dict(model.model.language_model.state_dict())
    llm.tie_weights()
    ids = torch.tensor([[PAD_TOKEN_ID, 5, 17, 250], [1, 2, 3, 4]])
    options = {"attention_mask": (ids != PAD_TOKEN_ID).long(), "max_new_tokens": 12, "do_sample": False}
    options |= {"bad_words_ids": [[AUDIO_TOKEN_ID]]}
    expected = llm.generate(ids, **options)[:, 4:]
    assert torch.equal(text_of(model.generate(ids, seed=0, **options).sequences, 4, expected.shape[1]), expected)


def test_language_model_runs_once_for_a_token_and_never_for_a_step_of_speech(model, monkeypatch):
    calls = count_calls(model.model.language_model, monkeypatch)
    output = speak(model, [97] * 5, min_speech_steps=60, max_speech_extra_seconds=30.0)
    assert output.speech_states.shape[1] > 60
    # the prompt and five tokens
    assert len(calls) == 6


# --- generation: invariances


def assert_same(output, expected, row=None):
    rows = slice(None) if row is None else slice(row, row + 1)
    num_steps = output.speech_states.shape[1]
    assert torch.equal(output.speech_states, expected.speech_states[rows, :num_steps])
    assert torch.equal(output.mel_lengths, expected.mel_lengths[rows])
    torch.testing.assert_close(output.mel, expected.mel[rows, : output.mel.shape[1]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 1.5}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("head_type", ["flow", "residual_vq"])
def test_row_of_a_batch_equals_the_row_alone(options, head_type):
    frames, lengths = [24, 61, 8], [3, 9, 1]
    batch, options = spoken_prompt(frames, lengths), {"max_new_tokens": 12, "voice": "beta", **options}
    for reads in READS:
        model = tiny_speech_decoder(speech={"reads_hidden_states": reads, "head_type": head_type})
        texts, length = ([None] * 4, [None] * 9, [None]), batch["input_ids"].shape[1]
        writes = LogitsProcessorList([Writes(length, *texts)])
        together = model.generate(**batch, seed=[5, 6, 7], logits_processor=writes, **options)
        assert len(set(together.mel_lengths.tolist())) > 1  # rows of unequal length
        for row in range(3):
            kept = batch["attention_mask"][row].bool()
            alone = collate([batch["input_ids"][row][kept]], [batch["input_features"][row][:, : frames[row]]])
            writes = LogitsProcessorList([Writes(int(kept.sum()), texts[row])])
            output = model.generate(**alone, seed=5 + row, logits_processor=writes, **options)
            assert_same(output, together, row)
            torch.testing.assert_close(output.audio[0], together.audio[row], atol=1e-4, rtol=0)


def test_no_dynamic_and_static_cache_give_the_same_answer(model):
    inputs = spoken_prompt([24, 40], [3, 5])
    dynamic, uncached, static = (
        model.generate(**inputs, seed=1, max_new_tokens=14, **options)
        for options in ({}, {"use_cache": False}, {"cache_implementation": "static"})
    )
    for output in (uncached, static):
        assert torch.equal(output.sequences, dynamic.sequences)
        assert_same(output, dynamic)
    assert dynamic.cache is not None and uncached.cache is None


def test_compiled_passes_of_the_language_model_equal_eager_ones_and_are_compiled_once():
    model, compiled = tiny_speech_decoder(text={"num_hidden_layers": 1}), []
    expected = speak(model, list(b"a b cd"), list(b"a b"))

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compile_config = CompileConfig(fullgraph=True, dynamic=False, backend=backend, mode=None)
    compile_config._compile_all_devices = True
    options = {"cache_implementation": "static", "compile_config": compile_config}
    output = speak(model, list(b"a b cd"), list(b"a b"), **options)
    assert torch.equal(output.sequences, expected.sequences)
    assert_same(output, expected)
    assert len(compiled) == 1


def test_next_turn_reads_on_from_the_cache(model):
    first = speak(model, [97, 98, 99])
    history = torch.cat([first.sequences[:, :8], torch.tensor([[17, 18]])], dim=1)
    expected = model.generate(history, seed=2, max_new_tokens=9)
    first.cache.crop(-(first.cache.get_seq_length() - 4))
    output = model.generate(history, cache=first.cache, seed=2, max_new_tokens=9)
    assert torch.equal(output.sequences, expected.sequences)
    assert_same(output, expected)


def test_positions_of_the_stream_add_up_to_generate(model):
    inputs, options = spoken_prompt([24, 40], [3, 5]), {"seed": 3, "max_new_tokens": 12}
    whole, steps = model.generate(**inputs, **options), list(model.stream(**inputs, **options))
    assert torch.equal(torch.stack([step.states for step in steps], dim=1), whole.speech_states)
    for row in range(2):
        text = [step.text_ids[row] for step in steps if step.is_text[row]]
        length = inputs["input_ids"].shape[1]
        assert torch.equal(torch.stack(text), whole.sequences[row, length : length + len(text)])
        patches = [step.mel[row] for step in steps if step.is_generating[row]]
        torch.testing.assert_close(torch.cat(patches), whole.mel[row, : whole.mel_lengths[row]])
        torch.testing.assert_close(torch.cat([step.audio[row] for step in steps]), whole.audio[row], atol=1e-5, rtol=0)


def test_generated_steps_equal_one_teacher_forced_pass_over_them():
    """Also far beyond the attention window, which the cache and the mask keep in different ways."""
    for reads in READS:
        model = tiny_speech_decoder(speech={"reads_hidden_states": reads, "attention_window": 5})
        with torch.no_grad():
            # slowly, so that each token is taken when it is reached
            model.advance_head.weight.zero_()
            model.advance_head.bias.fill_(math.log(0.4))
        text = list(b"a bc d")
        prompt, processors = torch.arange(1, 5)[None], LogitsProcessorList([Writes(4, text)])
        options = {"min_speech_steps": 20, "max_speech_extra_seconds": 20.0, "flow_temperature": 0.0, "voice": "beta"}
        steps = list(model.stream(prompt, logits_processor=processors, num_flow_steps=1, **options))
        due = [index for index, step in enumerate(steps) if step.is_text]
        states = torch.stack([step.states for step in steps], dim=1)
        mel = torch.stack([step.mel for step in steps if step.is_generating], dim=1)
        with torch.no_grad():
            outputs = model(
                torch.cat([prompt, torch.tensor([[*text, EOS_TOKEN_ID]])], dim=1),
                text_bytes=torch.tensor([[*text, END_OF_TEXT]]),
                byte_steps=torch.tensor([due]),
                byte_positions=torch.arange(4, 11)[None],
                speech_states=states,
                mel_labels=mel,
                voice_ids=torch.tensor([1]),
            )
            patches = model.predict_patches(outputs.condition, states)
        expected = model.mel_normalizer.clamp_to_floor(patches)[states == GENERATING]
        generated = model.mel_normalizer.normalize(mel).flatten(2)[0]
        torch.testing.assert_close(generated, expected, atol=1e-3, rtol=0)


def test_decoder_sees_no_further_than_its_window():
    decoder = tiny_speech_decoder(speech={"attention_window": 4, "num_hidden_layers": 1}).speech_decoder
    inputs = torch.randn(1, 12, 32, requires_grad=True)
    decoder(inputs, torch.zeros(1, 12, dtype=torch.long))[0, 8].sum().backward()
    assert inputs.grad[0].abs().sum(dim=-1).nonzero().flatten().tolist() == [5, 6, 7, 8]


def test_several_answers_to_one_prompt(model):
    inputs, options = spoken_prompt([24], [3]), {"max_new_tokens": 8, "do_sample": True}
    single = model.generate(**inputs, seed=[4], **options)
    several = model.generate(**inputs, seed=[4, 4, 8], num_return_sequences=3, voice=["alpha"] * 3, **options)
    for row in (0, 1):
        assert_same(single, several, row)


def test_each_option_of_the_flow_and_the_voice_change_the_speech(model):
    texts = ([97, 98, 99], [97, 98, 99])
    plain = speak(model, *texts, seed=[1, 1])
    torch.testing.assert_close(plain.mel[0], plain.mel[1])
    for option in ({"num_flow_steps": 5}, {"flow_guidance_scale": 2.0}, {"flow_temperature": 0.3}, {"voice": "beta"}):
        changed = speak(model, *texts, seed=[1, 1], **option)
        assert changed.mel.shape != plain.mel.shape or not torch.allclose(changed.mel, plain.mel)
    both = speak(model, *texts, seed=[1, 1], voice=["alpha", "beta"])
    assert_same(speak(model, texts[0], seed=1), both, 0)
    assert_same(speak(model, texts[0], seed=1, voice="beta"), both, 1)


def test_generator_is_used_and_moves_on(model):
    generator = torch.Generator().manual_seed(1)
    first, second = (speak(model, [97, 98], seed=None, generator=generator) for _ in range(2))
    assert first.mel.shape != second.mel.shape or not torch.allclose(first.mel, second.mel)
    assert_same(speak(model, [97, 98], seed=None, generator=torch.Generator().manual_seed(1)), first)


def test_bad_options_are_refused_with_a_remedy(model):
    for options, message in (
        ({"generation_mode": "auto"}, 'choose "speech" or "text"'),
        ({"voice": "gamma"}, "the voices of this model are alpha, beta"),
        ({"voice": ["alpha", "beta"]}, "Got 2 voices for 1 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            speak(model, [97], **options)
    with pytest.raises(ValueError, match="only a model with a speech decoder has voices"):
        speak(tiny_model(), [97], voice="alpha")


# --- training


def test_bytes_are_spread_over_their_times_and_the_text_ends_with_the_speech():
    # of ten patches in a second; a character of two bytes, and a space that is said between two letters
    spread = spread_bytes("\u00e9a b", [(0, 2), (2, 4)], [(0, 0.0), (1, 0.2), (3, 0.6)], 7, 10.0, 10)
    assert (
        bytes(spread["text_bytes"][:-1].tolist()).decode() == "\u00e9a b" and spread["text_bytes"][-1] == END_OF_TEXT
    )
    # the first step starts the speech, the second has the first patch
    assert spread["byte_steps"].tolist() == [1, 1, 3, 5, 7, 10]
    assert spread["byte_positions"].tolist() == [7, 7, 7, 8, 8, 7]
    even = spread_bytes("abc", [(0, 3)], [], 0, 10.0, 10)
    assert even["byte_steps"].tolist() == [1, 4, 7, 10]
    for times in ([(0, 0.5), (1, 0.2)], [(0, 1.5)]):
        with pytest.raises(ValueError, match="times must rise, and lie within the speech"):
            spread_bytes("abc", [(0, 3)], times, 0, 10.0, 10)
    streams = separate_streams([7, 8], [5, 4], num_patches=3)
    assert streams["input_ids"].tolist() == [7, 8, 5, 4] and streams["labels"].tolist() == [-100, -100, 5, 4]
    assert streams["speech_states"].tolist() == [START, *[GENERATING] * 3, STOP]
    assert separate_streams([7, 8], [5, 4])["speech_states"].tolist() == []


def test_each_step_reads_the_last_byte_that_was_reached():
    steps = torch.tensor([[1, 3, 3, 5], [2, 4, -100, -100]])
    assert places_of_steps(steps, 7).tolist() == [[0, 0, 0, 2, 2, 3, 3], [0, 0, 0, 0, 1, 1, 1]]
    states = torch.tensor([[0] * 7, [0] * 7])
    # 1 if the place changes by one; nothing is left to read after the end
    expected = [[0, 0, 2, 0, 1, -100, -100], [0, 0, 0, 1, -100, -100, -100]]
    assert advance_labels(steps, states).tolist() == expected
    states[1] = -100
    assert advance_labels(steps, states).tolist() == [expected[0], [-100] * 7]


def test_rates_are_right_where_they_are_the_means_of_what_is_read():
    labels = torch.tensor([[0, 2, 1, 1, -100]])
    losses = [advance_loss(torch.full((1, 5), rate).log(), labels).item() for rate in (0.9, 1.0, 1.1)]
    assert losses[1] == min(losses) == pytest.approx(1.0)
    assert math.isfinite(advance_loss(torch.full((1, 5), 1e6), labels))


def test_losses_are_those_of_all_targets_and_none_reaches_the_frozen_language_model(model):
    batch = batch_of(model)
    counts = count_targets(batch, model)
    assert counts[-1] == 16 + 9  # all steps before the ends of the texts
    outputs = model(**batch)
    losses = [outputs[name] for name in ("text_loss", "state_loss", "speech_loss", "auxiliary_loss", "advance_loss")]
    torch.testing.assert_close(outputs.loss, torch.stack(losses).sum())
    del batch["labels"]
    assert model(**batch).text_loss is None


def test_cached_hidden_states_stand_in_for_the_language_model(monkeypatch):
    for reads in READS:
        model = tiny_speech_decoder(speech={"reads_hidden_states": reads})
        batch = batch_of(model)
        with torch.no_grad():
            states = model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        del batch["labels"]
        expected = model(**batch)
        # of the answer alone, which is all that is read
        del batch["input_ids"], batch["attention_mask"]
        batch["byte_positions"] = (batch["byte_positions"] - 3).clamp(min=0)
        calls = count_calls(model.model.language_model, monkeypatch)
        cached = {"text_hidden_states": states[:, 3:]} if reads else {}
        outputs = model(**batch, **cached)
        assert not calls
        torch.testing.assert_close(outputs.loss, expected.loss)


def test_states_of_the_answer_are_found_behind_audio_of_which_placeholders_were_dropped():
    """Where the adapter drops the positions in which nothing was said, its output is shorter than `input_ids`."""
    ctc = {"adapter_compression": "ctc", "adapter_hidden_size": 16, "adapter_num_attention_heads": 2}
    model, prompt = tiny_speech_decoder(**ctc), spoken_prompt([96, 40], [3, 5])
    with torch.no_grad():
        model.model.audio_adapter.letter_head.bias[-1] += 4  # hears less than a letter in every frame
    answer = torch.tensor([[*b"a b", EOS_TOKEN_ID]] * 2)
    ids = torch.cat([prompt["input_ids"], answer], dim=1)
    mask = torch.cat([prompt["attention_mask"], torch.ones_like(answer)], dim=1)
    speech = {
        "text_bytes": torch.tensor([[*b"a b", END_OF_TEXT]] * 2),
        "byte_steps": torch.tensor([[1, 2, 3, 5]] * 2),
        "byte_positions": torch.arange(4).repeat(2, 1) + ids.shape[1] - 4,
        "speech_states": torch.tensor([[1, *[2] * 5, 3]] * 2),
    }
    outputs = model(**prompt | {"input_ids": ids, "attention_mask": mask}, **speech)
    audio = model.get_audio_features(prompt["input_features"], prompt["input_features_mask"])
    assert audio.audio_lengths.sum() < (ids == AUDIO_TOKEN_ID).sum()
    for row, embeddings in enumerate(audio.pooler_output.split(audio.audio_lengths.tolist())):
        text = ids[row][(ids[row] != AUDIO_TOKEN_ID) & mask[row].bool()]
        placeholders = torch.full((len(embeddings),), AUDIO_TOKEN_ID)
        alone = model(torch.cat([placeholders, text])[None], audio_embeddings=embeddings).last_hidden_state
        torch.testing.assert_close(outputs.last_hidden_state[row, -4:], alone[0, -4:], atol=1e-5, rtol=0)
    spoken = model.generate(**prompt, seed=0, max_new_tokens=5)
    written = model.generate(**prompt, generation_mode="text", max_new_tokens=5)
    length = ids.shape[1] - 4
    assert torch.equal(spoken.sequences[:, : length + 5], written.sequences)


def test_padding_of_other_rows_changes_no_loss_of_a_row(model):
    batch = batch_of(model)
    together = model(**batch)
    for row, (num_steps, num_positions, num_patches) in enumerate(((18, 10, 16), (11, 8, 9))):
        cut = {"mel_labels": num_patches, "voice_ids": None}
        cut |= dict.fromkeys(("text_bytes", "byte_steps", "byte_positions"), num_positions - 3)
        cut |= dict.fromkeys(("speech_states", "state_labels"), num_steps)
        alone = {
            name: value[row : row + 1]
            if cut.get(name, 0) is None
            else value[row : row + 1, : cut.get(name, num_positions)]
            for name, value in batch.items()
        }
        outputs = model(**alone)
        torch.testing.assert_close(outputs.condition[0], together.condition[row, :num_steps], atol=1e-5, rtol=0)


def test_new_decoder_reads_spelling_alone_until_training_adds_the_hidden_states():
    torch.manual_seed(0)
    speech = {"num_hidden_layers": 1, "voices": ["alpha", "beta"]}
    model = FlowOmniForSpeechGeneration(tiny_config(speech_loop="speech_decoder", speech=speech)).eval()
    model.speech_decoder.spelling.set_tokenizer(byte_level_tokenizer())
    batch = batch_of(model)
    expected = model(**batch).condition
    states = torch.randn(*batch["input_ids"].shape, 32)
    torch.testing.assert_close(model(**batch, text_hidden_states=states).condition, expected)
    model(**batch).loss.backward()
    assert model.speech_decoder.hidden_state_proj.weight.grad.abs().sum() > 0
    assert model.speech_decoder.spelling.byte_embedding.weight.grad.abs().sum() > 0


def test_text_alone_trains_without_speech(model):
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.tensor([[-100, 2, 3]])}
    batch["speech_states"] = batch["state_labels"] = torch.zeros(1, 0, dtype=torch.long)
    outputs = model(**batch)
    assert torch.equal(outputs.loss, outputs.text_loss)
    counts = count_targets(batch, model)
    assert counts[0] == counts.sum() == 2


def overfitted(steps: int = 200, **speech) -> tuple[FlowOmniForSpeechGeneration, dict[str, torch.Tensor]]:
    """A decoder that has learnt two answers by heart."""
    speech = {"patch_noise": 0.1, "patch_dropout": 0.1, "condition_dropout": 0.0, "mel_floor": -9.0, **speech}
    model = tiny_speech_decoder(speech=speech)
    freeze(model, ["speech_decoder"])
    batch = batch_of(model)
    del batch["labels"]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return model.eval(), batch


@pytest.fixture(scope="module")
def fluent():
    return overfitted(reads_hidden_states=False)


def spoken_patches(model, batch, row):
    return batch["mel_labels"][row, : int((batch["speech_states"][row] == GENERATING).sum())]


def test_decoder_learns_to_speak_to_wait_and_to_stop(fluent):
    model, batch = fluent
    for row, (text, voice) in enumerate(((b"ab c d", "alpha"), (b"e fg", "beta"))):
        output = speak(model, list(text), voice=voice, flow_temperature=0.0)
        expected = spoken_patches(model, batch, row).flatten(0, 1)
        # the end may round to the next step
        assert abs(output.mel.shape[1] - len(expected)) <= model.config.speech_config.frames_per_step
        length = min(output.mel.shape[1], len(expected))
        error = (output.mel[0, :length] - expected[:length]).abs().mean() / expected.abs().mean()
        assert error < 0.35, error


def other_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes under other ids, 300 to 555, among tokens of words that are not used."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {f"word{index}": index for index in range(300)}
    vocabulary |= {character: 555 - index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


def test_decoder_of_spelling_speaks_for_an_unrelated_language_model_as_for_its_own(fluent, tmp_path):
    model, _ = fluent
    model.save_pretrained(tmp_path / "voice", include_language_model=True)
    whisper = save_whisper(tmp_path / "whisper")
    llm = save_llm(
        tmp_path / "llm", "llama", 560, other_tokenizer(), hidden_size=48, num_hidden_layers=3, bos_token_id=0
    )
    joined = FlowOmniForSpeechGeneration.from_pretrained_parts(
        whisper=whisper, llm=llm, speech_decoder=tmp_path / "voice"
    ).eval()
    tokenizer = other_tokenizer()
    for text in ("ab c d", "e fg"):
        expected = speak(model, list(text.encode()), voice="beta")
        ids = tokenizer(text)["input_ids"]
        assert min(ids) >= 300
        output = speak(joined, ids, voice="beta", end=tokenizer.eos_token_id)
        assert torch.equal(output.speech_states, expected.speech_states)
        torch.testing.assert_close(output.mel, expected.mel, atol=1e-4, rtol=0)
        torch.testing.assert_close(output.audio[0], expected.audio[0], atol=1e-4, rtol=0)


# --- checkpoints


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return save_whisper(folder / "whisper"), save_llm(folder / "llm")


def assemble(parts, **options):
    torch.manual_seed(0)
    return FlowOmniForSpeechGeneration.from_pretrained_parts(whisper=parts[0], llm=parts[1], **options).eval()


SPEECH_DECODER = {"speech_loop": "speech_decoder", "speech_config": SPEECH_FIELDS}


def test_assembled_model_knows_its_tokens_and_saves_them_with_the_adapter(parts, tmp_path):
    model = assemble(parts, **SPEECH_DECODER)
    freeze(model, ["speech_decoder"])
    model.save_pretrained(tmp_path)
    loaded = FlowOmniForSpeechGeneration.from_pretrained(tmp_path, language_model=parts[1]).eval()
    assert spelled(loaded.speech_decoder.spelling.token_bytes)[97:100] == [b"a", b"b", b"c"]
    assert torch.equal(speak(loaded, [97, 98]).mel, speak(model, [97, 98]).mel)
    half = FlowOmniForSpeechGeneration.from_pretrained(tmp_path, language_model=parts[1], dtype=torch.bfloat16).eval()
    assert half.speech_decoder.spelling.token_bytes.dtype == torch.uint8
    assert half.dtype == torch.bfloat16 and speak(half, [97, 98]).mel.shape[1] > 0


def test_bytes_of_the_tokens_are_saved_once_beside_an_adapter_that_spells(parts, tmp_path):
    ctc = {"adapter_compression": "ctc", "adapter_hidden_size": 16, "adapter_num_attention_heads": 2}
    model = assemble(parts, **SPEECH_DECODER, **ctc)
    freeze(model, ["speech_decoder"])
    model.save_pretrained(tmp_path)
    tables = [name for name in load_file(tmp_path / "model.safetensors") if name.endswith("token_bytes")]
    assert tables == ["model.audio_adapter.token_bytes"]
    loaded = FlowOmniForSpeechGeneration.from_pretrained(tmp_path, language_model=parts[1]).eval()
    assert torch.equal(speak(loaded, [97, 98]).mel, speak(model, [97, 98]).mel)
    again = assemble(parts, speech_decoder=tmp_path)
    assert torch.equal(speak(again, [97, 98]).mel, speak(model, [97, 98]).mel)


def test_checkpoint_brings_the_code_of_its_decoder(parts, tmp_path):
    model = assemble(parts, **SPEECH_DECODER)
    model.save_pretrained(tmp_path, include_language_model=True)
    assert (tmp_path / "speech_decoder.py").is_file()
    remote_class = get_class_from_dynamic_module("modeling_flow_omni.FlowOmniForSpeechGeneration", tmp_path)
    remote = remote_class.from_pretrained(tmp_path).eval()
    assert type(remote.speech_decoder).__module__.startswith("transformers_modules")
    assert torch.equal(speak(remote, [97, 98]).mel, speak(model, [97, 98]).mel)


def test_decoder_that_reads_states_is_taken_only_with_its_own_language_model(parts, tmp_path):
    voice = assemble(parts, **SPEECH_DECODER)
    freeze(voice, ["speech_decoder"])
    voice.save_pretrained(tmp_path / "voice")  # an adapter
    again = assemble(parts, speech_decoder=tmp_path / "voice")
    assert torch.equal(speak(again, [97, 98]).mel, speak(voice, [97, 98]).mel)
    other = save_llm(tmp_path / "llm", hidden_size=48)
    with pytest.raises(ValueError, match="reads the hidden states of another language model"):
        assemble((parts[0], other), speech_decoder=tmp_path / "voice")
    save_vocos(tmp_path / "vocos")
    for options in ({"speech_config": SPEECH_FIELDS}, {"vocoder": tmp_path / "vocos"}):
        with pytest.raises(ValueError, match="which brings its own: leave the former out"):
            assemble(parts, speech_decoder=tmp_path / "voice", **options)
    tiny_model().save_pretrained(tmp_path / "paper")
    with pytest.raises(ValueError, match="has no speech decoder"):
        assemble(parts, speech_decoder=tmp_path / "paper")


def test_every_parameter_belongs_to_a_group(model):
    counts = count_parameters(model)
    assert sum(total for total, _ in counts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert counts["speech_inputs"] == (0, 0)


# --- the Trainer


def spoken_examples(config):
    """A written and a spoken question, with spoken and written answers in both layouts."""
    processor, examples = tiny_processor(config), []
    for text, audio, options in (
        (
            "So so",
            sound(0.7, 500),
            {"text_layout": "timed", "word_times": [("So", 0.1), ("so", 0.4)], "voice": "beta"},
        ),
        ("tin", sound(0.5, 900), {}),
        ("four", None, {}),
    ):
        content = [{"type": "text", "text": text}] + ([{"type": "audio", "audio": audio}] if audio else [])
        prompt = processor.make_conversation("ask", text="two and two")
        examples.append(
            processor.encode_training_example([*prompt, {"role": "assistant", "content": content}], **options)
        )
    return examples


def test_examples_hold_the_steps_of_the_tokens_and_the_voice():
    config = tiny_speech_decoder().config
    timed, leading, written = spoken_examples(config)
    rate = config.speech_config.steps_per_second
    # "So so" with the times of its words, between which its letters are spread
    assert timed["byte_steps"][[0, 3, 5]].tolist() == [
        1 + int(0.1 * rate),
        1 + int(0.4 * rate),
        len(timed["mel_labels"]),
    ]
    assert (timed["voice_id"], leading["voice_id"]) == (1, 0)
    assert leading["byte_steps"][0] == 1 and leading["text_bytes"].tolist() == [*b"tin", END_OF_TEXT]
    assert len(written["speech_states"]) == 0 and "text_bytes" not in written
    batch = tiny_processor(config).collate([timed, leading, written])
    assert batch["voice_ids"].tolist() == [1, 0, 0] and batch["byte_steps"].shape == batch["text_bytes"].shape == (
        3,
        6,
    )


def test_times_of_characters_are_more_precise_than_those_of_words():
    processor = tiny_processor(tiny_speech_decoder().config)
    content = [{"type": "text", "text": "so"}, {"type": "audio", "audio": sound(0.7, 500)}]
    conversation = [*processor.make_conversation("ask", text="a"), {"role": "assistant", "content": content}]
    times = {"word_times": [("so", 0.1)], "character_times": [0.2, 0.4]}
    example = processor.encode_training_example(conversation, **times)
    rate = processor.feature_extractor.patches_per_second
    assert example["byte_steps"][:2].tolist() == [1 + int(0.2 * rate), 1 + int(0.4 * rate)]
    with pytest.raises(ValueError, match="times of 3 characters for an answer of 2"):
        processor.encode_training_example(conversation, character_times=[0.1, 0.2, 0.3])


def test_lengths_are_estimated_over_both_sequences():
    processor, (row, *_) = tiny_processor(tiny_speech_decoder().config), spoken_rows(1)
    builder = ExampleBuilder(processor)
    estimate = LengthEstimator(builder)
    for seconds, text in ((0.3, "so"), (2.7, "so"), (1.0, "so " * 30)):
        row |= {"answer_audio": sound(seconds), "answer_text": text, "voice": "beta"}
        for task in data.TASKS:
            example = builder.build(row, task)
            length = len(example["input_ids"]) + len(example["speech_states"])
            assert abs(estimate(row, task) - length) <= 0.1 * length + 4, (task, seconds)
            assert example["voice_id"] == 1
    assert "the model's `voices` are alpha, beta" in builder.build(row | {"voice": "gamma"}, task)["error"]


@pytest.mark.parametrize("scheduled_sampling", [0.0, 0.5])
def test_trainer_trains_the_decoder_alone_and_runs_the_language_model_once(tmp_path, monkeypatch, scheduled_sampling):
    for reads in READS:
        model = tiny_speech_decoder(speech={"reads_hidden_states": reads})
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        calls = count_calls(model.model.language_model, monkeypatch)
        trainer = make_trainer(
            tmp_path / str(reads),
            model,
            spoken_examples(model.config),
            processing_class=tiny_processor(model.config),
            trainable_modules=["speech_decoder"],
            per_device_train_batch_size=3,
            scheduled_sampling=scheduled_sampling,
            ema_decay=0.9,
            max_steps=3,
        )
        trainer.train()
        assert len(calls) == (3 if reads else 0)
        log = next(entry for entry in trainer.state.log_history if "advance_loss" in entry)
        assert {"state_loss", "speech_loss", "auxiliary_loss"} < log.keys() and "text_loss" not in log
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        expected = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert changed == expected


def test_scheduled_sampling_reads_the_models_own_patches():
    model = tiny_speech_decoder()
    batch = batch_of(model)
    patches = model.prepare_patches(batch["mel_labels"], batch["speech_states"])
    expected = model(**batch).condition
    same = model(**batch, previous_patches=shift_patches(patches)).condition
    torch.testing.assert_close(same, expected)
    assert not torch.allclose(model(**batch, previous_patches=torch.zeros_like(patches)).condition, expected)
