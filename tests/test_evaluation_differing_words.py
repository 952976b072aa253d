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
"""Which words are shown as wrong: those that sound otherwise, and no others."""

import pytest

from flow_omni.evaluation.word_differences import differences


@pytest.mark.parametrize(
    "expected, found, pieces",
    [
        ("Seven plus eight.", "seven plus eight", "=seven plus eight"),
        ("Seven plus eight.", "Seven plus nine.", "=Seven plus|!nine."),
        ("Twenty-one cats.", "21 cats", "=21 cats"),
        ("Twenty-one cats.", "twenty cats", "=twenty|-one|=cats"),
        ("The capital of France.", "the capital", "=the capital|-of France."),
        ("It is so.", "it's so indeed", "=it's so|!indeed"),
        ("every day", "everyday", "=everyday"),
        ("a b", "", "-a b"),
        ("", "a — b", "!a|=—|!b"),
    ],
)
def test_words_that_sound_otherwise_are_found(expected, found, pieces):
    signs = {"same": "=", "wrong": "!", "missing": "-"}
    assert "|".join(signs[piece.kind] + piece.text for piece in differences(expected, found)) == pieces


def test_mandarin_is_compared_by_characters():
    pieces = differences("七加八是十五。", "七加九是15。", "zh")
    assert [(piece.text, piece.kind) for piece in pieces] == [("七加", "same"), ("九", "wrong"), ("是15。", "same")]
