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
"""SVOX Pico: one natural voice for each of six languages and accents, thirty times faster than speech."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from ..processing.audio_io import read_audio
from .synthesis import Speech, SynthesisError


# They are named after their languages: there is one of each.
VOICES = ("en-US", "en-GB", "de-DE", "es-ES", "fr-FR", "it-IT")
# Percent of the voice's own. Beyond these Pico keeps to its own silently.
RATES = (20, 500)
PITCHES = (50, 200)
REMEDY = "install it (`apt install libttspico-utils`, of Debian's section non-free), or use another synthesizer"


class PicoSynthesizer:
    """Pico's voices, through its program `pico2wave`. It does not tell when each word begins."""

    def __init__(self):
        if find_program() is None:
            raise ImportError(f"`pico2wave` was not found: {REMEDY}.")

    def voices(self, language: str | None = None) -> list[str]:
        return [voice for voice in VOICES if language in (None, voice.partition("-")[0])]

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        if voice not in VOICES:
            raise SynthesisError(f"Pico has no voice {voice!r}: name one of {', '.join(VOICES)}.")
        if not any(character.isalnum() for character in text):
            raise SynthesisError(f"Pico says nothing for {text!r}: the text must hold a word.")
        if "\0" in text:
            raise SynthesisError(f"The text {text!r} holds a null character: take it out.")
        # what stands behind this sign might be one of Pico's commands
        plain = text.replace("<", " ")
        marked = f'<speed level="{_percent(rate, *RATES)}"><pitch level="{_percent(pitch, *PITCHES)}">{plain}</pitch></speed>'
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "speech.wav"
            command = [find_program(), "--lang", voice, "--wave", str(file), "--", marked]
            result = subprocess.run(command, capture_output=True, text=True, errors="replace")
            # it ends well, too, where it could not write
            if result.returncode != 0 or not file.is_file():
                raise SynthesisError(
                    f"pico2wave could not say {text!r} in the voice {voice!r}: {result.stderr.strip()}"
                )
            waveform, sampling_rate = read_audio(file)
        return Speech(waveform, sampling_rate)


def find_program() -> str | None:
    return shutil.which("pico2wave")


def _percent(share: float, low: int, high: int) -> int:
    return min(max(round(100 * share), low), high)
