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
"""Piper: neural voices in some forty languages, from files, ten times faster than speech on one core."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..processing.audio_io import resample
from .extras import needs
from .synthesis import Speech, SynthesisError, check_text, listed


# Where the files of voices lie, if not in the working folder, into which Piper's own downloader writes them.
FOLDER_VARIABLE = "PIPER_VOICES"
REMEDY = (
    "`python -m piper.download_voices en_US-joe-medium` fetches one into the working folder, and the variable "
    f"{FOLDER_VARIABLE} names another folder"
)


class PiperSynthesizer:
    """
    Piper's voices, each a file `NAME.onnx` beside its `NAME.onnx.json`. One of several speakers is named after a `#`:
    `en_US-joe-medium`, `en_US-libritts_r-medium#3922`. A text said twice sounds a little different: its noise is drawn anew.
    """

    def __init__(self):
        # both early: later would be in the middle of a corpus
        _piper()
        if not self.voices():
            raise SynthesisError(f"There is no voice of Piper in '{_folder()}': {REMEDY}.")

    def voices(self, language: str | None = None) -> list[str]:
        found = [_settings_of(file) for file in sorted(_folder().glob("*.onnx")) if _beside(file).is_file()]
        return [
            f"{voice.name}#{speaker}" if speaker else voice.name
            for voice in found
            if language in (None, voice.language)
            for speaker in (voice.speakers or [""])
        ]

    def load(self, voice: str) -> None:
        """Reads the voice from its file, which takes a second, and 90 MB."""
        _loaded(_settings_named(voice).file)

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        check_text(text)
        settings = _settings_named(voice)
        loaded = _loaded(settings.file)
        options = _piper().SynthesisConfig(
            speaker_id=settings.speakers.get(voice.partition("#")[2]),
            # a pitch is a sound that is played faster, or slower, than it was said
            length_scale=loaded.config.length_scale * pitch / rate,
        )
        chunks = list(loaded.synthesize(text, options))
        if not chunks:
            raise SynthesisError(f"Piper says nothing for {text!r}: the text must hold a word.")
        sampling_rate = chunks[0].sample_rate
        waveform = np.concatenate([chunk.audio_float_array for chunk in chunks])
        waveform = resample(waveform, round(sampling_rate * pitch), sampling_rate)
        return Speech(np.clip(waveform, -1.0, 1.0), sampling_rate)


@dataclass(frozen=True)
class VoiceSettings:
    """
    What we read of the settings of a voice.

    Attributes:
        file: the voice itself.
        language: its language, such as `en`.
        speakers: numbers of the speakers by their names; of a voice of one there are none.
    """

    file: Path
    language: str
    speakers: Mapping[str, int]

    @property
    def name(self) -> str:
        return self.file.stem


def _settings_named(voice: str) -> VoiceSettings:
    name, _, speaker = voice.partition("#")
    file = _folder() / f"{name}.onnx"
    if not file.is_file():
        raise SynthesisError(f"Piper has no voice {name!r} in '{_folder()}': {REMEDY}.")
    settings = _settings_of(file)
    if speaker not in (settings.speakers or [""]):
        speakers = [f"{name}#{known}" for known in settings.speakers] or [name]
        raise SynthesisError(f"Piper has no voice {voice!r}: name one of {listed(speakers)}.")
    return settings


@lru_cache(maxsize=256)
def _settings_of(file: Path) -> VoiceSettings:
    try:
        read = json.loads(_beside(file).read_text(encoding="utf-8"))
        # the family where it is told: espeak's own name of Mandarin is `cmn`
        family = (read.get("language") or {}).get("family") or read["espeak"]["voice"].partition("-")[0]
        number = read.get("num_speakers") or 1
        unnamed = {str(index): index for index in range(number)} if number > 1 else {}
        return VoiceSettings(file, family, read.get("speaker_id_map") or unnamed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SynthesisError(_damaged(file, error)) from error


@lru_cache(maxsize=16)
def _loaded(file: Path) -> Any:
    """The voice, which computes on one thread: corpora are spoken by many processes at a time."""
    onnxruntime = needs("onnxruntime", "piper-tts")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        config = _piper().PiperConfig.from_dict(json.loads(_beside(file).read_text(encoding="utf-8")))
    # what the runtime raises for a damaged file is an `Exception` of its own
    except Exception as error:
        raise SynthesisError(_damaged(file, error)) from error
    return _piper().PiperVoice(session=session, config=config)


def _piper() -> Any:
    return needs("piper", "piper-tts")


def _folder() -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE) or ".").expanduser().absolute()


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _damaged(file: Path, error: Exception) -> str:
    return (
        f"The voice '{file}' or its settings '{_beside(file).name}' cannot be read ({type(error).__name__}: {error}): download "
        "both files again, or take them out of the folder."
    )
