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
"""One training run by a recipe, from its arguments to the final model."""

import argparse
import itertools
import logging
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.distributed import split_dataset_by_node
from transformers import AutoConfig, Trainer, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniSpeechConfig, FlowOmniVocoderConfig
from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration, count_parameters
from ..modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from ..processing.files import atomic_write
from ..processing.processing_flow_omni import FlowOmniProcessor
from .arguments import DataArguments, FlowOmniTrainingArguments, ModelArguments, RecipeParser, structured
from .augmentation import Augmentation
from .batching import TrainingCollator
from .data import audio_seconds, conversation_of, has, load_rows
from .examples import UNREADABLE, ExampleBuilder, ExampleDataset, StreamedBatches
from .lora import add_lora, save_and_merge_lora
from .trainer import FlowOmniTrainer, save_final
from .vocoder import VocoderSegments, VocoderTrainer, VocoderWithLosses


logger = logging.getLogger(__name__)


@dataclass
class TrainingResult:
    """What a run has done."""

    output_dir: Path
    command: str  # trains this model again
    num_steps: int  # optimizer steps, those before the last interruption included
    metrics: dict[str, float]  # of the last evaluation
    log_history: list[dict[str, Any]]
    skipped: list[str]  # messages about rows that could not be used


def train_recipe(
    recipe: str, overrides: Sequence[str] = (), dry_run: bool = False, fresh: bool = False
) -> TrainingResult | None:
    """
    Trains as a recipe says, from the last checkpoint in `output_dir` on if there is one. A complete run is left as it is.

    Args:
        recipe (`str`):
            A YAML file, or the name of a packaged recipe: `align`, `finetune` or `vocoder`.
        overrides (`list[str]`, *optional*):
            `key=value` for any key of the dataclasses in `training/arguments.py`.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to only print what would be trained.
        fresh (`bool`, *optional*, defaults to `False`):
            Whether to start again, with the checkpoints of an earlier run moved to `earlier-N`.
    """
    model_args, data_args, args = RecipeParser().parse(recipe, overrides)
    if Path(args.output_dir).is_file():
        raise ValueError(f"`output_dir` is '{args.output_dir}', which is a file: name a folder.")
    set_seed(args.seed)  # adapters and discriminators start at random, before the Trainer sets the seed
    make = make_vocoder_trainer if args.trainable_modules == ["vocoder"] else make_trainer
    trainer, save = make(model_args, data_args, args)
    if dry_run:
        if trainer.is_world_process_zero():
            print(describe(trainer))
        return None
    metrics = run(trainer, save, fresh)
    launcher = ["flow-omni", "train"]
    if args.world_size > 1:
        launcher = ["accelerate", "launch", "--num_processes", str(args.world_size), "-m", "flow_omni.training"]
    command, state = shlex.join([*launcher, recipe, *overrides]), trainer.state
    skipped = [*getattr(trainer.train_dataset, "skipped", ()), *getattr(trainer, "skipped", ())]
    trainer.accelerator.wait_for_everyone()
    trainer.end()  # on all processes together: one that still communicates while another exits would be aborted
    return TrainingResult(Path(args.output_dir), command, state.global_step, metrics, state.log_history, skipped)


