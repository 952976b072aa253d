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
"""Audio in transit: sample formats of the wire, resampling of a stream, and WAV headers."""

import io
import struct

import numpy as np
import soundfile
import soxr


# Name -> the sampling rate in Hz, and how libsndfile calls the samples.
FORMATS = {"audio/pcm": (24000, "PCM_16"), "audio/pcmu": (8000, "ULAW"), "audio/pcma": (8000, "ALAW")}


def bytes_per_sample(name: str) -> int:
    return 2 if name == "audio/pcm" else 1


def decode_samples(content: bytes, name: str) -> np.ndarray:
    """The float32 waveform `(num_samples,)` of raw samples in one of `FORMATS`."""
    rate, subtype = FORMATS[name]
    if len(content) % bytes_per_sample(name):
        raise ValueError(f"Got {len(content)} bytes of {name}: a sample has 2 bytes, so the number must be even.")
    if not content:
        return np.zeros(0, dtype=np.float32)
    file = io.BytesIO(content)
    return soundfile.read(
        file, dtype="float32", samplerate=rate, channels=1, format="RAW", subtype=subtype, endian="LITTLE"
    )[0]


def encode_samples(waveform: np.ndarray, name: str) -> bytes:
    """Raw samples of a waveform, whose values beyond -1 and 1 are clipped."""
    if len(waveform) == 0:
        return b""
    if name == "audio/pcm":
        # soundfile would clip at 1 - 2**-15 as well, but at ten times the cost for the small chunks of a stream
        return (np.clip(waveform, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
    rate, subtype = FORMATS[name]
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1.0, 1.0), rate, format="RAW", subtype=subtype)
    return file.getvalue()


class StreamResampler:
    """Resamples one stream chunk by chunk; chunks join without a seam."""

    def __init__(self, from_rate: int, to_rate: int):
        self.is_same = from_rate == to_rate
        self._stream = None if self.is_same else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")

    def push(self, samples: np.ndarray, is_last: bool = False) -> np.ndarray:
        if self.is_same:
            return samples
        return self._stream.resample_chunk(np.ascontiguousarray(samples, dtype=np.float32), last=is_last)


def wav_header(sampling_rate: int) -> bytes:
    """The header of a 16-bit mono WAV stream whose length is not known yet, which players read to its end."""
    unknown = 0xFFFFFFFF
    layout = struct.pack("<IHHIIHH", 16, 1, 1, sampling_rate, sampling_rate * 2, 2, 16)
    return b"RIFF" + struct.pack("<I", unknown) + b"WAVEfmt " + layout + b"data" + struct.pack("<I", unknown)
