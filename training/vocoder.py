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
"""Training of the vocoder: segments of recordings, reconstruction losses, discriminators, and its Trainer."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import Dataset

from ..modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from ..processing.audio_io import load_audio
from ..processing.feature_extraction_flow_omni import MelSpectrogram
from .arguments import FlowOmniTrainingArguments
from .data import audio_of, audio_seconds, has, uniform
from .trainer import AtomicTrainer


logger = logging.getLogger(__name__)

# Window lengths in samples; each hops a quarter of its window. The long ones resolve pitch, the short ones clicks.
STFT_WINDOWS = (2048, 1024, 512, 256, 128)
PERIODS, RESOLUTIONS = (2, 3, 5, 7, 11), (2048, 1024, 512)
SMALLEST_MAGNITUDE = 1e-5
SLOPE = 0.1
LOSSES = ("mel_loss", "stft_loss", "adversarial_loss", "feature_loss", "discriminator_loss")


class VocoderSegments(Dataset):
    """
    Segments of `num_samples` of the spoken answers of rows, padded with silence where a recording is shorter. Where a
    segment is cut depends on the seed and its index alone, so that a resumed run sees the same ones.
    """

    def __init__(
        self, rows: Any, sampling_rate: int, num_samples: int, seed: int = 0, segments_per_recording: int = 50
    ):
        self.rows, self.sampling_rate, self.num_samples, self.seed = rows, sampling_rate, num_samples, seed
        self.segments_per_recording = segments_per_recording
        self.indices = []
        for index, row in enumerate(rows):
            try:
                if has(row, "answer_audio") and audio_seconds(row, "answer", trust_columns=False) > 0:
                    self.indices.append(index)
            except (ValueError, OSError) as error:
                logger.warning("Skipped the recording of row %s: %s", row.get("id"), error)
        if not self.indices:
            raise ValueError(f"None of {len(rows)} rows has a readable `answer_audio`: map its column with `columns`.")

    def __len__(self) -> int:
        return len(self.indices) * self.segments_per_recording

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[self.indices[index // self.segments_per_recording]]
        waveform = load_audio(audio_of(row, "answer_audio"), self.sampling_rate)
        missing = self.num_samples - len(waveform)
        if missing > 0:
            return {"waveform": torch.from_numpy(np.pad(waveform, (0, missing)))}
        start = int(uniform(self.seed, "segment", index) * (1 - missing))
        return {"waveform": torch.from_numpy(waveform[start : start + self.num_samples].copy())}


def stft_magnitudes(waveform: torch.Tensor, n_fft: int) -> torch.Tensor:
    """`(batch_size, num_samples)` to `(batch_size, n_fft // 2 + 1, num_frames)`."""
    window = torch.hann_window(n_fft, device=waveform.device)
    spectrum = torch.stft(waveform, n_fft, n_fft // 4, window=window, return_complex=True)
    # the gradient of `abs` is NaN at zero
    return (spectrum.real.square() + spectrum.imag.square() + SMALLEST_MAGNITUDE**2).sqrt()


def multi_resolution_stft_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The relative error of the magnitudes plus the mean error of their logarithms, over all windows that fit."""
    losses = []
    for n_fft in (n_fft for n_fft in STFT_WINDOWS if n_fft < target.shape[-1]):
        one, other = stft_magnitudes(predicted, n_fft), stft_magnitudes(target, n_fft)
        convergence = (other - one).norm(dim=(-2, -1)) / other.norm(dim=(-2, -1)).clamp(min=SMALLEST_MAGNITUDE)
        losses.append(convergence.mean() + (other.log() - one.log()).abs().mean())
    if not losses:
        raise ValueError(
            f"Segments of {target.shape[-1]} samples are too short for the loss: raise `segment_seconds`."
        )
    return torch.stack(losses).mean()


