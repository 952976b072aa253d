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
"""Input audio becomes Whisper's features, of any length; spoken answers become whole patches of Vocos's mel."""

import json
import math

import numpy as np
import pytest
import torch
import whisper
from sounds import noise, tone
from transformers import AutoFeatureExtractor, WhisperFeatureExtractor
from vocos.feature_extractors import MelSpectrogramFeatures

from flow_omni.processing.audio_io import resample
from flow_omni.processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor, MelSpectrogram


@pytest.fixture(scope="module")
def extractor():
    return FlowOmniFeatureExtractor()


# Whisper's features


def test_features_of_thirty_seconds_equal_whispers():
    waveform = noise(30.0)
    for feature_size in (80, 128):
        ours = FlowOmniFeatureExtractor(feature_size=feature_size)(waveform, return_tensors="pt")
        theirs = WhisperFeatureExtractor(feature_size=feature_size)(waveform, sampling_rate=16000, return_tensors="pt")
        assert torch.equal(ours["input_features"], theirs["input_features"])
        assert ours["input_features_mask"].shape == (1, 3000) and ours["input_features_mask"].all()
        openai = whisper.log_mel_spectrogram(torch.from_numpy(waveform), n_mels=feature_size)
        torch.testing.assert_close(ours["input_features"][0], openai, atol=1e-4, rtol=0)


