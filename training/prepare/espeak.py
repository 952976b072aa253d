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
"""espeak-ng: formant voices of 100 languages with word times, hundreds of times faster than real time."""

import ctypes
import ctypes.util
from functools import cache
from itertools import count, takewhile

import numpy as np

from ..data import words_of
from .synthesis import Speech, SynthesisError, check_text, word_onsets


# constants of espeak-ng's speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS, INITIALIZE_DONT_EXIT, CHARS_UTF8, POS_CHARACTER = 2, 0x8000, 1, 1
PHONEMES_IPA = 2
PARAMETER_RATE, PARAMETER_PITCH, EVENT_LIST_TERMINATED, EVENT_WORD = 1, 3, 0, 1

PINYIN = "cmn-latn-pinyin"  # the voice of Mandarin, which pauses at punctuation of ASCII only
PUNCTUATION = str.maketrans("，。！？；：、", ",.!?;:,")


class _Event(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("type", "id", "text_position", "length", "audio_position", "sample")]
    _fields_ += [("user_data", ctypes.c_void_p), ("value", ctypes.c_char * 8)]


class _Voice(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("name", "languages", "identifier")]
    _fields_ += [(name, ctypes.c_ubyte) for name in ("gender", "age", "variant", "unused")]
    _fields_ += [("score", ctypes.c_int), ("spare", ctypes.c_void_p)]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class EspeakSynthesizer:
    """
    espeak-ng through its library. Voices are a language and an optional variant (`en-us`, `en-gb-scotland+f3`). Mandarin
    (`cmn-latn-pinyin`) is written in characters or in pinyin.

    The library continues its wave generator from text to text: the same text differs inaudibly when spoken again.
    """

    def __init__(self):
        _engine()

    def voices(self, language: str | None = None) -> list[str]:
        language = PINYIN if language == "zh" else language
        files, variants = _engine().files, _engine().variants
        bases = [base for base in files if language is None or base == language or base.startswith(f"{language}-")]
        return [voice for base in bases for voice in (base, *(f"{base}+{variant}" for variant in variants))]

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        check_text(text)
        engine, (base, plus, variant) = _engine(), voice.partition("+")
        if base not in engine.files or (plus and variant not in engine.variants):
            raise SynthesisError(
                f"espeak-ng has no voice {voice!r}: name a language and an optional variant, such as en-us+f3. "
                "`espeak-ng --voices` and `espeak-ng --voices=variant` list them."
            )
        read = pinyin_of(text) if base == PINYIN else text
        # by file: espeak-ng does not find every language by its name, and ignores some variants
        waveform, events = engine.speak(read, f"{engine.files[base]}{plus}{variant}", rate, pitch)
        if not np.any(waveform):
            raise SynthesisError(f"espeak-ng is silent for {text!r} with the voice {voice!r}: choose its language.")
        onsets = word_onsets(read, events)
        # one syllable of pinyin per character, unless other scripts are mixed in
        return Speech(waveform, engine.sampling_rate, onsets if len(onsets) == len(words_of(text)) else None)


class _Engine:
    """The library, which keeps its state in global variables: one engine per process."""

    def __init__(self):
        self.espeak = _load_library()
        self.espeak.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        self.sampling_rate = self.espeak.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, None, INITIALIZE_DONT_EXIT)
        if self.sampling_rate <= 0:
            raise SynthesisError("espeak-ng does not find its data (espeak-ng-data): reinstall it.")
        self.callback = _Callback(self._receive)  # a reference: the library does not keep one
        self.espeak.espeak_SetSynthCallback(self.callback)
        # each language after a byte of priority; voices of MBROLA need another program
        voices = [voice for voice in self._list(None) if not voice.identifier.startswith(b"mb/")]
        self.files = dict(sorted((voice.languages[1:].decode(), voice.identifier.decode()) for voice in voices))
        variants = self._list(ctypes.byref(_Voice(languages=b"variant")))
        names = {voice.identifier.decode().rpartition("/")[-1].strip() for voice in variants}
        self.variants = sorted(name for name in names if " " not in name)

    def _list(self, kind) -> list[_Voice]:
        pointers = self.espeak.espeak_ListVoices(kind)
        return [pointer.contents for pointer in takewhile(bool, (pointers[index] for index in count()))]

    def speak(self, text: str, voice: str, rate: float, pitch: float) -> tuple[np.ndarray, list[tuple[int, float]]]:
        self.chunks, self.events = [], []
        self.espeak.espeak_SetVoiceByName(voice.encode())
        self.espeak.espeak_SetParameter(PARAMETER_RATE, round(min(max(175 * rate, 80), 450)), 0)
        self.espeak.espeak_SetParameter(PARAMETER_PITCH, round(min(max(50 * pitch, 0), 99)), 0)
        encoded = text.encode() + b"\0"
        self.espeak.espeak_Synth(encoded, len(encoded), 0, POS_CHARACTER, 0, CHARS_UTF8, None, None)
        return np.frombuffer(b"".join(self.chunks), np.int16).astype(np.float32) / 32768.0, self.events

    def phonemes(self, text: str, voice: str) -> str:
        """The text in IPA, with its punctuation: the library reads one clause at a time and drops what ends it."""
        self.espeak.espeak_SetVoiceByName(voice.encode())
        self.espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p
        encoded = text.encode()
        rest, start, clauses = ctypes.c_char_p(encoded), 0, []
        while rest.value:
            phonemes = self.espeak.espeak_TextToPhonemes(ctypes.byref(rest), CHARS_UTF8, PHONEMES_IPA)
            end = len(encoded) - len(rest.value or b"")
            # the library has also read the first character of the next clause
            marks = [mark for mark in encoded[start:end].decode(errors="ignore") if mark in ".,!?;:"]
            clauses.append((phonemes or b"").decode().strip() + "".join(marks[-1:]))
            start = end
        return " ".join(clauses)

    def _receive(self, samples, num_samples: int, events) -> int:
        if samples and num_samples > 0:
            self.chunks.append(ctypes.string_at(samples, 2 * num_samples))
        for event in takewhile(lambda event: event.type != EVENT_LIST_TERMINATED, (events[i] for i in count())):
            if event.type == EVENT_WORD and event.length > 0:
                self.events.append((event.text_position - 1, event.audio_position / 1000.0))
        return 0


_engine = cache(_Engine)


def phonemes_of(text: str, voice: str) -> str:
    """The text in the phonemes of a voice of espeak-ng, in IPA, for engines that read phonemes."""
    return _engine().phonemes(text, _engine().files[voice])


def _load_library() -> ctypes.CDLL:
    for name in ("libespeak-ng.so.1", "libespeak-ng.dylib", ctypes.util.find_library("espeak-ng")):
        try:
            if name is not None:
                return ctypes.CDLL(name)
        except OSError:
            continue
    raise SynthesisError("espeak-ng is not installed: `apt install espeak-ng`, or choose another synthesizer.")


def pinyin_of(text: str) -> str:
    """Chinese characters as pinyin with numbers for tones: `ni3 hao3!`. Other text stays as it is."""
    try:
        import pypinyin
    except ImportError as error:
        raise SynthesisError("Mandarin needs `pypinyin`: `pip install flow-omni[train]`.") from error
    syllables: list[str] = []
    for syllable in pypinyin.lazy_pinyin(text, style=pypinyin.Style.TONE3, neutral_tone_with_five=True):
        if syllable[0].isalnum() or not syllables:
            syllables.append(syllable)
        else:
            syllables[-1] += syllable.translate(PUNCTUATION)
    return " ".join(syllables)
