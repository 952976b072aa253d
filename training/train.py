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
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from datasets.distributed import split_dataset_by_node
from transformers import AutoConfig, Trainer, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig, FlowOmniVocoderConfig
from ..modeling_flow_omni.modeling_flow_omni import MODULE_GROUPS, FlowOmniForSpeechGeneration, count_parameters
from ..modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from ..processing.files import atomic_write
from ..processing.processing_flow_omni import FlowOmniProcessor
from .arguments import Arguments, DataArguments, ModelArguments, RecipeParser
from .augmentation import Augmentation
from .batching import StreamedBatches, TrainingCollator
from .ctc import CTCModel, CTCTrainer, EncodedRows
from .data import audio_seconds, conversation_of, has, load_rows
from .examples import UNREADABLE, ExampleBuilder, ExampleDataset
from .lora import add_lora, save_and_merge_lora
from .trainer import FlowOmniTrainer, save_final
from .vocoder import VocoderSegments, VocoderTrainer, VocoderWithLosses


def train_recipe(recipe: str, overrides: Sequence[str] = (), dry_run: bool = False, fresh: bool = False) -> Any:
    """
    Trains as a recipe says: a YAML file or `align`, `ctc`, `distill`, `finetune` or `vocoder`, with `key=value` overrides for any key of the
    dataclasses in `training/arguments.py`. Resumes from the last checkpoint in `output_dir`, unless the run is complete or
    to be `fresh`: then the checkpoints of an earlier run are moved to `earlier-N`. Returns the Trainer, with the log in
    `state.log_history`; a `dry_run` only prints what would be trained.
    """
    arguments = RecipeParser().parse(recipe, overrides)
    *_, args = arguments
    if Path(args.output_dir).is_file():
        raise ValueError(f"`output_dir` is '{args.output_dir}', which is a file: name a folder.")
    set_seed(args.seed)  # adapters and discriminators start at random, before the Trainer sets the seed
    make = make_vocoder_trainer if args.trainable_modules == ["vocoder"] else make_trainer
    if arguments[1].cached_encoder_layers is not None:
        make = make_ctc_trainer
    trainer, save = make(arguments)
    if dry_run:
        if trainer.is_world_process_zero():
            print(describe(trainer))
        return None
    run(trainer, save, fresh)
    trainer.accelerator.wait_for_everyone()
    trainer.end()  # on all processes together: one that still communicates while another exits would be aborted
    return trainer


