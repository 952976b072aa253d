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
"""Piper: neural voices of 40 languages. It is licensed under the GPL, and therefore only called as a program."""

import json
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...processing.audio_io import read_audio, resample
from .synthesis import Speech, SynthesisError, check_text


# The folder of the voices; by default the working folder, which Piper's own downloader writes to.
FOLDER_VARIABLE = "PIPER_VOICES"
REMEDY = (
    "`python -m piper.download_voices en_US-joe-medium` downloads one to the working folder, and the environment variable "
    f"{FOLDER_VARIABLE} names another folder"
)


class PiperSynthesizer:
    """
    Piper through its program `piper`, which loads the voice for each text. A voice is a file `NAME.onnx` beside its
    `NAME.onnx.json`; of several speakers one is named after a `#`: `en_US-joe-medium`, `en_US-libritts_r-medium#3922`.
    """

    def __init__(self):
        if shutil.which("piper") is None:
            raise SynthesisError("The program `piper` is not installed: `pip install piper-tts`.")

    def voices(self, language: str | None = None) -> list[str]:
        files = [file for file in sorted(_folder().glob("*.onnx")) if Path(f"{file}.json").is_file()]
        if not files:
            raise SynthesisError(f"There is no voice of Piper in '{_folder()}': {REMEDY}.")
        of_language = [file for file in files if language in (None, _settings(file)["language"])]
        return [f"{file.stem}{speaker}" for file in of_language for speaker in _settings(file)["speakers"]]

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        check_text(text)
        name, hash_sign, speaker = voice.partition("#")
        file = _folder() / f"{name}.onnx"
        speakers = _settings(file)["speakers"] if file.is_file() else {}
        if hash_sign + speaker not in speakers:
            raise SynthesisError(f"Piper has no voice {voice!r} in '{_folder()}': {REMEDY}.")
        # the pitch is changed by resampling, and the length corrected for it
        length_scale = _settings(file)["length_scale"] * pitch / rate
        command = ["piper", "--model", file, "--length_scale", f"{length_scale:.4f}", "--output_file", "-"]
        command += ["--speaker", str(speakers[hash_sign + speaker])] if speaker else []
        # on one line: each would be spoken as a text of its own
        result = subprocess.run(command, input=" ".join(text.split()).encode(), capture_output=True)
        if result.returncode != 0 or not result.stdout:
            reason = result.stderr.decode(errors="replace").strip().rpartition("\n")[-1] or "no audio"
            raise SynthesisError(f"Piper cannot speak {text!r} with the voice {voice!r}: {reason}")
        waveform, sampling_rate = read_audio(result.stdout)
        waveform = resample(waveform, round(sampling_rate * pitch), sampling_rate)
        return Speech(np.clip(waveform, -1.0, 1.0), sampling_rate)


@lru_cache(maxsize=256)
def _settings(file: Path) -> dict:
    """The language of a voice, its length scale, and the numbers of its speakers by their names (`#name`)."""
    try:
        settings = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))
        # espeak's own name of Mandarin is `cmn`
        language = (settings.get("language") or {}).get("family") or settings["espeak"]["voice"].partition("-")[0]
        named = settings.get("speaker_id_map") or {index: index for index in range(settings.get("num_speakers") or 1)}
        speakers = {f"#{name}": number for name, number in named.items()} if len(named) > 1 else {"": 0}
        length_scale = float(settings.get("inference", {}).get("length_scale", 1.0))
        return {"language": language, "length_scale": length_scale, "speakers": speakers}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SynthesisError(f"The settings '{file}.json' cannot be read ({error!r}): download them again.") from error


def _folder() -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE) or ".").expanduser().absolute()
