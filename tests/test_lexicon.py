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
from tiny import tiny_model

from flow_omni.modeling_flow_omni.audio_adapters import FlowOmniLexicon
from flow_omni.modeling_flow_omni.lexicon import edit_distance
from flow_omni.modeling_flow_omni.speech_decoder import MAX_TOKEN_BYTES


ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
TOKENS = ["", "a", "b", "t", "s", " the", " cat", " sat", "The", " a", "cat", " c", "at", ".", "?", " re", "port"]
ID = {token: index for index, token in enumerate(TOKENS)}
BLANK = len(TOKENS)


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


def text_of(letters: list[int]) -> str:
    return "".join(ALPHABET[letter] for letter in letters)


def test_search_without_doubt_is_the_greedy_path(lexicon):
    assert text_of(lexicon.search(log_probs("tt-h-e- c-a-t"))) == "the cat"
    assert text_of(lexicon.search(log_probs("a-tt-t"))) == "att"
    assert lexicon.search(log_probs("----")) == []


def test_search_prefers_a_word_where_letters_are_in_doubt(lexicon):
    # "czt", with an "a" not far behind: only "cat" is a word
    assert text_of(lexicon.search(log_probs("c-z-t", sure=0.7, other="  a  "))) == "cat"
    assert text_of(lexicon.search(log_probs("c-z-t", sure=0.7))) == "czt"


def test_words_are_spelled_by_the_fewest_tokens(lexicon):
    spelled = lambda word, is_first=False: [TOKENS[token] for token in lexicon.spell(word, is_first)]  # noqa: E731
    assert spelled("cat") == [" cat"]
    assert spelled("report") == [" re", "port"]
    assert spelled("the", is_first=True) == ["The"]
    assert spelled("cats") == [" cat", "s"]


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


def test_adapter_reads_checked_words_where_it_knows_the_spelling_of_tokens():
    model = tiny_model(adapter_compression="ctc", adapter_hidden_size=16, adapter_num_attention_heads=2)
    adapter, features = model.model.audio_adapter, torch.randn(2, 80, 400, generator=torch.Generator().manual_seed(0))
    adapter.token_bytes.copy_(byte_table([chr(byte) if byte > 32 and byte < 127 else "" for byte in range(264)]))
    mask = torch.ones(2, 400, dtype=torch.long)
    mask[1, 200:] = 0
    with torch.no_grad():
        audio = model.get_audio_features(features, mask)
        alone = model.get_audio_features(features[1:, :, :200])
    (window,) = audio.windows
    table = model.get_input_embeddings().weight
    for letters, ids in zip(window.letters.tolist(), window.token_ids.tolist()):
        heard = "".join(ALPHABET[letter] for letter in letters if letter >= 0).replace(" ", "")
        spelled = "".join(chr(token).lower() for token in ids if token >= 0 and chr(token).lower() in ALPHABET)
        # no more tokens than positions, hence the prefix; of each word at most a letter differs
        assert len(spelled) > 3 and abs(len(heard) - len(spelled)) < len(heard)
    torch.testing.assert_close(
        alone.pooler_output, audio.pooler_output[audio.audio_lengths[0] :], rtol=1e-4, atol=1e-5
    )
    assert audio.pooler_output.shape[1] == table.shape[1]
