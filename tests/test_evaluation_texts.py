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
"""Texts are compared as they sound: numbers in digits or words are the same, and every other difference is counted."""

import pytest

from flow_omni.evaluation.intervals import bootstrap_interval, error_interval, share_interval
from flow_omni.evaluation.number_words import cardinal, cardinal_zh, ordinal, readings
from flow_omni.evaluation.text_errors import last_word, missing_at_the_end, text_errors


@pytest.mark.parametrize(
    "number, words",
    [
        (0, "zero"),
        (17, "seventeen"),
        (40, "forty"),
        (105, "one hundred five"),
        (2026, "two thousand twenty six"),
        (1000000, "one million"),
    ],
)
def test_cardinals(number, words):
    assert cardinal(number) == words


@pytest.mark.parametrize(
    "number, words",
    [(7, "七"), (10, "十"), (21, "二十一"), (105, "一百零五"), (110, "一百一十"), (2006, "二千零六"), (30000, "三万")],
)
def test_mandarin_cardinals(number, words):
    assert cardinal_zh(number) == words


@pytest.mark.parametrize(
    "words, expected", [("three", "third"), ("twenty", "twentieth"), ("twenty four", "twenty fourth")]
)
def test_ordinals(words, expected):
    assert ordinal(words) == expected


@pytest.mark.parametrize(
    "expected, found",
    [
        ("Twenty-one.", "21"),
        ("21", "twenty one"),
        ("Seven plus eight is fifteen.", "7 + 8 = 15"),
        ("Ten minus four equals six.", "10 - 4 = 6."),
        ("One, two, three, four.", "1, 2, 3, 4"),
        ("One, two, three, four.", "1234"),
        ("A hundred and five", "a hundred five"),
        ("It was in nineteen eighty-four.", "It was in 1984."),
        ("The third of May", "the 3rd of May."),
        ("half past seven thirty", "Half past 7:30"),
        ("It costs five dollars.", "It costs $5."),
        ("Fifty percent", "50%"),
        ("Don't go!", "do not go"),
        ("Every day", "everyday"),
        ("One hundred, two hundred, three hundred.", "100,200,300"),
        ("Twelve hundred? No, one thousand two hundred.", "Twelve hundred? No, 1,200."),
    ],
)
def test_what_sounds_the_same_is_the_same(expected, found):
    assert text_errors(expected, found).said.is_exact
    assert text_errors(found, expected).said.is_exact


@pytest.mark.parametrize(
    "expected, found, characters, words",
    [
        ("Fifteen.", "Fifty.", 2 + 1, 1),
        ("one two three", "one two free", 2, 1),
        ("two plus two is four", "2 + 2 = 5", 3, 1),
        ("twenty one", "", 9, 2),
        ("no", "no no no", 4, 2),
    ],
)
def test_what_sounds_different_is_counted(expected, found, characters, words):
    said = text_errors(expected, found).said
    assert (said.characters, said.words) == (characters, words)


def test_whispers_own_count_is_kept_beside_ours():
    """Whisper's normaliser makes one number of a count, so that a wrong word in it costs more than all of it."""
    errors = text_errors("One, two, three.", "One, two, free.")
    assert errors.whisper.num_words == 1
    assert errors.said.words / errors.said.num_words == 1 / 3
    assert text_errors("Twenty-one", "21").whisper.is_exact


def test_raw_errors_see_case_and_punctuation():
    assert text_errors("Yes, it is.", "yes it is").raw.characters == 3
    assert text_errors("Yes, it is.", "yes it is").said.is_exact


def test_mandarin_is_compared_by_characters():
    errors = text_errors("三加四等于七。", "3 + 4 = 7", "zh")
    assert errors.said.is_exact
    assert text_errors("你好，世界", "你好世间", "zh").said.characters == 1
    assert text_errors("你好，世界", "你好世间", "zh").said.num_words == 4


