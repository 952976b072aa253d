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
"""Words as tokens by their letters: the search for likely words, and the check of tokens against what was heard."""

import numpy as np
import pytest
import torch
from tiny import spoken_prompt, tiny_model

from flow_omni.modeling_flow_omni.audio_adapters import FlowOmniLexicon
from flow_omni.modeling_flow_omni.lexicon import FlowOmniHypothesis, edit_distance
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniModel
from flow_omni.modeling_flow_omni.speech_decoder import MAX_TOKEN_BYTES


ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
TOKENS = [
    "",
    *"abcehoprst ",
    " t",
    "he",
    " the",
    "at",
    " c",
    " cat",
    " s",
    " sat",
    "T",
    "The",
    "cat",
    "C",
    "Cat",
    " a",
]
TOKENS += ["re", " re", "or", "po", "rt", "port", " P", "ere", " Pere", ".", "?", "'", "'s"]
ID = {token: index for index, token in enumerate(TOKENS)}
BLANK = len(TOKENS)
SCORE_TEXTS = FlowOmniModel.score_texts


def byte_table(tokens: list[str]) -> torch.Tensor:
    table = torch.zeros(len(tokens), MAX_TOKEN_BYTES, dtype=torch.uint8)
    for index, token in enumerate(tokens):
        table[index, : len(token.encode())] = torch.tensor(list(token.encode()), dtype=torch.uint8)
    return table


@pytest.fixture
def lexicon():
    return FlowOmniLexicon(byte_table(TOKENS), ALPHABET)


def log_probs(symbols: str, sure: float = 0.9, **others: str) -> torch.Tensor:
    """Frames that say one symbol each (`-` is the blank) and hesitate about another where `others` has one."""
    frames = np.full((len(symbols), len(ALPHABET) + 1), 1e-4)
    for frame, symbol in enumerate(symbols):
        frames[frame, "-".join([ALPHABET, ""]).index(symbol) if symbol != "-" else len(ALPHABET)] = sure
        other = others.get("other", "").ljust(len(symbols))[frame]
        if other != " ":
            frames[frame, ALPHABET.index(other)] = 1 - sure
    return torch.tensor(frames / frames.sum(axis=1, keepdims=True)).log()


def best(lexicon, log_probs: torch.Tensor) -> str:
    return next(iter(lexicon.search(log_probs)))


def test_search_without_doubt_is_the_greedy_path(lexicon):
    assert best(lexicon, log_probs("tt-h-e- c-a-t")) == "the cat"
    assert best(lexicon, log_probs("a-tt-t")) == "att"
    assert best(lexicon, log_probs("----")) == ""


def test_search_prefers_a_word_where_letters_are_in_doubt(lexicon):
    # "czt", with an "a" not far behind: only "cat" is a word
    assert best(lexicon, log_probs("c-z-t", sure=0.7, other="  a  ")) == "cat"
    assert best(lexicon, log_probs("c-z-t", sure=0.7)) == "czt"
    # so is "Pere", which the vocabulary has with a capital letter alone
    assert best(lexicon, log_probs("p-e-z-e", sure=0.7, other="    r  ")) == "pere"


def test_search_finds_each_text_once_the_best_first(lexicon):
    scores = lexicon.search(log_probs("c-z-t", sure=0.7, other="  a  "))
    texts = list(scores)
    assert {"cat", "czt"} <= set(texts) and all(text == text.strip() for text in texts)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_words_are_tokenized_in_the_order_of_the_vocabulary(lexicon):
    tokens = lambda text: [TOKENS[token] for token in lexicon.tokenize(text)]  # noqa: E731
    assert tokens(" cat") == [" cat"]
    assert tokens(" cats") == [" cat", "s"]
    # "or" is merged before "po" and "rt": the fewest tokens would be " re" and "port"
    assert tokens(" report") == [" re", "p", "or", "t"]
    assert tokens(" zat") == [" ", "at"]


def test_words_are_written_as_the_vocabulary_has_them(lexicon):
    assert lexicon.spellings_of("the pere's cat") == [["The", " Pere's", " cat"]]
    # a word that it does not have may be a name
    assert lexicon.spellings_of("the cats sat") == [["The", " cats", " sat"], ["The", " Cats", " sat"]]
    assert lexicon.spellings_of("") == []


def choose(
    lexicon, found: list[dict[str, float]], likelihoods: dict[str, float], ends: dict[str, float] | None = None
):
    def score_texts(texts: list[list[int]], end_ids: list[int]):
        assert [TOKENS[end] for end in end_ids] == [".", "?"]
        written = ["".join(TOKENS[token] for token in text) for text in texts]
        scores = [[(ends or {}).get(end, -1.0) for end in ".?"]] * len(texts)
        return [likelihoods.get(text, -30.0) for text in written], scores

    return lexicon.choose(found, score_texts)


