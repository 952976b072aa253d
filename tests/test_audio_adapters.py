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
"""The adapter that decides by CTC what was said: letters, tokens, and the positions that the language model reads."""

import numpy as np
import pytest
import torch
from tiny import AUDIO_TOKEN_ID, spoken_prompt, tiny_model, tiny_processor, training_batch

from flow_omni.modeling_flow_omni.audio_adapters import (
    first_of_runs,
    mean_of_runs,
    runs_of,
    token_ctc_loss,
    token_directions,
)
from flow_omni.processing.forced_alignment import align_text, viterbi
from flow_omni.processing.spelling import letters_of, spelled_tokens, text_of_letters


CTC = {"adapter_compression": "ctc", "adapter_hidden_size": 16, "adapter_num_attention_heads": 2}
GREEDY = {"max_new_tokens": 8, "flow_temperature": 0.0}
ALPHABET = "abcdefghijklmnopqrstuvwxyz' "


@pytest.fixture(scope="module")
def model():
    model = tiny_model(**CTC)
    # with blanks between its letters, as a trained model: one with random weights hears a letter in every frame
    model.model.audio_adapter.letter_head.weight.data *= 3
    model.model.audio_adapter.letter_head.bias.data[-1] += 4
    return model


@pytest.fixture
def inputs():
    return spoken_prompt([96, 40], [3, 5])


def compact_by_hand(model, inputs) -> list[dict]:
    """Each row alone, with its embeddings in place of exactly as many placeholders."""
    audio = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
    rows, embeddings = [], audio.pooler_output.split(audio.audio_lengths.tolist())
    for ids, mask, row_embeddings in zip(inputs["input_ids"], inputs["attention_mask"], embeddings):
        text = [token for token in ids[mask.bool()].tolist() if token != AUDIO_TOKEN_ID]
        ids = torch.tensor([[AUDIO_TOKEN_ID] * len(row_embeddings) + text])
        rows.append({"input_ids": ids, "audio_embeddings": row_embeddings})
    return rows


def test_runs_are_merged_and_blanks_dropped():
    path = torch.tensor([[9, 1, 1, 9, 1, 2, 9], [9, 9, 9, 9, 9, 9, 9]])
    values = torch.arange(14.0).view(2, 7, 1)
    is_symbol, run = runs_of(path, blank=9)
    assert first_of_runs(path, is_symbol, run).tolist() == [[1, 1, 2], [-100, -100, -100]]
    assert mean_of_runs(values, is_symbol, run)[0, :, 0].tolist() == [1.5, 4.0, 5.0]


def test_language_model_reads_fewer_positions_than_the_frames_make(model, inputs):
    audio = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
    num_placeholders = (inputs["input_ids"] == AUDIO_TOKEN_ID).sum(dim=-1)
    assert (audio.audio_lengths > 0).all() and (audio.audio_lengths < num_placeholders).any()
    assert (audio.audio_lengths <= num_placeholders).all()


def test_embedding_of_a_certain_token_is_the_language_models_own(model):
    # so many dimensions that no other token points nearly the same way
    table = torch.randn(264, 2048, generator=torch.Generator().manual_seed(0))
    states, letters = token_directions(table)[torch.tensor([[17, 42]])], torch.tensor([[3, 4]])
    adapter = tiny_model(**CTC, text={"hidden_size": 2048}).model.audio_adapter
    with torch.no_grad():
        embeddings, ids = adapter.mix_tokens(states, letters, table, torch.tensor([2]))
    assert ids.tolist() == [[17, 42]]
    torch.testing.assert_close(embeddings[0], table[[17, 42]], rtol=1e-4, atol=1e-4)


def test_directions_follow_the_embeddings_when_these_are_trained():
    table = torch.nn.Parameter(torch.randn(264, 32))
    adapter = tiny_model(**CTC).model.audio_adapter
    with torch.no_grad():
        before = adapter._token_directions(table)
        assert adapter._token_directions(table) is before
        table.mul_(-1.0)
        assert adapter._token_directions(table).equal(-before)


def test_audio_does_not_depend_on_the_batch(model, inputs):
    together = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
    rows = together.pooler_output.split(together.audio_lengths.tolist())
    for row, num_frames in enumerate((96, 40)):
        alone = model.get_audio_features(inputs["input_features"][row : row + 1, :, :num_frames])
        torch.testing.assert_close(alone.pooler_output, rows[row], rtol=1e-4, atol=1e-5)


def test_forward_equals_the_language_model_on_the_compact_sequence(model, inputs):
    with torch.no_grad():
        logits = model(**inputs).logits
        for row, alone in zip(logits, compact_by_hand(model, inputs)):
            expected = model(**alone).logits[0]
            torch.testing.assert_close(row[-len(expected) :], expected, rtol=1e-4, atol=1e-4)


