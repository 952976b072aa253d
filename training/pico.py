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
"""SVOX Pico: a woman's voice for each of six languages and accents, built of recordings, thirty times faster than speech."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from ..processing.audio_io import read_audio
from .synthesis import Speech, SynthesisError, check_text, check_word


# They are named after their languages: there is one of each.
VOICES = ("en-US", "en-GB", "de-DE", "es-ES", "fr-FR", "it-IT")
# Pico counts bytes in 16 bits, with a sign: of longer texts it says a part, or nothing.
MAX_BYTES = 32_000
REMEDY = "install it (on Debian `apt install libttspico-utils`, of the section non-free), or use another synthesizer"


class PicoSynthesizer:
    """
    Pico's voices, through its program `pico2wave`. It does not tell when each word begins; rates end at 0.2 and 5, pitches at
    0.5 and 2.
    """

    def __init__(self):
        if find_program() is None:
            raise ImportError(f"`pico2wave` was not found: {REMEDY}.")

    def voices(self, language: str | None = None) -> list[str]:
        return [voice for voice in VOICES if language in (None, voice.partition("-")[0])]

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        if voice not in VOICES:
            raise SynthesisError(f"Pico has no voice {voice!r}: choose one of {', '.join(VOICES)}.")
        check_word(text, "Pico")
        check_text(text)
        if "<" in text:
            raise SynthesisError(f"The text {text!r} holds a `<`, with which Pico's commands begin: take it out.")
        speed, height = round(100 * rate), round(100 * pitch)
        marked = f'<speed level="{speed}"><pitch level="{height}">{text}</pitch></speed>'.encode("utf-8", "replace")
        if len(marked) > MAX_BYTES:
            raise SynthesisError(
                f"The text {text[:80]!r} … has {len(marked)} bytes with its rate and pitch: Pico takes {MAX_BYTES}. Split it."
            )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "speech.wav"
            result = subprocess.run([find_program(), "--lang", voice, "--wave", file, marked], capture_output=True)
            # it also ends well where it could not write
            if result.returncode != 0 or not file.is_file():
                reason = result.stderr.decode("utf-8", "replace").strip() or "it wrote no file"
                raise SynthesisError(
                    f"Pico cannot say {text!r} in the voice {voice!r} ({reason}): simplify the text, install its lingware "
                    "anew (`libttspico-data`), or free space for temporary files."
                )
            return Speech(*read_audio(file))


def find_program() -> str | None:
    return shutil.which("pico2wave")
