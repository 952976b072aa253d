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
"""How a spoken answer ended: complete, or with which faults."""

from math import ceil

from .sound_measures import Silences
from .text_errors import last_word, missing_at_the_end, said_errors


COMPLETE = "complete"
FAULTS = ("empty", "no_start", "hit_cap", "cut_short", "silent_inside", "silent_start", "silent_end")
# Pauses of speech are shorter than this.
MAX_SILENCE_SECONDS = 1.0
# No voice is so much faster in one answer than in the others.
LEAST_DURATION_RATIO = 0.6
# Whoever misses the end of an answer of full length has misheard it: only together with a shorter one is it missing.
FULL_DURATION_RATIO = 0.95


def faults(
    text: str,
    found: Silences,
    is_truncated: bool,
    original_seconds: float,
    expected: str,
    heard: str | None = None,
    original_heard: str | None = None,
    language: str = "en",
) -> list[str]:
    """
    What is wrong with the way a spoken answer begins, goes on and ends.

    Args:
        text (`str`):
            What the model wrote, and should have said.
        found (`Silences`):
            Of its waveform.
        is_truncated (`bool`):
            Whether generation cut it.
        original_seconds (`float`):
            How long the original of `expected` lasts, without silence around it.
        expected (`str`):
            The right answer, which is not always what the model meant to say.
        heard, original_heard (`str`, *optional*):
            What a recogniser heard of the answer, and of the original.
    """
    is_empty, is_mute = not text.strip(), found.voiced == 0.0
    seconds = original_seconds * _relative_length(text, expected, language)
    ratio = found.voiced / seconds if seconds > 0 else 1.0
    is_missing = heard is not None and _ends_early(text, heard, language)
    # an end that nobody hears in the original either is no sign
    if is_missing and text == expected and original_heard is not None:
        is_missing = not _ends_early(expected, original_heard, language)
    signs = {
        "empty": is_empty,
        "no_start": is_mute,
        "hit_cap": is_truncated,
        "cut_short": not is_empty
        and not is_mute
        and (ratio < LEAST_DURATION_RATIO or (is_missing and ratio < FULL_DURATION_RATIO)),
        "silent_inside": found.longest_inside > MAX_SILENCE_SECONDS,
        "silent_start": not is_mute and found.before > MAX_SILENCE_SECONDS,
        "silent_end": not is_mute and found.after > MAX_SILENCE_SECONDS,
    }
    return [name for name in FAULTS if signs[name]]


def _relative_length(text: str, expected: str, language: str) -> float:
    """
    How much longer than another a text takes to say, in characters as texts sound: "1984" is as long as "nineteen
    eighty-four". Of several ways to read a number, the one that comes closest to the other text.
    """
    lengths = [said_errors(*pair, language).num_characters for pair in ((text, expected), (expected, text))]
    if not all(lengths):
        # Whisper's normaliser takes "Hmm." for nothing that is said
        lengths = [len(text.strip()), len(expected.strip())]
    return lengths[0] / max(lengths[1], 1)


def _ends_early(text: str, heard: str, language: str) -> bool:
    """Whether at least half of the last word was not heard, and nothing else in its place."""
    return missing_at_the_end(text, heard, language) >= max(2, ceil(len(last_word(text, language)) / 2))
