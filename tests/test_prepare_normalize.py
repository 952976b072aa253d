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
"""Texts as they are said."""

import pytest

from flow_omni.modeling_flow_omni.text_normalization import as_said
from flow_omni.processing.spelling import letters_of
from flow_omni.training.prepare.normalize import row_as_said


ALPHABET = "abcdefghijklmnopqrstuvwxyz' "


@pytest.mark.parametrize(
    "text, said",
    [
        ("It has 1,234 parts and 3.14 of -5.", "It has one thousand two hundred thirty-four parts and three point one four of minus five."),
        ("the 1st, 23rd and 100th", "the first, twenty-third and one hundredth"),
        ("In 1905 and the 1990s", "In nineteen oh five and the nineteen nineties"),
        ("$3.50, £20 or €2 million", "three dollars and fifty cents, twenty pounds or two million euros"),
        ("2 kg at 100 km/h, 1 mph or 60 mph", "two kilograms at one hundred kilometers per hour, one mile per hour or sixty miles per hour"),
        ("50% at 20 °C", "fifty percent at twenty degrees Celsius"),
        ("Dr. Smith vs. Mr. Jones, e.g. a PhD", "Doctor Smith versus Mister Jones, for example a P H D"),
        ("salt & water, 2 + 2 = 4", "salt and water, two plus two equals four"),
        ("March 3rd, 2024 at 3:45", "March third, twenty twenty-four at three forty-five"),
    ],
)  # fmt: skip
def test_english_is_written_as_it_is_said(text, said):
    assert as_said(text) == said
    assert letters_of(said, ALPHABET)  # CTC can spell it


@pytest.mark.parametrize("text", ["Hello there, it's me: isn't \"that\" good?", "NASA and the FBI - yes!"])
def test_words_stay_as_they_are(text):
    assert as_said(text) == text


def test_other_languages():
    assert as_said("Es sind 21 kg.", "de") == "Es sind einundzwanzig Kilogramm."
    assert as_said("有 5 个", "zh") == "有 5 个"


def test_texts_of_recordings_and_other_columns_stay():
    row = {"id": "1", "question_text": "5", "question_audio": "a.wav", "answer_text": "6", "accepted_answers": ["6"]}
    assert row_as_said(row, "en") == row | {"answer_text": "six"}
