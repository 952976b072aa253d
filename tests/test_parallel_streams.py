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
"""The two streams of an answer lie as the model and its generation expect them, whatever their lengths."""

import itertools
import random

import pytest

from flow_omni.processing.parallel_streams import (
    IGNORED,
    SpeechState,
    leading_layout,
    num_audio_tokens,
    timed_layout,
    words_with_tokens,
)


PAD, START, GENERATING, STOP = SpeechState
EOS_ID, PAD_ID = 98, 99
PROMPT = [7, 8, 9]
LENGTHS = list(itertools.product([0, 1, 2, 5, 30], [1, 2, 12], [0, 1, 3, 50]))


def lead(num_tokens, num_patches, speech_delay):
    return leading_layout(PROMPT, list(range(num_tokens)), EOS_ID, PAD_ID, num_patches, speech_delay)


def random_words(seed):
    """Words of one to three tokens, with rising onsets, and an answer long enough to hold them."""
    rng = random.Random(seed)
    onset, words = 0, []
    for index in range(rng.randint(1, 8)):
        onset += rng.randint(0, 6)
        words.append(([index] * rng.randint(1, 3), onset))
    return words, onset + rng.randint(1, 5)


def test_streams_of_a_spoken_answer():
    streams = leading_layout(PROMPT, [1, 2, 3, 4], EOS_ID, PAD_ID, num_patches=3, speech_delay=2)
    ignored = [IGNORED] * 3
    assert streams.input_ids == [7, 8, 9, 1, 2, 3, 4, EOS_ID, PAD_ID, PAD_ID]
    assert streams.labels == ignored + [1, 2, 3, 4, EOS_ID, IGNORED, IGNORED]
    assert streams.speech_states == [0, 0, 0, PAD, PAD, START, GENERATING, GENERATING, GENERATING, STOP]
    assert streams.state_labels == ignored + streams.speech_states[3:]


def test_streams_of_a_written_answer():
    streams = leading_layout(PROMPT, [1, 2], EOS_ID, PAD_ID)
    assert streams.input_ids == [7, 8, 9, 1, 2, EOS_ID]
    assert streams.labels == [IGNORED] * 3 + [1, 2, EOS_ID]
    assert streams.speech_states == [PAD] * 6
    assert streams.state_labels == [IGNORED] * 3 + [PAD] * 3
    assert streams.num_patches == 0


@pytest.mark.parametrize(("num_tokens", "num_patches", "speech_delay"), LENGTHS)
def test_states_run_from_pad_over_start_and_generating_to_stop(num_tokens, num_patches, speech_delay):
    states = lead(num_tokens, num_patches, speech_delay).speech_states[len(PROMPT) :]
    assert states == sorted(states)
    assert states.count(START) == states.count(STOP) == 1
    assert states[-1] == STOP


@pytest.mark.parametrize(("num_tokens", "num_patches", "speech_delay"), LENGTHS)
def test_speech_starts_after_its_delay_or_with_the_end_of_the_text(num_tokens, num_patches, speech_delay):
    states = lead(num_tokens, num_patches, speech_delay).speech_states
    assert states.index(START) == len(PROMPT) + min(speech_delay, num_tokens + 1)


@pytest.mark.parametrize(("num_tokens", "num_patches", "speech_delay"), LENGTHS)
def test_speech_never_stops_before_its_text(num_tokens, num_patches, speech_delay):
    """Generation forbids it, so training must not teach it."""
    streams = lead(num_tokens, num_patches, speech_delay)
    assert streams.speech_states.index(STOP) > streams.input_ids.index(EOS_ID)
    assert streams.num_patches >= num_patches
    if streams.num_patches > num_patches:
        assert streams.speech_states.index(STOP) == streams.input_ids.index(EOS_ID) + 1


@pytest.mark.parametrize(("num_tokens", "num_patches", "speech_delay"), LENGTHS)
def test_targets_are_the_inputs_of_the_answer_without_the_padding(num_tokens, num_patches, speech_delay):
    streams = lead(num_tokens, num_patches, speech_delay)
    lengths = {len(getattr(streams, name)) for name in ("input_ids", "labels", "speech_states", "state_labels")}
    assert len(lengths) == 1
    end = streams.input_ids.index(EOS_ID)
    assert streams.labels[len(PROMPT) : end + 1] == streams.input_ids[len(PROMPT) : end + 1]
    assert set(streams.labels[: len(PROMPT)] + streams.labels[end + 1 :]) <= {IGNORED}
    assert set(streams.input_ids[end + 1 :]) <= {PAD_ID}
    assert streams.state_labels[len(PROMPT) :] == streams.speech_states[len(PROMPT) :]


