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
"""Training examples: text tokens and speech states of a prompt and its answer, side by side, and their batches."""

from bisect import bisect_left
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence


# Labels that no loss counts, as in the model's code (which this file cannot import, as both travel to the Hub).
IGNORE_INDEX = -100
# The end of the text that a speech decoder reads, after its last byte.
END_OF_TEXT = 256


class SpeechState(IntEnum):
    """The state of speech at a position of the sequence."""

    PAD = 0
    START = 1
    GENERATING = 2
    STOP = 3


def join_streams(
    prompt_ids: Sequence[int],
    text_ids: Sequence[int],
    pad_token_id: int,
    num_patches: int | None = None,
    speech_delay: int = 0,
) -> dict[str, torch.Tensor]:
    """
    `input_ids`, `labels`, `speech_states` and `state_labels` `(num_positions,)` of a prompt and its answer. Labels are
    aligned with the inputs (the model shifts them), and `IGNORE_INDEX` where nothing is predicted.

    Args:
        prompt_ids (`Sequence[int]`), text_ids (`Sequence[int]`):
            The conversation before the answer, and the text stream of the answer with its end, one token per position.
        pad_token_id (`int`):
            Fills the text stream after its end, where it is not predicted.
        num_patches (`int`, *optional*):
            Number of patches of speech. `None` for a text answer.
        speech_delay (`int`, *optional*, defaults to 0):
            Number of text tokens before speech starts. It starts at the end of a shorter text.
    """
    states = [SpeechState.PAD] * len(text_ids)
    if num_patches is not None:
        states = states_of_speech(len(text_ids), num_patches, speech_delay)
    num_pads = len(states) - len(text_ids)
    ignored_prompt = [IGNORE_INDEX] * len(prompt_ids)
    streams = {
        "input_ids": [*prompt_ids, *text_ids, *[pad_token_id] * num_pads],
        "labels": [*ignored_prompt, *text_ids, *[IGNORE_INDEX] * num_pads],
        "speech_states": [*[SpeechState.PAD] * len(prompt_ids), *states],
        "state_labels": [*ignored_prompt, *states],
    }
    return {name: torch.tensor(stream, dtype=torch.long) for name, stream in streams.items()}


def states_of_speech(num_text_positions: int, num_patches: int, speech_delay: int) -> list[int]:
    """The speech states of an answer whose text takes up so many positions, before its end and between its tokens."""
    num_silent = min(speech_delay, num_text_positions)
    # speech may stop only after the end of its text, as in generation: missing patches are silent
    num_patches = max(num_patches, num_text_positions - num_silent - 1)
    states = [SpeechState.PAD] * num_silent + [SpeechState.START]
    return states + [SpeechState.GENERATING] * num_patches + [SpeechState.STOP]


def separate_streams(
    prompt_ids: Sequence[int], text_ids: Sequence[int], num_patches: int | None = None
) -> dict[str, torch.Tensor]:
    """
    The streams for a speech decoder: what the language model reads and writes, `input_ids` and `labels`
    `(num_positions,)`, and the steps of speech beside it, `speech_states` and `state_labels` `(num_steps,)`. Arguments as
    in [`join_streams`].
    """
    states = [] if num_patches is None else states_of_speech(0, num_patches, 0)
    streams = {
        "input_ids": [*prompt_ids, *text_ids],
        "labels": [*[IGNORE_INDEX] * len(prompt_ids), *text_ids],
        "speech_states": states,
        "state_labels": states,
    }
    return {name: torch.tensor(stream, dtype=torch.long) for name, stream in streams.items()}


