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
"""The mel-spectrogram is Vocos's own, and says how frames and samples count into each other."""

import math

import pytest
import torch
from vocos.feature_extractors import MelSpectrogramFeatures

from flow_omni.processing.mel_spectrogram import MelSpectrogram


GEOMETRIES = [
    {"sampling_rate": 24000, "n_fft": 1024, "hop_length": 256, "num_mel_bins": 100},
    {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "num_mel_bins": 40},
    {"sampling_rate": 22050, "n_fft": 512, "hop_length": 128, "num_mel_bins": 20},
]


def vocos_mel(waveform, sampling_rate, n_fft, hop_length, num_mel_bins, padding):
    """What Vocos computes, frames before mel bins as in this project."""
    extractor = MelSpectrogramFeatures(sampling_rate, n_fft, hop_length, num_mel_bins, padding)
    return extractor(waveform).transpose(1, 2)


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_mel_equals_that_of_vocos(geometry, padding):
    torch.manual_seed(0)
    loud_and_faint = torch.randn(2, 5000) * torch.tensor([[0.5], [1e-4]])
    mel = MelSpectrogram(**geometry, padding=padding)(loud_and_faint)
    torch.testing.assert_close(mel, vocos_mel(loud_and_faint, **geometry, padding=padding), atol=1e-5, rtol=0)


def test_one_waveform_gives_its_row_of_the_batch():
    torch.manual_seed(0)
    batch = torch.randn(2, 3000)
    mel_spectrogram = MelSpectrogram()
    mel = mel_spectrogram(batch[1])
    assert mel.shape == (12, 100)
    torch.testing.assert_close(mel, mel_spectrogram(batch)[1], atol=1e-5, rtol=0)


def test_silence_is_the_logarithm_of_the_smallest_magnitude():
    mel = MelSpectrogram()(torch.zeros(2000))
    torch.testing.assert_close(mel, torch.full_like(mel, math.log(1e-7)))


@pytest.mark.parametrize("padding", ["center", "same"])
def test_number_of_frames_is_foretold_for_any_number_of_samples(padding):
    mel_spectrogram = MelSpectrogram(16000, n_fft=64, hop_length=16, num_mel_bins=8, padding=padding)
    for num_samples in range(mel_spectrogram.min_samples, mel_spectrogram.min_samples + 50):
        num_frames = mel_spectrogram(torch.zeros(num_samples)).shape[0]
        assert mel_spectrogram.num_frames(num_samples) == num_frames
        assert 0 <= num_samples - mel_spectrogram.num_samples(num_frames) < mel_spectrogram.hop_length


def test_no_frames_are_no_samples():
    assert MelSpectrogram().num_samples(0) == 0
    assert MelSpectrogram(padding="same").num_samples(0) == 0


def test_gradient_reaches_every_sample_and_is_finite_in_silence():
    """The magnitude has no derivative at 0, and `sqrt` inside it would give NaN there."""
    mel_spectrogram = MelSpectrogram(16000, n_fft=64, hop_length=16, num_mel_bins=8)
    waveform = torch.cat([torch.zeros(200), torch.sin(torch.arange(200) * 0.3)]).requires_grad_()
    mel_spectrogram(waveform).sum().backward()
    assert waveform.grad.isfinite().all()
    assert (waveform.grad[250:] != 0).all()


def test_half_precision_around_it_changes_nothing():
    torch.manual_seed(0)
    waveform = torch.randn(3000)
    mel_spectrogram = MelSpectrogram()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = mel_spectrogram(waveform)
    assert mel.dtype == torch.float32
    torch.testing.assert_close(mel, mel_spectrogram(waveform), atol=0, rtol=0)


@pytest.mark.parametrize("padding", ["center", "same"])
def test_shortest_waveform_is_taken_and_a_shorter_one_is_refused_with_its_length(padding):
    mel_spectrogram = MelSpectrogram(padding=padding)
    assert mel_spectrogram(torch.zeros(mel_spectrogram.min_samples)).shape[0] > 0
    too_short = torch.zeros(mel_spectrogram.min_samples - 1)
    with pytest.raises(ValueError, match=f"{len(too_short)} samples.*at least {mel_spectrogram.min_samples}"):
        mel_spectrogram(too_short)


@pytest.mark.parametrize(
    "waveform", [torch.zeros(2000, dtype=torch.int16), torch.zeros(1, 1, 2000), torch.tensor(0.0)]
)
def test_waveform_of_another_type_or_shape_is_refused(waveform):
    with pytest.raises(ValueError, match="pass floating-point samples"):
        MelSpectrogram()(waveform)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "valid"}, "'valid'"),
        ({"n_fft": 256, "hop_length": 300}, r"\(300\) exceeds `n_fft` \(256\)"),
        ({"n_fft": 256, "hop_length": 63, "padding": "same"}, "must be even"),
    ],
)
def test_impossible_geometry_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MelSpectrogram(**options)
