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
"""Sound from wherever it lies (file, URL, bytes, array, dataset) to a mono float32 waveform, and back into a file."""

import base64
import binascii
import http.client
import importlib
import io
import math
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


# No speech sound is shorter than this; what is shorter is a mistake (a label, a sample index, an empty recording).
MIN_SECONDS = 0.01
# Floats beyond full scale are clipped or loud recordings; this far beyond, they are integers that were never scaled.
MAX_MAGNITUDE = 8.0
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1_000, 768_000
MAX_CHANNELS = 16
MAX_DOWNLOAD_BYTES = 512 * 2**20
DOWNLOAD_TIMEOUT_SECONDS = 30

READABLE = "wav, flac, ogg and mp3 files can be read; convert others with `ffmpeg -i FILE out.wav`"


def load_audio(
    source: Any,
    sampling_rate: int,
    source_sampling_rate: int | None = None,
    max_seconds: float | None = None,
) -> np.ndarray:
    """
    Reads sound as a mono waveform `(num_samples,)` of float32 at `sampling_rate`.

    Args:
        source (`str`, `Path`, `bytes`, file object, `np.ndarray`, `torch.Tensor`, `list[float]`, `dict` or decoder):
            A file, an http(s) URL, a `data:` URI, the bytes of a file, an array of samples in one or several channels,
            or a column of `datasets`: a dictionary with `array` and `sampling_rate` or with `bytes` or `path`, or a
            decoder with `get_all_samples()`.
        sampling_rate (`int`):
            Samples per second to return.
        source_sampling_rate (`int`, *optional*):
            Samples per second of an array; all other sources know their own. Defaults to `sampling_rate`.
        max_seconds (`float`, *optional*):
            Longest sound to accept. A file is judged by its header, before it is decoded.
    """
    waveform, rate = read_audio(source, max_seconds)
    if rate is None:
        rate = sampling_rate if source_sampling_rate is None else source_sampling_rate
    check_sampling_rate(rate)
    check_length(len(waveform) / rate, max_seconds)
    check_scale(waveform)
    return resample(waveform, rate, sampling_rate)