def spread_bytes(
    text: str,
    offsets: Sequence[tuple[int, int]],
    times: Sequence[tuple[int, float]],
    first_position: int,
    patches_per_second: float,
    num_patches: int,
) -> dict[str, torch.Tensor]:
    """
    What a speech decoder reads: `text_bytes` of an answer and its end, the `byte_steps` at which they are reached, and
    their `byte_positions` in the language model's sequence, each `(num_bytes,)`.

    Args:
        offsets (`Sequence[tuple[int, int]]`):
            The characters of `text` that each token covers, of which the first has the position `first_position`.
        times (`Sequence[tuple[int, float]]`):
            Characters of `text` and the seconds at which they are said, both rising. Those between are spread evenly, as
            is a text without times.
        patches_per_second (`float`), num_patches (`int`):
            Number of patches in a second of speech, and in the whole answer, with whose last the text ends.
    """
    end = (num_patches - 1) / patches_per_second
    places, seconds = zip(*(times or [(0, 0.0)]))
    if (
        any(later < sooner for sooner, later in zip(seconds, seconds[1:]))
        or seconds[-1] * patches_per_second >= num_patches
    ):
        raise ValueError(
            f"Words or characters are said at {seconds} seconds of an answer of {num_patches / patches_per_second:g} s: "
            "times must rise, and lie within the speech."
        )
    seconds = np.interp(range(len(text)), [*places, len(text)], [*seconds, max(end, seconds[-1])])
    positions = np.full(len(text) + 1, first_position)
    for index, (start, stop) in enumerate(offsets):
        positions[start:stop] = first_position + index
    lengths = [len(character.encode()) for character in text]
    # the first step has the state that starts the speech
    steps = 1 + (seconds * patches_per_second).astype(int)
    columns = {
        "text_bytes": [*text.encode(), END_OF_TEXT],
        "byte_steps": [*np.repeat(steps, lengths), num_patches],
        "byte_positions": [*np.repeat(positions[:-1], lengths), positions[-1]],
    }
    return {name: torch.tensor(np.array(column), dtype=torch.long) for name, column in columns.items()}


def timed_text(words: Sequence[tuple[Sequence[int], int]], eos_token_id: int, pad_token_id: int) -> list[int]:
    """
    The text stream of the timed layout. `words` are the tokens of each word and the index of the patch in which it
    begins: the tokens get the same index in the stream, `speech_delay + 1` positions before the patch, or come right
    after the tokens before them where speech is faster than text. The gaps are text pads, which are predicted.
    """
    if pad_token_id == eos_token_id:
        raise ValueError(
            f"Text pad and end of answer are the same token ({pad_token_id}), so that a gap between two words would end "
            'the answer: give the tokenizer a `pad_token` of its own, or use `text_layout="leading"`.'
        )
    text_ids: list[int] = []
    for token_ids, onset_patch in words:
        text_ids += [pad_token_id] * (onset_patch - len(text_ids))
        text_ids += token_ids
    return [*text_ids, eos_token_id]


def words_with_tokens(
    text: str,
    token_ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    word_times: Sequence[tuple],
    patches_per_second: float,
    num_patches: int,
) -> list[tuple[list[int], int]]:
    """
    Assigns the tokens of `text` to its words, for [`timed_text`]: each to the last word that begins before the token
    ends, so that a token of a space and a word belongs to that word, and punctuation to the word before it.

    Args:
        offsets (`Sequence[tuple[int, int]]`):
            The characters of `text` that each token covers.
        word_times (`Sequence[tuple]`):
            The words as they occur in `text`, each with the second in which it begins.
        patches_per_second (`float`), num_patches (`int`):
            Number of patches in a second of speech, and in the whole answer.
    """
    starts = [start for start, _ in places_of_words(text, word_times)]
    if word_times[-1][1] * patches_per_second >= num_patches:
        raise ValueError(
            f"The word {word_times[-1][0]!r} begins at {word_times[-1][1]:g} s in an answer of "
            f"{num_patches / patches_per_second:g} s: `word_times` must lie within the speech."
        )
    words = [([], int(onset * patches_per_second)) for _, onset, *_ in word_times]
    for token_id, (_, end) in zip(token_ids, offsets, strict=True):
        words[max(0, bisect_left(starts, end) - 1)][0].append(token_id)
    return words


