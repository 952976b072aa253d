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
"""Audio from every source becomes the same waveform, and what is not audio is refused with the reason."""

import base64
import http.server
import io
import threading
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import torch
from sounds import file_bytes, frequency_of, noise, tone
from transformers.audio_utils import load_audio as load_audio_of_transformers

from flow_omni.processing.audio_io import load_audio, read_audio, resample, to_mono, write_audio
from flow_omni.processing.files import atomic_write


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(), 16000, subtype="FLOAT")
    return path


def test_every_source_of_a_recording_gives_the_same_waveform(wav, monkeypatch):
    monkeypatch.setenv("HOME", str(wav.parent))
    contents = wav.read_bytes()
    encoded = base64.b64encode(contents).decode()
    decoded = SimpleNamespace(data=torch.from_numpy(tone())[None], sample_rate=16000)
    decoder = SimpleNamespace(get_all_samples=lambda: decoded)  # the interface of torchcodec's `AudioDecoder`
    dataset = datasets.Dataset.from_dict({"audio": [str(wav)]}).cast_column("audio", datasets.Audio(decode=False))
    sources = [
        *(str(wav), wav, "~/tone.wav", contents, bytearray(contents), io.BytesIO(contents)),
        *(f"data:audio/wav;base64,{encoded}", {"base64": encoded}, {"url": f"data:audio/wav;base64,{encoded}"}),
        *({"path": str(wav), "bytes": None}, {"path": "elsewhere.wav", "bytes": contents}, dataset[0]["audio"]),
        *({"array": tone(), "sampling_rate": 16000, "path": None}, decoder),
        *(tone(), torch.from_numpy(tone()), tone().tolist(), tone().astype(np.float64)),
        *({"type": "audio", "audio": wav}, {"type": "audio", "audio": None, "path": str(wav), "url": None}),
    ]
    for source in sources:
        waveform = load_audio(source, 16000)
        assert waveform.dtype == np.float32 and waveform.ndim == 1
        np.testing.assert_array_equal(waveform, tone())


def test_arrays_are_resampled_from_their_own_rate():
    for rate in (8000, 11025, 22050, 44100, 48000, 96000):
        samples = tone(1.0, rate)
        waveform = load_audio(samples, 16000, source_sampling_rate=rate)
        assert len(waveform) == 16000
        np.testing.assert_allclose(waveform[1000:-1000], tone(1.0, 16000)[1000:-1000], atol=5e-3)
        # the rate that comes with the array counts, not that of the call
        named = load_audio({"array": samples, "sampling_rate": rate}, 16000, source_sampling_rate=1000)
        np.testing.assert_array_equal(waveform, named)


