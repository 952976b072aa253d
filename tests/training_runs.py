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
"""Short training runs on tiny models, for the tests of training."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from test_learning import conversations
from tiny import tiny_config, tiny_model, tiny_processor

from flow_omni.training.arguments import FlowOmniTrainingArguments
from flow_omni.training.batches import Batches, make_batches
from flow_omni.training.examples import ExampleBuilder
from flow_omni.training.trainer import FlowOmniTrainer


# What is random in the loss, turned off: two runs on the same examples in other batches then compare.
DETERMINISTIC = {"head_type": "residual_vq", "patch_noise": 0.0, "patch_dropout": 0.0, "condition_dropout": 0.0}


@lru_cache
def _examples() -> tuple[dict, ...]:
    processor = tiny_processor(tiny_config())
    examples = [processor.encode_training_example(example) for example in conversations(processor).values()]
    for example in examples:
        if example["input_features"]:
            example["audio_labels"] = [torch.tensor([7, 9])]
    return tuple(examples)


def encoded_examples(copies: int = 2) -> list[dict]:
    """Examples of every task, of unequal lengths: text to text, text to speech, speech to text, speech to speech."""
    return list(_examples()) * copies


def text_batches(num_rows: int = 2, **options: Any) -> Batches:
    """Batches of rows of text: a question and an answer each."""
    names = ["first", "second", *map(str, range(2, num_rows))][:num_rows]
    rows = [
        {"id": name, "question_text": f"the {name}", "answer_text": name * (2 + index % 3)}
        for index, name in enumerate(names)
    ]
    builder = ExampleBuilder(tiny_processor(tiny_config()))
    return make_batches(rows, builder, **({"max_steps_per_batch": 1000} | options))


def make_trainer(folder: Path, model=None, examples=None, **options: Any) -> FlowOmniTrainer:
    """A Trainer of a tiny model on a few examples; options are those of the Trainer, and of its arguments."""
    model = tiny_model() if model is None else model
    names = ("callbacks", "eval_dataset", "generation_metrics", "optimizers", "train_batches", "eval_batches")
    names += ("compute_loss_func", "compute_metrics", "model_init")
    trainer_options = {name: options.pop(name) for name in names if name in options}
    arguments = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "stage": "finetune",
        "mel_statistics_batches": 0,
    }
    return FlowOmniTrainer(
        model,
        FlowOmniTrainingArguments(**(arguments | options)),
        train_dataset=encoded_examples() if examples is None else examples,
        processing_class=tiny_processor(tiny_config()),
        **trainer_options,
    )


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert set(first) == set(second)
    for name, tensor in first.items():
        if tolerance:
            torch.testing.assert_close(
                tensor, second[name], msg=lambda message, name=name: f"{name}: {message}", **tolerance
            )
        else:
            assert torch.equal(tensor, second[name]), name
