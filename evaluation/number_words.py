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
"""Numbers and signs as they are said, in English and Mandarin: one recogniser writes 21, another twenty-one."""

import re
from collections.abc import Callable


ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
THOUSANDS = ("", "thousand", "million", "billion")
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
DIGITS_ZH, UNITS_ZH = "零一二三四五六七八九", ("", "十", "百", "千")

NUMBER = re.compile(r"([$£€]?)(\d+(?:,\d{3})*)(\.\d+)?(st|nd|rd|th)?\b(%?)")
CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros"}
# Signs of sums, as a recogniser writes "seven plus eight is fifteen": 7 + 8 = 15. Their words are found between numbers.
SIGNS = {"+": "plus", "-": "minus", "−": "minus", "×": "times", "*": "times", "÷": "divided by", "/": "divided by"}
SIGNS_ZH = {"+": "加", "-": "减", "−": "减", "×": "乘", "*": "乘", "÷": "除以"}
SIGN = re.compile(r"(?<=\d)\s*([+*×÷/−-])\s*(?=\d)")
NUMBER_ZH = re.compile(r"(\d+(?:,\d{3})*)(?:[.．](\d+))?\s*([%％]?)")
EQUALS = re.compile(r"\s*=\s*")
# A comma of a number, or of a list without spaces: 100,200,300.
COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
YEAR_ZH = re.compile(r"(?<!\d)\d{4}(?=年)")
FRACTION_ZH = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)")


def cardinal(number: int) -> str:
    """`105` is "one hundred five"."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f" {ONES[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{ONES[hundreds]} hundred" + (f" {cardinal(rest)}" if rest else "")
    groups, power = [], 0
    while number and power < len(THOUSANDS):
        number, group = divmod(number, 1000)
        if group:
            groups.append(f"{cardinal(group)} {THOUSANDS[power]}".strip())
        power += 1
    return " ".join(reversed(groups))


def digit_by_digit(number: int | str) -> str:
    """`105` is "one zero five"."""
    return " ".join(ONES[int(digit)] for digit in str(number))


def in_pairs(number: int) -> str:
    """`1984` is "nineteen eighty four", as years are said."""
    first, second = divmod(number, 100)
    return f"{cardinal(first)} {cardinal(second)}" if 10 <= first < 100 and second >= 10 else cardinal(number)


def ordinal(words: str) -> str:
    """The ordinal of a cardinal: "twenty first" of "twenty one"."""
    *front, last = words.split()
    last = ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return " ".join([*front, last])


def cardinal_zh(number: int) -> str:
    """`21` is 二十一, `105` is 一百零五."""
    if number >= 10000:
        high, low = divmod(number, 10000)
        middle = "零" if 0 < low < 1000 else ""
        return f"{cardinal_zh(high)}万{middle}{cardinal_zh(low) if low else ''}"
    digits = str(number)
    if len(digits) == 1:
        return DIGITS_ZH[number]
    words = "".join(
        DIGITS_ZH[int(digit)] + (UNITS_ZH[len(digits) - 1 - place] if digit != "0" else "")
        for place, digit in enumerate(digits)
    )
    words = re.sub("零+", "零", words).rstrip("零")
    return words.removeprefix("一") if words.startswith("一十") else words


def digit_by_digit_zh(number: int | str) -> str:
    """`105` is 一零五."""
    return "".join(DIGITS_ZH[int(digit)] for digit in str(number))


def cardinal_zh_with_liang(number: int) -> str:
    """`200` is also 两百, and `2` of most things 两; but 12 is 十二 and 20 二十."""
    words = cardinal_zh(number)
    return "两" if words == "二" else re.sub("二(?=[百千万])", "两", words)


def readings(text: str, language: str) -> list[str]:
    """
    The ways in which the numbers and signs of a text may be said; the text alone if it has none, or in a language whose
    numbers are not known here. `105` may be a hundred and five or one zero five, and nothing in the text tells which.
    """
    if not re.search(r"\d", text):
        return [text]
    texts = [text, COMMA.sub(", ", text)]
    if language == "en":
        said = (_english(one, read, is_) for one in texts for read in ENGLISH for is_ in ("is", "equals"))
    elif language == "zh":
        # years are said digit by digit, whatever is beside them
        texts += [YEAR_ZH.sub(lambda year: digit_by_digit_zh(year[0]), one) for one in texts]
        said = (_mandarin(one, read, is_) for one in texts for read in MANDARIN for is_ in ("是", "等于"))
    else:
        said = [text]
    return list(dict.fromkeys(said))


ENGLISH: tuple[Callable[[int], str], ...] = (cardinal, digit_by_digit, in_pairs)
MANDARIN: tuple[Callable[[int], str], ...] = (cardinal_zh, cardinal_zh_with_liang, digit_by_digit_zh)


def _english(text: str, read: Callable[[int], str], equals: str) -> str:
    def said(match: re.Match) -> str:
        currency, digits, decimals, suffix, percent = match.groups()
        digits = digits.replace(",", "")
        # a number with a leading zero, or too long to have a name, is said digit by digit
        is_named = not digits.startswith("0") or digits == "0"
        words = read(int(digits)) if is_named and len(digits) <= 12 else digit_by_digit(digits)
        if decimals:
            words += f" point {digit_by_digit(decimals[1:])}"
        elif suffix:
            words = ordinal(words)
        return f"{words} {CURRENCIES.get(currency, '')} {'percent' if percent else ''}".strip()

    text = EQUALS.sub(f" {equals} ", SIGN.sub(lambda match: f" {SIGNS[match[1]]} ", text))
    return " ".join(NUMBER.sub(said, text).split())


def _mandarin(text: str, read: Callable[[int], str], equals: str) -> str:
    def said(match: re.Match) -> str:
        digits, decimals, percent = match.groups()
        digits = digits.replace(",", "")
        # as in English: numbers of telephones and the like have no name
        is_named = len(digits) <= 8 and (not digits.startswith("0") or digits == "0")
        words = read(int(digits)) if is_named else digit_by_digit_zh(digits)
        return f"{'百分之' if percent else ''}{words}{f'点{digit_by_digit_zh(decimals)}' if decimals else ''}"

    text = FRACTION_ZH.sub(r"\2分之\1", text)
    text = EQUALS.sub(equals, SIGN.sub(lambda match: SIGNS_ZH.get(match[1], ""), text))
    return NUMBER_ZH.sub(said, text)
