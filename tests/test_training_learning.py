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
"""Learning by the Trainer: a tiny model overfits one example of every task, and evaluation by generation says so."""

import pytest
from test_learning import conversations
from tiny import tiny_model, tiny_processor
from training_runs import encoded_examples, make_trainer

from flow_omni.training.generation_metrics import GenerationMetrics, Question


@pytest.mark.slow
def test_the_trainer_teaches_every_task(tmp_path):
    model = tiny_model(
        text={"hidden_size": 64, "intermediate_size": 128},
        speech={"patch_noise": 0.1, "patch_dropout": 0.0, "head_hidden_size": 64},
    )
    processor = tiny_processor(model.config)
    questions = [Question.of(task, example) for task, example in conversations(processor).items()]
    examples = encoded_examples(copies=1)
    trainer = make_trainer(
        tmp_path,
        model,
        examples,
        max_steps=400,
        per_device_train_batch_size=4,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        mel_statistics_batches=10,
        logging_steps=100,
        ema_decay=0.95,
        eval_dataset=examples,
        generation_metrics=GenerationMetrics(questions, processor, flow_temperature=0.0, max_new_tokens=80),
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert {task: metrics[f"eval_{task}_exact"] for task in ("ask", "say", "transcribe", "answer")} == dict.fromkeys(
        ("ask", "say", "transcribe", "answer"), 1.0
    )
    assert metrics["eval_text_loss"] < 0.01
    assert metrics["eval_state_loss"] < 0.02
    assert metrics["eval_say_truncated"] == 0.0
