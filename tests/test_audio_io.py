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
"""Sound is read alike from everywhere, and what cannot be sound is refused with the reason."""

import base64
import http.server
import io
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from sounds import file_bytes, frequency_of, noise, tone

from flow_omni.processing import audio_io
from flow_omni.processing.audio_io import load_audio, resample, to_mono, write_audio


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(), 16000, subtype="FLOAT")
    return path


def test_every_source_of_the_same_file_gives_the_same_samples(wav):
    contents = wav.read_bytes()
    sources = [
        str(wav),
        wav,
        contents,
        bytearray(contents),
        io.BytesIO(contents),
        f"data:audio/wav;base64,{base64.b64encode(contents).decode()}",
        {"path": str(wav), "bytes": None},
        {"path": "elsewhere.wav", "bytes": contents},
        {"array": tone(), "sampling_rate": 16000, "path": None},
        SimpleNamespace(
            get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(tone())[None], sample_rate=16000)
        ),
        tone(),
        torch.from_numpy(tone()),
        tone().tolist(),
        tone().astype(np.float64),
    ]
    for source in sources:
        waveform = load_audio(source, 16000)
        assert waveform.dtype == np.float32 and waveform.ndim == 1
        np.testing.assert_array_equal(waveform, tone())


def test_open_file_is_read_and_left_open(wav):
    with open(wav, "rb") as file:
        np.testing.assert_array_equal(load_audio(file, 16000), tone())
        assert not file.closed


def test_stream_that_cannot_seek_is_read(wav):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    np.testing.assert_array_equal(load_audio(Pipe(wav.read_bytes()), 16000), tone())


def test_home_directory_is_expanded(wav, monkeypatch):
    monkeypatch.setenv("HOME", str(wav.parent))
    assert len(load_audio("~/tone.wav", 16000)) == 8000


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_every_kind_of_file_keeps_its_tone(kind):
    waveform = load_audio(file_bytes(tone(1.0, 44100), 44100, kind), 16000)
    assert abs(len(waveform) - 16000) < 1600  # mp3 adds a little silence
    assert abs(frequency_of(waveform, 16000) - 440) < 5


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_any_rate_is_resampled_to_the_same_tone(rate):
    waveform = load_audio(tone(1.0, rate), 16000, source_sampling_rate=rate)
    assert len(waveform) == 16000
    middle = slice(1000, -1000)
    np.testing.assert_allclose(waveform[middle], tone(1.0, 16000)[middle], atol=5e-3)


