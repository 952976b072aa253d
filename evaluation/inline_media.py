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
"""Sounds and pictures as text, so that a page holds them itself."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import soundfile


# A longer recording is cut: a page with whole lectures in it opens in no browser.
MAX_SECONDS = 60.0


@dataclass(frozen=True)
class Sound:
    """
    A sound that a browser plays.

    Args:
        uri (`str`): The sound itself, as a `data:` URI.
        seconds (`float`): How long it is.
        whole_seconds (`float`): How long it was before it was cut.
    """

    uri: str
    seconds: float
    whole_seconds: float

    @property
    def is_cut(self) -> bool:
        return self.seconds < self.whole_seconds


def sound_at(path: Path) -> Sound | None:
    """
    The sound of a file as FLAC at its own rate, 16 bits deep: every browser plays it, nothing is lost, and it has half the
    size of a WAV. `None` where there is no such file, or none that can be read.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate, num_samples = file.samplerate, file.frames
            samples = file.read(int(MAX_SECONDS * rate), dtype="int16", always_2d=True)
        if len(samples) == 0:
            return None
        encoded = io.BytesIO()
        soundfile.write(encoded, samples, rate, format="FLAC", subtype="PCM_16")
    except (OSError, soundfile.LibsndfileError):
        return None
    return Sound(_data_uri("audio/flac", encoded.getvalue()), len(samples) / rate, num_samples / rate)


def picture_at(path: Path) -> str | None:
    """The PNG of a file as a `data:` URI, or `None` where there is none."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return _data_uri("image/png", content) if content.startswith(b"\x89PNG") else None


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
