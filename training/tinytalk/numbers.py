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
"""Numbers in words."""

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
DIGITS = "零一二三四五六七八九"


def in_words(number: int, language: str = "en") -> str:
    """A number from 0 to 999 as it is written out: `twenty-one`, `one hundred five`, `二十一`."""
    if not 0 <= number <= 999:
        raise ValueError(f"Got the number {number}: only 0 to 999 are written out here.")
    return _in_characters(number) if language == "zh" else _in_english(number)


def _in_english(number: int) -> str:
    if number < 20:
        return ONES[number]
    if number < 100:
        ten, one = divmod(number, 10)
        return TENS[ten - 2] + (f"-{ONES[one]}" if one else "")
    hundred, rest = divmod(number, 100)
    return f"{ONES[hundred]} hundred" + (f" {_in_english(rest)}" if rest else "")


def _in_characters(number: int) -> str:
    if number < 10:
        return DIGITS[number]
    if number < 100:
        ten, one = divmod(number, 10)
        return (DIGITS[ten] if ten > 1 else "") + "十" + (DIGITS[one] if one else "")
    hundred, rest = divmod(number, 100)
    if not rest:
        return f"{DIGITS[hundred]}百"
    # 一百零五, and 一百一十五: after a hundred the ten is counted
    tail = f"零{DIGITS[rest]}" if rest < 10 else ("一" if rest < 20 else "") + _in_characters(rest)
    return f"{DIGITS[hundred]}百{tail}"