def hinge_loss(scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Scores above 1 cost nothing."""
    return torch.stack([(1 - score).clamp(min=0).mean() for score in scores]).mean()


def discriminator_hinge_loss(real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Scores above 1 for recordings and below -1 for the vocoder cost nothing."""
    return hinge_loss(real) + hinge_loss([-score for score in fake])


def feature_matching_loss(real: Sequence[Sequence], fake: Sequence[Sequence]) -> torch.Tensor:
    """The mean distance of the discriminators' features of the two."""
    pairs = [pair for real_layers, fake_layers in zip(real, fake) for pair in zip(real_layers, fake_layers)]
    return torch.stack([(one.detach() - other).abs().mean() for one, other in pairs]).mean()


class Discriminator(nn.Module):
    """
    A stack of convolutions over the waveform as a picture: folded into rows of `period` samples, so that what repeats at
    this period is in columns, or the magnitudes of its STFT with windows of `n_fft`.
    """

    def __init__(self, channels: int, period: int | None = None, n_fft: int | None = None):
        super().__init__()
        self.period, self.n_fft = period, n_fft
        if period is not None:
            sizes = [1, channels, 4 * channels, 16 * channels, 32 * channels]
            kernel, stride, padding = (5, 1), (3, 1), (2, 0)
            last = {"kernel_size": (3, 1), "padding": (1, 0)}
        else:
            # frequencies are strided, frames are not: harmonics are regular across bands and change between frames
            sizes, kernel, stride, padding = [1, *[channels] * 4], (7, 5), (2, 1), (3, 2)
            last = {"kernel_size": 3, "padding": 1}
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(one, other, kernel, stride, padding=padding)) for one, other in zip(sizes, sizes[1:])
        )
        self.output = weight_norm(nn.Conv2d(sizes[-1], 1, **last))

    def forward(self, waveform: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`(batch_size, num_samples)` to scores, and the features of all layers."""
        if self.period is not None:
            waveform = nn.functional.pad(waveform, (0, -waveform.shape[-1] % self.period))
            hidden_states = waveform.unflatten(-1, (-1, self.period))
        else:
            waveform = nn.functional.pad(waveform, (0, max(0, self.n_fft - waveform.shape[-1])))
            hidden_states = stft_magnitudes(waveform, self.n_fft)
        hidden_states, features = hidden_states.unsqueeze(1), []
        for layer in self.layers:
            hidden_states = nn.functional.leaky_relu(layer(hidden_states), SLOPE)
            features.append(hidden_states)
        return self.output(hidden_states).flatten(1), features


class VocoderWithLosses(nn.Module):
    """
    The vocoder with its losses and discriminators. `forward` gives the losses of both, whose gradients do not mix: one optimizer,
    one backward pass and one checkpoint serve both. `mel_floor` is the lowest log-mel value that the speech model produces:
    a vocoder trained on true silence hisses there.
    """

    def __init__(self, vocoder: FlowOmniVocoder, args: FlowOmniTrainingArguments, mel_floor: float):
        super().__init__()
        self.vocoder, self.args, self.mel_floor = vocoder.requires_grad_(True), args, mel_floor
        config = vocoder.config
        self.mel_spectrogram = MelSpectrogram(
            config.sampling_rate, config.n_fft, config.hop_length, config.num_mel_bins, config.padding
        )
        self.discriminators = nn.ModuleList()
        if args.adversarial_loss_weight > 0:
            channels = args.discriminator_channels
            self.discriminators.extend(Discriminator(channels, period=period) for period in PERIODS)
            self.discriminators.extend(Discriminator(channels, n_fft=n_fft) for n_fft in RESOLUTIONS)

    def forward(self, waveform: torch.Tensor, is_adversarial: bool = False) -> dict[str, torch.Tensor]:
        """The losses for recordings `(batch_size, num_samples)`."""
        args = self.args
        predicted = self.vocoder(self.mel_spectrogram(waveform).clamp(min=self.mel_floor))
        num_samples = min(predicted.shape[-1], waveform.shape[-1])
        predicted, target = predicted[:, :num_samples], waveform[:, :num_samples]
        losses = {
            "mel_loss": (self.mel_spectrogram(predicted) - self.mel_spectrogram(target)).abs().mean(),
            "stft_loss": multi_resolution_stft_loss(predicted, target),
        }
        loss = args.mel_loss_weight * losses["mel_loss"] + args.stft_loss_weight * losses["stft_loss"]
        if len(self.discriminators) and is_adversarial:
            real_scores, real_features = self._discriminate(target)
            fake_scores, _ = self._discriminate(predicted.detach())
            self.discriminators.requires_grad_(False)  # they pass gradients on, and get none
            scores, features = self._discriminate(predicted)
            self.discriminators.requires_grad_(True)
            losses["adversarial_loss"] = hinge_loss(scores)
            losses["feature_loss"] = feature_matching_loss(real_features, features)
            losses["discriminator_loss"] = discriminator_hinge_loss(real_scores, fake_scores)
            matching = args.feature_loss_weight * losses["feature_loss"]
            loss = loss + args.adversarial_loss_weight * (losses["adversarial_loss"] + matching)
            loss = loss + losses["discriminator_loss"]
        return {"loss": loss} | losses

    def _discriminate(self, waveform: torch.Tensor) -> tuple[Sequence, Sequence]:
        return tuple(zip(*(discriminator(waveform) for discriminator in self.discriminators)))


class VocoderTrainer(AtomicTrainer):
    """Trains a [`VocoderWithLosses`] on [`VocoderSegments`]. Evaluation measures the reconstruction alone."""

    def __init__(self, model: VocoderWithLosses, args: FlowOmniTrainingArguments, **kwargs: Any):
        # the waveform is the only target; discriminators that start later get no gradients until then
        args.label_names, args.ddp_find_unused_parameters = ["waveform"], args.adversarial_start > 0
        super().__init__(model, args, LOSSES, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **kwargs: Any):
        is_adversarial = model.training and self.state.global_step >= self.args.adversarial_start
        outputs = model(inputs["waveform"], is_adversarial)
        if model.training:
            losses = {name: outputs[name] for name in LOSSES if name in outputs}
            self.add_losses(outputs["loss"], losses, dict.fromkeys(LOSSES, 1.0))
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