@pytest.mark.parametrize(
    "expected, found",
    [
        ("百分之二十", "20%"),
        ("两百", "200"),
        ("二百", "200"),
        ("我有两个", "我有2个"),
        ("三加二等于五。", "3+2=5"),
        ("十二个", "12个"),
        ("今天气温三点五度", "今天气温3.5度"),
        ("百分之九十九点九", "99.9％"),
        ("一千二百", "1,200"),
        ("二零二四年", "2024年"),
        ("一三八零零一二三四五六", "13800123456"),
        ("一百，二百，三百", "100,200,300"),
        ("二零二四年十二月二十五日", "2024年12月25日"),
        ("两千年", "2000年"),
        ("三分之一", "1/3"),
    ],
)
def test_mandarin_that_sounds_the_same_is_the_same(expected, found):
    assert text_errors(expected, found, "zh").said.is_exact
    assert text_errors(found, expected, "zh").said.is_exact


def test_traditional_characters_are_the_simplified_ones():
    """openai-whisper often writes them, whatever the language is called."""
    pytest.importorskip("opencc")
    assert text_errors("十二减五等于七。", "十二減五等於七", "zh").said.is_exact
    assert text_errors("十二减五等于七。", "十二減五等於七", "zh").whisper.characters == 2


def test_spaces_count_nowhere_where_words_are_written_without_them():
    """Whisper's normaliser puts them between characters, and is no reason to count them."""
    errors = text_errors("你好吗？", "你 好啊？", "zh")
    assert (errors.whisper.characters, errors.whisper.num_characters) == (1, 3)
    assert (errors.whisper.words, errors.whisper.num_words) == (1, 3)
    assert (errors.raw.characters, errors.raw.num_characters) == (1, 4)
    assert (errors.raw.words, errors.raw.num_words) == (1, 4)
    # a letter and the signs on it are one
    assert text_errors("ที่นี่", "ที่นี่", "th").raw.num_words == 2
    assert text_errors("good day", "goodday").raw.num_words == 2


def test_numbers_of_an_unknown_language_are_left_alone():
    assert readings("21 Katzen", "de") == ["21 Katzen"]
    assert text_errors("Über 21 Katzen!", "über 21 katzen", "de").said.is_exact


@pytest.mark.parametrize(
    "text, heard, missing",
    [
        ("Seven plus eight is fifteen.", "seven plus eight is", len("fifteen")),
        ("Seven plus eight is fifteen.", "seven plus eight is sixteen", 0),
        ("Seven plus eight is fifteen.", "plus eight is fifteen", 0),
        ("Good morning.", "", len("goodmorning")),
        ("Good morning.", "good", len("morning")),
        ("Twenty-one.", "21", 0),
    ],
)
def test_a_missing_end_is_told_from_a_misheard_one(text, heard, missing):
    assert missing_at_the_end(text, heard) == missing


def test_the_last_word_is_the_one_that_is_said():
    assert last_word("It is 21.") == "one"
    assert last_word("...") == ""


def test_intervals_hold_the_figure_and_shrink_with_rows():
    errors, lengths = [0, 1, 0, 3] * 10, [10] * 40
    low, high = bootstrap_interval(errors, lengths)
    assert low < 0.1 < high
    wider = bootstrap_interval(errors[:8], lengths[:8])
    assert high - low < wider[1] - wider[0]
    assert bootstrap_interval(errors, lengths) == (low, high)


def test_few_rows_and_rows_that_are_alike_have_no_interval_of_errors():
    """They had one without a width, and one row against one other was clearly better."""
    assert error_interval([23], [24]) is None
    assert error_interval([1, 0, 3, 2], [20] * 4) is None
    assert error_interval([0] * 50, [20] * 50) is None
    assert error_interval([1] * 50, [3] * 50) is None
    low, high = error_interval([0] * 49 + [1], [20] * 50)
    assert low == 0.0 < high


def test_none_of_many_is_no_certainty():
    low, high = share_interval(0, 500)
    assert low == 0.0 and 0.005 < high < 0.01
    assert share_interval(500, 500)[1] == 1.0
    assert share_interval(5, 10)[0] == pytest.approx(1 - share_interval(5, 10)[1])