def test_language_model_chooses_among_the_texts_that_were_found(lexicon):
    found = [
        {"the sat": -2.0, "the cat": -3.0, "the rat": -50.0},
        {"a cat": -1.0, "a sat": -1.5},
        {"": -1.0, "a": -1.1},
    ]
    chosen = choose(lexicon, found, {"The sat": -20.0, "The cat": -10.0, "The rat": 0.0, "A cat": -5.0})
    # "the rat" is likely to be written, but was not heard; where nothing was heard, nothing is read
    assert [hypothesis.text for hypothesis in chosen] == ["the cat", "a cat", ""]
    alone = [choose(lexicon, [scores], {"The sat": -20.0, "The cat": -10.0, "A cat": -5.0})[0] for scores in found]
    assert chosen == alone


def test_language_model_chooses_capital_letters_of_unknown_words_and_the_mark_at_the_end(lexicon):
    found = [{"the cats": -2.0}]
    (name,) = choose(lexicon, found, {"The Cats": -5.0, "The cats": -9.0}, {"?": -0.1})
    (plain,) = choose(lexicon, found, {"The Cats": -9.0, "The cats": -5.0}, {".": -0.1, "?": -4.0})
    assert (name.words, name.end) == (["The", " Cats"], "?")
    assert (plain.words, plain.end) == (["The", " cats"], ".")
    # a window of audio may end within a sentence
    assert choose(lexicon, found, {}, {".": -20.0, "?": -20.0})[0].end == ""


def test_chosen_text_is_written_as_it_was_scored_with_what_is_read_of_commas_and_unknown_words(lexicon):
    text = "cat cat cas poret "
    letters = [ALPHABET.index(letter) for letter in text]
    path = [BLANK] * len(text)
    # no space before the second word, and the unknown third one read as what it may be; the unknown fourth is not read
    for place, token in {2: "cat", 3: "?", 6: "Cat", 10: " cat", 17: "?"}.items():
        path[place] = ID[token]
    hypothesis = FlowOmniHypothesis(text.strip(), ["Cat", " cat", " cas", " poret"], ".")
    tokens = [TOKENS[token] for token in lexicon.punctuate(hypothesis, letters, path, BLANK)]
    assert tokens == ["Cat", "?", " cat", " cat", " ", "po", "re", "t", "."]


def read(lexicon, text: str, path: dict[int, str]) -> list[str]:
    letters = [ALPHABET.index(letter) for letter in text]
    tokens = [ID[path[place]] if place in path else BLANK for place in range(len(text))]
    return [TOKENS[token] for token, _ in lexicon.read(letters, tokens, BLANK)]


def test_tokens_that_spell_what_was_heard_are_read(lexicon):
    assert read(lexicon, "the cat ", {2: "The", 6: " cat", 7: "."}) == ["The", " cat", "."]


def test_tokens_that_spell_another_word_are_replaced_and_punctuation_stays(lexicon):
    # heard "the cat", read "The sat?"
    assert read(lexicon, "the cat ", {2: "The", 6: " sat", 7: "?"}) == ["The", " cat", "?"]
    # heard "catt", which is no word: one letter may differ
    assert read(lexicon, "the catt ", {2: "The", 7: " cat"}) == ["The", " cat"]
    # nothing was read
    assert read(lexicon, "the cat ", {}) == ["The", " cat"]


def test_control_tokens_are_never_read(lexicon):
    assert read(lexicon, "the cat ", {2: "The", 6: " cat", 7: ""}) == ["The", " cat"]


def test_a_token_that_goes_on_into_the_next_word_is_read_once(lexicon):
    assert read(lexicon, "cat at ", {2: " cat", 3: " cat", 4: " cat", 5: "at"}) == [" cat", "at"]


def test_edit_distance_counts_up_to_its_limit():
    assert edit_distance("kitten", "sitting", 5) == 3
    assert edit_distance("cat", "cat", 0) == 0
    assert edit_distance("a", "abcdef", 2) == 3


@pytest.fixture
def spelling_model():
    """A model whose adapter knows the spelling of its tokens, which are bytes, and that has heard two audios."""
    audio = {"max_source_positions": 50}  # windows of 100 frames
    model = tiny_model(adapter_compression="ctc", adapter_hidden_size=16, adapter_num_attention_heads=2, audio=audio)
    tokens = [chr(byte) if byte >= 32 and byte < 127 else "" for byte in range(264)]
    model.model.audio_adapter.token_bytes.copy_(byte_table(tokens))
    features, mask = torch.randn(2, 80, 96, generator=torch.Generator().manual_seed(0)), torch.ones(2, 96).long()
    mask[1, 60:] = 0
    return model, {"input_features": features, "input_features_mask": mask}


