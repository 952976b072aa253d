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
"""The text tokens and speech states of an answer are aligned as the model and its generation expect, at all lengths."""

import itertools
import random

import pytest

from flow_omni.processing.parallel_streams import (
    IGNORE_INDEX,
    SpeechState,
    join_streams,
    timed_text,
    words_with_tokens,
)


PAD, START, GENERATING, STOP = SpeechState
EOS_ID, PAD_ID = 98, 99
PROMPT = [7, 8, 9]
# numbers of tokens and patches, and delays
LENGTHS = list(itertools.product([0, 1, 2, 5, 30], [1, 2, 12], [0, 1, 3, 50]))


def streams_of(text_ids, num_patches=None, speech_delay=0):
    streams = join_streams(PROMPT, text_ids, PAD_ID, num_patches, speech_delay)
    return {name: stream.tolist() for name, stream in streams.items()}


def leading(num_tokens, num_patches, speech_delay):
    return streams_of([*range(num_tokens), EOS_ID], num_patches, speech_delay)


def random_words(seed):
    """Words of one to three tokens, with rising onsets."""
    rng = random.Random(seed)
    onset, words = 0, []
    for index in range(rng.randint(1, 8)):
        onset += rng.randint(0, 6)
        words.append(([index] * rng.randint(1, 3), onset))
    return words, onset + rng.randint(1, 5)


def test_streams_of_a_spoken_answer():
    streams = streams_of([1, 2, 3, 4, EOS_ID], num_patches=3, speech_delay=2)
    ignored = [IGNORE_INDEX] * 3
    assert streams["input_ids"] == [7, 8, 9, 1, 2, 3, 4, EOS_ID, PAD_ID, PAD_ID]
    assert streams["labels"] == ignored + [1, 2, 3, 4, EOS_ID, IGNORE_INDEX, IGNORE_INDEX]
    assert streams["speech_states"] == [0, 0, 0, PAD, PAD, START, GENERATING, GENERATING, GENERATING, STOP]
    assert streams["state_labels"] == ignored + streams["speech_states"][3:]


def test_streams_of_a_text_answer():
    streams = streams_of([1, 2, EOS_ID])
    assert streams["input_ids"] == [7, 8, 9, 1, 2, EOS_ID]
    assert streams["labels"] == [IGNORE_INDEX] * 3 + [1, 2, EOS_ID]
    assert streams["speech_states"] == [PAD] * 6
    assert streams["state_labels"] == [IGNORE_INDEX] * 3 + [PAD] * 3


def test_states_run_from_pad_over_start_and_generating_to_stop():
    for num_tokens, num_patches, speech_delay in LENGTHS:
        states = leading(num_tokens, num_patches, speech_delay)["speech_states"][len(PROMPT) :]
        assert states == sorted(states) and states[-1] == STOP
        assert states.count(START) == states.count(STOP) == 1
        # speech starts after its delay, or at the end of a shorter text
        assert states.index(START) == min(speech_delay, num_tokens + 1)


def test_speech_never_stops_before_its_text():
    """Generation forbids it, so training must not teach it."""
    for num_tokens, num_patches, speech_delay in LENGTHS:
        streams = leading(num_tokens, num_patches, speech_delay)
        stop, end = streams["speech_states"].index(STOP), streams["input_ids"].index(EOS_ID)
        num_generating = streams["speech_states"].count(GENERATING)
        assert stop > end and num_generating >= num_patches
        assert num_generating == num_patches or stop == end + 1


def test_labels_are_the_answer_without_padding():
    for lengths in LENGTHS:
        streams = leading(*lengths)
        input_ids, labels = streams["input_ids"], streams["labels"]
        assert len({len(stream) for stream in streams.values()}) == 1
        end = input_ids.index(EOS_ID)
        assert labels[len(PROMPT) : end + 1] == input_ids[len(PROMPT) : end + 1]
        assert set(labels[: len(PROMPT)] + labels[end + 1 :]) <= {IGNORE_INDEX}
        assert set(input_ids[end + 1 :]) <= {PAD_ID}
        assert streams["state_labels"][len(PROMPT) :] == streams["speech_states"][len(PROMPT) :]


