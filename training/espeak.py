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
"""espeak-ng: many voices in many languages, hundreds of times faster than speech, with the times of words."""

import ctypes
import ctypes.util
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from .synthesis import Speech, SynthesisError, check_text, onsets_of_words


NORMAL_RATE, MIN_RATE, MAX_RATE = 175, 80, 450
NORMAL_PITCH, MAX_PITCH = 50, 99
REMEDY = "install espeak-ng (`apt install espeak-ng`, `brew install espeak-ng`), or use another synthesizer"

# constants of espeak-ng's speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
POS_CHARACTER = 1
PARAMETER_RATE, PARAMETER_PITCH = 1, 3
EVENT_LIST_TERMINATED, EVENT_WORD = 0, 1


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class EspeakSynthesizer:
    """
    espeak-ng, through its library, or else its program (slower, and without the times of words).

    Voices are named as espeak names them: a language, and a variant if any (`en-us`, `en-gb-scotland+f3`). The library goes
    on from where its generator of waves was: a text said twice differs by some milliseconds and inaudible detail.
    """

    def __init__(self, use_library: bool | None = None):
        self.use_library = find_library() is not None if use_library is None else use_library
        if self.use_library and find_library() is None:
            raise ImportError(f"The library of espeak-ng was not found: {REMEDY}.")
        if not self.use_library and find_program() is None:
            raise ImportError(f"Neither the library nor the program of espeak-ng was found: {REMEDY}.")

    def voices(self, language: str | None = None) -> list[str]:
        """Every language and accent with every variant; `language="en"` leaves those of English."""
        files, variants = self._listed()
        bases = [base for base in files if language is None or base == language or base.startswith(f"{language}-")]
        return [name for base in bases for name in (base, *(f"{base}+{variant}" for variant in variants))]

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        base, plus, variant = voice.partition("+")
        files, variants = self._listed()
        if base not in files or (plus and variant not in variants):
            raise SynthesisError(
                f"espeak-ng has no voice {voice!r}: name a language and, after a +, a variant, such as en-us+f3. "
                "`espeak-ng --voices` and `espeak-ng --voices=variant` list them."
            )
        check_text(text)
        speed = round(min(max(NORMAL_RATE * rate, MIN_RATE), MAX_RATE))
        height = round(min(max(NORMAL_PITCH * pitch, 0), MAX_PITCH))
        speak = _engine.speak if self.use_library else _speak_by_program
        # by its file: by its name, not every language is found, nor every variant heeded
        speech = speak(text, f"{files[base]}{plus}{variant}", speed, height)
        if len(speech.waveform) == 0 or not np.any(speech.waveform):
            raise SynthesisError(
                f"espeak-ng says nothing for {text!r} in the voice {voice!r}: the text must hold something that this "
                "language can read aloud."
            )
        return speech

    def _listed(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """The files of the languages, and the variants."""
        return _engine.listed_voices() if self.use_library else _voices_of_program()


class _Engine:
    """The one engine of a process. The library keeps its state in globals: one text at a time, and anew after a fork."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.handle = None
        self.sampling_rate = 0
        self._files: dict[str, str] = {}
        self._variants: tuple[str, ...] = ()
        self._chunks: list[bytes] = []
        self._events: list[tuple[int, float]] = []

    def speak(self, text: str, voice: str, rate: int, pitch: int) -> Speech:
        with self.lock:
            library = self._started()
            self._chunks, self._events = [], []
            encoded = text.encode("utf-8") + b"\0"
            error = library.espeak_SetVoiceByName(voice.encode())
            for parameter, value in ((PARAMETER_RATE, rate), (PARAMETER_PITCH, pitch)):
                library.espeak_SetParameter(parameter, value, 0)
            if error == 0:
                error = library.espeak_Synth(encoded, len(encoded), 0, POS_CHARACTER, 0, CHARS_UTF8, None, None)
            if error != 0:
                raise SynthesisError(f"espeak-ng cannot say {text!r} in the voice {voice!r} (error {error}).")
            samples = np.frombuffer(b"".join(self._chunks), np.int16).astype(np.float32) / 32768.0
            events = self._events
        return Speech(samples, self.sampling_rate, onsets_of_words(text, events))

    def listed_voices(self) -> tuple[dict[str, str], tuple[str, ...]]:
        with self.lock:
            self._started()
            return self._files, self._variants

    def _started(self) -> ctypes.CDLL:
        if self.handle is None:
            library = ctypes.CDLL(find_library())
            library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
            rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, None, INITIALIZE_DONT_EXIT)
            if rate <= 0:
                raise SynthesisError("espeak-ng does not find its data (espeak-ng-data): install it whole, or anew.")
            # kept: the library calls it as long as it lives
            self._callback = _Callback(self._receive)
            library.espeak_SetSynthCallback(self._callback)
            self.handle, self.sampling_rate = library, rate
            self._list_voices(library)
        return self.handle

    def _list_voices(self, library: ctypes.CDLL) -> None:
        # those of MBROLA need another program and its data
        voices = (
            voice for voice in _array_of(library.espeak_ListVoices(None)) if not voice.identifier.startswith(b"mb/")
        )
        # a priority byte before each language, a zero byte after it: the first is the main one
        self._files = dict(sorted((voice.languages[1:].decode(), voice.identifier.decode()) for voice in voices))
        wanted = _Voice(languages=b"variant")
        variants = _array_of(library.espeak_ListVoices(ctypes.byref(wanted)))
        self._variants = _names_of_variants(voice.identifier.decode() for voice in variants)

    def _receive(self, samples, num_samples: int, events) -> int:
        if samples and num_samples > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * num_samples))
        index = 0
        while events[index].type != EVENT_LIST_TERMINATED:
            event = events[index]
            if event.type == EVENT_WORD and event.length > 0:
                self._events.append((event.text_position - 1, event.audio_position / 1000.0))
            index += 1
        return 0


_engine = _Engine()
os.register_at_fork(after_in_child=_engine.reset)


def _array_of(pointers) -> list[_Voice]:
    voices = []
    while pointers[len(voices)]:
        voices.append(pointers[len(voices)].contents)
    return voices


@lru_cache(maxsize=1)
def find_library() -> str | None:
    """The library of espeak-ng, if it is installed."""
    for name in ("libespeak-ng.so.1", "libespeak-ng.dylib", ctypes.util.find_library("espeak-ng")):
        try:
            if name is not None:
                ctypes.CDLL(name)
                return name
        except OSError:
            continue
    return None


def find_program() -> str | None:
    return shutil.which("espeak-ng") or shutil.which("espeak")


def _names_of_variants(files: Iterable[str]) -> tuple[str, ...]:
    """Variants by the names of their files, such as `!v/f3`; a name with spaces cannot be asked for."""
    names = {file.rpartition("/")[-1].strip() for file in files}
    return tuple(sorted(name for name in names if " " not in name))


@lru_cache(maxsize=1)
def _voices_of_program() -> tuple[dict[str, str], tuple[str, ...]]:
    def listed(option: str) -> list[str]:
        output = subprocess.run([find_program(), option], capture_output=True, text=True, check=True).stdout
        return output.splitlines()[1:]

    voices = (line.split() for line in listed("--voices"))
    files = dict(sorted((fields[1], fields[4]) for fields in voices if not fields[4].startswith("mb/")))
    # a language that the variant is best for may follow in brackets
    variants = (line[line.index("!v/") :].partition("(")[0] for line in listed("--voices=variant"))
    return files, _names_of_variants(variants)


def _speak_by_program(text: str, voice: str, rate: int, pitch: int) -> Speech:
    command = [find_program(), "-v", voice, "-s", str(rate), "-p", str(pitch), "--stdin", "--stdout"]
    result = subprocess.run(command, input=text.encode("utf-8"), capture_output=True)
    content = result.stdout
    data = content.find(b"data")
    if result.returncode != 0:
        message = result.stderr.decode(errors="replace").strip()
        raise SynthesisError(f"espeak-ng cannot say {text!r} in the voice {voice!r}: {message}")
    if data < 0:
        return Speech(np.zeros(0, np.float32), 0)
    # the length in the header is that of an endless file, as the program writes it before it knows
    (sampling_rate,) = struct.unpack_from("<I", content, 24)
    num_bytes = (len(content) - data - 8) // 2 * 2
    samples = np.frombuffer(content, np.int16, num_bytes // 2, data + 8)
    return Speech(samples.astype(np.float32) / 32768.0, sampling_rate)