def places_of_words(text: str, word_times: Sequence[tuple]) -> list[tuple[int, float]]:
    """Where in `text` each word of `word_times` begins, and the second at which it is said."""
    if not word_times:
        raise ValueError("There are no `word_times`: the timed layout needs the second in which each word begins.")
    places, position, last_onset = [], 0, 0.0
    for word, onset, *_ in word_times:
        start = text.find(word, position)
        if not word or start < 0:
            raise ValueError(
                f"The word {word!r} of `word_times` is not in {text[position:]!r}: pass the words as they are written in "
                "the answer, in its order."
            )
        if onset < last_onset:
            raise ValueError(
                f"The word {word!r} begins at {onset:g} s, after a word at {last_onset:g} s: `word_times` must rise."
            )
        places.append((start, onset))
        position, last_onset = start + len(word), onset
    return places


def collate_examples(examples: Sequence[dict], pad_token_id: int) -> dict[str, torch.Tensor]:
    """
    A batch for the model's `forward`, padded on the right: streams `(batch_size, num_positions)`, the audios of all
    rows in one list, `mel_labels` `(batch_size, max_patches, frames_per_step, num_mel_bins)`, and `audio_labels`
    (transcripts, `(num_audios, max_labels)`) if examples have them; for a speech decoder `text_bytes`, `byte_steps` and
    `byte_positions` `(batch_size, num_bytes)`, and `voice_ids` `(batch_size,)`. Inputs that no example has are left out.
    """
    values = {"input_ids": pad_token_id, "labels": IGNORE_INDEX, "speech_states": 0, "state_labels": IGNORE_INDEX}
    batch = {name: _pad([example[name] for example in examples], value) for name, value in values.items()}
    batch["attention_mask"] = _mask([len(example["input_ids"]) for example in examples])
    empty = torch.zeros(0, dtype=torch.long)
    if any("text_bytes" in example for example in examples):
        for name, value in {"text_bytes": 0, "byte_steps": IGNORE_INDEX, "byte_positions": 0}.items():
            batch[name] = _pad([example.get(name, empty) for example in examples], value)
    if all("voice_id" in example for example in examples):
        batch["voice_ids"] = torch.tensor([example["voice_id"] for example in examples])

    audios = [features for example in examples for features in example["input_features"]]
    if audios:
        batch["input_features"] = _pad([features.T for features in audios]).mT.contiguous()
        batch["input_features_mask"] = _mask([features.shape[-1] for features in audios])

    for name in ("audio_labels", "letter_labels"):
        if any(name in example for example in examples):
            labels = [example.get(name, [empty] * len(example["input_features"])) for example in examples]
            batch[name] = _pad([transcript for transcripts in labels for transcript in transcripts], IGNORE_INDEX)

    if any("teacher_labels" in example for example in examples):
        # an example without a teacher has no targets there
        teachers = [
            (example.get("teacher_input_ids", empty), example.get("teacher_labels", empty)) for example in examples
        ]
        batch["teacher_input_ids"] = _pad([ids for ids, _ in teachers], pad_token_id)
        batch["teacher_labels"] = _pad([labels for _, labels in teachers], IGNORE_INDEX)
        batch["teacher_attention_mask"] = _mask([len(ids) for ids, _ in teachers])

    spoken = [example["mel_labels"] for example in examples if "mel_labels" in example]
    if spoken:
        empty = spoken[0].new_zeros(0, *spoken[0].shape[1:])
        batch["mel_labels"] = _pad([example.get("mel_labels", empty) for example in examples])
    return batch


def _pad(rows: Sequence[torch.Tensor], value: float = 0.0) -> torch.Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)


def _mask(lengths: Sequence[int]) -> torch.Tensor:
    """1 for the first `lengths` entries of each row, 0 for padding: `(len(lengths), max(lengths))`."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