def test_timed_words_come_their_delay_before_their_patch():
    words = [([1, 2], 0), ([3], 4), ([4], 6)]
    streams = streams_of(timed_text(words, EOS_ID, PAD_ID), num_patches=9, speech_delay=2)
    assert streams["input_ids"][3:12] == [1, 2, PAD_ID, PAD_ID, 3, PAD_ID, 4, EOS_ID, PAD_ID]
    assert streams["labels"][3:12] == [1, 2, PAD_ID, PAD_ID, 3, PAD_ID, 4, EOS_ID, IGNORE_INDEX]
    assert streams["speech_states"][3:] == [PAD, PAD, START] + [GENERATING] * 9 + [STOP]
    first_patch = streams["speech_states"].index(GENERATING)
    for token_ids, onset_patch in words:
        assert first_patch + onset_patch - streams["input_ids"].index(token_ids[0], 3) == 2 + 1


def test_timed_words_keep_their_order_and_never_come_early():
    for seed in range(30):
        words, num_patches = random_words(seed)
        streams = streams_of(timed_text(words, EOS_ID, PAD_ID), num_patches, speech_delay=4)
        answer = streams["input_ids"][len(PROMPT) :]
        tokens = [token for token in answer if token != PAD_ID]
        assert tokens == [token for token_ids, _ in words for token in token_ids] + [EOS_ID]
        assert all(answer.index(token_ids[0]) >= onset for token_ids, onset in words)
        end = answer.index(EOS_ID)
        assert answer[end - 1] == words[-1][0][-1]
        # the gaps between words are predicted, the pads after the end are not
        labels = streams["labels"][len(PROMPT) :]
        assert labels[: end + 1] == answer[: end + 1] and set(labels[end + 1 :]) <= {IGNORE_INDEX}


def test_timed_text_without_gaps_is_the_leading_text():
    assert timed_text([([1], 0), ([2], 1), ([3], 2)], EOS_ID, PAD_ID) == [1, 2, 3, EOS_ID]
    with pytest.raises(ValueError, match="same token"):  # gaps need a pad of their own
        timed_text([([1], 0)], EOS_ID, EOS_ID)


def characters(text):
    return list(range(len(text))), [(index, index + 1) for index in range(len(text))]


def test_space_in_a_words_token_belongs_to_the_word_and_punctuation_to_the_word_before():
    offsets = [(0, 4), (4, 5), (5, 9), (9, 10)]
    words = words_with_tokens("Well, yes.", [0, 1, 2, 3], offsets, [("Well", 0.0), ("yes", 0.5)], 10.0, 9)
    assert words == [([0, 1], 0), ([2, 3], 5)]


def test_every_token_belongs_to_a_word():
    text = "«one two» one, 3!"
    token_ids, offsets = characters(text)
    times = [("one", 0.1), ("two", 0.2), ("one", 0.4), ("3", 0.8, 0.9)]
    words = words_with_tokens(text, token_ids, offsets, times, 10.0, 9)
    assert [token for tokens, _ in words for token in tokens] == token_ids
    assert [onset for _, onset in words] == [1, 2, 4, 8]
    assert words[0][0][0] == 0 and len(words) == 4


def test_word_times_that_do_not_fit_the_answer_are_refused():
    token_ids, offsets = characters("one two")
    for word_times, message in (
        ([("one", 0.0), ("three", 1.0)], "'three' of `word_times` is not in ' two'"),
        ([("two", 0.0), ("one", 1.0)], "'one' of `word_times` is not in ''"),
        ([("one", 1.0), ("two", 0.5)], "`word_times` must rise"),
        ([("one", -1.0)], "`word_times` must rise"),
        ([("", 0.0)], "is not in"),
        ([("one", 0.0), ("two", 3.0)], "begins at 3 s in an answer of 3 s: .* lie within the speech"),
        ([], "no `word_times`"),
    ):
        with pytest.raises(ValueError, match=message):
            words_with_tokens("one two", token_ids, offsets, word_times, 10.0, 30)