def spelled(ids: torch.Tensor) -> list[str]:
    return ["".join(chr(token) for token in row if token >= 0) for row in ids.tolist()]


@pytest.mark.parametrize("is_chosen", [True, False])
def test_adapter_reads_words_of_the_batch_as_it_reads_them_alone(spelling_model, is_chosen):
    model, inputs = spelling_model
    options = {} if is_chosen else {"lm_head": None}
    with torch.no_grad():
        audio = model.get_audio_features(**inputs, **options)
        alone = model.get_audio_features(inputs["input_features"][1:, :, :60], **options)
    (window,) = audio.windows
    for letters, text in zip(window.letters.tolist(), spelled(window.token_ids)):
        heard = "".join(ALPHABET[letter] for letter in letters if letter >= 0)
        written = "".join(letter for letter in text.lower() if letter in ALPHABET)
        # no more tokens than positions, hence the prefix; of what is not chosen, a letter of each word may differ
        assert len(written) > 3 and (heard.startswith(written) or not is_chosen)
    torch.testing.assert_close(
        alone.pooler_output, audio.pooler_output[audio.audio_lengths[0] :], rtol=1e-4, atol=1e-5
    )


def test_language_model_reads_its_own_embeddings_of_the_text_that_it_chose(spelling_model):
    model, inputs = spelling_model
    with torch.no_grad():
        audio = model.get_audio_features(**inputs)
    (window,) = audio.windows
    ids = window.token_ids[window.mask]
    torch.testing.assert_close(audio.pooler_output, model.get_input_embeddings().weight[ids])
    assert window.mask.sum(dim=-1).tolist() == audio.audio_lengths.tolist()


def test_texts_of_several_windows_are_chosen_and_none_where_an_audio_has_ended(spelling_model):
    model, _ = spelling_model
    features, mask = torch.randn(2, 80, 140, generator=torch.Generator().manual_seed(1)), torch.ones(2, 140).long()
    mask[1, 60:] = 0
    with torch.no_grad():
        audio = model.get_audio_features(features, mask)
    first, second = (window.mask.sum(dim=-1).tolist() for window in audio.windows)
    assert min(first) > 0 and second[0] > 0 and second[1] == 0
    assert audio.audio_lengths.tolist() == [first[0] + second[0], first[1]]


@pytest.mark.parametrize("attention", ["sdpa", "eager", "none that masks"])
def test_scores_of_texts_are_the_log_likelihoods_of_the_language_model(spelling_model, attention, monkeypatch):
    model, _ = spelling_model
    language_model, sizes = model.model.language_model, []
    texts, ends = [[72, 105], [72, 105, 32, 97], [72, 105, 32, 98, 99], [74]], [46, 63]
    if attention in ("sdpa", "eager"):
        monkeypatch.setattr(language_model.config, "_attn_implementation", attention)
    else:
        monkeypatch.setattr(type(language_model), "_is_stateful", True)
    hook = language_model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    with hook:
        likelihoods, end_scores = model.model.score_texts(model.lm_head, texts, ends)
    # what texts share is read once, where the model can
    assert sizes == [24 if attention == "none that masks" else 8]
    for text, likelihood, scores in zip(texts, likelihoods, end_scores):
        ids = torch.tensor([[258, *text]])  # begins with the end of a text, for want of another token
        with torch.no_grad():
            log_probs = model.lm_head(language_model(ids).last_hidden_state)[0].log_softmax(dim=-1)
        expected = sum(float(log_probs[place, token]) for place, token in enumerate(text))
        assert likelihood == pytest.approx(expected, rel=1e-4)
        assert scores == pytest.approx(log_probs[-1, ends].tolist(), rel=1e-4)


def test_texts_are_chosen_in_generation_and_not_in_training(spelling_model, monkeypatch):
    model, inputs = spelling_model
    calls = []
    monkeypatch.setattr(type(model.model), "score_texts", lambda *args: calls.append(args) or SCORE_TEXTS(*args))
    prompt = spoken_prompt([96, 40], [3, 5])
    model.generate(**prompt, max_new_tokens=2, generation_mode="text")
    assert len(calls) == 1
    model(**prompt)
    assert len(calls) == 2
    model.train()
    model(**prompt)
    model.get_audio_features(**inputs)
    assert len(calls) == 2
