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
"""Piper: neural voices in some forty languages, from files, twenty times faster than speech on one core."""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..processing.audio_io import resample
from .extras import needs
from .synthesis import Speech, SynthesisError


# Where the files of voices lie, if not in the working folder, into which Piper's own downloader writes them.
FOLDER_VARIABLE = "PIPER_VOICES"
REMEDY = (
    "`python -m piper.download_voices en_US-lessac-medium` fetches one into the working folder, and the variable "
    f"{FOLDER_VARIABLE} names another folder"
)


class PiperSynthesizer:
    """
    Piper's voices, each a file `NAME.onnx` beside its `NAME.onnx.json`. One of several speakers is named after a `#`:
    `en_US-joe-medium`, `en_US-libritts_r-medium#3922`. A text said twice sounds a little different: its noise is drawn anew.
    """

    def __init__(self):
        # early: later would be in the middle of a corpus
        needs("piper", "piper-tts")

    def voices(self, language: str | None = None) -> list[str]:
        return [
            f"{file.stem}#{speaker}" if speaker else file.stem
            for file in sorted(_folder().glob("*.onnx"))
            if language is None or _settings_of(file)["espeak"]["voice"].partition("-")[0] == language
            for speaker in (_settings_of(file).get("speaker_id_map") or [""])
        ]

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        if voice not in self.voices():
            raise SynthesisError(f"Piper has no voice {voice!r} in '{_folder()}': {REMEDY}.")
        name, _, speaker = voice.partition("#")
        file = _folder() / f"{name}.onnx"
        # a pitch is a sound that is played faster, or slower, than it was said
        options = {
            "length_scale": pitch / rate,
            "speaker_id": (_settings_of(file).get("speaker_id_map") or {}).get(speaker),
        }
        chunks = list(_loaded(file).synthesize(text, needs("piper", "piper-tts").SynthesisConfig(**options)))
        if not chunks:
            raise SynthesisError(f"Piper says nothing for {text!r}: the text must hold a word.")
        sampling_rate = chunks[0].sample_rate
        waveform = np.concatenate([chunk.audio_float_array for chunk in chunks])
        return Speech(resample(waveform, round(sampling_rate * pitch), sampling_rate), sampling_rate)


def _folder() -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE) or ".").expanduser()


@lru_cache(maxsize=256)
def _settings_of(file: Path) -> dict[str, Any]:
    beside = file.with_name(f"{file.name}.json")
    try:
        settings = json.loads(beside.read_text(encoding="utf-8"))
        settings["espeak"]["voice"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SynthesisError(
            f"The voice '{file}' has no settings that can be read in '{beside.name}' beside it ({error}): download both files "
            "again, or take the voice out of the folder."
        ) from error
    return settings


@lru_cache(maxsize=4)
def _loaded(file: Path) -> Any:
    """The voice, which computes on one thread: corpora are spoken by many processes at a time."""
    onnxruntime = needs("onnxruntime", "piper-tts")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    piper = needs("piper", "piper-tts")
    return piper.PiperVoice(
        session=onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]),
        config=piper.PiperConfig.from_dict(_settings_of(file)),
    )
