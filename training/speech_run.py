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
"""A run of a stage of a whole model (`training/stages.py`), from its recipe to the checkpoint that it leaves."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from ..processing.processing_flow_omni import FlowOmniProcessor
from .arguments import FlowOmniTrainingArguments
from .batches import Batches, make_batches
from .checkpoints import clear_staging, publish_files, staging_folder, writing
from .dry_run import describe
from .examples import Example, ExampleBuilder
from .generation_metrics import GenerationMetrics, Question
from .lora import add_lora, load_lora, load_plain, merge_lora
from .manifest import load_rows
from .recipe import DataRecipe, Recipe
from .recognisers import recogniser_of
from .rows import conversation_of
from .samples import show_in_tensorboard
from .trainer import FlowOmniTrainer


logger = logging.getLogger(__name__)

ADAPTERS = "adapters"


@dataclass
class SpeechRun:
    """All that a recipe makes, ready to train."""

    recipe: Recipe
    trainer: FlowOmniTrainer
    processor: FlowOmniProcessor
    train_batches: Batches

    @property
    def args(self) -> FlowOmniTrainingArguments:
        return self.trainer.args

    def describe(self) -> str:
        """What it would train."""
        return describe(self)

    def train(self, is_fresh: bool = False) -> dict[str, float]:
        """
        Trains, from the last checkpoint of `output_dir` on if it has one, saves the model, and returns what the last
        evaluation measured.
        """
        self.trainer.train_to_the_end(is_fresh)
        # first: an evaluation with `bf16_full_eval` leaves the weights in bf16
        self.save()
        return self.trainer.evaluate() if self.trainer.eval_batches is not None else {}

    def save(self) -> None:
        """The final model, in `output_dir`; of a LoRA run the adapters in a folder of their own, and the merged model."""
        folder = Path(self.args.output_dir)
        if self.recipe.lora is None:
            self.trainer.save_final(folder)
            return
        self.trainer.save_final(folder / ADAPTERS)
        if self.recipe.merge_lora and self.args.should_save:
            staged = staging_folder(folder) / "merged"
            base = load_model(self.recipe.model)
            self.recipe.teaching.apply(base.config)
            adapted = load_lora(folder / ADAPTERS, base=base)
            merged = merge_lora(adapted)
            with writing("The merged model", folder, folder):
                merged.save_pretrained(staged)
                self.processor.save_pretrained(staged)
                publish_files(staged, folder)
                clear_staging(folder)


def make_run(recipe: Recipe) -> SpeechRun:
    """Loads the model and the rows of a recipe, and puts the Trainer together."""
    args = FlowOmniTrainingArguments(**recipe.training | {"stage": recipe.stage} | _without_evaluation(recipe))
    # adapters begin at random, and the Trainer comes too late to seed that
    set_seed(args.seed)
    model, processor = load_model(recipe.model), load_processor(recipe.model)
    recipe.teaching.apply(model.config)
    train_batches = batches_of(recipe.data, recipe.data.train, recipe.data.split, processor, args)
    eval_batches, metrics = None, None
    if recipe.data.eval:
        eval_batches = batches_of(
            recipe.data, recipe.data.eval, recipe.data.eval_split, processor, args, is_evaluation=True
        )
        metrics = metrics_of(recipe, eval_batches, processor, args.device)
    trained: nn.Module = model
    if recipe.lora is not None:
        trained = add_lora(model, recipe.stage, recipe.lora, base=recipe.model)
    trainer = FlowOmniTrainer(
        trained,
        args,
        train_batches=train_batches,
        eval_batches=eval_batches,
        generation_metrics=metrics,
        processing_class=processor,
    )
    return SpeechRun(recipe, trainer, processor, train_batches)


def _without_evaluation(recipe: Recipe) -> dict[str, Any]:
    return {} if recipe.data.eval else {"eval_strategy": "no"}


def load_model(source: str) -> FlowOmniForSpeechGeneration:
    """The model to begin with, in fp32: mixed precision keeps its own copies, and small steps vanish in bf16."""
    with _named(source):
        return load_plain(source, dtype="float32")


def load_processor(source: str) -> FlowOmniProcessor:
    with _named(source):
        return FlowOmniProcessor.from_pretrained(source)


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Names the checkpoint that cannot be loaded: of a folder that is not there the libraries only say that the Hub is far."""
    try:
        yield
    except OSError as error:
        if Path(source).is_dir():
            remedy = "it must be a folder that `flow-omni init` or a training has written"
        else:
            remedy = "there is no such folder here, nor within reach such a checkpoint on the Hub: check the name"
        raise ValueError(f"`model` is {source!r}, and {remedy} ({' '.join(str(error).split())}).") from error


def batches_of(
    data: DataRecipe,
    source: Any,
    split: str | None,
    processor: FlowOmniProcessor,
    args: FlowOmniTrainingArguments,
    is_evaluation: bool = False,
) -> Batches:
    """The batches of this process."""
    streaming = data.streaming and not is_evaluation
    rows = load_rows(source, split, streaming, data.columns, data.on_error, keep_wrong=not is_evaluation)
    seed = args.data_seed if args.data_seed is not None else args.seed
    builder = ExampleBuilder(
        processor,
        data.tasks,
        seed,
        data.text_layout,
        data.max_steps,
        data.on_error,
        data.transcripts,
        augmentation=None if is_evaluation else data.augmentation,
    )
    return make_batches(
        rows,
        builder,
        max_steps_per_batch=data.max_steps_per_batch,
        max_rows_per_batch=data.max_rows_per_batch,
        max_skipped_share=1.0 if is_evaluation else data.max_skipped_share,
        seed=seed,
        shuffle=not is_evaluation,
        rank=args.process_index,
        world_size=args.world_size,
        **args.loader_options(),
    )


def metrics_of(
    recipe: Recipe, batches: Batches, processor: FlowOmniProcessor, device: torch.device
) -> GenerationMetrics | None:
    """
    Questions from the rows of the evaluation, spread over all of them, and who listens to the answers: who cannot be
    loaded is to be found out before the training and not at its first evaluation.
    """
    evaluation = recipe.evaluation
    questions = questions_of(batches.rows, batches.builder, evaluation.questions)
    if not questions:
        return None
    options = {"max_new_tokens": evaluation.max_new_tokens}
    if evaluation.num_flow_steps is not None:
        options["num_flow_steps"] = evaluation.num_flow_steps

    def own_ears(model):
        return recogniser_of("own", model, processor)

    name, language = evaluation.recogniser, evaluation.language
    try:
        recogniser = own_ears if name == "own" else recogniser_of(name, None, processor, language, device)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"The recogniser {name!r} cannot be loaded ({error}): `evaluation.recogniser` is own, whisper:NAME, ctc:FOLDER, "
            "sphinx, or a model for speech recognition on the Hub."
        ) from error
    return GenerationMetrics(
        questions, processor, recogniser, evaluation.batch_size, on_answers=[show_in_tensorboard], **options
    )


def questions_of(rows: Sequence, builder: ExampleBuilder, num_questions: int) -> list[Question]:
    """
    So many rows as questions, each in the task that is drawn for it. Rows that no example can be built of are left out:
    whoever is asked in the middle of a run must find the recordings in order.
    """
    step = max(1, len(rows) // max(1, num_questions))
    questions = []
    for index in range(0, len(rows), step)[:num_questions]:
        built = builder.build(rows[index], index)
        if isinstance(built, Example):
            questions.append(Question.of(built.task, conversation_of(rows[index], built.task, builder.processor)))
        elif built.reason != "no task":
            logger.warning("Row %s will not be asked: %s", built.id, built.message)
    return questions
