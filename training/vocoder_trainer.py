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
"""Training the vocoder: it says what it is shown, and is judged by spectra, and if wanted by discriminators that learn with it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from ..processing.feature_extraction_flow_omni import MelSpectrogram
from .checkpoints import check_num_processes
from .discriminators import Discriminators
from .row_fingerprints import warn_of_other_rows
from .vocoder_losses import MultiResolutionSTFTLoss, feature_distance, hinge_of_discriminator, hinge_of_vocoder
from .vocoder_options import VocoderOptions
from .whole_checkpoints import WholeCheckpointTrainer


# What a checkpoint says of the data: pieces are numbered, and the Trainer counts those that it has to skip.
DATA_FILE = "data.json"
PARTS = ("mel_loss", "stft_loss", "adversarial_loss", "feature_loss", "discriminator_loss")


class VocoderInTraining(nn.Module):
    """
    The vocoder beside what judges it. Its `forward` gives the losses of both sides, whose gradients do not mix: one
    optimizer, one backward pass and one checkpoint serve both, and so does the whole machinery of the Trainer.

    A speech model holds its mel above a floor (`mel_floor`). The vocoder reads it so in training too: one that has only seen
    the true silence between words and above a narrow voice hisses where the model says silence.
    """

    def __init__(self, vocoder: FlowOmniVocoder, options: VocoderOptions, mel_floor: float):
        super().__init__()
        config = vocoder.config
        self.vocoder, self.options = vocoder.requires_grad_(True), options
        self.mel_floor = mel_floor
        self.mel_spectrogram = MelSpectrogram(
            config.sampling_rate, config.n_fft, config.hop_length, config.num_mel_bins, config.padding
        )
        self.stft_loss = MultiResolutionSTFTLoss()
        self.discriminators = None
        if options.adversarial_weight > 0:
            self.discriminators = Discriminators(channels=options.discriminator_channels)

    def forward(self, waveform: torch.Tensor, is_adversarial: bool = False) -> dict[str, torch.Tensor]:
        """The losses for recordings `(batch_size, num_samples)`."""
        said = self.vocoder(self.mel_spectrogram(waveform).clamp(min=self.mel_floor))
        num_samples = min(said.shape[-1], waveform.shape[-1])
        said, target = said[:, :num_samples], waveform[:, :num_samples]
        losses = {
            "mel_loss": (self.mel_spectrogram(said) - self.mel_spectrogram(target)).abs().mean(),
            "stft_loss": self.stft_loss(said, target),
        }
        loss = self.options.mel_weight * losses["mel_loss"] + self.options.stft_weight * losses["stft_loss"]
        if self.discriminators is not None and is_adversarial:
            judged = self._judge(said, target)
            matching = self.options.feature_matching_weight * judged["feature_loss"]
            loss = loss + self.options.adversarial_weight * (judged["adversarial_loss"] + matching)
            loss = loss + judged["discriminator_loss"]
            losses |= judged
        return {"loss": loss} | losses

    def _judge(self, said: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        real_scores, real_features = self.discriminators(target)
        fake_scores, _ = self.discriminators(said.detach())
        with _constant(self.discriminators):
            scores, features = self.discriminators(said)
        return {
            "discriminator_loss": hinge_of_discriminator(real_scores, fake_scores),
            "adversarial_loss": hinge_of_vocoder(scores),
            "feature_loss": feature_distance(real_features, features),
        }


@contextmanager
def _constant(module: nn.Module) -> Iterator[None]:
    """Within it the module passes gradients on, and takes none for its own weights."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


class VocoderTrainer(WholeCheckpointTrainer):
    """Trains a [`VocoderInTraining`] on batches of `waveform`."""

    def __init__(self, model: VocoderInTraining, args: Any, **kwargs: Any):
        super().__init__(model, args, **kwargs)
        self.sums: dict[str, torch.Tensor] = {}
        self.num_batches = 0

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **kwargs: Any):
        start = self.accelerator.unwrap_model(model).options.adversarial_start
        outputs = model(inputs["waveform"], is_adversarial=self.state.global_step >= start)
        if model.training:
            self._check_finite(outputs["loss"], inputs, {name: outputs[name] for name in PARTS if name in outputs})
            self._note(outputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _note(self, outputs: Mapping[str, torch.Tensor]) -> None:
        self.num_batches += 1
        for name in PARTS:
            if name in outputs:
                self.sums[name] = self.sums.get(name, 0.0) + outputs[name].detach()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.num_batches:
            total = self._sum_over_processes(torch.tensor(float(self.num_batches), device=self.args.device))
            sums = {name: self._sum_over_processes(value) for name, value in self.sums.items()}
            logs = logs | {name: (value / total).item() for name, value in sums.items()}
            self.sums, self.num_batches = {}, 0
        super().log(logs, *args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            data = {"num_processes": self.args.world_size, "rows": self.train_dataset.fingerprint}
            (Path(output_dir) / DATA_FILE).write_text(json.dumps(data), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        file = Path(checkpoint or "") / DATA_FILE
        if checkpoint is None or not file.is_file():
            return
        data = json.loads(file.read_text(encoding="utf-8"))
        check_num_processes(checkpoint, data["num_processes"], self.args.world_size)
        if self.args.should_save:
            warn_of_other_rows(data["rows"], self.train_dataset.fingerprint)