@pytest.mark.parametrize("num_samples", [441, 4410, 4411, 13671])
def test_resampling_rounds_the_length_up(num_samples):
    waveform = load_audio(noise(1.0, 44100)[:num_samples], 16000, source_sampling_rate=44100)
    assert len(waveform) == -(-num_samples * 16000 // 44100)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("num_channels", [1, 2, 6])
def test_channels_are_averaged_whichever_axis_they_are(axis, num_channels):
    channels = np.stack([tone() * gain for gain in np.linspace(0.2, 1.0, num_channels)], axis=axis)
    np.testing.assert_allclose(to_mono(channels), channels.mean(axis=axis), atol=1e-6)


def test_stereo_file_is_averaged():
    stereo = np.stack([tone(), np.zeros_like(tone())], axis=1)
    np.testing.assert_allclose(load_audio(file_bytes(stereo, subtype="FLOAT"), 16000), tone() / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [(np.int8, 128, 0), (np.uint8, 128, 128), (np.int16, 32768, 0), (np.int32, 2**31, 0), (np.float16, 1, 0)],
)
def test_integers_are_scaled_by_their_type(dtype, scale, offset):
    samples = (tone().astype(np.float64) * scale + offset).astype(dtype)
    np.testing.assert_allclose(to_mono(samples), tone(), atol=1.5 / scale if scale > 1 else 1e-3)
    if dtype not in (np.float16, np.int8):
        np.testing.assert_array_equal(to_mono(torch.from_numpy(samples)), to_mono(samples))


def test_bfloat16_tensor_with_gradient_is_read():
    tensor = torch.from_numpy(tone()).bfloat16().requires_grad_()
    np.testing.assert_allclose(to_mono(tensor), tone(), atol=4e-3)


def test_silence_and_clipping_are_sound():
    assert not load_audio(np.zeros(1600), 16000).any()
    clipped = np.clip(tone() * 4, -1, 1)
    np.testing.assert_array_equal(load_audio(clipped, 16000), clipped)
    louder_than_full_scale = tone() * 3
    np.testing.assert_array_equal(load_audio(louder_than_full_scale, 16000), louder_than_full_scale)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(0, np.float32), "empty waveform"),
        ([], "empty waveform"),
        (np.zeros((2, 0)), "empty waveform"),
        (np.zeros(1), r"0\.0625 ms of audio: at least 10 ms"),
        (np.float32(0.5), "type `float32`"),
        (np.zeros((1, 2, 800)), r"shape \(1, 2, 800\)"),
        (np.zeros((400, 400)), r"shape \(400, 400\), which is no recording"),
        (np.array([0.1, np.nan, 0.3, -np.inf] * 100), "200 of 400 samples are NaN or infinite"),
        (np.full(400, 1e300), "NaN or infinite"),
        (tone() * 20000, "Divide 16-bit samples by 32768"),
        (np.array(["a"] * 400), "type `<U1`"),
        (np.array([object()] * 400), "type `object`"),
        (np.zeros(400, complex), "type `complex128`"),
        (np.zeros(400, bool), "type `bool`"),
        (np.zeros(400, np.int64), "type `int64`"),
        ([[0.1, 0.2], [0.3]], "several waveforms for one audio"),
        (17, "type `int`"),
        (None, "type `NoneType`"),
        ({"text": "hello"}, r"keys \['text'\]"),
        ({"bytes": None, "path": None}, "must hold `array`"),
        (b"", "Cannot decode the 0 bytes given"),
        (b"this is no audio file" * 10, "wav, flac, ogg and mp3 files can be read"),
        ("data:audio/wav;base64,%%%", "base64"),
        ("https://localhost:1/nothing.wav", "Cannot download https://localhost:1/nothing.wav"),
    ],
)
def test_what_cannot_be_sound_is_refused(source, message):
    with pytest.raises((ValueError, TypeError), match=message):
        load_audio(source, 16000)


def test_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no audio file at 'nowhere\.wav': check the path"):
        load_audio("nowhere.wav", 16000)


def test_very_long_string_is_not_repeated_in_full():
    with pytest.raises(FileNotFoundError) as raised:
        load_audio("A" * 100_000, 16000)
    assert len(str(raised.value)) < 400


def test_folder_empty_file_and_text_file_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_audio(tmp_path, 16000)
    empty, text = tmp_path / "empty.wav", tmp_path / "text.wav"
    empty.touch()
    text.write_text("hello")
    with pytest.raises(ValueError, match="is empty"):
        load_audio(empty, 16000)
    with pytest.raises(ValueError, match=r"Cannot decode '.*text\.wav'.*ffmpeg"):
        load_audio(text, 16000)
    with open(text) as file, pytest.raises(TypeError, match='open.path, "rb".'):
        load_audio(file, 16000)


def test_file_without_samples_is_refused():
    with pytest.raises(ValueError, match="holds no samples"):
        load_audio(file_bytes(np.zeros(0, np.float32)), 16000)


def test_file_cut_off_in_its_header_is_refused(wav):
    with pytest.raises(ValueError, match="Cannot decode|holds no samples"):
        load_audio(wav.read_bytes()[:30], 16000)


@pytest.mark.parametrize("rate", [0, -16000, 16, 16.0, 10**9, "16000", True, float("nan")])
def test_sampling_rates_that_cannot_be_are_refused(rate):
    with pytest.raises(ValueError, match="`sampling_rate` is"):
        load_audio(tone(), 16000, source_sampling_rate=rate)


