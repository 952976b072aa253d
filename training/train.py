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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets.distributed import split_dataset_by_node
from transformers import AutoConfig, Trainer, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig, FlowOmniVocoderConfig
from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration, count_parameters
from ..modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from ..processing.files import atomic_write
from ..processing.processing_flow_omni import FlowOmniProcessor
from .arguments import DataArguments, FlowOmniTrainingArguments, ModelArguments, RecipeParser, structured
from .augmentation import Augmentation
from .batching import TrainingCollator
from .data import audio_seconds, conversation_of, has, load_rows
from .examples import ExampleBuilder, ExampleDataset, StreamedBatches
from .lora import add_lora, save_and_merge_lora
from .trainer import FlowOmniTrainer, save_final
from .vocoder import VocoderSegments, VocoderTrainer, VocoderWithLosses


logger = logging.getLogger(__name__)


@dataclass
class TrainingResult:
    """
    What a run has done, for the one who reports it.

    Attributes:
        output_dir: the folder of the final model.
        command: what trains this model again.
        num_steps: optimizer steps taken, those of earlier sessions included.
        metrics: of the last evaluation.
        log_history: the Trainer's log.
        skipped: messages about rows that could not be used.
    """

    output_dir: Path
    command: str
    num_steps: int
    metrics: dict[str, float]
    log_history: list[dict[str, Any]]
    skipped: list[str] = field(default_factory=list)


def train_recipe(
    recipe: str, overrides: Sequence[str] = (), dry_run: bool = False, fresh: bool = False
) -> TrainingResult | None:
    """
    Trains as a recipe says, from the last checkpoint in `output_dir` on if there is one. A run that is complete is left
    as it is.

    Args:
        recipe (`str`):
            A YAML file, or the name of a packaged recipe: `align`, `finetune` or `vocoder`.
        overrides (`list[str]`, *optional*):
            `key=value` for any key of the three dataclasses in `training/arguments.py`.
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print what would be trained, and return `None`.
        fresh (`bool`, *optional*, defaults to `False`):
            Whether to start again, with the checkpoints of an earlier run moved to `earlier-N`.
    """
    model_args, data_args, args = RecipeParser().parse(recipe, overrides)
    for name, value in (
        ("model", model_args.model),
        ("train_data", data_args.train_data),
        ("output_dir", args.output_dir),
    ):
        if not value:
            raise ValueError(f"`{name}` is missing: set it in the recipe, or with `{name}=…`.")
    if Path(args.output_dir).is_file():
        raise ValueError(f"`output_dir` is '{args.output_dir}', which is a file: name a folder.")
    # adapters and discriminators start at random, before the Trainer sets the seed
    set_seed(args.seed)
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
    result = TrainingResult(
        Path(args.output_dir),
        shlex.join([*launcher, recipe, *overrides]),
        trainer.state.global_step,
        metrics,
        trainer.state.log_history,
        [*getattr(trainer.train_dataset, "skipped", ()), *getattr(trainer, "skipped", ())],
    )
    trainer.accelerator.wait_for_everyone()
    trainer.end()  # on all processes together: one that still communicates while another exits would be aborted
    return result