def test_resampling_rounds_the_length_up_and_equals_that_of_transformers(tmp_path):
    for num_samples in (441, 4410, 4411, 13671):
        samples = noise(1.0, 44100)[:num_samples]
        waveform = load_audio(samples, 16000, source_sampling_rate=44100)
        assert len(waveform) == -(-num_samples * 16000 // 44100)
        soundfile.write(tmp_path / "noise.wav", samples, 44100, subtype="FLOAT")
        expected = load_audio_of_transformers(str(tmp_path / "noise.wav"), 16000, backend="soundfile")
        np.testing.assert_array_equal(waveform, expected)
    waveform = noise()
    assert resample(waveform, 16000, 16000) is waveform


def test_audio_is_read_at_its_own_rate(wav):
    for source in (wav, {"array": tone(), "sampling_rate": 16000}):
        waveform, sampling_rate = read_audio(source)
        assert sampling_rate == 16000
        np.testing.assert_array_equal(waveform, tone())
    with pytest.raises(ValueError, match="`sampling_rate` is None: pass that of the recording"):
        read_audio(tone())


def test_channels_are_averaged():
    for axis in (0, 1):
        for num_channels in (1, 2, 6):
            channels = np.stack([tone() * gain for gain in np.linspace(0.2, 1.0, num_channels)], axis=axis)
            np.testing.assert_allclose(to_mono(channels), channels.mean(axis=axis), atol=1e-6)
    stereo = np.stack([tone(), np.zeros_like(tone())], axis=1)
    np.testing.assert_allclose(load_audio(file_bytes(stereo, subtype="FLOAT"), 16000), tone() / 2, atol=1e-6)


def test_integers_are_divided_by_their_full_scale_and_floats_are_kept():
    for dtype, scale, offset in ((np.int8, 128, 0), (np.uint8, 128, 128), (np.int16, 32768, 0), (np.int32, 2**31, 0)):
        samples = (tone().astype(np.float64) * scale + offset).astype(dtype)
        np.testing.assert_allclose(to_mono(samples), tone(), atol=1.5 / scale)
        np.testing.assert_array_equal(to_mono(torch.from_numpy(samples)), to_mono(samples))
    np.testing.assert_allclose(to_mono(tone().astype(np.float16)), tone(), atol=1e-3)
    np.testing.assert_allclose(to_mono(torch.from_numpy(tone()).bfloat16().requires_grad_()), tone(), atol=4e-3)


def test_silence_clipping_and_loud_recordings_are_accepted():
    for waveform in (np.zeros(1600, np.float32), np.clip(tone() * 4, -1, 1), tone() * 3):
        np.testing.assert_array_equal(load_audio(waveform, 16000), waveform)


def test_sources_without_usable_audio_are_refused(tmp_path, wav):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello")
    cases = [
        ("nowhere.wav", r"no audio file at 'nowhere\.wav': check the path"),
        (tmp_path, "no audio file at"),
        (tmp_path / "empty.wav", r"Cannot decode '.*empty\.wav'"),
        (tmp_path / "text.wav", r"Cannot decode '.*text\.wav'.*ffmpeg"),
        (wav.read_bytes()[:30], "Cannot decode|has no samples"),
        (file_bytes(np.zeros(0, np.float32)), "has no samples"),
        (b"", "Cannot decode the 0 bytes given"),
        (b"this is not audio" * 10, "wav, flac, ogg and mp3 files can be read"),
        ("data:audio/wav;base64,%%%", "base64"),
        ("https://localhost:1/nothing.wav", "Cannot download https://localhost:1/nothing.wav"),
        *((empty, "empty waveform") for empty in (np.zeros(0, np.float32), [], np.zeros((2, 0)))),
        (np.zeros(1), r"0\.0625 ms of audio: at least 10 ms"),
        (np.zeros((1, 2, 800)), r"shape \(1, 2, 800\)"),
        (np.zeros((400, 400)), r"shape \(400, 400\)"),
        (np.array([0.1, np.nan, 0.3, -np.inf] * 100), "200 of 400 samples are NaN or infinite"),
        (np.full(400, 1e300), "NaN or infinite"),
        (tone() * 20000, "Divide 16-bit samples by 32768"),
        *((np.zeros(400, dtype), "of unknown scale") for dtype in (np.int64, bool, complex, object, "<U1")),
        ([[0.1, 0.2], [0.3]], "type `list`: pass one path"),
        *((value, f"type `{type(value).__name__}`") for value in (17, None, np.float32(0.5))),
        ({"text": "hello"}, r"keys \['text'\]"),
        ({"bytes": None, "path": None}, "under exactly one of audio, array"),
        ({"path": "a.wav", "url": "http://b"}, "under exactly one of"),
    ]
    for source, message in cases:
        with pytest.raises((ValueError, TypeError, OSError), match=message):
            load_audio(source, 16000)
    with pytest.raises(FileNotFoundError) as raised:
        load_audio("A" * 100_000, 16000)
    assert len(str(raised.value)) < 400
    for rate in (0, -16000, 16, 16.0, 10**9, "16000", True, float("nan")):
        with pytest.raises(ValueError, match="`sampling_rate` is"):
            load_audio(tone(), 16000, source_sampling_rate=rate)


def test_maximum_length_is_checked_before_a_file_is_decoded(tmp_path, monkeypatch):
    assert len(load_audio(tone(0.5), 16000, max_seconds=0.5)) == 8000
    with pytest.raises(ValueError, match=r"0\.5 s of audio: at most 0\.4 s are accepted"):
        load_audio(tone(0.5), 16000, max_seconds=0.4)
    soundfile.write(tmp_path / "hour.wav", np.zeros(3600 * 1000, np.int16), 1000)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    with pytest.raises(ValueError, match=r"3600\.0 s of audio: at most 600 s"):
        load_audio(tmp_path / "hour.wav", 16000, max_seconds=600)


@pytest.fixture
def server(wav):
    """An HTTP server with one file, a redirect to it, and the file cut short."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status = {"/tone.wav": 200, "/cut.wav": 200, "/moved.wav": 302}.get(self.path, 404)
            contents = wav.read_bytes() if status == 200 else b""
            self.send_response(status)
            self.send_header("Location", "/tone.wav")
            self.send_header("Content-Length", str(len(contents)))
            self.end_headers()
            self.wfile.write(contents if self.path == "/tone.wav" else contents[:1000])

        def log_message(self, *args):
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_urls_are_downloaded(server):
    for path in ("tone.wav", "moved.wav"):
        np.testing.assert_array_equal(load_audio(f"{server}/{path}", 16000), tone())
    for path, reason in (("missing.wav", "HTTP Error 404"), ("cut.wav", "IncompleteRead")):
        with pytest.raises(ValueError, match=rf"Cannot download http://127.*{path} \({reason}"):
            load_audio(f"{server}/{path}", 16000)


def test_files_of_all_formats_keep_their_tone(tmp_path):
    for suffix in (".wav", ".flac", ".ogg", ".mp3"):
        write_audio(tmp_path / f"out{suffix}", tone(1.0, 44100), 44100)
        waveform = load_audio(tmp_path / f"out{suffix}", 16000)
        assert abs(len(waveform) - 16000) < 1600  # mp3 adds a little silence
        assert abs(frequency_of(waveform, 16000) - 440) < 5
    assert len(list(tmp_path.iterdir())) == 4


def test_wav_has_sixteen_bits_and_loud_samples_are_clipped(tmp_path):
    path, samples = tmp_path / "out.wav", torch.from_numpy(noise()).bfloat16()
    write_audio(path, samples, 16000)
    np.testing.assert_allclose(load_audio(path, 16000), to_mono(samples), atol=1 / 32768)
    assert soundfile.info(str(path)).subtype == "PCM_16"
    write_audio(path, tone() * 3, 16000)
    np.testing.assert_allclose(load_audio(path, 16000), np.clip(tone() * 3, -1, 1), atol=1e-4)


def test_failed_write_leaves_no_file(tmp_path):
    cases = [
        ("out.txt", tone(), 16000, "must end with .wav"),
        ("out", tone(), 16000, "must end with .wav"),
        ("missing/out.wav", tone(), 16000, "does not exist"),
        ("out.wav", np.zeros(0), 16000, "empty waveform"),
        ("out.wav", np.full(100, np.nan), 16000, "NaN"),
        ("out.wav", tone(), 0, "`sampling_rate` is 0"),
        ("out.mp3", tone(), 12345, "Cannot write"),
    ]
    for name, waveform, rate, message in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            write_audio(tmp_path / name, waveform, rate)
        assert list(tmp_path.iterdir()) == []


def test_failed_atomic_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    for content in ("old", "new"):
        with atomic_write(path) as temporary:
            assert temporary.parent == tmp_path and temporary.suffix == ".json"
            temporary.write_text(content)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise OSError("No space left on device")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
