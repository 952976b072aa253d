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
"""A run of the stage `vocoder`, from its recipe to the checkpoint that has the trained vocoder in its place."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, set_seed

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniSpeechConfig, FlowOmniVocoderConfig
from ..modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from .arguments import FlowOmniTrainingArguments
from .checkpoints import clear_staging, publish_files, staging_folder, writing
from .dry_run import describe_memory, recorded_hours
from .manifest import load_rows
from .recipe import CardRecipe, Recipe
from .speech_run import load_model, load_processor
from .stage_options import shown
from .stages import count_parameters
from .vocoder_segments import VocoderSegments
from .vocoder_trainer import VocoderInTraining, VocoderTrainer


@dataclass
class VocoderRun:
    """All that a recipe makes, ready to train. `whole` is the speech model that the vocoder belongs to, if any."""

    recipe: Recipe
    trainer: VocoderTrainer
    vocoder: FlowOmniVocoder
    whole: Any | None
    segments: VocoderSegments

    @property
    def args(self) -> FlowOmniTrainingArguments:
        return self.trainer.args

    def describe(self) -> str:
        """What it would train."""
        trained, _ = count_parameters(self.vocoder)
        critics = count_parameters(self.trainer.model)[0] - trained
        seconds = self.recipe.vocoder.segment_seconds
        batch = self.recipe.vocoder.batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        size, num_samples = self.recipe.vocoder.batch_size, self.segments.num_samples
        pieces = {"waveform": torch.zeros(size, num_samples), "is_adversarial": critics > 0}
        return "\n".join(
            [
                f"stage vocoder of {self.recipe.model or 'a new model'}",
                f"parameters: {trained:,} of the vocoder, {critics:,} of discriminators",
                f"recordings: {len(self.segments.indices):,}, {recorded_hours(self.segments.rows, 'answer')}",
                f"optimizer steps: {self.args.max_steps:,}, each on {batch} pieces of {seconds:g} s",
                describe_memory(self.trainer, pieces),
            ]
        )

    def train(self, is_fresh: bool = False) -> dict[str, float]:
        """Trains, or goes on from the last checkpoint, saves the model, and returns the last evaluation."""
        self.trainer.train_to_the_end(is_fresh)
        # first: an evaluation with `bf16_full_eval` leaves the weights in bf16
        self.save()
        return self.trainer.evaluate() if self.trainer.eval_dataset is not None else {}

    def save(self) -> None:
        """The speech model with the trained vocoder, and its processor; or the vocoder alone, if that was given."""
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir)
        staged = staging_folder(folder) / "final"
        processor = load_processor(self.recipe.model) if self.whole is not None else None
        with writing("The trained model", folder, folder):
            (self.whole if self.whole is not None else self.vocoder).save_pretrained(staged)
            if processor is not None:
                processor.save_pretrained(staged)
            publish_files(staged, folder)
            clear_staging(folder)


def make_run(recipe: Recipe) -> VocoderRun:
    """Loads the vocoder and the rows of a recipe, and puts the Trainer together."""
    options = recipe.vocoder
    batch_sizes = {f"per_device_{kind}_batch_size": options.batch_size for kind in ("train", "eval")}
    settings = {
        # an evaluation has no other target than what was said
        "label_names": ["waveform"],
        # until the discriminators come in, nothing reaches them
        "ddp_find_unused_parameters": options.adversarial_weight > 0 and options.adversarial_start > 0,
    }
    if not recipe.data.eval:
        settings["eval_strategy"] = "no"
    args = FlowOmniTrainingArguments(**settings | recipe.training | batch_sizes)
    if args.max_steps <= 0:
        raise ValueError("`training.max_steps` is missing: an epoch of pieces has no natural length.")
    # the discriminators begin at random, and the Trainer comes too late to seed that
    set_seed(args.seed)
    whole, vocoder = (None, make_vocoder(recipe.new)) if recipe.model is None else load_vocoder(recipe.model)
    if whole is None and recipe.card != CardRecipe():
        raise ValueError(f"`card` is {shown(recipe.card)}, and a vocoder alone gets none: leave it out.")
    trainer = VocoderTrainer(
        VocoderInTraining(vocoder, options, mel_floor_of(whole)),
        args,
        train_dataset=segments_of(recipe, recipe.data.train, recipe.data.split, vocoder.config, args.seed),
        eval_dataset=segments_of(recipe, recipe.data.eval, recipe.data.eval_split, vocoder.config, args.seed, pieces=1)
        if recipe.data.eval
        else None,
    )
    return VocoderRun(recipe, trainer, vocoder, whole, trainer.train_dataset)


def mel_floor_of(whole: Any | None) -> float:
    """The lowest value of the mels that the vocoder will read: its speech model's, or what models have by default."""
    return (FlowOmniSpeechConfig() if whole is None else whole.config.speech_config).mel_floor


def make_vocoder(fields: Mapping[str, Any]) -> FlowOmniVocoder:
    """A new vocoder, of random weights."""
    unknown = set(fields) - {field.name for field in dataclasses.fields(FlowOmniVocoderConfig)}
    if unknown:
        raise ValueError(
            f"`new` has the field {sorted(unknown)[0]!r}, and `FlowOmniVocoderConfig` has not: see its docs."
        )
    return FlowOmniVocoder(FlowOmniVocoderConfig(**fields))


def load_vocoder(source: str) -> tuple[Any | None, FlowOmniVocoder]:
    """The speech model and its vocoder, or `None` and a vocoder that was saved alone."""
    if isinstance(AutoConfig.from_pretrained(source), FlowOmniVocoderConfig):
        return None, FlowOmniVocoder.from_pretrained(source, dtype="float32")
    whole = load_model(source)
    if whole.vocoder is None:
        raise ValueError(
            f"'{source}' has no vocoder to train: assemble it with one (`flow-omni init --vocoder`), or pass a vocoder."
        )
    return whole, whole.vocoder


def segments_of(
    recipe: Recipe, source: Any, split: str | None, config: FlowOmniVocoderConfig, seed: int, **kwargs: Any
) -> VocoderSegments:
    rows = load_rows(source, split, columns=recipe.data.columns, on_error=recipe.data.on_error)
    # whole frames: a piece is what its frames make
    hop_length = config.hop_length
    num_samples = round(recipe.vocoder.segment_seconds * config.sampling_rate / hop_length) * hop_length
    return VocoderSegments(rows, config.sampling_rate, num_samples, seed, **kwargs)
