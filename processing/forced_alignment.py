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
"""When each token of a known text is said: the likeliest path of the audio adapter's CTC over the letters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .spelling import letters_with_places


@dataclass(frozen=True)
class AlignedToken:
    """A token of a text, the characters that it covers, and the seconds between which it is said."""

    token_id: int
    start_character: int
    end_character: int
    start: float
    end: float


class AlignmentError(ValueError):
    """A text that cannot be aligned with an audio; `reason` is why, without the text."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def align_text(
    model: Any, processor: Any, audio: Any, text: str, sampling_rate: int | None = None
) -> list[AlignedToken]:
    """
    The tokens of `text` with the times at which `audio`, in which it is said, says them. Tokens without a letter, such as
    punctuation, last no time. The model's adapter must spell (`adapter_compression="ctc"`).
    """
    said = align_letters(model, processor, audio, text, sampling_rate)
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens, last = [], 0.0
    for token_id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"]):
        times = [seconds for place, *seconds in said if start <= place < end]
        first, last = (times[0][0], times[-1][1]) if times else (last, last)
        tokens.append(AlignedToken(token_id, start, end, first, last))
    return tokens


@torch.no_grad()
def align_letters(
    model: Any, processor: Any, audio: Any, text: str, sampling_rate: int | None = None
) -> list[tuple[int, float, float]]:
    """
    The letters of `text` without its spaces: the index of each character, and the seconds between which `audio` says it.
    """
    extractor, alphabet = processor.feature_extractor, processor.ctc_alphabet
    letters, places = letters_with_places(text, alphabet)
    if not letters:
        raise AlignmentError(
            f"The text {text!r} cannot be spelled with {alphabet!r}: write digits and symbols as words.",
            "a text that is not spelled as it is said",
        )
    inputs = extractor(
        audio, sampling_rate=sampling_rate, return_tensors="pt", max_seconds=processor.max_audio_seconds
    )
    (logits,) = model.get_letter_logits(**inputs.to(model.device))
    frames = viterbi(logits.float().log_softmax(dim=-1).cpu().numpy(), letters)
    seconds = 2 * extractor.hop_length / extractor.sampling_rate  # of an encoder frame
    space = alphabet.index(" ")  # for a hyphen too
    return [
        (place, first * seconds, last * seconds)
        for place, letter, (first, last) in zip(places, letters, frames)
        if letter != space
    ]


def viterbi(log_probs: np.ndarray, letters: list[int]) -> list[tuple[int, int]]:
    """
    The first frame of each letter, and the one after its last, on the likeliest path of CTC through `log_probs` (num_frames,
    num_letters + 1), whose last symbol is the blank.
    """
    blank = log_probs.shape[1] - 1
    symbols = np.full(2 * len(letters) + 1, blank)
    symbols[1::2] = letters
    # a letter may follow another directly, without a blank between, unless they are the same
    may_skip = np.zeros(len(symbols), dtype=bool)
    may_skip[3::2] = symbols[3::2] != symbols[1:-2:2]
    num_repeats = int(np.sum(symbols[3::2] == symbols[1:-2:2]))
    if len(log_probs) < len(letters) + num_repeats:
        raise AlignmentError(
            f"{len(letters)} letters do not fit into {len(log_probs)} frames of 20 ms: check text and audio.",
            "an audio too short for its text",
        )
    scores = np.full(len(symbols), -np.inf)
    scores[:2] = log_probs[0, symbols[:2]]
    steps = np.zeros((len(log_probs), len(symbols)), dtype=np.int8)
    for frame in range(1, len(log_probs)):
        candidates = np.full((3, len(symbols)), -np.inf)
        candidates[0], candidates[1, 1:], candidates[2, 2:] = scores, scores[:-1], scores[:-2]
        candidates[2, ~may_skip] = -np.inf
        steps[frame] = candidates.argmax(axis=0)
        scores = candidates.max(axis=0) + log_probs[frame, symbols]
    state = len(symbols) - 1 - int(scores[-2] > scores[-1])
    path = np.empty(len(log_probs), dtype=int)
    for frame in reversed(range(len(log_probs))):
        path[frame] = state
        state -= int(steps[frame, state])
    return [
        (int(frames[0]), int(frames[-1]) + 1)
        for frames in (np.flatnonzero(path == 2 * i + 1) for i in range(len(letters)))
    ]