def run(trainer: Trainer, save: Callable[[], None], fresh: bool = False) -> dict[str, float]:
    """
    Trains from the last checkpoint on, saves the final model and evaluates it; returns the metrics. `trainer_state.json` in
    `output_dir` marks a run that is complete.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    if fresh and args.should_save:
        set_aside(folder)
    trainer.accelerator.wait_for_everyone()
    *_, max_steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    last = get_last_checkpoint(folder) if folder.is_dir() else None
    for place in (folder, Path(last or folder)):
        file = place / TRAINER_STATE_NAME
        state = TrainerState.load_from_json(file) if file.is_file() else TrainerState()
        if state.global_step < max_steps:
            continue
        trainer.state = state
        if place == folder:
            logger.warning("The run in '%s' is complete: nothing to do.", folder)
            evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
            return {name: value for name, value in (evaluations or [{}])[-1].items() if name.startswith("eval_")}
        # killed between its last checkpoint and the final model
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        trainer._load_from_checkpoint(best or last)
        if getattr(trainer, "ema", None) is not None:
            trainer.ema.load(best or last, trainer.model)
        break
    else:
        trainer.train(resume_from_checkpoint=last)
    # before the evaluation, which with `bf16_full_eval` leaves the weights in bf16
    save()
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    if args.should_save:
        with atomic_write(folder / TRAINER_STATE_NAME) as path:
            trainer.state.save_to_json(os.fspath(path))
    return metrics


def set_aside(folder: Path) -> None:
    """Moves the checkpoints of an earlier run into a folder `earlier-N`, from which no run resumes."""
    found = [*folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), *folder.glob(TRAINER_STATE_NAME)]
    if found:
        aside = next(path for number in itertools.count(1) if not (path := folder / f"earlier-{number}").exists())
        aside.mkdir()
        for path in found:
            os.replace(path, aside / path.name)


# The speech model


def make_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: FlowOmniTrainingArguments
) -> tuple[FlowOmniTrainer, Callable[[], None]]:
    """The Trainer of a recipe, and what saves its final model."""
    model = load_model(model_args.model, model_args.attn_implementation)
    override_config(model.config, structured(model_args.config_overrides) or {})
    processor = FlowOmniProcessor.from_pretrained(model_args.model)
    lora = structured(model_args.lora)
    tuner = None if lora is None else add_lora(model, lora, base=model_args.model)
    eval_dataset, metrics = None, None
    if data_args.eval_data:
        eval_dataset = make_dataset(data_args, args, processor, is_evaluation=True)
        if data_args.num_eval_questions > 0:
            metrics = make_generation_metrics(data_args, eval_dataset, processor, args.device)
    trainer = FlowOmniTrainer(
        model,
        args,
        train_dataset=make_dataset(data_args, args, processor),
        eval_dataset=eval_dataset,
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


def load_model(source: str, attn_implementation: str | None = None) -> FlowOmniForSpeechGeneration:
    """The model to start from, in fp32: mixed precision casts by itself, and small updates vanish in bf16."""
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    try:
        return FlowOmniForSpeechGeneration.from_pretrained(source, dtype="float32", **options)
    except OSError as error:
        raise ValueError(
            f"`model` is {source!r}, which is neither a folder with a checkpoint (as `flow-omni init` writes it) nor a checkpoint on "
            f"the Hub within reach ({' '.join(str(error).split())[:200]})."
        ) from error


def override_config(config: FlowOmniConfig, overrides: Mapping[str, Any]) -> None:
    """Changes fields of a config or of its `speech_config`, for a model with these very weights."""
    for name, value in overrides.items():
        holder = config.speech_config if hasattr(config.speech_config, name) else config
        if not hasattr(holder, name):
            raise ValueError(
                f"`config_overrides` names {name!r}, which is a field of neither the config nor its `speech_config`."
            )
        setattr(holder, name, value)
    config.validate_architecture()


def make_dataset(
    data_args: DataArguments,
    args: FlowOmniTrainingArguments,
    processor: FlowOmniProcessor,
    is_evaluation: bool = False,
) -> ExampleDataset | StreamedBatches:
    """The training or the evaluation data of a recipe."""
    source, split = (data_args.train_data, data_args.train_split)
    if is_evaluation:
        source, split = (data_args.eval_data, data_args.eval_split)
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
    max_length = min(data_args.max_example_length or args.max_positions_per_batch, args.max_positions_per_batch)
    if not streaming:
        return ExampleDataset(rows, builder, max_length, data_args.max_skipped_fraction)
    if args.world_size > 1:
        rows = split_dataset_by_node(rows, args.process_index, args.world_size)
    collate = TrainingCollator(processor, all_modalities=args.world_size > 1)
    return StreamedBatches(rows, builder, collate, args.max_positions_per_batch, builder.seed)


def make_generation_metrics(
    data_args: DataArguments, dataset: ExampleDataset, processor: FlowOmniProcessor, device: Any
) -> Callable[..., dict[str, float]] | None:
    """Rows of the evaluation as questions, spread over all of them, and the ASR model that transcribes spoken answers."""
    from .asr import load_asr
    from .metrics import GenerationMetrics, Question

    usable = [draw for draw, _ in dataset.draw(0)]
    step = max(1, len(usable) // data_args.num_eval_questions)
    questions = [
        Question(draw.task, conversation_of(dataset.rows[draw.index], draw.task, processor))
        for draw in usable[::step][: data_args.num_eval_questions]
    ]
    asr_model = data_args.asr_model
    if asr_model is not None and asr_model != "own":
        asr_model = load_asr(asr_model, language=data_args.asr_language, device=device)
    return GenerationMetrics(questions, processor, asr_model, max_new_tokens=data_args.eval_max_new_tokens)


# The vocoder


def make_vocoder_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: FlowOmniTrainingArguments
) -> tuple[VocoderTrainer, Callable[[], None]]:
    """The Trainer of a vocoder, alone or inside a model, and what saves the result in the same form."""
    if isinstance(AutoConfig.from_pretrained(model_args.model), FlowOmniVocoderConfig):
        model, processor, speech_config = None, None, FlowOmniSpeechConfig()
        vocoder = FlowOmniVocoder.from_pretrained(model_args.model, dtype="float32")
    else:
        model, processor = load_model(model_args.model), FlowOmniProcessor.from_pretrained(model_args.model)
        vocoder, speech_config = model.vocoder, model.config.speech_config
        if vocoder is None:
            raise ValueError(
                f"'{model_args.model}' has no vocoder: assemble it with one (`flow-omni init --vocoder`)."
            )

    def segments(source: str, split: str | None, **kwargs) -> VocoderSegments:
        rows = load_rows(structured(source), structured(data_args.columns), split)
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
    return trainer, partial(save_final, trainer, model if model is not None else vocoder)


# The dry run


def describe(trainer: Trainer) -> str:
    """Modules, rows, hours, batches and optimizer steps."""
    args, dataset = trainer.args, trainer.train_dataset
    *_, max_steps = trainer.set_initial_training_values(args, loader := trainer.get_train_dataloader())
    is_vocoder = isinstance(trainer, VocoderTrainer)
    if is_vocoder:
        counts = {name: count(module) for name, module in trainer.model.named_children() if name != "mel_spectrogram"}
    else:
        counts = count_parameters(trainer.model)
    lines = [f"{'module':<16}{'parameters':>16}{'trainable':>16}"]
    lines += [f"{name:<16}{total:>16,}{trainable:>16,}" for name, (total, trainable) in counts.items()]
    if isinstance(dataset, StreamedBatches):
        lines.append("rows: a stream, which is not counted")
    else:
        lines.append(f"rows: {len(dataset.rows):,}, of which {len(getattr(dataset, 'skipped', ())):,} are skipped")
        lines += [f"{side} audio: {hours_of(dataset.rows, f'{side}_audio'):.2f} h" for side in ("question", "answer")]
        epochs = max_steps * args.gradient_accumulation_steps / len(loader)
        lines.append(f"batches per epoch: {len(loader):,} on each of {args.world_size} processes")
        lines.append(f"optimizer steps: {max_steps:,} ({epochs:.2f} epochs)")
    num_warmup_steps = args.get_warmup_steps(max_steps)
    if num_warmup_steps > max_steps / 2:
        lines.append(
            f"warning: warm-up takes {num_warmup_steps:,} steps, more than half of training. Set `warmup_steps=0.03`."
        )
    return "\n".join(lines)


def count(module: Any) -> tuple[int, int]:
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def hours_of(rows: Any, name: str) -> float:
    """Hours of recordings in a column, without those that cannot be read."""
    seconds = 0.0
    for row in rows:
        try:
            seconds += audio_seconds(row, name) if has(row, name) else 0.0
        except (ValueError, TypeError, OSError, RuntimeError):
            continue
    return seconds / 3600


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m flow_omni.training RECIPE [KEY=VALUE]... [--dry-run] [--fresh]`, for `accelerate launch -m`."""
    parser = argparse.ArgumentParser(prog="python -m flow_omni.training", description=train_recipe.__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_intermixed_args(argv)
    result = train_recipe(options.recipe, options.overrides, options.dry_run, options.fresh)
    if result is not None and int(os.environ.get("RANK", 0)) == 0:
        for name, value in sorted(result.metrics.items()):
            print(f"{name}: {value:.4g}")
        print(f"{result.output_dir}: trained for {result.num_steps} steps.")