def run(trainer: Trainer, save: Callable[[], None], fresh: bool = False) -> dict[str, float]:
    """
    Trains from the last checkpoint on, saves the final model and evaluates it; returns the metrics. `trainer_state.json` in
    `output_dir` marks a complete run.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    if fresh and args.should_save:
        set_aside(folder)
    trainer.accelerator.wait_for_everyone()
    *_, max_steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    last = get_last_checkpoint(folder) if folder.is_dir() else None
    complete, saved = state_in(folder), state_in(last)
    if complete.global_step >= max_steps:
        logger.warning("The run in '%s' is complete: nothing to do.", folder)
        trainer.state = complete
        evaluations = [entry for entry in complete.log_history if "eval_loss" in entry] or [{}]
        return {name: value for name, value in evaluations[-1].items() if name.startswith("eval_")}
    if saved.global_step >= max_steps:
        # killed between its last checkpoint and the final model: a step more would be one too many
        trainer.state = saved
        checkpoint = saved.best_model_checkpoint if args.load_best_model_at_end else last
        trainer._load_from_checkpoint(checkpoint)
        if getattr(trainer, "ema", None) is not None:
            trainer.ema.load(checkpoint, trainer.model)
    else:
        trainer.train(resume_from_checkpoint=last)
    save()  # before the evaluation, which with `bf16_full_eval` leaves the weights in bf16
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    if args.should_save:
        with atomic_write(folder / TRAINER_STATE_NAME) as path:
            trainer.state.save_to_json(os.fspath(path))
    return metrics


def state_in(folder: str | Path | None) -> TrainerState:
    """The state of a run in a checkpoint or an output folder; a new one if there is none."""
    path = None if folder is None else Path(folder) / TRAINER_STATE_NAME
    return TrainerState.load_from_json(os.fspath(path)) if path is not None and path.is_file() else TrainerState()


def set_aside(folder: Path) -> None:
    """Moves the checkpoints of an earlier run into a folder `earlier-N`, from which no run resumes."""
    found = [*folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), *folder.glob(TRAINER_STATE_NAME)]
    if found:
        aside = next(path for number in itertools.count(1) if not (path := folder / f"earlier-{number}").exists())
        aside.mkdir()
        for path in found:
            os.replace(path, aside / path.name)


def make_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: FlowOmniTrainingArguments
) -> tuple[FlowOmniTrainer, Callable[[], None]]:
    """The Trainer of a recipe, and what saves its final model."""
    model, lora = load_model(model_args), structured(model_args.lora)
    processor = FlowOmniProcessor.from_pretrained(model_args.model)
    tuner = None if lora is None else add_lora(model, lora, base=model_args.model)
    evaluation, metrics = None, None
    if data_args.eval_data:
        evaluation = make_dataset(data_args, args, processor, is_evaluation=True)
        if data_args.num_eval_questions > 0:
            metrics = make_generation_metrics(data_args, evaluation, processor, args.device)
    trainer = FlowOmniTrainer(
        model,
        args,
        train_dataset=make_dataset(data_args, args, processor),
        eval_dataset=evaluation,
        processing_class=processor,
        generation_metrics=metrics,
    )

    def save() -> None:
        if tuner is not None:
            if trainer.ema is not None:
                trainer.ema.copy_to(model)
                trainer.ema.averages = {}
            save_and_merge_lora(model, tuner, Path(args.output_dir) / "adapters" if args.should_save else None)
        save_final(trainer)

    return trainer, save


def load_model(model_args: ModelArguments) -> FlowOmniForSpeechGeneration:
    """The model to start from, in fp32: mixed precision casts by itself, and small updates vanish in bf16."""
    source, attention = model_args.model, model_args.attn_implementation
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        model = FlowOmniForSpeechGeneration.from_pretrained(source, dtype="float32", **options)
    except OSError as error:
        raise ValueError(
            f"`model` is {source!r}, which is neither a folder with a checkpoint (as `flow-omni init` writes it) nor a checkpoint on "
            f"the Hub within reach ({' '.join(str(error).split())[:200]})."
        ) from error
    for name, value in (structured(model_args.config_overrides) or {}).items():
        holders = [part for part in (model.config.speech_config, model.config) if hasattr(part, name)]
        if not holders:
            raise ValueError(f"`config_overrides` names {name!r}: neither config nor `speech_config` has this field.")
        setattr(holders[0], name, value)
    model.config.validate_architecture()
    return model


def make_dataset(
    data_args: DataArguments,
    args: FlowOmniTrainingArguments,
    processor: FlowOmniProcessor,
    is_evaluation: bool = False,
) -> ExampleDataset | StreamedBatches:
    """The training or the evaluation data of a recipe."""
    source, split = data_args.train_data, data_args.train_split
    if is_evaluation:
        source, split = data_args.eval_data, data_args.eval_split
    streaming = data_args.streaming and not is_evaluation
    rows = load_rows(structured(source), structured(data_args.columns), split, streaming)
    augmentation = None if is_evaluation else structured(data_args.augmentation)
    builder = ExampleBuilder(
        processor,
        structured(data_args.tasks),
        args.seed if args.data_seed is None else args.data_seed,
        data_args.text_layout,
        data_args.ctc_labels,
        None if augmentation is None else Augmentation(**augmentation),
    )
    budget = args.max_positions_per_batch
    max_length = min(data_args.max_example_length or budget, budget)
    if not streaming:
        return ExampleDataset(rows, builder, max_length, data_args.max_skipped_fraction)
    if args.world_size > 1:
        rows = split_dataset_by_node(rows, args.process_index, args.world_size)
    collate = TrainingCollator(processor, all_modalities=args.world_size > 1)
    return StreamedBatches(rows, builder, collate, budget, max_length)


def make_generation_metrics(
    data_args: DataArguments, dataset: ExampleDataset, processor: FlowOmniProcessor, device: Any
) -> Callable[..., dict[str, float]]:
    """Rows of the evaluation as questions, spread over all of them, and the ASR model that transcribes spoken answers."""
    from .asr import load_asr
    from .metrics import GenerationMetrics, Question

    draws = [draw for draw, _ in dataset.draw(0)]
    draws = draws[:: max(1, len(draws) // data_args.num_eval_questions)][: data_args.num_eval_questions]
    questions = [Question(d.task, conversation_of(dataset.rows[d.index], d.task, processor)) for d in draws]
    asr, language = data_args.asr_model, data_args.eval_language
    if asr is not None and asr != "own":
        asr = load_asr(asr, language=language, device=device)
    limit = data_args.eval_max_new_tokens
    return GenerationMetrics(questions, processor, asr, language=language, max_new_tokens=limit)


def make_vocoder_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: FlowOmniTrainingArguments
) -> tuple[VocoderTrainer, Callable[[], None]]:
    """The Trainer of a vocoder, alone or inside a model, and what saves the result in the same form."""
    source = model_args.model
    if Path(source).is_dir() and isinstance(AutoConfig.from_pretrained(source), FlowOmniVocoderConfig):
        model = vocoder = FlowOmniVocoder.from_pretrained(source, dtype="float32")
        processor, speech_config = None, FlowOmniSpeechConfig()
    else:
        model, processor = load_model(model_args), FlowOmniProcessor.from_pretrained(source)
        vocoder, speech_config = model.vocoder, model.config.speech_config
        if vocoder is None:
            raise ValueError(f"'{source}' has no vocoder: assemble it with one (`flow-omni init --vocoder`).")

    def segments(data: str, split: str | None, **kwargs) -> VocoderSegments:
        rows = load_rows(structured(data), structured(data_args.columns), split)
        rate, hop_length = vocoder.config.sampling_rate, vocoder.config.hop_length
        num_samples = round(data_args.segment_seconds * rate / hop_length) * hop_length
        return VocoderSegments(rows, rate, num_samples, args.seed, **kwargs)

    evaluation = None
    if data_args.eval_data:
        evaluation = segments(data_args.eval_data, data_args.eval_split, segments_per_recording=1)
    trainer = VocoderTrainer(
        VocoderWithLosses(vocoder, args, speech_config.mel_floor),
        args,
        train_dataset=segments(data_args.train_data, data_args.train_split),
        eval_dataset=evaluation,
        processing_class=processor,
    )
    return trainer, lambda: save_final(trainer, model)


def describe(trainer: Trainer) -> str:
    """Modules, rows, hours, batches and optimizer steps, for the dry run."""
    args, dataset = trainer.args, trainer.train_dataset
    *_, max_steps = trainer.set_initial_training_values(args, loader := trainer.get_train_dataloader())
    counts = count_parameters(trainer.model)
    if isinstance(trainer, VocoderTrainer):
        sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in trainer.model.named_children()}
        counts = {name: (size, size) for name, size in sizes.items() if size}
    lines = [f"{'module':<16}{'parameters':>16}{'trainable':>16}"]
    lines += [f"{name:<16}{total:>16,}{trainable:>16,}" for name, (total, trainable) in counts.items()]
    if isinstance(dataset, StreamedBatches):
        lines += ["rows: a stream, which is not counted", f"optimizer steps: {max_steps:,}"]
    else:
        epochs = max_steps * args.gradient_accumulation_steps / len(loader)
        lines.append(f"rows: {len(dataset.rows):,}, of which {len(getattr(dataset, 'skipped', ())):,} are skipped")
        lines += [f"{side} audio: {hours_of(dataset.rows, side):.2f} h" for side in ("question", "answer")]
        lines.append(f"batches per epoch: {len(loader):,} on each of {args.world_size} processes")
        lines.append(f"optimizer steps: {max_steps:,} ({epochs:.2f} epochs)")
    num_warmup_steps = args.get_warmup_steps(max_steps)
    if num_warmup_steps > max_steps / 2:
        lines.append(
            f"warning: warm-up takes {num_warmup_steps:,} steps, more than half of training. Set `warmup_steps=0.03`."
        )
    return "\n".join(lines)


def hours_of(rows: Any, side: str) -> float:
    """Hours of `question` or `answer` recordings, without those that cannot be read."""
    seconds = 0.0
    for row in rows:
        try:
            seconds += audio_seconds(row, side) if has(row, f"{side}_audio") else 0.0
        except UNREADABLE:
            continue
    return seconds / 3600


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m flow_omni.training RECIPE [KEY=VALUE]... [--dry-run] [--fresh]`, for `accelerate launch -m`."""
    parser = argparse.ArgumentParser(prog="python -m flow_omni.training", description="Train a model with a recipe.")
    parser.add_argument("recipe", help="align, finetune, vocoder, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--dry-run", action="store_true", help="print modules, rows, hours and steps only")
    parser.add_argument("--fresh", action="store_true", help="start again, with earlier checkpoints set aside")
    options = parser.parse_intermixed_args(argv)
    result = train_recipe(options.recipe, options.overrides, options.dry_run, options.fresh)
    if result is not None and int(os.environ.get("RANK", 0)) == 0:
        print(f"{result.output_dir}: trained for {result.num_steps} steps.")
