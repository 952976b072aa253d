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
"""flite: four voices of American English from recordings, with word times, a hundred times faster than real time."""

import ctypes
from collections.abc import Iterator
from functools import cache

import numpy as np

from .synthesis import Speech, SynthesisError, check_text, word_onsets


VOICES = ("slt", "rms", "awb", "kal16")
# Features of a voice. Constants: the library keeps pointers to the names. `rms` ignores the shift of its pitch.
DURATION, PITCH_SHIFT = b"duration_stretch", b"f0_shift"
# The first segment of a token.
SEGMENT = b"daughter1.R:SylStructure.daughter1.daughter1.R:Segment"

_Pointer, _String, _Float = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float


class _Wave(ctypes.Structure):
    _fields_ = [("type", _String), ("sample_rate", ctypes.c_int), ("num_samples", ctypes.c_int)]
    _fields_ += [("num_channels", ctypes.c_int), ("samples", ctypes.POINTER(ctypes.c_short))]


class _Voice(ctypes.Structure):
    _fields_ = [("name", _String), ("features", _Pointer)]


# The functions of flite that are called: their result and arguments.
FUNCTIONS = {
    "flite_synth_text": (_Pointer, [_String, ctypes.POINTER(_Voice)]),
    "utt_wave": (ctypes.POINTER(_Wave), [_Pointer]),
    "utt_relation": (_Pointer, [_Pointer, _String]),
    "delete_utterance": (None, [_Pointer]),
    "relation_head": (_Pointer, [_Pointer]),
    "item_next": (_Pointer, [_Pointer]),
    "item_feat_string": (_String, [_Pointer, _String]),
    "path_to_item": (_Pointer, [_Pointer, _String]),
    "ffeature_float": (_Float, [_Pointer, _String]),
    "get_param_float": (_Float, [_Pointer, _String, _Float]),
    "feat_set_float": (None, [_Pointer, _String, _Float]),
}


class FliteSynthesizer:
    """flite through its library."""

    def __init__(self):
        _library()

    def voices(self, language: str | None = None) -> list[str]:
        return list(VOICES) if language in (None, "en") else []

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        check_text(text)
        if voice not in VOICES:
            raise SynthesisError(f"flite has no voice {voice!r}: choose one of {', '.join(VOICES)}.")
        library, (pointer, own_duration) = _library(), _voice(voice)
        for feature, value in ((DURATION, own_duration / rate), (PITCH_SHIFT, pitch)):
            library.feat_set_float(pointer.contents.features, feature, value)
        # the noise of the voices comes from the C library's generator: a text always sounds the same
        ctypes.CDLL(None).srand(1)
        utterance = library.flite_synth_text(text.encode(), pointer)
        if not utterance:
            raise SynthesisError(f"flite cannot speak {text!r}: simplify the text.")
        try:
            wave = library.utt_wave(utterance).contents
            # the division copies the samples, which are freed with the utterance
            waveform = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)) / np.float32(32768.0)
            # samples beyond full scale overflow to the other sign: a jump of almost 2, where speech jumps by less than 1.5
            waveform = np.clip(np.unwrap(waveform, discont=1.5, period=2.0), -1.0, 1.0).astype(np.float32)
            return Speech(waveform, wave.sample_rate, word_onsets(text, list(_token_onsets(utterance, text))))
        finally:
            library.delete_utterance(utterance)


def _token_onsets(utterance: int, text: str) -> Iterator[tuple[int, float]]:
    """The position in the text of each token that has sound, and the second at which it begins."""
    library, position = _library(), 0
    token = library.relation_head(library.utt_relation(utterance, b"Token"))
    while token:
        name = library.item_feat_string(token, b"name").decode("utf-8", "replace")
        found = text.find(name, position)
        if found >= 0 and library.path_to_item(token, SEGMENT):
            # it begins at the end of the segment before it
            yield found, library.ffeature_float(token, SEGMENT + b".p.end")
        position = max(position, found + len(name))
        token = library.item_next(token)


@cache
def _library() -> ctypes.CDLL:
    library = _load("flite")
    for name in ("usenglish", "cmulex"):
        _load(f"flite_{name}")
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.flite_init()
    return library


@cache
def _voice(name: str) -> tuple:
    """A voice, and the stretch of durations that it sets itself."""
    register = getattr(_load(f"flite_cmu_us_{name}"), f"register_cmu_us_{name}")
    register.restype, register.argtypes = ctypes.POINTER(_Voice), [_String]
    pointer = register(None)
    return pointer, _library().get_param_float(pointer.contents.features, DURATION, 1.0)


def _load(name: str) -> ctypes.CDLL:
    for suffix in (".so.1", ".dylib"):
        try:
            # its symbols are open to the libraries loaded later
            return ctypes.CDLL(f"lib{name}{suffix}", mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    raise SynthesisError("flite is not installed: `apt install flite`, or choose another synthesizer.")