def test_each_waveform_is_padded_to_whole_positions():
    for stack_size in (1, 4, 5):
        extractor = FlowOmniFeatureExtractor(adapter_stack_size=stack_size)
        for num_samples in (160, 1279, 1280, 1281, 16000, 16001):
            features = extractor(noise(2.0)[:num_samples], return_tensors="np")["input_features"]
            num_positions = -(-num_samples // (160 * 2 * stack_size))
            assert features.shape[-1] == num_positions * 2 * stack_size


def test_audio_longer_than_thirty_seconds_is_not_cut(extractor):
    features = extractor(noise(61.0), return_tensors="pt")
    assert features["input_features"].shape == (1, 80, 6104)
    assert features["input_features"][0, :, 6000:].std() > 0


def test_row_of_a_batch_equals_the_row_alone(extractor):
    """Features of a waveform that was padded to the longest of its batch differ near its end, and in their floor."""
    waveforms = [noise(0.31), tone(1.0), noise(2.0, seed=1)]
    batch = extractor(waveforms, return_tensors="pt")
    for waveform, features, mask in zip(waveforms, batch["input_features"], batch["input_features_mask"]):
        alone = extractor(waveform, return_tensors="pt")["input_features"][0]
        assert torch.equal(features[:, mask.bool()], alone)
        assert mask.dtype == torch.long and mask.tolist() == sorted(mask.tolist(), reverse=True)
        assert not features[:, ~mask.bool()].any()
    # a two-dimensional array is a batch, as for Whisper
    stacked, listed = (
        extractor(audio)["input_features"] for audio in (np.stack([tone(), noise()]), [tone(), noise()])
    )
    np.testing.assert_array_equal(stacked, listed)


def test_whispers_options_do_not_cut_audio(extractor):
    for return_tensors, expected in (("pt", torch.Tensor), ("np", np.ndarray), (None, np.ndarray)):
        features = extractor([tone(), noise(0.2)], return_tensors=return_tensors)
        options = {"truncation": True, "max_length": 100, "padding": "max_length", "return_tensors": return_tensors}
        cut = extractor([tone(), noise(0.2)], **options)
        assert list(features) == extractor.model_input_names
        assert all(isinstance(value, expected) and (value == cut[name]).all() for name, value in features.items())


# Patches of mel


def test_patches_are_vocos_mel_of_the_waveform_and_silence():
    for padding in ("center", "same"):
        vocos = MelSpectrogramFeatures(24000, 1024, 256, 100, padding)
        for frames_per_step in (1, 4, 8):
            extractor = FlowOmniFeatureExtractor(frames_per_step=frames_per_step, speech_padding=padding)
            for num_samples in (240, *range(2000, 6000, 509), 5120, 5121, 24000):
                waveform = noise(1.0, 24000)[:num_samples]
                patches = extractor.extract_mel(waveform)
                assert patches.shape[1:] == (frames_per_step, 100)
                num_padded = extractor.mel_spectrogram.num_samples(len(patches) * frames_per_step)
                assert num_padded >= num_samples
                fewer = extractor.mel_spectrogram.num_samples((len(patches) - 1) * frames_per_step)
                assert fewer < max(num_samples, extractor.mel_spectrogram.min_samples)
                padded = torch.nn.functional.pad(torch.from_numpy(waveform), (0, num_padded - num_samples))
                torch.testing.assert_close(patches.flatten(0, 1), vocos(padded[None])[0].T, atol=1e-5, rtol=0)


def test_other_rates_are_resampled_to_those_of_input_audio_and_of_speech(extractor):
    samples = tone(1.0, 48000)
    features = extractor(samples, sampling_rate=48000, return_tensors="pt")["input_features"]
    expected = extractor(resample(samples, 48000, 16000), return_tensors="pt")["input_features"]
    assert torch.equal(features, expected) and features.shape == (1, 80, 104)
    patches = extractor.extract_mel(samples, sampling_rate=48000)
    assert torch.equal(patches, extractor.extract_mel(resample(samples, 48000, 24000)))


def test_silent_patches_are_those_of_silence(extractor):
    torch.testing.assert_close(extractor.silent_patches(2), extractor.extract_mel(np.zeros(1900))[:2])


# The mel spectrogram


def test_mel_equals_that_of_vocos():
    loud_and_faint = torch.randn(2, 5000) * torch.tensor([[0.5], [1e-4]])
    for padding in ("center", "same"):
        for geometry in ((24000, 1024, 256, 100), (16000, 400, 160, 40), (22050, 512, 128, 20)):
            mel = MelSpectrogram(*geometry, padding=padding)(loud_and_faint)
            expected = MelSpectrogramFeatures(*geometry, padding)(loud_and_faint).transpose(1, 2)
            torch.testing.assert_close(mel, expected, atol=1e-5, rtol=0)
            alone = MelSpectrogram(*geometry, padding=padding)(loud_and_faint[1])
            torch.testing.assert_close(alone, mel[1], atol=1e-5, rtol=0)


def test_mel_of_silence_is_the_logarithm_of_the_smallest_magnitude():
    mel = MelSpectrogram()(torch.zeros(2000))
    torch.testing.assert_close(mel, torch.full_like(mel, math.log(1e-7)))


def test_number_of_samples_is_that_of_the_shortest_waveform_with_as_many_frames():
    for padding in ("center", "same"):
        mel_spectrogram = MelSpectrogram(16000, n_fft=64, hop_length=16, num_mel_bins=8, padding=padding)
        for num_samples in range(mel_spectrogram.min_samples, mel_spectrogram.min_samples + 50):
            num_frames = mel_spectrogram(torch.zeros(num_samples)).shape[0]
            assert 0 <= num_samples - mel_spectrogram.num_samples(num_frames) < mel_spectrogram.hop_length
        assert mel_spectrogram.num_samples(0) == 0


def test_gradient_reaches_every_sample_and_is_finite_in_silence():
    """The magnitude has no derivative at 0, and `sqrt` inside it would give NaN there."""
    mel_spectrogram = MelSpectrogram(16000, n_fft=64, hop_length=16, num_mel_bins=8)
    waveform = torch.cat([torch.zeros(200), torch.sin(torch.arange(200) * 0.3)]).requires_grad_()
    mel_spectrogram(waveform).sum().backward()
    assert waveform.grad.isfinite().all()
    assert (waveform.grad[250:] != 0).all()


def test_mel_is_computed_in_float32_under_autocast():
    waveform, mel_spectrogram = torch.randn(3000), MelSpectrogram()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = mel_spectrogram(waveform)
    assert mel.dtype == torch.float32
    torch.testing.assert_close(mel, mel_spectrogram(waveform), atol=0, rtol=0)


def test_waveform_too_short_to_be_reflected_is_refused():
    for padding in ("center", "same"):
        mel_spectrogram = MelSpectrogram(padding=padding)
        shortest = mel_spectrogram.min_samples
        assert mel_spectrogram(torch.zeros(shortest)).shape[0] > 0
        with pytest.raises(ValueError, match=f"{shortest - 1} samples.*at least {shortest}"):
            mel_spectrogram(torch.zeros(shortest - 1))


def test_impossible_geometry_is_refused():
    for options in ({"padding": "valid"}, {"hop_length": 1025}, {"hop_length": 255, "padding": "same"}):
        with pytest.raises(ValueError, match="choose"):
            MelSpectrogram(**options)


# Saving


def test_saving_keeps_every_field_and_the_code(tmp_path):
    mel = {"speech_sampling_rate": 22050, "speech_n_fft": 512, "speech_hop_length": 128, "speech_num_mel_bins": 40}
    sizes = {"feature_size": 128, "dither": 1e-5, "adapter_stack_size": 2, "frames_per_step": 8}
    extractor = FlowOmniFeatureExtractor(**sizes, **mel, speech_padding="same")
    extractor.save_pretrained(tmp_path)
    for loaded in (FlowOmniFeatureExtractor.from_pretrained(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)):
        assert type(loaded) is FlowOmniFeatureExtractor
        assert loaded.to_dict() == extractor.to_dict()
        assert loaded.extract_mel(noise(0.1, 22050)).shape[1:] == (8, 40)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_flow_omni.FlowOmniFeatureExtractor"}
    assert not any(isinstance(value, list) for value in saved.values())  # no filters
    for name in ("feature_extraction_flow_omni", "audio_io", "files"):
        assert (tmp_path / f"{name}.py").is_file()