def test_hour_long_file_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "hour.wav"
    soundfile.write(path, np.zeros(3600 * 1000, np.int16), 1000)

    def read(*args, **kwargs):
        raise AssertionError("an hour of audio was decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    with pytest.raises(ValueError, match=r"3600\.0 s of audio: at most 600 s"):
        load_audio(path, 16000, max_seconds=600)


def test_long_array_is_refused():
    with pytest.raises(ValueError, match=r"0\.5 s of audio: at most 0\.4 s are accepted"):
        load_audio(tone(0.5), 16000, max_seconds=0.4)
    assert len(load_audio(tone(0.5), 16000, max_seconds=0.5)) == 8000


@pytest.fixture
def server(wav):
    """An HTTP server of one file, which also redirects and does not find."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/tone.wav":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(wav.read_bytes())
            elif self.path == "/moved.wav":
                self.send_response(302)
                self.send_header("Location", "/tone.wav")
                self.end_headers()
            else:
                self.send_error(404)

        def log_message(self, *args):
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_url_is_downloaded(server):
    for path in ("tone.wav", "moved.wav"):
        np.testing.assert_array_equal(load_audio(f"{server}/{path}", 16000), tone())


def test_url_that_is_not_there_is_named(server):
    with pytest.raises(ValueError, match=r"Cannot download http://127.*missing\.wav \(HTTP Error 404"):
        load_audio(f"{server}/missing.wav", 16000)


def test_download_has_a_limit(server, monkeypatch):
    monkeypatch.setattr(audio_io, "MAX_DOWNLOAD_BYTES", 1000)
    with pytest.raises(ValueError, match="larger than"):
        load_audio(f"{server}/tone.wav", 16000)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_written_file_sounds_the_same(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    write_audio(path, tone(1.0, 24000), 24000)
    assert abs(frequency_of(load_audio(path, 24000), 24000) - 440) < 5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_wav_keeps_the_samples_to_sixteen_bits(tmp_path):
    write_audio(tmp_path / "out.wav", torch.from_numpy(noise()).bfloat16(), 16000)
    expected = to_mono(torch.from_numpy(noise()).bfloat16())
    np.testing.assert_allclose(load_audio(tmp_path / "out.wav", 16000), expected, atol=1 / 32768)
    assert soundfile.info(str(tmp_path / "out.wav")).subtype == "PCM_16"


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    write_audio(tmp_path / "out.wav", tone() * 3, 16000)
    np.testing.assert_allclose(load_audio(tmp_path / "out.wav", 16000), np.clip(tone() * 3, -1, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "waveform", "rate", "message"),
    [
        ("out.txt", tone(), 16000, "ends in '.txt'"),
        ("out", tone(), 16000, "name a file that ends in"),
        ("missing/out.wav", tone(), 16000, "does not exist"),
        ("out.wav", np.zeros(0), 16000, "empty waveform"),
        ("out.wav", np.full(100, np.nan), 16000, "NaN"),
        ("out.wav", tone(), 0, "`sampling_rate` is 0"),
        ("out.mp3", tone(), 12345, "Cannot write"),
    ],
)
def test_failed_write_leaves_nothing_behind(tmp_path, name, waveform, rate, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write_audio(tmp_path / name, waveform, rate)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "out.wav"
    write_audio(path, tone(), 16000)
    before = path.read_bytes()

    def write_half(file, *args, **kwargs):
        with open(file, "wb") as half:
            half.write(b"RIFF")
        raise OSError("No space left on device")

    monkeypatch.setattr(soundfile, "write", write_half)
    with pytest.raises(OSError, match="No space left"):
        write_audio(path, noise(), 16000)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.wav"]


def test_resampling_to_the_same_rate_changes_nothing():
    waveform = noise()
    assert resample(waveform, 16000, 16000) is waveform
