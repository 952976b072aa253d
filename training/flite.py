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
"""flite: a few natural voices of English, from recordings of people, a hundred times faster than speech."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from math import isnan, nan
from pathlib import Path

import numpy as np

from ..processing.audio_io import read_audio
from .synthesis import Speech, SynthesisError, check_text, check_word, onsets_of_words


# Mean pitch of the voices in Hertz.
VOICES = {"slt": 175.0, "rms": 100.0, "awb": 130.0, "kal16": 105.0}
REMEDY = "install it (`apt install flite`), or use another synthesizer"

# Of an item of the relation "Token": the end of the sound before its first one.
ONSET = b"daughter1.R:SylStructure.daughter1.daughter1.R:Segment.p.end"


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


# What we call of flite.h, cst_utterance.h, cst_item.h and cst_features.h: result and arguments.
FUNCTIONS = {
    "flite_synth_text": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.POINTER(_Voice)]),
    "utt_wave": (ctypes.POINTER(_Wave), [ctypes.c_void_p]),
    "utt_relation": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
    "delete_utterance": (None, [ctypes.c_void_p]),
    "relation_head": (ctypes.c_void_p, [ctypes.c_void_p]),
    "item_next": (ctypes.c_void_p, [ctypes.c_void_p]),
    "item_feat_string": (ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_char_p]),
    "path_to_item": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
    "ffeature_float": (ctypes.c_float, [ctypes.c_void_p, ctypes.c_char_p]),
    "get_param_float": (ctypes.c_float, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float]),
    "feat_set_float": (None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float]),
    "feat_remove": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]),
}


class FliteSynthesizer:
    """flite's voices of English, through its library, or else its program (slower, and without the times of words)."""

    def __init__(self, use_library: bool | None = None):
        self.use_library = find_library() is not None if use_library is None else use_library
        if self.use_library and find_library() is None:
            raise ImportError(f"The library of flite was not found: {REMEDY}.")
        if not self.use_library and find_program() is None:
            raise ImportError(f"flite was not found: {REMEDY}.")

    def voices(self, language: str | None = None) -> list[str]:
        return list(VOICES) if language in (None, "en") else []

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        if voice not in VOICES:
            raise SynthesisError(f"flite has no voice {voice!r}: choose one of {', '.join(VOICES)}.")
        check_word(text, "flite")
        check_text(text)
        speak = _engine.speak if self.use_library else _speak_by_program
        return speak(text, voice, _features_of(voice, rate, pitch))


def _features_of(voice: str, rate: float, pitch: float) -> dict[bytes, float]:
    """What the voice is told. The names are constants on purpose: the library keeps pointers to them."""
    features = {b"duration_stretch": 1.0 / rate} if rate != 1.0 else {}
    if pitch != 1.0:
        # each voice heeds one of them, rms and awb neither
        features |= {b"int_f0_target_mean": VOICES[voice] * pitch, b"f0_shift": pitch}
    return features


class _Engine:
    """The one engine of a process: voices are shared state, so one text at a time, and unlocked again after a fork."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.voices: dict[str, ctypes.POINTER(_Voice)] = {}

    def speak(self, text: str, voice: str, features: Mapping[bytes, float]) -> Speech:
        with self.lock:
            library, libraries = find_library()
            if voice not in self.voices:
                register = getattr(libraries[voice], f"register_cmu_us_{voice}")
                register.restype, register.argtypes = ctypes.POINTER(_Voice), [ctypes.c_char_p]
                self.voices[voice] = register(None)
            # its noise comes from the C library's generator: seeded as in a fresh process, a text always sounds the same
            ctypes.CDLL(None).srand(1)
            with _featured(library, self.voices[voice], features):
                utterance = library.flite_synth_text(text.encode("utf-8"), self.voices[voice])
            if not utterance:
                raise SynthesisError(f"flite cannot say {text!r} in the voice {voice!r}: simplify the text.")
            try:
                wave = library.utt_wave(utterance).contents
                # copied by the division: the samples go with the utterance
                waveform = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)) / np.float32(32768.0)
                events = list(_onsets_of_tokens(library, utterance, text))
                return Speech(_without_overflow(waveform), wave.sample_rate, onsets_of_words(text, events))
            finally:
                library.delete_utterance(utterance)


@contextmanager
def _featured(library: ctypes.CDLL, voice, features: Mapping[bytes, float]) -> Iterator[None]:
    """The voice with some of its features changed for a while."""
    own = voice.contents.features
    before = {name: library.get_param_float(own, name, nan) for name in features}
    for name, value in features.items():
        library.feat_set_float(own, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if isnan(value):
                library.feat_remove(own, name)
            else:
                library.feat_set_float(own, name, value)


def _onsets_of_tokens(library: ctypes.CDLL, utterance: int, text: str) -> Iterator[tuple[int, float]]:
    """Where in the text each token stands, and the second in which it begins to be heard."""
    token, position = library.relation_head(library.utt_relation(utterance, b"Token")), 0
    while token:
        name = library.item_feat_string(token, b"name").decode("utf-8", "replace")
        found = text.find(name, position)
        # a token that is not heard has no word
        if found >= 0 and library.path_to_item(token, b"daughter1.R:SylStructure.daughter1.daughter1.R:Segment"):
            yield found, library.ffeature_float(token, ONSET)
        position = max(position, found + len(name))
        token = library.item_next(token)


_engine = _Engine()
os.register_at_fork(after_in_child=_engine.reset)


@lru_cache(maxsize=1)
def find_library() -> tuple[ctypes.CDLL, dict[str, ctypes.CDLL]] | None:
    """The library of flite and those of its voices, if they are installed."""
    try:
        library = _load("flite")
        for name in ("usenglish", "cmulex"):
            _load(f"flite_{name}")
        voices = {voice: _load(f"flite_cmu_us_{voice}") for voice in VOICES}
    except OSError:
        return None
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.flite_init()
    return library, voices


def _load(name: str) -> ctypes.CDLL:
    """A library by its name, its symbols open to those that are loaded later."""
    try:
        return ctypes.CDLL(f"lib{name}.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return ctypes.CDLL(f"lib{name}.dylib", mode=ctypes.RTLD_GLOBAL)


def find_program() -> str | None:
    return shutil.which("flite")


def _speak_by_program(text: str, voice: str, features: Mapping[bytes, float]) -> Speech:
    options = [word for name, value in features.items() for word in ("--setf", f"{name.decode()}={value:.4f}")]
    with tempfile.TemporaryDirectory() as folder:
        # through files: a text may begin with a dash, and be longer than a command line
        written, spoken = Path(folder, "text.txt"), Path(folder, "speech.wav")
        written.write_text(text, encoding="utf-8")
        command = [find_program(), "-voice", voice, *options, "-f", str(written), "-o", str(spoken)]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if result.returncode != 0 or not spoken.is_file():
            raise SynthesisError(f"flite cannot say {text!r} in the voice {voice!r}: {result.stderr.strip()}")
        waveform, sampling_rate = read_audio(spoken)
    return Speech(_without_overflow(waveform), sampling_rate)


def _without_overflow(waveform: np.ndarray) -> np.ndarray:
    """Samples beyond full scale come out with the wrong sign, which clicks: they become clipped ones."""
    # speech leaps by less than 1.5 between two samples, a sign that flips at full scale by almost 2
    return np.clip(np.unwrap(waveform, discont=1.5, period=2.0), -1.0, 1.0).astype(np.float32)
