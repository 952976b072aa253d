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
"""Loading audio from any source (file, URL, bytes, array, dataset) as a mono float32 waveform, and writing files."""

import base64
import http.client
import io
import math
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

from .files import atomic_write


MIN_SECONDS = 0.01  # shorter than any speech sound
MAX_MAGNITUDE = 8.0  # loud recordings exceed full scale a little; larger floats are integers that were never scaled
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1_000, 768_000
MAX_CHANNELS = 16
DOWNLOAD_TIMEOUT_SECONDS = 30

AUDIO_KEYS = ("audio", "array", "bytes", "base64", "path", "url", "audio_url")


def load_audio(
    source: Any, sampling_rate: int, max_seconds: float | None = None, source_sampling_rate: int | None = None
) -> np.ndarray:
    """
    Loads audio as a mono float32 waveform of shape `(num_samples,)` at `sampling_rate`.

    Args:
        source (`str`, `Path`, `bytes`, file object, `np.ndarray`, `torch.Tensor`, `list[float]`, `dict` or decoder):
            A path, an http(s) URL, a `data:` URI, the bytes of a file, samples with one or several channels, a decoder
            of `torchcodec`, or a dictionary (also an audio column of `datasets`) with one of these under one of
            `AUDIO_KEYS`, and with the `sampling_rate` of an array.
        max_seconds (`float`, *optional*):
            Maximum length. The length of a file is read from its header, before decoding.
        source_sampling_rate (`int`, *optional*):
            Sampling rate of an array that does not come with its own. Defaults to `sampling_rate`.
    """
    default_rate = sampling_rate if source_sampling_rate is None else source_sampling_rate
    waveform, source_sampling_rate = read_audio(source, max_seconds, default_rate)
    return resample(waveform, source_sampling_rate, sampling_rate)


def read_audio(
    source: Any, max_seconds: float | None = None, source_sampling_rate: int | None = None
) -> tuple[np.ndarray, int]:
    """The checked mono waveform of a source at its own rate, and that rate. Arguments as in [`load_audio`]."""
    if isinstance(source, Mapping):
        if source.get("sampling_rate") is not None:
            source_sampling_rate = source["sampling_rate"]
        return read_audio(_source_in(source), max_seconds, source_sampling_rate)
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(source, "read"):
        samples, sampling_rate = read_file(source, max_seconds)
    elif hasattr(source, "get_all_samples"):
        decoded = source.get_all_samples()
        samples, sampling_rate = decoded.data, int(decoded.sample_rate)
    else:
        samples, sampling_rate = source, source_sampling_rate
    waveform = to_mono(samples)
    check_sampling_rate(sampling_rate)
    check_length(len(waveform) / sampling_rate, max_seconds)
    check_scale(waveform)
    return waveform, sampling_rate


def _source_in(item: Mapping) -> Any:
    """The source in an audio item of a conversation, or in an audio column of `datasets`."""
    keys = [key for key in AUDIO_KEYS if item.get(key) is not None]
    # only `datasets` may give the same audio several times
    if not keys or (len(keys) > 1 and not {"array", "bytes", "path"}.issuperset(keys)):
        raise ValueError(
            f"An audio item has the keys {sorted(item)}: it must hold its audio under exactly one of "
            f"{', '.join(AUDIO_KEYS)}."
        )
    return decode_base64(item["base64"]) if keys[0] == "base64" else item[keys[0]]


def read_file(source: Any, max_seconds: float | None) -> tuple[np.ndarray, int]:
    """The samples of shape `(num_samples, num_channels)` of a path, URL, bytes or file object, and their rate."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        file, name = io.BytesIO(download(source)), source
    elif isinstance(source, str) and source.startswith("data:"):
        file, name = io.BytesIO(decode_base64(source)), "the data: URI"
    elif isinstance(source, str | os.PathLike):
        file, name = existing_file(source), f"'{source}'"
    else:
        content = source.read() if hasattr(source, "read") else bytes(source)
        file, name = io.BytesIO(content), f"the {len(content)} bytes given"
    try:
        with soundfile.SoundFile(file) as audio_file:
            if audio_file.frames == 0:
                raise ValueError(f"{name} has no samples: pass a recording that is not empty.")
            check_length(audio_file.frames / audio_file.samplerate, max_seconds)
            return audio_file.read(dtype="float32", always_2d=True), audio_file.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"Cannot decode {name} ({error.error_string.strip()}): wav, flac, ogg and mp3 files can be read. Convert "
            "other files with `ffmpeg -i FILE out.wav`."
        ) from error


def existing_file(path: str | os.PathLike) -> str:
    """The path with `~` expanded, of a file that exists."""
    resolved = os.path.expanduser(path)
    if not os.path.exists(resolved) or os.path.isdir(resolved):
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}…"
        raise FileNotFoundError(f"There is no audio file at {shown!r}: check the path. Pass contents as `bytes`.")
    return resolved


def download(url: str) -> bytes:
    """The bytes at an http(s) URL."""
    request = urllib.request.Request(url, headers={"User-Agent": "flow-omni"})
    try:
        with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
            return response.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ValueError(f"Cannot download {url} ({error}): check the address, or download the file first.") from error


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 string, with or without a prefix such as `data:audio/wav;base64,`."""
    payload = text.split(",", 1)[-1] if text.startswith("data:") else text
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise ValueError(f"Cannot decode base64 audio ({error}): pass the base64 of an audio file's bytes.") from error


