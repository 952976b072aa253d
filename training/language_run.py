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
"""
The stage `language`: a causal language model learns to write. It makes the "pretrained" LLM of a model that has none to
begin with, out of the written exchanges of a corpus: arithmetic and facts cost far less as text than as speech.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, set_seed

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from ..processing.byte_level_tokenizer import byte_level_tokenizer
from ..processing.processing_flow_omni import FlowOmniProcessor
from .arguments import FlowOmniTrainingArguments
from .batches import Batches, make_batches
from .dry_run import describe_memory
from .examples import ExampleBuilder
from .manifest import load_rows
from .recipe import Recipe
from .rows import conversation_of, tasks_of
from .stages import count_parameters
from .target_means import TargetMeanTrainer
from .text_scores import exact_rate


IGNORED = -100
TASKS = {"text_to_text": 1.0}


class LanguageTrainer(TargetMeanTrainer):
    """Trains on every token, those of the questions too: who transcribes has to know how questions go."""

    def __init__(self, *args: Any, questions: Sequence[Mapping] = (), examples: Any = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.questions, self.examples = questions, examples

    def outputs_of(self, model: nn.Module, batch: Mapping[str, Any]) -> Any:
        input_ids, attention_mask = batch["input_ids"], batch["attention_mask"]
        labels = input_ids.masked_fill(attention_mask == 0, IGNORED)
        return model(input_ids=input_ids, attention_mask=attention_mask, labels=labels)

    def num_targets(self, batch: Mapping[str, Any]) -> torch.Tensor:
        # nothing foretells the first token
        return batch["attention_mask"][:, 1:].sum()

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any):
        """The Trainer's, and the share of questions that are answered to the letter."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.questions:
            model = self.accelerator.unwrap_model(self.model)
            answers = write_answers(model, self.examples, self.questions)
            expected = [row["answer_text"] for row in self.questions]
            output.metrics[f"{metric_key_prefix}_exact"] = exact_rate(expected, answers)
        return output


@dataclass
class LanguageRun:
    """All that a recipe makes, ready to train."""

    recipe: Recipe
    trainer: LanguageTrainer
    train_batches: Batches

    @property
    def args(self) -> FlowOmniTrainingArguments:
        return self.trainer.args

    def describe(self) -> str:
        """What it would train."""
        trained, _ = count_parameters(self.trainer.model)
        max_steps, batch = self.recipe.data.max_steps_per_batch, next(iter(self.train_batches))
        memory = describe_memory(self.trainer, batch | {"labels": batch["input_ids"]}, max_steps)
        return "\n".join(
            [
                f"stage language of {self.recipe.model or 'a new model'}",
                f"parameters: {trained:,}",
                f"exchanges: {len(self.train_batches.rows):,}",
                f"optimizer steps: {self.args.max_steps:,}, each on up to {max_steps:,} tokens",
                memory,
            ]
        )

    def train(self, is_fresh: bool = False) -> dict[str, float]:
        """Trains, or goes on from the last checkpoint, saves the model, and returns the last evaluation."""
        self.trainer.train_to_the_end(is_fresh)
        # first: an evaluation with `bf16_full_eval` leaves the weights in bf16
        self.trainer.save_final(Path(self.args.output_dir))
        return self.trainer.evaluate() if self.trainer.eval_batches is not None else {}


def make_run(recipe: Recipe) -> LanguageRun:
    """Loads or makes the language model of a recipe, reads the rows, and puts the Trainer together."""
    without_evaluation = {} if recipe.data.eval else {"eval_strategy": "no"}
    args = FlowOmniTrainingArguments(**recipe.training | without_evaluation)
    # a new model begins at random, and the Trainer comes too late to seed that
    set_seed(args.seed)
    model, tokenizer = load_or_make(recipe)
    # a copy: a composite config sets the attention implementation of its parts, also under a model that is running
    processor = FlowOmniProcessor.from_parts(tokenizer, FlowOmniConfig(text_config=copy.deepcopy(model.config)))
    train_batches = _batches_of(recipe, recipe.data.train, recipe.data.split, processor, args)
    eval_batches, questions = None, ()
    if recipe.data.eval:
        eval_batches = _batches_of(
            recipe, recipe.data.eval, recipe.data.eval_split, processor, args, is_evaluation=True
        )
        questions = questions_of(eval_batches.rows, recipe.evaluation.questions)
    trainer = LanguageTrainer(
        model,
        args,
        train_batches=train_batches,
        eval_batches=eval_batches,
        questions=questions,
        examples=processor,
        processing_class=tokenizer,
    )
    return LanguageRun(recipe, trainer, train_batches)


def load_or_make(recipe: Recipe) -> tuple[PreTrainedModel, Any]:
    """The language model to go on with, or a new one of the sizes in `new` that reads bytes; and its tokenizer."""
    if recipe.model is not None:
        model = AutoModelForCausalLM.from_pretrained(recipe.model, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(recipe.model)
    tokenizer = byte_level_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(**{"model_type": "qwen2"} | recipe.new | ends | {"vocab_size": len(tokenizer)})
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(**ends)
    return model, tokenizer


def _batches_of(
    recipe: Recipe,
    source: Any,
    split: str | None,
    processor: FlowOmniProcessor,
    args: FlowOmniTrainingArguments,
    is_evaluation: bool = False,
) -> Batches:
    data = recipe.data
    rows = load_rows(source, split, columns=data.columns, on_error=data.on_error, keep_wrong=not is_evaluation)
    seed = args.data_seed if args.data_seed is not None else args.seed
    builder = ExampleBuilder(processor, TASKS, seed=seed, max_steps=data.max_steps, on_error=data.on_error)
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


def questions_of(rows: Sequence[Mapping], num_questions: int) -> list[Mapping]:
    """So many rows, spread over all those that have a written question and its answer: of speech nothing can be asked here."""
    written = [index for index, row in enumerate(rows) if "text_to_text" in tasks_of(row)]
    step = max(1, len(written) // max(1, num_questions))
    return [rows[index] for index in written[::step][:num_questions]]


@torch.no_grad()
def write_answers(
    model: PreTrainedModel,
    processor: FlowOmniProcessor,
    rows: Sequence[Mapping],
    batch_size: int = 32,
    max_new_tokens: int = 128,
) -> list[str]:
    """What the model writes to the question of each row, without sampling."""
    was_training = model.training
    model.eval()
    answers = []
    for start in range(0, len(rows), batch_size):
        prompts = [conversation_of(row, "text_to_text", processor)[:-1] for row in rows[start : start + batch_size]]
        inputs = processor.apply_chat_template(
            prompts, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
        written = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        prompt_length = inputs["input_ids"].shape[1]
        answers += processor.tokenizer.batch_decode(written[:, prompt_length:], skip_special_tokens=True)
    model.train(was_training)
    return answers