def read_audio(source: Any, max_seconds: float | None = None) -> tuple[np.ndarray, int | None]:
    """The mono waveform of `source` and its sampling rate, which is `None` for a bare array: it cannot tell."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return read_file(io.BytesIO(download(source)), max_seconds, name=source)
    if isinstance(source, str) and source.startswith("data:"):
        return read_file(io.BytesIO(decode_base64(source)), max_seconds, name="the data: URI")
    if isinstance(source, str | os.PathLike):
        return read_file(existing_file(source), max_seconds, name=f"'{source}'")
    if isinstance(source, bytes | bytearray | memoryview):
        return read_file(io.BytesIO(bytes(source)), max_seconds, name=f"the {len(source)} bytes given")
    if isinstance(source, Mapping):
        return read_dataset_item(source, max_seconds)
    if hasattr(source, "get_all_samples"):
        samples = source.get_all_samples()
        return to_mono(samples.data), int(samples.sample_rate)
    if isinstance(source, io.TextIOBase):
        raise TypeError(f'Got a file opened as text ({source!r}): open audio files with `open(path, "rb")`.')
    if hasattr(source, "read"):
        file = source if _is_seekable(source) else io.BytesIO(source.read())
        return read_file(file, max_seconds, name=f"the file object {getattr(source, 'name', '')}".strip())
    return to_mono(source), None


def read_dataset_item(item: Mapping, max_seconds: float | None = None) -> tuple[np.ndarray, int | None]:
    """A `datasets` audio value: decoded (`array`, `sampling_rate`), or encoded (`bytes`, or else the file at `path`)."""
    if item.get("array") is not None:
        return to_mono(item["array"]), item.get("sampling_rate")
    for key in ("bytes", "path"):
        if item.get(key) is not None:
            return read_audio(item[key], max_seconds)
    raise ValueError(
        f"Got an audio dictionary with the keys {sorted(item)}: it must hold `array` and `sampling_rate`, or the `bytes` "
        "of an audio file, or the `path` to one."
    )


def read_file(file: Any, max_seconds: float | None, name: str) -> tuple[np.ndarray, int]:
    """Decodes a file, or a seekable file object, that libsndfile knows."""
    soundfile = _optional_module("soundfile", "to read and write audio files")
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            if sound.frames == 0:
                raise ValueError(f"{name} holds no samples: pass a recording with sound in it.")
            check_length(sound.frames / rate, max_seconds)
            samples = sound.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"Cannot decode {name} ({str(error).strip()}): {READABLE}.") from error
    return to_mono(samples), rate


def existing_file(path: str | os.PathLike) -> str:
    """The path as a string, `~` expanded, once it is sure that a file with something in it lies there."""
    resolved = os.path.expanduser(path)
    if not os.path.exists(resolved):
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}…"
        raise FileNotFoundError(
            f"There is no audio file at {shown!r}: check the path. Contents are passed as `bytes`."
        )
    if os.path.isdir(resolved):
        raise IsADirectoryError(f"'{path}' is a folder: pass the path of one audio file in it.")
    if os.path.getsize(resolved) == 0:
        raise ValueError(f"'{path}' is empty (0 bytes): {READABLE}.")
    return resolved


def download(url: str) -> bytes:
    """The bytes behind an http(s) URL."""
    request = urllib.request.Request(url, headers={"User-Agent": "flow-omni"})
    try:
        with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
            content = response.read(MAX_DOWNLOAD_BYTES + 1)
            if response.length and len(content) <= MAX_DOWNLOAD_BYTES:
                # a cut connection reads like the end of the file
                raise ValueError(f"the connection ended {response.length} bytes too early")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ValueError(f"Cannot download {url} ({error}): check the address, or download the file first.") from error
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise ValueError(
            f"{url} is larger than {MAX_DOWNLOAD_BYTES // 2**20} MiB, the most that is downloaded: download the file "
            "yourself and pass its path."
        )
    return content


def decode_base64(text: str) -> bytes:
    """The bytes of a base64 string, with or without the `data:audio/wav;base64,` before it."""
    payload = text.split(",", 1)[-1] if text.startswith("data:") else text
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            f"Cannot decode base64 audio of {len(payload)} characters ({error}): pass the base64 of an audio file's bytes."
        ) from error


def to_mono(audio: Any) -> np.ndarray:
    """
    Samples of any number type and one or several channels as `(num_samples,)` float32 within about -1 to 1. Of two
    dimensions the shorter one are the channels, which are averaged.
    """
    samples = _as_array(audio)
    if samples.ndim == 2:
        channel_axis = int(np.argmin(samples.shape))
        if samples.shape[channel_axis] > MAX_CHANNELS:
            raise ValueError(
                f"Got an array of shape {samples.shape}, which is no recording: one of two dimensions must be the channels, "
                f"at most {MAX_CHANNELS}. Pass several waveforms as a list."
            )
    elif samples.ndim != 1:
        raise ValueError(
            f"Got an array of shape {samples.shape}: a waveform has the shape (num_samples,), (num_samples, num_channels) "
            "or (num_channels, num_samples). Pass several waveforms as a list."
        )
    if samples.size == 0:
        raise ValueError(f"Got an empty waveform (shape {samples.shape}): pass a recording with sound in it.")
    samples = _to_unit_scale(samples)
    if samples.ndim == 2:
        samples = samples.mean(axis=channel_axis)
    num_bad = int(np.count_nonzero(~np.isfinite(samples)))
    if num_bad:
        raise ValueError(
            f"{num_bad} of {len(samples)} samples are NaN or infinite: every sample must be a number. Mend the recording, "
            "for instance with `numpy.nan_to_num`."
        )
    return np.ascontiguousarray(samples, dtype=np.float32)


def _as_array(audio: Any) -> np.ndarray:
    """`audio` as a numpy array of numbers."""
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu()
        return (audio.float() if audio.is_floating_point() else audio).numpy()
    if not isinstance(audio, np.ndarray | list | tuple):
        raise TypeError(
            f"Got audio of the type `{type(audio).__name__}`: pass a path, a URL, the bytes of a file, an array, a tensor, "
            "a file object, or an audio column of `datasets`."
        )
    if isinstance(audio, list | tuple) and not all(isinstance(sample, int | float | np.number) for sample in audio):
        raise ValueError(
            "Got a list of several waveforms for one audio: pass them one by one, or the channels of one recording as an array."
        )
    return np.asarray(audio)


def _to_unit_scale(samples: np.ndarray) -> np.ndarray:
    """Integers of the sizes that sound cards use become floats between -1 and 1; floats stay what they are."""
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if samples.dtype in (np.int8, np.int16, np.int32):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    raise TypeError(
        f"Got samples of the type `{samples.dtype}`, whose scale is unknown: pass floats between -1 and 1, or int16, int32 "
        "or uint8 samples as a sound card delivers them."
    )


def check_sampling_rate(sampling_rate: Any) -> None:
    is_number = isinstance(sampling_rate, int | float | np.number) and not isinstance(sampling_rate, bool)
    if not is_number or not MIN_SAMPLING_RATE <= sampling_rate <= MAX_SAMPLING_RATE:
        raise ValueError(
            f"`sampling_rate` is {sampling_rate!r}: it must be a number of samples per second from {MIN_SAMPLING_RATE} to "
            f"{MAX_SAMPLING_RATE}, such as 16000."
        )


def check_length(num_seconds: float, max_seconds: float | None) -> None:
    if num_seconds < MIN_SECONDS:
        raise ValueError(
            f"Got {num_seconds * 1000:.3g} ms of audio: at least {MIN_SECONDS * 1000:.0f} ms are needed. Check the "
            "recording and its `sampling_rate`."
        )
    if max_seconds is not None and num_seconds > max_seconds:
        raise ValueError(
            f"Got {num_seconds:.1f} s of audio: at most {max_seconds:g} s are accepted. Cut it into pieces, or raise "
            "`max_audio_seconds` of the processor."
        )


def check_scale(waveform: np.ndarray) -> None:
    peak = float(np.abs(waveform).max())
    if peak > MAX_MAGNITUDE:
        raise ValueError(
            f"The largest sample is {peak:g}: floating-point samples lie between -1 and 1. Divide 16-bit samples by 32768, "
            "or pass them as int16."
        )


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """The waveform `(num_samples,)` at another sampling rate: `ceil(num_samples * to_rate / from_rate)` samples."""
    if from_rate == to_rate:
        return waveform
    soxr = _optional_module("soxr", f"to resample audio from {from_rate} to {to_rate} Hz")
    num_samples = math.ceil(len(waveform) * to_rate / from_rate)
    resampled = soxr.resample(waveform, from_rate, to_rate, quality="HQ")
    resampled = np.pad(resampled, (0, max(0, num_samples - len(resampled))))[:num_samples]
    return np.ascontiguousarray(resampled, dtype=np.float32)


def write_audio(path: str | os.PathLike, waveform: Any, sampling_rate: int) -> None:
    """
    Writes a waveform into a file of the kind its suffix names (wav, flac, ogg or mp3), 16 bits deep, louder samples
    clipped. The file appears only when it is complete, so that nobody finds half of one.
    """
    soundfile = _optional_module("soundfile", "to read and write audio files")
    path = Path(path).expanduser()
    kind = path.suffix.lstrip(".").upper()
    if kind not in ("WAV", "FLAC", "OGG", "MP3"):
        raise ValueError(f"'{path}' ends in {path.suffix!r}: name a file that ends in .wav, .flac, .ogg or .mp3.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder '{path.parent}' does not exist: create it, or choose another path.")
    check_sampling_rate(sampling_rate)
    samples = to_mono(waveform)
    check_scale(samples)

    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        soundfile.write(str(unfinished), np.clip(samples, -1.0, 1.0), int(sampling_rate), format=kind)
        os.replace(unfinished, path)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"Cannot write '{path}' at {sampling_rate} Hz ({str(error).strip()}): write a .wav file instead."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _is_seekable(file: Any) -> bool:
    return hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable())


def _optional_module(name: str, purpose: str):
    """Imported where it is needed: whoever passes arrays at the right rate can do without."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise ImportError(f"`{name}` is needed {purpose} ({error}): `pip install {name}`.") from error
