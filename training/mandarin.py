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
"""Mandarin in characters, spoken by espeak-ng: its voice of Mandarin reads pinyin only, so that is what it is given."""

from .espeak import EspeakSynthesizer
from .extras import needs
from .rows import words_of
from .synthesis import Speech, SynthesisError


VOICE = "cmn-latn-pinyin"


class PinyinSynthesizer:
    """espeak-ng's `cmn-latn-pinyin` with its variants, for texts in Chinese characters."""

    def __init__(self):
        self.espeak = EspeakSynthesizer()
        # early: later would be in the middle of a corpus
        needs("pypinyin")

    def voices(self, language: str | None = None) -> list[str]:
        voices = self.espeak.voices() if language in (None, "zh") else []
        return [voice for voice in voices if voice.partition("+")[0] == VOICE]

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        if voice.partition("+")[0] != VOICE:
            raise SynthesisError(f"{voice!r} does not read Mandarin: name {VOICE}, and after a + a variant.")
        pinyin = pinyin_of(text)
        speech = self.espeak.speak(" ".join(pinyin), voice, rate, pitch)
        # a syllable for each character: the times are theirs, unless other scripts are mixed in
        is_aligned = speech.word_times is not None and len(speech.word_times) == len(words_of(text))
        return Speech(speech.waveform, speech.sampling_rate, speech.word_times if is_aligned else None)


def pinyin_of(text: str) -> list[str]:
    """The syllables of a text with the numbers of their tones, punctuation joined to them: `ni3`, `hao3!`."""
    pypinyin = needs("pypinyin")
    syllables: list[str] = []
    for syllable in pypinyin.lazy_pinyin(text, style=pypinyin.Style.TONE3, neutral_tone_with_five=True):
        if syllable[0].isalnum() or not syllables:
            syllables.append(syllable)
        else:
            syllables[-1] += syllable.translate(PUNCTUATION)
    return syllables


# espeak-ng pauses at those of ASCII.
PUNCTUATION = str.maketrans("，。！？；：、", ",.!?;:,")
