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
"""The two streams of an answer side by side: at every step a text token and a speech state."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


IGNORED = -100


class SpeechState(IntEnum):
    """What a step of the sequence does for speech."""

    PAD = 0
    START = 1
    GENERATING = 2
    STOP = 3


@dataclass
class ParallelStreams:
    """
    A prompt and its answer, one entry a step. Targets are aligned with the inputs (the model shifts them), and
    `IGNORED` where nothing is to be predicted.
    """

    input_ids: list[int]
    labels: list[int]
    speech_states: list[int]
    state_labels: list[int]

    @property
    def num_patches(self) -> int:
        """Steps that bring forth a patch: as many patches of mel frames the answer needs."""
        return self.speech_states.count(SpeechState.GENERATING)


def num_audio_tokens(num_frames: int, adapter_stack_size: int) -> int:
    """Steps that heard speech takes up: Whisper's encoder halves its frames, the adapter stacks them; both round up."""
    num_encoded = -(-num_frames // 2)
    return -(-num_encoded // adapter_stack_size)


def leading_layout(
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
    eos_token_id: int,
    pad_token_id: int,
    num_patches: int | None = None,
    speech_delay: int = 0,
) -> ParallelStreams:
    """
    The text runs ahead, one token a step; speech starts `speech_delay` steps after it, or with the end of a shorter
    text. Needs nothing but the text.

    Args:
        prompt_ids (`Sequence[int]`):
            The conversation up to where the answer begins.
        answer_ids (`Sequence[int]`):
            The text of the answer.
        eos_token_id (`int`):
            Ends the text of the answer.
        pad_token_id (`int`):
            Fills the text stream after that. It is never predicted there.
        num_patches (`int`, *optional*):
            Patches of speech. `None` for an answer that is only written.
        speech_delay (`int`, *optional*, defaults to 0):
            Text tokens that run ahead of the `start` state.
    """
    return join_streams(prompt_ids, [*answer_ids, eos_token_id], pad_token_id, num_patches, speech_delay)


def timed_layout(
    prompt_ids: Sequence[int],
    words: Sequence[tuple[Sequence[int], int]],
    eos_token_id: int,
    pad_token_id: int,
    num_patches: int,
    speech_delay: int = 0,
) -> ParallelStreams:
    """
    Each word's tokens stand `speech_delay + 1` steps before the patch in which the word is heard, or right after the
    tokens before them where speech is faster than text. The gaps are text pads, which are predicted.

    Args:
        words (`Sequence[tuple[Sequence[int], int]]`):
            The tokens of each word, and the index of the patch in which it begins, in the order of speech.

    The other arguments are those of [`leading_layout`].
    """
    if pad_token_id == eos_token_id:
        raise ValueError(
            f"Text pad and end of answer are the same token ({pad_token_id}), so that a gap between two words would end the "
            'answer: give the tokenizer a `pad_token` of its own, or use `text_layout="leading"`.'
        )
    text_ids: list[int] = []
    for token_ids, onset_patch in words:
        if onset_patch >= num_patches:
            raise ValueError(
                f"A word begins in patch {onset_patch} of an answer of {num_patches} patches: its time must lie within the "
                "speech. Check `word_times`, which are in seconds."
            )
        text_ids += [pad_token_id] * (onset_patch - len(text_ids))
        text_ids += token_ids
    return join_streams(prompt_ids, [*text_ids, eos_token_id], pad_token_id, num_patches, speech_delay)


def join_streams(
    prompt_ids: Sequence[int],
    text_ids: Sequence[int],
    pad_token_id: int,
    num_patches: int | None,
    speech_delay: int,
) -> ParallelStreams:
    """The steps of the prompt and of an answer whose text stream is `text_ids`, its end included."""
    states = [SpeechState.PAD] * len(text_ids)
    if num_patches is not None:
        silent_steps = min(speech_delay, len(text_ids))
        # speech may only stop once its text is over, as in generation: what is missing is silence
        num_patches = max(num_patches, len(text_ids) - silent_steps - 1)
        states = [SpeechState.PAD] * silent_steps + [SpeechState.START]
        states += [SpeechState.GENERATING] * num_patches + [SpeechState.STOP]
    num_pads = len(states) - len(text_ids)
    ignored_prompt = [IGNORED] * len(prompt_ids)
    return ParallelStreams(
        input_ids=[*prompt_ids, *text_ids, *[pad_token_id] * num_pads],
        labels=[*ignored_prompt, *text_ids, *[IGNORED] * num_pads],
        speech_states=[int(state) for state in [SpeechState.PAD] * len(prompt_ids) + states],
        state_labels=[*ignored_prompt, *(int(state) for state in states)],
    )


def words_with_tokens(
    text: str,
    token_ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    word_times: Sequence[tuple[str, float]],
    patches_per_second: float,
) -> list[tuple[list[int], int]]:
    """
    Deals the tokens of `text` out to its words: each belongs to the last word that begins before the token ends, so
    that a token of a space and a word goes with that word, and punctuation with the word before it.

    Args:
        offsets (`Sequence[tuple[int, int]]`):
            The characters of `text` that each token covers.
        word_times (`Sequence[tuple[str, float]]`):
            The words as they occur in `text`, and the second in which each is heard.
        patches_per_second (`float`):
            How many patches of speech a second has.
    """
    starts, position, last_onset = [], 0, 0.0
    for word, onset in word_times:
        start = text.find(word, position)
        if not word or start < 0:
            raise ValueError(
                f"The word {word!r} of `word_times` is not in {text[position:]!r}: give the words as they are written in the "
                "answer, in its order."
            )
        if onset < last_onset:
            raise ValueError(
                f"The word {word!r} begins at {onset:g} s, before the one in front of it ({last_onset:g} s): `word_times` are "
                "seconds from the start of the spoken answer, in rising order."
            )
        starts.append(start)
        position, last_onset = start + len(word), onset
    words = [([], int(onset * patches_per_second)) for _, onset in word_times]
    if not words:
        raise ValueError("`word_times` is empty: the timed layout needs the time of every word.")
    for token_id, (_, end) in zip(token_ids, offsets, strict=True):
        words[max(0, bisect_left(starts, end) - 1)][0].append(token_id)
    return words