def test_masks_and_positions_of_the_caller_change_nothing(model, inputs):
    with torch.no_grad():
        expected = model(**inputs).logits
        position_ids = (inputs["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
        torch.testing.assert_close(model(**inputs, position_ids=position_ids).logits, expected, rtol=1e-4, atol=1e-4)
        floats = inputs | {"input_features_mask": inputs["input_features_mask"].float()}
        torch.testing.assert_close(model(**floats).logits, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="pass its `pooler_output` as `audio_embeddings`"):
        model(**inputs | {"attention_mask": torch.ones(2, 99)})


def test_batch_without_attention_mask_does_not_attend_to_what_was_dropped(model):
    inputs = spoken_prompt([96, 96], [3, 3])
    options = GREEDY | {"output_logits": True, "generation_mode": "text", "max_new_tokens": 1}
    lengths = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"]).audio_lengths
    assert lengths[0] != lengths[1]
    expected = model.generate(**inputs, **options).logits[0]
    del inputs["attention_mask"]
    torch.testing.assert_close(model.generate(**inputs, **options).logits[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stack_size", [4, 7])
def test_audio_of_several_windows_fits_its_placeholders(stack_size):
    model = tiny_model(**CTC, adapter_stack_size=stack_size)
    processor = tiny_processor(model.config)
    audio = {
        "array": np.random.default_rng(0).standard_normal(61 * 16000).astype(np.float32) * 0.1,
        "sampling_rate": 16000,
    }
    inputs = processor.apply_chat_template(
        processor.make_conversation("transcribe", audio=audio),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_losses_follow_their_positions(model):
    batch = training_batch(model.config) | {"letter_labels": torch.tensor([[2, 3, 4], [5, -100, -100]])}
    together = model(**batch)
    # without audio labels the losses of text, states and speech are those of the compact sequences
    rows = compact_by_hand(model, {name: batch[name] for name in batch if name != "mel_labels"})
    assert together.letter_loss > 0 and together.ctc_loss > 0
    losses = []
    for row, alone in enumerate(rows):
        length = alone["input_ids"].shape[1]
        aligned = {name: batch[name][row : row + 1, -length:] for name in ("labels", "state_labels", "speech_states")}
        num_patches = int((aligned["speech_states"] == model.config.generating_state_id).sum())
        losses.append(model(**alone, **aligned, mel_labels=batch["mel_labels"][row : row + 1, :num_patches]))
    # five text tokens in each row
    expected = (losses[0].text_loss + losses[1].text_loss) / 2
    torch.testing.assert_close(together.text_loss, expected, rtol=1e-4, atol=1e-5)


def test_answers_of_a_batch_equal_those_of_the_rows_alone(model, inputs):
    together = model.generate(**inputs, **GREEDY)
    assert together.sequences[:, : inputs["input_ids"].shape[1]].equal(inputs["input_ids"])
    for row, alone in enumerate(compact_by_hand(model, inputs)):
        answer = model.generate(**alone, **GREEDY)
        num_new = answer.speech_states.shape[1]
        start = inputs["input_ids"].shape[1]
        assert together.sequences[row, start : start + num_new].tolist() == answer.sequences[0, -num_new:].tolist()
        torch.testing.assert_close(together.mel[row, : answer.mel_lengths[0]], answer.mel[0], rtol=1e-3, atol=1e-3)


def test_several_answers_to_one_prompt_and_streams(model, inputs):
    single = model.generate(**inputs, **GREEDY)
    several = model.generate(**inputs, **GREEDY, num_return_sequences=2, do_sample=True, top_k=1)
    assert several.sequences.equal(single.sequences.repeat_interleave(2, dim=0))
    steps = list(model.stream(**inputs, **GREEDY))
    new = single.sequences[:, inputs["input_ids"].shape[1] :]
    assert torch.stack([step.text_ids for step in steps], dim=1).equal(new)


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_answer_is_the_same_with_any_cache(model, inputs, options):
    expected = model.generate(**inputs, **GREEDY)
    answer = model.generate(**inputs, **GREEDY, **options)
    assert answer.sequences.equal(expected.sequences)


def test_next_turn_from_the_cache_equals_the_next_turn_from_scratch(model):
    first = spoken_prompt([96], [4])
    answer = model.generate(**first, max_new_tokens=4, generation_mode="text")
    second = spoken_prompt([56], [3], seed=1)
    turns = {
        "input_ids": torch.cat([answer.sequences, second["input_ids"]], dim=1),
        "attention_mask": torch.ones(1, answer.sequences.shape[1] + second["input_ids"].shape[1], dtype=torch.long),
        "input_features": torch.zeros(2, 80, 96),
        "input_features_mask": torch.zeros(2, 96, dtype=torch.long),
    }
    for index, turn in enumerate((first, second)):
        num_frames = turn["input_features"].shape[-1]
        turns["input_features"][index, :, :num_frames] = turn["input_features"][0]
        turns["input_features_mask"][index, :num_frames] = 1
    options = {"max_new_tokens": 4, "generation_mode": "text"}
    expected = model.generate(**turns, **options)
    continued = model.generate(**turns, **options, cache=answer.cache)
    assert continued.sequences.equal(expected.sequences)


def test_gradients_reach_letters_and_tokens_but_not_the_embeddings(model):
    model.zero_grad()
    batch = training_batch(model.config) | {"letter_labels": torch.tensor([[2, 3, 4], [5, -100, -100]])}
    outputs = model(**batch)
    (outputs.ctc_loss + outputs.letter_loss).backward()
    adapter = model.model.audio_adapter
    for parameter in (adapter.letter_head.weight, adapter.letter_conv1.weight, adapter.blank):
        assert parameter.grad.abs().sum() > 0
    assert model.get_input_embeddings().weight.grad is None
    model.zero_grad()


def test_drawn_vocabulary_of_all_tokens_is_the_whole_vocabulary():
    torch.manual_seed(0)
    states, table, blank = torch.randn(2, 9, 16), torch.randn(50, 16), torch.randn(16)
    lengths, labels = torch.tensor([9, 6]), torch.tensor([[3, 3, 8], [4, -100, -100]])
    whole = token_ctc_loss(states, lengths, table, blank, labels)
    drawn = [token_ctc_loss(states, lengths, table, blank, labels, num_drawn_tokens=5) for _ in range(20)]
    # fewer tokens compete, so the loss is lower, and tends to the whole one
    assert all(loss < whole for loss in drawn)
    many = token_ctc_loss(states, lengths, table, blank, labels, num_drawn_tokens=49)
    assert (whole - many) < (whole - torch.stack(drawn).mean())


def test_inputs_embeds_are_refused_since_they_cannot_be_shortened(model, inputs):
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="pass `input_ids`"):
        model(inputs_embeds=embeddings, input_features=inputs["input_features"])


def test_checkpoint_keeps_the_adapter(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.ctc_alphabet == model.config.ctc_alphabet
    assert loaded.generate(**inputs, **GREEDY).sequences.equal(model.generate(**inputs, **GREEDY).sequences)


# --- letters and times


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("Don’t stop -- it's a Well-Known café!", "don't stop it's a well known cafe"),
        ("What?", "what"),
        ("Room 5", ""),  # a digit is said, and cannot be spelled
        ("salt & pepper", ""),
        ("...", ""),
    ],
)
def test_texts_are_spelled_as_they_are_said(text, spelled):
    assert text_of_letters(letters_of(text, ALPHABET), ALPHABET) == spelled


def test_a_token_belongs_to_its_last_letter_and_punctuation_to_the_space_after_it():
    text = "A cat, sat."
    tokens, offsets = [10, 11, 12, 13, 14], [(0, 1), (1, 5), (5, 6), (6, 10), (10, 11)]
    letters, completed = spelled_tokens(text, tokens, offsets, ALPHABET)
    assert text_of_letters(letters, ALPHABET) == "a cat sat" and ALPHABET[letters[-1]] == " "
    spelled = "".join(ALPHABET[letter] for letter in letters)
    assert spelled == "a cat sat "
    assert completed == [10, -1, -1, -1, 11, 12, -1, -1, 13, 14]


def test_viterbi_finds_the_frames_of_each_letter():
    # "aab" over 8 frames, with a blank between the two equal letters: a a - a - - b b
    symbols = [0, 0, 2, 0, 2, 2, 1, 1]
    log_probs = np.log(np.full((8, 3), 0.05) + 0.85 * np.eye(3)[symbols])
    assert viterbi(log_probs, [0, 0, 1]) == [(0, 2), (3, 4), (6, 8)]
    with pytest.raises(ValueError, match="3 letters do not fit into 3 frames"):
        viterbi(log_probs[:3], [0, 0, 1])


def test_tokens_of_a_text_are_placed_in_order_within_the_audio(model):
    processor = tiny_processor(model.config)
    waveform = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    tokens = align_text(model, processor, waveform, "A cat, sat")
    assert [token.token_id for token in tokens] == list(b"A cat, sat")
    times = [time for token in tokens for time in (token.start, token.end)]
    assert times == sorted(times) and 0.0 <= times[0] and times[-1] <= 1.04
    (hyphen,) = [token for token in align_text(model, processor, waveform, "a-b") if token.token_id == ord("-")]
    assert hyphen.start == hyphen.end
    comma, space = tokens[5], tokens[6]
    assert comma.start == comma.end == space.end  # nothing is said there
    with pytest.raises(ValueError, match="cannot be spelled"):
        align_text(model, processor, waveform, "12")


def test_transcript_of_the_ctc_joins_windows(model):
    processor = tiny_processor(model.config)
    features = torch.randn(1, 80, 3000 + 400, generator=torch.Generator().manual_seed(0))
    audio = model.get_audio_features(features)
    assert len(audio.windows) == 2
    texts = [
        processor.tokenizer.decode([token for token in window.token_ids[0].tolist() if token >= 0]).strip()
        for window in audio.windows
    ]
    assert processor.transcripts_of(audio) == [" ".join(filter(None, texts))]
    with pytest.raises(ValueError, match="does not spell"):
        processor.transcripts_of(tiny_model().get_audio_features(features))
