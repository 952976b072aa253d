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
"""Waveforms to features: Whisper's log-mel, of any length, for what is heard; patches of Vocos's mel for what is said."""

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from transformers import BatchFeature, WhisperFeatureExtractor
from transformers.utils import TensorType

from .audio_io import load_audio
from .mel_spectrogram import SMALLEST_MAGNITUDE, MelSpectrogram


class FlowOmniFeatureExtractor(WhisperFeatureExtractor):
    """
    Whisper's features without its 30 seconds. Each waveform is padded with silence to whole steps of the language model,
    on its own, so that its features do not depend on the rest of the batch; longer audio than 30 seconds is not cut. On
    exactly 30 seconds the features are Whisper's own.

    It also turns the speech that the model learns to say into patches of mel frames ([`extract_mel`]).

    Args:
        feature_size (`int`, *optional*, defaults to 80):
            Mel bands of the features for Whisper's encoder.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Samples per second of heard speech. Audio at other rates is resampled.
        hop_length (`int`, *optional*, defaults to 160):
            Samples between two feature frames.
        chunk_length (`int`, *optional*, defaults to 30):
            Seconds that Whisper's encoder takes at once. The model cuts longer audio into windows of this length itself.
        n_fft (`int`, *optional*, defaults to 400):
            Window of the Fourier transform behind the features, in samples.
        padding_value (`float`, *optional*, defaults to 0.0):
            Value of silence.
        dither (`float`, *optional*, defaults to 0.0):
            Deviation of the noise added to heard speech.
        adapter_stack_size (`int`, *optional*, defaults to 4):
            Encoder frames that the model's adapter joins into one step.
        frames_per_step (`int`, *optional*, defaults to 4):
            Mel frames in a patch of spoken speech.
        speech_sampling_rate (`int`, *optional*, defaults to 24000):
            Samples per second of spoken speech.
        speech_n_fft (`int`, *optional*, defaults to 1024):
            Window of the Fourier transform behind its mel frames, in samples.
        speech_hop_length (`int`, *optional*, defaults to 256):
            Samples between two mel frames.
        speech_num_mel_bins (`int`, *optional*, defaults to 100):
            Mel bands of a mel frame.
        speech_padding (`str`, *optional*, defaults to `"center"`):
            Where the first mel frame lies, `"center"` or `"same"`, as in Vocos.
    """

    model_input_names = ["input_features", "input_features_mask"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        chunk_length: int = 30,
        n_fft: int = 400,
        padding_value: float = 0.0,
        dither: float = 0.0,
        adapter_stack_size: int = 4,
        frames_per_step: int = 4,
        speech_sampling_rate: int = 24000,
        speech_n_fft: int = 1024,
        speech_hop_length: int = 256,
        speech_num_mel_bins: int = 100,
        speech_padding: Literal["center", "same"] = "center",
        return_attention_mask: bool = True,
        **kwargs,
    ):
        for name, value in {"adapter_stack_size": adapter_stack_size, "frames_per_step": frames_per_step}.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` is {value!r}: it must be a whole number of at least 1, as in the model's config."
                )
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            hop_length=hop_length,
            chunk_length=chunk_length,
            n_fft=n_fft,
            padding_value=padding_value,
            dither=dither,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        self.adapter_stack_size = adapter_stack_size
        self.frames_per_step = frames_per_step
        self.speech_sampling_rate = speech_sampling_rate
        self.speech_n_fft = speech_n_fft
        self.speech_hop_length = speech_hop_length
        self.speech_num_mel_bins = speech_num_mel_bins
        self.speech_padding = speech_padding

    @property
    def samples_per_step(self) -> int:
        """Samples of heard speech in a step of the language model: the encoder halves the frames, the adapter stacks."""
        return self.hop_length * 2 * self.adapter_stack_size

    @property
    def speech_steps_per_second(self) -> float:
        """Patches in a second of spoken speech."""
        return self.speech_sampling_rate / (self.speech_hop_length * self.frames_per_step)

    @property
    def mel_spectrogram(self) -> MelSpectrogram:
        return _mel_spectrogram(
            self.speech_sampling_rate,
            self.speech_n_fft,
            self.speech_hop_length,
            self.speech_num_mel_bins,
            self.speech_padding,
        )

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
        device: str = "cpu",
        **kwargs,
    ) -> BatchFeature:
        """
        Features of one or several waveforms, right-padded with zeros.

        Args:
            raw_speech (`np.ndarray`, `torch.Tensor`, `list[float]`, or a list of them):
                The waveforms. A two-dimensional array is a batch of mono waveforms, as for Whisper. Anything else that
                [`load_audio`] reads is taken as well.
            sampling_rate (`int`, *optional*):
                Samples per second of waveforms given as arrays. Defaults to the extractor's own.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`.
            device (`str`, *optional*, defaults to `"cpu"`):
                Where to compute.
            kwargs:
                Whisper's options of padding and truncation, which do not apply: audio is never cut.

        Returns:
            `input_features` `(num_audios, feature_size, num_frames)` and `input_features_mask` `(num_audios, num_frames)`,
            1 for frames of speech and 0 for padding.
        """
        waveforms = self.fetch_audio(_as_list(raw_speech), source_sampling_rate=sampling_rate)
        features = [self._whisper_features(waveform, device) for waveform in waveforms]
        num_frames = [feature.shape[-1] for feature in features]
        padded = np.zeros((len(features), self.feature_size, max(num_frames)), dtype=np.float32)
        for row, feature in zip(padded, features):
            row[:, : feature.shape[-1]] = feature
        mask = np.arange(max(num_frames)) < np.array(num_frames)[:, None]
        return BatchFeature(
            {"input_features": padded, "input_features_mask": mask.astype(np.int64)}, tensor_type=return_tensors
        )

    def fetch_audio(
        self, audio: Any, sampling_rate: int | None = None, source_sampling_rate: int | None = None
    ) -> Any:
        """
        Reads audio from wherever [`load_audio`] reads it, at `sampling_rate` (the extractor's own by default). A list of
        audios gives a list; `source_sampling_rate` is that of arrays, which cannot tell.
        """
        sampling_rate = sampling_rate or self.sampling_rate
        if _is_several(audio):
            return [load_audio(item, sampling_rate, source_sampling_rate) for item in audio]
        return load_audio(audio, sampling_rate, source_sampling_rate)

    def extract_mel(self, waveform: Any, sampling_rate: int | None = None) -> torch.Tensor:
        """
        The log-mel patches `(num_patches, frames_per_step, speech_num_mel_bins)` of spoken speech. Silence is appended
        up to whole patches, so that a vocoder gets at least the whole waveform back.

        Args:
            waveform (`np.ndarray`, `torch.Tensor` or any other source of [`load_audio`]):
                The speech.
            sampling_rate (`int`, *optional*):
                Samples per second of an array. Defaults to `speech_sampling_rate`; other rates are resampled.
        """
        samples = torch.from_numpy(load_audio(waveform, self.speech_sampling_rate, sampling_rate))
        mel_spectrogram = self.mel_spectrogram
        num_samples = self._samples_of_whole_patches(len(samples))
        mel = mel_spectrogram(torch.nn.functional.pad(samples, (0, num_samples - len(samples))))
        return mel.unflatten(0, (-1, self.frames_per_step))

    def silent_patches(self, num_patches: int) -> torch.Tensor:
        """Patches of digital silence: (num_patches, frames_per_step, speech_num_mel_bins)"""
        shape = (num_patches, self.frames_per_step, self.speech_num_mel_bins)
        return torch.full(shape, SMALLEST_MAGNITUDE).log()

    def _samples_of_whole_patches(self, num_samples: int) -> int:
        """Samples of the shortest whole number of patches that a vocoder makes at least `num_samples` of."""
        mel_spectrogram = self.mel_spectrogram
        num_samples = max(num_samples, mel_spectrogram.min_samples)
        num_frames = mel_spectrogram.num_frames(num_samples)
        if mel_spectrogram.num_samples(num_frames) < num_samples:
            num_frames += 1
        num_patches = -(-num_frames // self.frames_per_step)
        return mel_spectrogram.num_samples(num_patches * self.frames_per_step)

    def _whisper_features(self, waveform: np.ndarray, device: str) -> np.ndarray:
        """The features `(feature_size, num_frames)` of a waveform, padded to whole steps of the language model."""
        missing = -len(waveform) % self.samples_per_step
        padded = np.pad(waveform, (0, missing), constant_values=self.padding_value)
        return self._torch_extract_fbank_features(padded[None], device)[0]

    def to_dict(self) -> dict[str, Any]:
        """
        The fields, with the `auto_map` by which `trust_remote_code` finds this class. It depends on the class alone:
        transformers writes it into the object when saving, where it would tell saved objects from new ones.
        """
        output = super().to_dict()
        output.pop("auto_map", None)
        if self._auto_class is not None:
            module = self.__class__.__module__.rpartition(".")[-1]
            output["auto_map"] = {self._auto_class: f"{module}.{self.__class__.__name__}"}
        return output


@lru_cache(maxsize=8)
def _mel_spectrogram(*geometry: Any) -> MelSpectrogram:
    """Shared by all extractors of the same geometry; its filters are no fields that a checkpoint should hold."""
    with torch.device("cpu"):  # whatever the default is while it is first needed
        return MelSpectrogram(*geometry)


def _is_several(audio: Any) -> bool:
    """Whether `audio` is a list of audios; a list of numbers is one waveform."""
    is_list = isinstance(audio, list | tuple)
    return is_list and not all(isinstance(item, int | float | np.number) for item in audio)


def _as_list(raw_speech: Any) -> list:
    """One or several waveforms as a list of them."""
    if isinstance(raw_speech, np.ndarray | torch.Tensor) and raw_speech.ndim == 2:
        return list(raw_speech)
    return list(raw_speech) if _is_several(raw_speech) else [raw_speech]