def to_mono(audio: Any) -> np.ndarray:
    """Samples of any scale and shape as a waveform `(num_samples,)`. The shorter of two dimensions is the channels."""
    samples = _to_unit_scale(audio)
    if samples.size == 0:
        raise ValueError(f"Got an empty waveform (shape {samples.shape}): pass a recording that is not empty.")
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and min(samples.shape) > MAX_CHANNELS):
        raise ValueError(
            f"Got an array of shape {samples.shape}: a recording has the shape (num_samples,), (num_samples, "
            f"num_channels) or (num_channels, num_samples), with at most {MAX_CHANNELS} channels. Pass several waveforms "
            "as a list."
        )
    if samples.ndim == 2:
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    num_invalid = int(np.count_nonzero(~np.isfinite(samples)))
    if num_invalid:
        raise ValueError(
            f"{num_invalid} of {len(samples)} samples are NaN or infinite: repair them, as with `numpy.nan_to_num`."
        )
    return np.ascontiguousarray(samples, dtype=np.float32)


def _to_unit_scale(audio: Any) -> np.ndarray:
    """A tensor, array or list of numbers as float32 samples; integers are divided by their full scale."""
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.is_floating_point() else audio).numpy()
    elif _is_list_of_numbers(audio):
        audio = np.asarray(audio)
    elif not isinstance(audio, np.ndarray):
        raise TypeError(
            f"Got audio of the type `{type(audio).__name__}`: pass one path, URL, array, list of numbers, file's bytes, …"
        )
    if audio.dtype.kind == "f":
        with np.errstate(over="ignore"):  # too large for float32: reported as infinite
            return audio.astype(np.float32)
    if audio.dtype == np.uint8:
        return (audio.astype(np.float32) - 128.0) / 128.0
    if audio.dtype in (np.int8, np.int16, np.int32):
        return (audio / -float(np.iinfo(audio.dtype).min)).astype(np.float32)
    raise TypeError(
        f"Got samples of the type `{audio.dtype}`, of unknown scale: pass floats between -1 and 1, or int16."
    )


def flat_list(audio: Any) -> list:
    """One audio, several, or several for each prompt, as one list."""
    if not isinstance(audio, list | tuple) or _is_list_of_numbers(audio):
        return [audio]
    return [single for item in audio for single in flat_list(item)]


def _is_list_of_numbers(audio: Any) -> bool:
    return isinstance(audio, list | tuple) and all(isinstance(item, int | float | np.number) for item in audio)


def check_sampling_rate(sampling_rate: Any) -> None:
    is_number = isinstance(sampling_rate, int | float | np.number)
    if not is_number or not MIN_SAMPLING_RATE <= sampling_rate <= MAX_SAMPLING_RATE:
        raise ValueError(
            f"`sampling_rate` is {sampling_rate!r}: pass that of the recording, between {MIN_SAMPLING_RATE} and "
            f"{MAX_SAMPLING_RATE} Hz."
        )


def check_length(num_seconds: float, max_seconds: float | None) -> None:
    if num_seconds < MIN_SECONDS:
        raise ValueError(f"Got {num_seconds * 1000:.3g} ms of audio: at least {MIN_SECONDS * 1000:.0f} ms are needed.")
    if max_seconds is not None and num_seconds > max_seconds:
        raise ValueError(
            f"Got {num_seconds:.1f} s of audio: at most {max_seconds:g} s are accepted. Cut it into pieces, or raise "
            "`max_audio_seconds` of the processor."
        )


def check_scale(waveform: np.ndarray) -> None:
    peak = float(np.abs(waveform).max())
    if peak > MAX_MAGNITUDE:
        raise ValueError(
            f"The largest sample is {peak:g}, and not about 1. Divide 16-bit samples by 32768, or pass int16."
        )


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """The waveform `(num_samples,)` at another sampling rate: `ceil(num_samples * to_rate / from_rate)` samples."""
    if from_rate == to_rate:
        return waveform
    num_samples = math.ceil(len(waveform) * to_rate / from_rate)
    resampled = soxr.resample(waveform, from_rate, to_rate, quality="HQ")
    resampled = np.pad(resampled, (0, max(0, num_samples - len(resampled))))[:num_samples]
    return np.ascontiguousarray(resampled, dtype=np.float32)


def write_audio(path: str | os.PathLike, waveform: Any, sampling_rate: int) -> None:
    """Writes a wav, flac, ogg or mp3 file atomically, as the suffix says. Samples beyond -1 and 1 are clipped."""
    if Path(path).suffix.lower() not in (".wav", ".flac", ".ogg", ".mp3"):
        raise ValueError(f"The path '{path}' must end with .wav, .flac, .ogg or .mp3.")
    check_sampling_rate(sampling_rate)
    waveform = to_mono(waveform)
    check_scale(waveform)
    with atomic_write(path) as temporary:
        try:
            soundfile.write(temporary, np.clip(waveform, -1.0, 1.0), int(sampling_rate))
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"Cannot write '{path}' at {sampling_rate} Hz ({error.error_string.strip()}): write a .wav file."
            ) from error
