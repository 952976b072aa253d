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
"""flite: a few natural voices of English, from recordings of people."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from ..processing.audio_io import read_audio
from .synthesis import Speech, SynthesisError


# Mean pitch of the voices in Hertz.
VOICES = {"slt": 175.0, "rms": 100.0, "awb": 130.0, "kal16": 105.0}


class FliteSynthesizer:
    """The program of flite. It speaks English, and does not tell the times of words."""

    def __init__(self):
        self.program = shutil.which("flite")
        if self.program is None:
            raise ImportError("flite was not found: install it (`apt install flite`), or use another synthesizer.")

    def voices(self, language: str | None = None) -> list[str]:
        return list(VOICES) if language in (None, "en") else []

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        if voice not in VOICES:
            raise SynthesisError(f"flite has no voice {voice!r}: choose one of {', '.join(VOICES)}.")
        if not any(character.isalnum() for character in text):
            raise SynthesisError(f"flite says nothing for {text!r}: the text must hold a word.")
        options = ["--setf", f"duration_stretch={1.0 / rate:.4f}"] if rate != 1.0 else []
        if pitch != 1.0:
            # each voice heeds one of them, rms and awb neither
            options += ["--setf", f"int_f0_target_mean={VOICES[voice] * pitch:.1f}", "--setf", f"f0_shift={pitch:.3f}"]
        with tempfile.TemporaryDirectory() as folder:
            # through files: a text may begin with a dash, and be longer than a command line
            written, spoken = Path(folder, "text.txt"), Path(folder, "speech.wav")
            written.write_text(text, encoding="utf-8")
            command = [self.program, "-voice", voice, *options, "-f", str(written), "-o", str(spoken)]
            result = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if result.returncode != 0 or not spoken.is_file():
                raise SynthesisError(f"flite cannot say {text!r} in the voice {voice!r}: {result.stderr.strip()}")
            waveform, sampling_rate = read_audio(spoken)
        return Speech(waveform, sampling_rate)