def run(trainer: Trainer, save: Callable[[], None], fresh: bool = False) -> None:
    """Trains from the last checkpoint on, saves the final model, evaluates it, and marks the run as complete."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    if fresh and args.should_save:
        set_aside(folder)
    trainer.accelerator.wait_for_everyone()
    *_, max_steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    last = get_last_checkpoint(folder) if folder.is_dir() else None
    complete, saved = state_in(folder), state_in(last)
    if complete.global_step >= max_steps:
        trainer.state = complete
        return print(f"The run in '{folder}' is complete: nothing to do.") if args.should_save else None
    if saved.global_step >= max_steps:
        # killed between its last checkpoint and the final model: a step more would be one too many
        trainer.state = saved
        checkpoint = (saved.best_model_checkpoint if args.load_best_model_at_end else None) or last
        trainer._load_from_checkpoint(checkpoint)
        if getattr(trainer, "ema", None) is not None:
            trainer.ema.load(checkpoint, trainer.model)
    else:
        trainer.train(resume_from_checkpoint=last)
    save()  # before the evaluation, which with `bf16_full_eval` leaves the weights in bf16
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    if args.should_save:
        with atomic_write(folder / TRAINER_STATE_NAME) as path:
            trainer.state.save_to_json(os.fspath(path))


def state_in(folder: str | Path | None) -> TrainerState:
    """The state of a run in a checkpoint or an output folder; a new one if there is none."""
    path = Path(folder or "") / TRAINER_STATE_NAME
    return TrainerState.load_from_json(os.fspath(path)) if folder and path.is_file() else TrainerState()


def set_aside(folder: Path) -> None:
    """Moves the checkpoints of an earlier run into a folder `earlier-N`, from which no run resumes."""
    found = [*folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), *folder.glob(TRAINER_STATE_NAME)]
    if found:
        number = next(number for number in itertools.count(1) if not (folder / f"earlier-{number}").exists())
        (folder / f"earlier-{number}").mkdir()
        for path in found:
            os.replace(path, folder / f"earlier-{number}" / path.name)


def make_trainer(arguments: Arguments) -> tuple[FlowOmniTrainer, Callable[[], None]]:
    """The Trainer of a recipe, and what saves its final model."""
    model_args, data_args, args = arguments
    if data_args.distillation and (model_args.lora or "language_model" in (args.trainable_modules or MODULE_GROUPS)):
        raise ValueError(
            "`distillation` needs a frozen language model, which is the teacher: train other modules alone."
        )
    model, processor = load_model(model_args), FlowOmniProcessor.from_pretrained(model_args.model)
    tuner = None if model_args.lora is None else add_lora(model, model_args.lora, base=model_args.model)
    evaluation, metrics = None, None
    if data_args.eval_data:
        evaluation = make_dataset(arguments, processor, is_evaluation=True)
        if data_args.num_eval_questions > 0:
            metrics = make_generation_metrics(data_args, evaluation, processor, args.device)
    data = {"train_dataset": make_dataset(arguments, processor), "eval_dataset": evaluation}
    trainer = FlowOmniTrainer(model, args, metrics, processing_class=processor, **data)

    def save() -> None:
        if tuner is not None:
            if trainer.ema is not None:  # it averages adapters, which are gone when they are merged
                trainer.ema.copy_to(model)
                trainer.ema.averages = {}
            save_and_merge_lora(model, tuner, Path(args.output_dir) / "adapters" if args.should_save else None)
        save_final(trainer)

    return trainer, save


def make_ctc_trainer(arguments: Arguments) -> tuple[CTCTrainer, Callable[[], None]]:
    """The Trainer of CTC without the language model, and what saves the whole model."""
    model_args, data_args, args = arguments
    model, processor = load_model(model_args), FlowOmniProcessor.from_pretrained(model_args.model)
    if model.config.adapter_compression != "ctc":
        raise ValueError(
            f"'{model_args.model}' has an adapter without CTC: assemble it with `adapter_compression=ctc`."
        )
    num_layers, seed = data_args.cached_encoder_layers, args.seed if args.data_seed is None else args.data_seed
    folder = Path(data_args.cache_dir or Path(args.output_dir, "encoded"))
    augmentation = None if data_args.augmentation is None else Augmentation(**data_args.augmentation)
    rows = load_rows(data_args.train_data, data_args.columns, data_args.train_split)
    encode = partial(EncodedRows, max_skipped_fraction=data_args.max_skipped_fraction)
    model.to(args.device)  # also the language model, with whose embeddings audio is compared
    with args.main_process_first(desc="encoding"):
        data = {"train_dataset": encode(rows, folder, model, processor, num_layers, seed, augmentation)}
        if data_args.eval_data:
            rows = load_rows(data_args.eval_data, data_args.columns, data_args.eval_split)
            if not any(has(row, "question_audio") for row in rows):
                raise ValueError(
                    "No row of `eval_data` has a `question_audio` to transcribe: pass other rows, or none."
                )
            data["eval_dataset"] = encode(rows, folder, model, processor, num_layers, seed)
    trainer = CTCTrainer(CTCModel(model, num_layers), args, processor, processing_class=processor, **data)
    return trainer, lambda: save_final(trainer, model)


def load_model(model_args: ModelArguments) -> FlowOmniForSpeechGeneration:
    """The model to start from, in fp32: mixed precision casts by itself, and small updates vanish in bf16."""
    source, attention = model_args.model, model_args.attn_implementation
    options = {} if attention is None else {"attn_implementation": attention}
    options["language_model"] = model_args.language_model
    try:
        config = FlowOmniConfig.from_pretrained(source)
        for name, value in (model_args.config_overrides or {}).items():
            holders = [part for part in (config.speech_config, config) if hasattr(part, name)]
            if not holders:
                raise ValueError(
                    f"`config_overrides` names {name!r}: neither config nor `speech_config` has this field."
                )
            setattr(holders[0], name, value)
        config.validate_architecture()
        return FlowOmniForSpeechGeneration.from_pretrained(source, config=config, dtype="float32", **options)
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"`model` is {source!r}: neither a folder nor a checkpoint on the Hub ({reason}).") from error


def make_dataset(arguments: Arguments, processor: FlowOmniProcessor, is_evaluation: bool = False) -> Any:
    """The training or the evaluation data of a recipe: an [`ExampleDataset`], or [`StreamedBatches`]."""
    _, data_args, args = arguments
    source, split = data_args.train_data, data_args.train_split
    if is_evaluation:
        source, split = data_args.eval_data, data_args.eval_split
    streaming = data_args.streaming and not is_evaluation
    rows = load_rows(source, data_args.columns, split, streaming)
    augmentation = None if is_evaluation or data_args.augmentation is None else Augmentation(**data_args.augmentation)
    builder = ExampleBuilder(
        processor,
        data_args.tasks,
        args.seed if args.data_seed is None else args.data_seed,
        data_args.text_layout,
        data_args.ctc_labels,
        augmentation,
        data_args.distillation,
    )
    budget = args.max_positions_per_batch
    max_length = min(data_args.max_example_length or budget, budget)
    if not streaming:
        return ExampleDataset(rows, builder, max_length, data_args.max_skipped_fraction)
    if args.world_size > 1:
        rows = split_dataset_by_node(rows, args.process_index, args.world_size)
    collate = TrainingCollator(processor, args.all_modalities)
    return StreamedBatches(rows, collate, budget, builder, max_length, data_args.max_skipped_fraction)


def make_generation_metrics(
    data_args: DataArguments, dataset: ExampleDataset, processor: FlowOmniProcessor, device: Any
) -> Callable[..., dict[str, float]]:
    """Rows of the evaluation as questions, spread over all of them, and the ASR model that transcribes spoken answers."""
    from .asr import load_asr
    from .metrics import GenerationMetrics, Question

    draws = [draw for draw, _ in dataset.draw(0)]
    draws = draws[:: max(1, len(draws) // data_args.num_eval_questions)][: data_args.num_eval_questions]
    questions = [Question(d.task, conversation_of(dataset.rows[d.index], d.task, processor)) for d in draws]
    asr, options = data_args.asr_model, {"language": data_args.eval_language}
    if asr is not None and asr != "own":
        asr = load_asr(asr, device=device, **options)
    return GenerationMetrics(questions, processor, asr, max_new_tokens=data_args.eval_max_new_tokens, **options)


def make_vocoder_trainer(arguments: Arguments) -> tuple[VocoderTrainer, Callable[[], None]]:
    """The Trainer of a vocoder, alone or inside a model, and what saves the result in the same form."""
    model_args, data_args, args = arguments
    source = model_args.model
    if isinstance(AutoConfig.from_pretrained(source), FlowOmniVocoderConfig):
        model = vocoder = FlowOmniVocoder.from_pretrained(source, dtype="float32")
        processor, speech_config = None, FlowOmniSpeechConfig()
    else:
        model, processor = load_model(model_args), FlowOmniProcessor.from_pretrained(source)
        vocoder, speech_config = model.vocoder, model.config.speech_config
        if vocoder is None:
            raise ValueError(f"'{source}' has no vocoder: assemble it with one (`flow-omni init --vocoder`).")

    def segments(data: str, split: str | None, **kwargs) -> VocoderSegments:
        rows = load_rows(data, data_args.columns, split)
        rate, hop_length = vocoder.config.sampling_rate, vocoder.config.hop_length
        num_samples = round(data_args.segment_seconds * rate / hop_length) * hop_length
        return VocoderSegments(rows, rate, num_samples, args.seed, **kwargs)

    evaluation = None
    if data_args.eval_data:
        evaluation = segments(data_args.eval_data, data_args.eval_split, segments_per_recording=1)
    data = {"train_dataset": segments(data_args.train_data, data_args.train_split), "eval_dataset": evaluation}
    with_losses = VocoderWithLosses(vocoder, args, speech_config.mel_floor)
    trainer = VocoderTrainer(with_losses, args, processing_class=processor, **data)
    return trainer, lambda: save_final(trainer, model)


def describe(trainer: Trainer) -> str:
    """Modules, rows, hours, batches and optimizer steps, for the dry run."""
    args, dataset = trainer.args, trainer.train_dataset
    *_, max_steps = trainer.set_initial_training_values(args, loader := trainer.get_train_dataloader())
    if isinstance(trainer, VocoderTrainer):
        sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in trainer.model.named_children()}
        counts = {name: (size, size) for name, size in sizes.items() if size}
    else:
        counts = count_parameters(trainer.model)
    lines = [f"{'module':<16}{'parameters':>16}{'trainable':>16}"]
    lines += [f"{name:<16}{total:>16,}{trainable:>16,}" for name, (total, trainable) in counts.items()]
    if isinstance(dataset, StreamedBatches):
        lines += ["rows: a stream, which is not counted", f"optimizer steps: {max_steps:,}"]
    else:
        epochs = max_steps * args.gradient_accumulation_steps / len(loader)
        lines.append(f"rows: {len(dataset.rows):,}, of which {len(getattr(dataset, 'skipped', ())):,} are skipped")
        for side in ("question", "answer"):
            seconds = 0.0
            for row in (row for row in dataset.rows if has(row, f"{side}_audio")):
                with suppress(*UNREADABLE):
                    seconds += audio_seconds(row, side)
            lines.append(f"{side} audio: {seconds / 3600:.2f} h")
        lines.append(f"batches per epoch: {len(loader):,} on each of {args.world_size} processes")
        lines.append(f"optimizer steps: {max_steps:,} ({epochs:.2f} epochs)")
    num_warmup_steps = args.get_warmup_steps(max_steps)
    if num_warmup_steps > max_steps / 2:
        lines.append(f"warning: warm-up takes {num_warmup_steps:,} steps, more than half. Set `warmup_steps=0.03`.")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m flow_omni.training RECIPE [KEY=VALUE]... [--dry-run] [--fresh]`, for `accelerate launch -m`."""
    parser = argparse.ArgumentParser(prog="python -m flow_omni.training", description="Train a model with a recipe.")
    parser.add_argument("recipe", help="align, ctc, distill, finetune, vocoder, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--dry-run", action="store_true", help="print modules, rows, hours and steps only")
    parser.add_argument("--fresh", action="store_true", help="start again, with earlier checkpoints set aside")
    options = parser.parse_intermixed_args(argv)
    train_recipe(options.recipe, options.overrides, options.dry_run, options.fresh)
