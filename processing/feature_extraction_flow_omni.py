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
"""Features of waveforms: Whisper's log-mel for the audio encoder, patches of Vocos's log-mel as speech targets."""

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature, WhisperFeatureExtractor
from transformers.utils import TensorType

from .audio_io import flat_list, load_audio


# Smaller magnitudes are raised to this one, so that the logarithm of digital silence is -16.1 and not minus infinity.
SMALLEST_MAGNITUDE = 1e-7


def htk_mel_filters(sampling_rate: int, n_fft: int, num_mel_bins: int) -> torch.Tensor:
    """
    Triangular filters of height 1, evenly spaced on the HTK mel scale: `(n_fft // 2 + 1, num_mel_bins)`.

    Computed in float32, in this order of operations: filters computed in float64 (as `transformers.audio_utils` does)
    and rounded afterwards differ from those that Vocos was trained with by up to 1e-4 in the log.
    """
    frequencies = torch.linspace(0, sampling_rate // 2, n_fft // 2 + 1, dtype=torch.float32)
    max_mel = 2595.0 * math.log10(1.0 + sampling_rate / 2 / 700.0)
    mels = torch.linspace(0.0, max_mel, num_mel_bins + 2, dtype=torch.float32)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    widths = edges[1:] - edges[:-1]
    slopes = edges.unsqueeze(0) - frequencies.unsqueeze(1)
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


class MelSpectrogram(nn.Module):
    """
    Natural logarithm of the magnitude mel spectrogram, as in Vocos: HTK scale, triangles of height 1, a Hann window of
    `n_fft`.

    With `padding="center"` the first frame is centred on the first sample, and `n` samples give `1 + n // hop_length`
    frames; with `"same"` it is centred half a hop later, and they give `n // hop_length`. Both reflect the waveform at
    its ends. The mel is differentiable in the waveform, so that a vocoder's loss can use it.
    """

    def __init__(
        self,
        sampling_rate: int = 24000,
        n_fft: int = 1024,
        hop_length: int = 256,
        num_mel_bins: int = 100,
        padding: Literal["center", "same"] = "center",
    ):
        super().__init__()
        if padding not in ("center", "same") or hop_length > n_fft or (padding == "same" and (n_fft - hop_length) % 2):
            raise ValueError(
                f'`padding` is {padding!r}, `n_fft` {n_fft}, `hop_length` {hop_length}: choose "center" or "same", a '
                '`hop_length` of at most `n_fft`, and with "same" an even difference between the two.'
            )
        self.sampling_rate = sampling_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.num_mel_bins = num_mel_bins
        self.padding = padding
        self.padded_samples = n_fft // 2 if padding == "center" else (n_fft - hop_length) // 2
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float32), persistent=False)
        self.register_buffer("filters", htk_mel_filters(sampling_rate, n_fft, num_mel_bins), persistent=False)

    def num_samples(self, num_frames: int) -> int:
        """Number of samples that a vocoder makes of `num_frames`: the shortest waveform with as many frames."""
        return max(0, (num_frames - 1) * self.hop_length + self.n_fft - 2 * self.padded_samples)

    @property
    def min_samples(self) -> int:
        """Number of samples of the shortest waveform that can be reflected at its ends and gives a frame."""
        return max(self.padded_samples + 1, self.num_samples(1), 1)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Maps `(num_samples,)` or `(batch_size, num_samples)` to `(..., num_frames, num_mel_bins)`."""
        if waveform.shape[-1] < self.min_samples:
            raise ValueError(
                f"Got a waveform of {waveform.shape[-1]} samples, but at least {self.min_samples} are needed: append silence."
            )
        # fp32 under autocast too: a spectrum spans more than the 8 bits of bf16
        with torch.autocast(waveform.device.type, enabled=False):
            batch = torch.atleast_2d(waveform).to(self.window.dtype)
            batch = nn.functional.pad(batch, (self.padded_samples, self.padded_samples), mode="reflect")
            spectrum = torch.stft(
                batch, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True
            )
            mel = spectrum.abs().transpose(-1, -2) @ self.filters
            log_mel = mel.clamp(min=SMALLEST_MAGNITUDE).log()
        return log_mel if waveform.ndim == 2 else log_mel.squeeze(0)


class FlowOmniFeatureExtractor(WhisperFeatureExtractor):
    """
    Whisper's features for audio of any length, and mel patches of spoken answers ([`extract_mel`]). Each waveform is
    padded with silence to whole positions of the language model, separately, so that its features do not depend on the
    rest of the batch. For exactly 30 seconds the features equal Whisper's.

    Args:
        adapter_stack_size (`int`, *optional*, defaults to 4):
            Number of encoder frames that the audio adapter joins into one position of the language model.
        frames_per_step (`int`, *optional*, defaults to 4):
            Number of mel frames in a patch of generated speech.
        speech_sampling_rate, speech_n_fft, speech_hop_length, speech_num_mel_bins, speech_padding (*optional*):
            Arguments of the [`MelSpectrogram`] of generated speech. The defaults are those of Vocos at 24 kHz.
        kwargs:
            Arguments of [`WhisperFeatureExtractor`] for the features: `feature_size`, `sampling_rate`, `dither`, …
    """

    model_input_names = ["input_features", "input_features_mask"]

    def __init__(
        self,
        adapter_stack_size: int = 4,
        frames_per_step: int = 4,
        speech_sampling_rate: int = 24000,
        speech_n_fft: int = 1024,
        speech_hop_length: int = 256,
        speech_num_mel_bins: int = 100,
        speech_padding: Literal["center", "same"] = "center",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.adapter_stack_size = adapter_stack_size
        self.frames_per_step = frames_per_step
        self.speech_sampling_rate = speech_sampling_rate
        self.speech_n_fft = speech_n_fft
        self.speech_hop_length = speech_hop_length
        self.speech_num_mel_bins = speech_num_mel_bins
        self.speech_padding = speech_padding

    @property
    def frames_per_position(self) -> int:
        """Feature frames in a position of the language model: the encoder halves them, the adapter stacks them."""
        return 2 * self.adapter_stack_size

    @property
    def samples_per_position(self) -> int:
        """Samples of input audio in a position of the language model."""
        return self.hop_length * self.frames_per_position

    @property
    def patches_per_second(self) -> float:
        """Number of patches in a second of generated speech."""
        return self.speech_sampling_rate / (self.speech_hop_length * self.frames_per_step)

    @property
    def mel_spectrogram(self) -> MelSpectrogram:
        """The mel spectrogram of generated speech."""
        sizes = (self.speech_sampling_rate, self.speech_n_fft, self.speech_hop_length, self.speech_num_mel_bins)
        return _mel_spectrogram(*sizes, self.speech_padding)

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
        device: str = "cpu",
        max_seconds: float | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Features of one or several audios, right-padded with zeros.

        Args:
            raw_speech (audio or `list` of audios):
                Anything that [`load_audio`] reads. A two-dimensional array is a batch of mono waveforms.
            sampling_rate (`int`, *optional*):
                Sampling rate of arrays. Defaults to the extractor's.
            max_seconds (`float`, *optional*):
                Maximum length of each audio.
            kwargs:
                Ignored, as Whisper's options of padding and truncation do not apply: audio is never cut.

        Returns:
            `input_features` `(num_audios, feature_size, num_frames)` and `input_features_mask` `(num_audios,
            num_frames)`, 1 for frames of audio and 0 for padding.
        """
        features = []
        is_batch = isinstance(raw_speech, np.ndarray | torch.Tensor) and raw_speech.ndim == 2
        audios = flat_list(list(raw_speech) if is_batch else raw_speech)
        for index, audio in enumerate(audios):
            try:
                waveform = load_audio(audio, self.sampling_rate, max_seconds, sampling_rate)
            except (ValueError, TypeError, OSError) as error:
                error.add_note(f"This is audio {index + 1} of {len(audios)}.")
                raise
            num_missing = -len(waveform) % self.samples_per_position
            padded = np.pad(waveform, (0, num_missing), constant_values=self.padding_value)
            features.append(self._torch_extract_fbank_features(padded[None], device)[0])
        num_frames = np.array([feature.shape[-1] for feature in features])
        batch = np.zeros((len(features), self.feature_size, num_frames.max()), dtype=np.float32)
        for row, feature in zip(batch, features):
            row[:, : feature.shape[-1]] = feature
        mask = np.arange(num_frames.max()) < num_frames[:, None]
        return BatchFeature(
            {"input_features": batch, "input_features_mask": mask.astype(np.int64)}, tensor_type=return_tensors
        )

    def extract_mel(
        self, audio: Any, sampling_rate: int | None = None, max_seconds: float | None = None
    ) -> torch.Tensor:
        """
        The log-mel patches `(num_patches, frames_per_step, speech_num_mel_bins)` of a spoken answer. Silence is
        appended to fill the last patch, so that a vocoder's output is at least as long as the speech.

        `audio` is anything that [`load_audio`] reads, `sampling_rate` that of an array.
        """
        samples = torch.from_numpy(load_audio(audio, self.speech_sampling_rate, max_seconds, sampling_rate))
        mel_spectrogram = self.mel_spectrogram
        missing = max(len(samples), mel_spectrogram.min_samples) - mel_spectrogram.num_samples(1)
        num_frames = 1 + max(0, math.ceil(missing / self.speech_hop_length))
        num_patches = math.ceil(num_frames / self.frames_per_step)
        num_samples = mel_spectrogram.num_samples(num_patches * self.frames_per_step)
        mel = mel_spectrogram(nn.functional.pad(samples, (0, num_samples - len(samples))))
        return mel.unflatten(0, (-1, self.frames_per_step))

    def silent_patches(self, num_patches: int) -> torch.Tensor:
        """Patches of digital silence, shaped as those of [`extract_mel`]."""
        return torch.full((num_patches, self.frames_per_step, self.speech_num_mel_bins), SMALLEST_MAGNITUDE).log()


@lru_cache(maxsize=8)
def _mel_spectrogram(*geometry: Any) -> MelSpectrogram:
    """Shared by extractors of the same geometry, outside them so that its buffers are not saved in their JSON file."""
    with torch.device("cpu"):  # also where another default device is set at the first call
        return MelSpectrogram(*geometry)