def test_timed_words_stand_their_delay_before_they_are_heard():
    words = [([1, 2], 0), ([3], 4), ([4], 6)]
    streams = timed_layout(PROMPT, words, EOS_ID, PAD_ID, num_patches=9, speech_delay=2)
    assert streams.input_ids[3:12] == [1, 2, PAD_ID, PAD_ID, 3, PAD_ID, 4, EOS_ID, PAD_ID]
    assert streams.labels[3:12] == [1, 2, PAD_ID, PAD_ID, 3, PAD_ID, 4, EOS_ID, IGNORED]
    assert streams.speech_states[3:] == [PAD, PAD, START] + [GENERATING] * 9 + [STOP]
    first_patch = streams.speech_states.index(GENERATING)
    for token_ids, onset_patch in words:
        assert first_patch + onset_patch - streams.input_ids.index(token_ids[0], 3) == 2 + 1


@pytest.mark.parametrize("seed", range(30))
def test_timed_words_keep_their_order_and_never_come_early(seed):
    words, num_patches = random_words(seed)
    streams = timed_layout(PROMPT, words, EOS_ID, PAD_ID, num_patches, speech_delay=4)
    answer = streams.input_ids[len(PROMPT) :]
    tokens = [token for token in answer if token != PAD_ID]
    assert tokens == [token for token_ids, _ in words for token in token_ids] + [EOS_ID]
    assert all(answer.index(token_ids[0]) >= onset for token_ids, onset in words)
    assert answer[answer.index(EOS_ID) - 1] == words[-1][0][-1]


@pytest.mark.parametrize("seed", range(30))
def test_timed_gaps_are_predicted_and_the_end_is_not(seed):
    words, num_patches = random_words(seed)
    streams = timed_layout(PROMPT, words, EOS_ID, PAD_ID, num_patches, speech_delay=4)
    end = streams.input_ids.index(EOS_ID)
    assert streams.labels[len(PROMPT) : end + 1] == streams.input_ids[len(PROMPT) : end + 1]
    assert set(streams.labels[end + 1 :]) <= {IGNORED}


def test_timed_words_without_gaps_are_the_leading_layout():
    words = [([1], 0), ([2], 1), ([3], 2)]
    timed = timed_layout(PROMPT, words, EOS_ID, PAD_ID, num_patches=10, speech_delay=2)
    assert timed == leading_layout(PROMPT, [1, 2, 3], EOS_ID, PAD_ID, num_patches=10, speech_delay=2)


def test_timed_layout_needs_a_pad_of_its_own():
    with pytest.raises(ValueError, match="same token"):
        timed_layout(PROMPT, [([1], 0)], EOS_ID, EOS_ID, num_patches=3)


def test_word_beyond_the_speech_is_refused():
    with pytest.raises(ValueError, match="patch 700 of an answer of 3 patches"):
        timed_layout(PROMPT, [([1], 700)], EOS_ID, PAD_ID, num_patches=3)


def characters(text):
    return list(range(len(text))), [(index, index + 1) for index in range(len(text))]


def test_space_in_a_words_token_goes_with_it_and_punctuation_with_the_word_before():
    text = "Well, yes."
    token_ids, offsets = [0, 1, 2, 3], [(0, 4), (4, 5), (5, 9), (9, 10)]
    words = words_with_tokens(text, token_ids, offsets, [("Well", 0.0), ("yes", 0.5)], patches_per_second=10.0)
    assert words == [([0, 1], 0), ([2, 3], 5)]


def test_every_token_goes_to_a_word():
    text = "«one two» one, 3!"
    token_ids, offsets = characters(text)
    times = [("one", 0.1), ("two", 0.2), ("one", 0.4), ("3", 0.8)]
    words = words_with_tokens(text, token_ids, offsets, times, patches_per_second=10.0)
    assert [token for tokens, _ in words for token in tokens] == token_ids
    assert [onset for _, onset in words] == [1, 2, 4, 8]
    assert words[0][0][0] == 0 and len(words) == 4


@pytest.mark.parametrize(
    ("word_times", "message"),
    [
        ([("one", 0.0), ("three", 1.0)], "'three' of `word_times` is not in ' two'"),
        ([("two", 0.0), ("one", 1.0)], "'one' of `word_times` is not in ''"),
        ([("one", 1.0), ("two", 0.5)], "before the one in front of it"),
        ([("one", -1.0)], "before the one in front of it"),
        ([("", 0.0)], "is not in"),
        ([], "`word_times` is empty"),
    ],
)
def test_word_times_that_do_not_fit_the_text_are_refused(word_times, message):
    token_ids, offsets = characters("one two")
    with pytest.raises(ValueError, match=message):
        words_with_tokens("one two", token_ids, offsets, word_times, patches_per_second=10.0)


@pytest.mark.parametrize("stack_size", [1, 3, 4])
def test_audio_tokens_are_counted_as_encoder_and_adapter_shorten_them(stack_size):
    for num_frames in range(1, 60):
        num_encoded = len(range(0, num_frames, 2))
        assert num_audio_tokens(num_frames, stack_size) == len(range(0, num_encoded, stack_size))
