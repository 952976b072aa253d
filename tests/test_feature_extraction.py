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
"""Heard speech becomes Whisper's features, of any length; said speech becomes whole patches of Vocos's mel."""

import json

import numpy as np
import pytest
import torch
import whisper
from sounds import file_bytes, noise, tone
from transformers import AutoFeatureExtractor, WhisperFeatureExtractor
from vocos.feature_extractors import MelSpectrogramFeatures

from flow_omni.processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor


@pytest.fixture(scope="module")
def extractor():
    return FlowOmniFeatureExtractor()


@pytest.mark.parametrize("feature_size", [80, 128])
def test_thirty_seconds_give_whispers_own_features_bit_for_bit(feature_size):
    waveform = noise(30.0)
    ours = FlowOmniFeatureExtractor(feature_size=feature_size)(waveform, sampling_rate=16000, return_tensors="pt")
    theirs = WhisperFeatureExtractor(feature_size=feature_size)(waveform, sampling_rate=16000, return_tensors="pt")
    assert torch.equal(ours["input_features"], theirs["input_features"])
    assert ours["input_features_mask"].shape == (1, 3000) and ours["input_features_mask"].all()


@pytest.mark.parametrize("feature_size", [80, 128])
def test_thirty_seconds_give_openai_whispers_features(feature_size):
    waveform = noise(30.0)
    ours = FlowOmniFeatureExtractor(feature_size=feature_size)(waveform, return_tensors="pt")["input_features"][0]
    theirs = whisper.log_mel_spectrogram(torch.from_numpy(waveform), n_mels=feature_size)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_samples", [160, 1279, 1280, 1281, 16000, 16001])
@pytest.mark.parametrize("stack_size", [1, 4, 5])
def test_each_waveform_is_padded_to_whole_steps(num_samples, stack_size):
    extractor = FlowOmniFeatureExtractor(adapter_stack_size=stack_size)
    features = extractor(noise(2.0)[:num_samples], return_tensors="np")["input_features"]
    num_steps = -(-num_samples // (160 * 2 * stack_size))
    assert features.shape[-1] == num_steps * 2 * stack_size


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
        assert not features[:, ~mask.bool()].any()


def test_masks_are_ones_then_zeros(extractor):
    mask = extractor([noise(0.1), noise(0.2)], return_tensors="pt")["input_features_mask"]
    assert mask.dtype == torch.long
    assert mask.tolist() == [[1] * 16 + [0] * 8, [1] * 24]


def test_arrays_tensors_lists_and_files_give_the_same(extractor):
    expected = extractor(tone(), return_tensors="np")["input_features"]
    for source in (
        torch.from_numpy(tone()),
        tone().tolist(),
        [tone()],
        tone()[None],
        file_bytes(tone(), subtype="FLOAT"),
    ):
        np.testing.assert_array_equal(extractor(source, return_tensors="np")["input_features"], expected)


def test_two_dimensional_array_is_a_batch_as_for_whisper(extractor):
    assert extractor(np.stack([tone(), noise()]), return_tensors="np")["input_features"].shape[0] == 2


def test_other_rates_are_resampled(extractor):
    features = extractor(tone(0.5, 48000), sampling_rate=48000, return_tensors="pt")["input_features"]
    reference = extractor(tone(0.5, 16000), return_tensors="pt")["input_features"]
    assert features.shape == reference.shape
    loudest = reference.mean(dim=-1).argmax()
    assert features.mean(dim=-1).argmax() == loudest


@pytest.mark.parametrize(
    ("return_tensors", "expected"), [("pt", torch.Tensor), ("np", np.ndarray), (None, np.ndarray)]
)
def test_tensors_are_of_the_kind_asked_for(extractor, return_tensors, expected):
    features = extractor([tone(), tone(0.2)], return_tensors=return_tensors)
    assert list(features) == extractor.model_input_names
    assert all(isinstance(value, expected) for value in features.values())


def test_whispers_options_do_not_cut_audio(extractor):
    cut = extractor(noise(), truncation=True, max_length=100, padding="max_length", return_tensors="pt")
    assert torch.equal(cut["input_features"], extractor(noise(), return_tensors="pt")["input_features"])


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("frames_per_step", [1, 4, 8])
@pytest.mark.parametrize("num_samples", [240, 5120, 5121, 24000])
def test_patches_are_vocos_mel_of_the_waveform_and_silence(padding, frames_per_step, num_samples):
    extractor = FlowOmniFeatureExtractor(frames_per_step=frames_per_step, speech_padding=padding)
    waveform = noise(1.0, 24000)[:num_samples]
    patches = extractor.extract_mel(waveform)
    assert patches.shape[1:] == (frames_per_step, 100)

    num_frames = len(patches) * frames_per_step
    num_padded = extractor.mel_spectrogram.num_samples(num_frames)
    assert num_padded >= num_samples
    vocos = MelSpectrogramFeatures(24000, 1024, 256, 100, padding)
    expected = vocos(torch.nn.functional.pad(torch.from_numpy(waveform), (0, num_padded - num_samples))[None])[0].T
    torch.testing.assert_close(patches.flatten(0, 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", ["center", "same"])
def test_no_patch_is_superfluous(padding):
    extractor = FlowOmniFeatureExtractor(speech_padding=padding)
    for num_samples in range(2000, 6000, 127):
        num_patches = len(extractor.extract_mel(noise(1.0, 24000)[:num_samples]))
        assert extractor.mel_spectrogram.num_samples((num_patches - 1) * 4) < num_samples


def test_speech_at_another_rate_is_resampled(extractor):
    low, high = extractor.extract_mel(tone(1.0, 24000)), extractor.extract_mel(tone(1.0, 48000), sampling_rate=48000)
    assert low.shape == high.shape
    loud = low[1:-1] > -1  # the edges ring differently
    torch.testing.assert_close(low[1:-1][loud], high[1:-1][loud], atol=0.05, rtol=0)


def test_silent_patches_are_those_of_silence(extractor):
    torch.testing.assert_close(extractor.silent_patches(2), extractor.extract_mel(np.zeros(1900))[:2])


@pytest.mark.parametrize("name", ["adapter_stack_size", "frames_per_step"])
@pytest.mark.parametrize("value", [0, -1, 1.5, None])
def test_sizes_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` is {value}"):
        FlowOmniFeatureExtractor(**{name: value})


def test_saving_keeps_every_field_and_those_of_the_future(tmp_path):
    extractor = FlowOmniFeatureExtractor(
        feature_size=128,
        adapter_stack_size=2,
        frames_per_step=8,
        speech_sampling_rate=22050,
        speech_n_fft=512,
        speech_hop_length=128,
        speech_num_mel_bins=40,
        speech_padding="same",
        dither=1e-5,
        loudness_target=-23,
    )
    extractor.save_pretrained(tmp_path)
    for loaded in (FlowOmniFeatureExtractor.from_pretrained(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)):
        assert type(loaded) is FlowOmniFeatureExtractor
        assert loaded.to_dict() == extractor.to_dict()
        assert loaded.loudness_target == -23
        assert loaded.extract_mel(noise(0.1, 22050)).shape[1:] == (8, 40)


def test_saved_file_says_where_the_code_is_and_holds_no_filters(tmp_path):
    FlowOmniFeatureExtractor().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_flow_omni.FlowOmniFeatureExtractor"}
    assert not any(isinstance(value, list) for value in saved.values())
    for name in ("feature_extraction_flow_omni", "audio_io", "mel_spectrogram"):
        assert (tmp_path / f"{name}.py").is_file()
