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
"""The stage `recognise`, from its recipe to a recogniser and to the Whisper whose encoder it has become."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from ..arguments import FlowOmniTrainingArguments
from ..batches import BatchOptions
from ..checkpoints import clear_staging, publish_files, staging_folder, writing
from ..dry_run import describe_memory
from ..manifest import load_rows
from ..recipe import Recipe, RecipeError
from ..stages import count_parameters
from ..target_means import TargetMeanTrainer
from ..text_scores import character_error_rate, exact_rate, word_error_rate
from .characters import characters_of
from .configuration import CtcRecogniserConfig
from .modeling import IGNORED, CtcRecogniser
from .utterances import STEPS_PER_SECOND, UtteranceBatches, UtteranceBuilder, Utterances


WHISPER = "whisper"


class RecogniseTrainer(TargetMeanTrainer):
    """Trains a [`CtcRecogniser`], and in evaluation writes down what it hears."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pairs: list[tuple[str, str]] = []

    def outputs_of(self, model: nn.Module, batch: Mapping[str, Any]) -> Any:
        return model(**{name: value for name, value in batch.items() if name != "texts"})

    def num_targets(self, batch: Mapping[str, Any]) -> torch.Tensor:
        return (batch["labels"] != IGNORED).sum()

    @torch.no_grad()
    def prediction_step(self, model: nn.Module, inputs: Mapping[str, Any], *args: Any, **kwargs: Any):
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        recogniser = self.accelerator.unwrap_model(model)
        heard = recogniser.decode(outputs.logits, recogniser.num_judged(inputs["input_features_mask"]))
        self.pairs += zip(inputs["texts"], heard)
        return loss.detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any):
        """The Trainer's, and the errors by character and by word, and the share of utterances without one."""
        from accelerate.utils import gather_object

        self.pairs = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        expected, heard = zip(*gather_object(self.pairs))
        scores = {"cer": character_error_rate, "wer": word_error_rate, "exact": exact_rate}
        output.metrics.update(
            {f"{metric_key_prefix}_{name}": score(expected, heard) for name, score in scores.items()}
        )
        return output


@dataclass
class RecogniseRun:
    """All that a recipe makes, ready to train."""

    recipe: Recipe
    trainer: RecogniseTrainer
    train_batches: UtteranceBatches

    @property
    def args(self) -> FlowOmniTrainingArguments:
        return self.trainer.args

    def describe(self) -> str:
        """What it would train."""
        model, plan = self.trainer.model, self.train_batches.plan()
        rows, options = self.train_batches.rows, self.train_batches.options
        hours = sum(self.train_batches._lengths(0, range(len(rows)))[0].values()) / STEPS_PER_SECOND / 3600
        seconds = options.max_steps_per_batch / STEPS_PER_SECOND
        batch = {name: value for name, value in next(iter(self.train_batches)).items() if name != "texts"}
        return "\n".join(
            [
                f"stage recognise of {self.recipe.model or 'a new model'}",
                f"parameters: {count_parameters(model)[0]:,}",
                f"characters: {''.join(model.config.characters)!r}",
                f"speech: {len(rows):,} utterances, {hours:.2f} h",
                f"batches: {len(plan):,} in an epoch, {sum(map(len, plan)) / len(plan):.1f} utterances each on average",
                f"optimizer steps: {self.args.max_steps:,}, each on up to {seconds:g} s of speech",
                describe_memory(self.trainer, batch, options.max_steps_per_batch),
            ]
        )

    def train(self, is_fresh: bool = False) -> dict[str, float]:
        """Trains, or goes on from the last checkpoint, saves the model, and returns the last evaluation."""
        self.trainer.train_to_the_end(is_fresh)
        # first: an evaluation with `bf16_full_eval` leaves the weights in bf16
        self.save()
        return self.trainer.evaluate() if self.trainer.eval_batches is not None else {}

    def save(self) -> None:
        """The recogniser, and in a folder of it the Whisper that has its encoder."""
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir)
        staged = staging_folder(folder) / "final"
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with writing("The recogniser", folder, folder):
            model.save_pretrained(staged)
            model.export_whisper(staged / WHISPER)
            publish_files(staged, folder)
            clear_staging(folder)


def make_run(recipe: Recipe) -> RecogniseRun:
    """Loads or makes the recogniser of a recipe, reads the rows, and puts the Trainer together."""
    without_evaluation = {} if recipe.data.eval else {"eval_strategy": "no"}
    args = FlowOmniTrainingArguments(**recipe.training | without_evaluation)
    # a new model begins at random, and the Trainer comes too late to seed that
    set_seed(args.seed)
    data = recipe.data
    utterances = Utterances(
        load_rows(data.train, data.split, columns=data.columns, on_error=data.on_error, keep_wrong=True),
        recipe.recognise.sides,
    )
    model = load_or_make(recipe, utterances)
    if args.device.type == "cpu":
        # the backward pass of torch's fused attention takes four times as long there in bf16, a third of all the time
        model.encoder.set_attn_implementation("eager")
    train_batches = _batches_of(recipe, utterances, model, args)
    eval_batches = None
    if data.eval:
        rows = load_rows(data.eval, data.eval_split, columns=data.columns, on_error=data.on_error)
        eval_batches = _batches_of(recipe, Utterances(rows, recipe.recognise.sides), model, args, is_evaluation=True)
    trainer = RecogniseTrainer(model, args, train_batches=train_batches, eval_batches=eval_batches)
    return RecogniseRun(recipe, trainer, train_batches)


def load_or_make(recipe: Recipe, utterances: Utterances) -> CtcRecogniser:
    """The recogniser to go on with, or a new one of the sizes in `new` that writes the characters of the utterances."""
    if recipe.model is None:
        fields = {"characters": characters_of(utterances.texts())} | recipe.new
        return CtcRecogniser(CtcRecogniserConfig(**fields))
    model = CtcRecogniser.from_pretrained(recipe.model, dtype=torch.float32)
    unknown = model.characters.unknown(utterances.texts())
    if unknown:
        raise RecipeError(
            f"The texts have {len(unknown)} characters that '{recipe.model}' does not know, such as {unknown[0]!r}: train a new "
            "recogniser (`new` in the place of `model`), or leave these rows out."
        )
    return model


def _batches_of(
    recipe: Recipe,
    utterances: Utterances,
    model: CtcRecogniser,
    args: FlowOmniTrainingArguments,
    is_evaluation: bool = False,
) -> UtteranceBatches:
    """The batches of this process."""
    data = recipe.data
    seed = args.data_seed if args.data_seed is not None else args.seed
    builder = UtteranceBuilder(
        model.feature_extractor,
        model.characters,
        model.config.stack_size,
        None if is_evaluation else recipe.recognise,
        seed=seed,
        max_steps=data.max_steps,
        on_error=data.on_error,
    )
    options = BatchOptions(
        max_steps_per_batch=data.max_steps_per_batch,
        max_rows_per_batch=data.max_rows_per_batch,
        max_skipped_share=1.0 if is_evaluation else data.max_skipped_share,
        seed=seed,
        shuffle=not is_evaluation,
        rank=args.process_index,
        world_size=args.world_size,
        **args.loader_options(),
    )
    return UtteranceBatches(utterances, builder, options)
