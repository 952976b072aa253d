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
Learning by the Trainer: a tiny model overfits one example of every task, and evaluation by generation says so; and it says
what it was taught so that it understands itself.
"""

import numpy as np
import pytest
import torch
from test_learning import conversations, tone
from tiny import tiny_model, tiny_processor
from training_runs import encoded_examples, make_trainer

from flow_omni.training.generation_metrics import Answer, GenerationMetrics, Question
from flow_omni.training.recognisers import OwnEars
from flow_omni.training.vocoder_options import VocoderOptions
from flow_omni.training.vocoder_trainer import VocoderInTraining


pytestmark = pytest.mark.slow


def model_to_teach():
    return tiny_model(
        text={"hidden_size": 64, "intermediate_size": 128},
        speech={"patch_noise": 0.1, "patch_dropout": 0.0, "head_hidden_size": 64},
    )


def teach(folder, model, processor, exchanges, examples) -> tuple[dict[str, float], list[Answer]]:
    """
    What an evaluation measures, and what was answered in it, after 400 steps on one batch: `exchanges` are pairs of a task and
    its conversation, and `examples` what the processor makes of them.
    """
    questions = [Question.of(task, conversation) for task, conversation in exchanges]
    answers = []
    metrics = GenerationMetrics(
        questions,
        processor,
        lambda model: OwnEars(model, processor, max_new_tokens=20),
        on_answers=[lambda answered, step, trainer: answers.extend(answered)],
        flow_temperature=0.0,
        max_new_tokens=80,
    )
    trainer = make_trainer(
        folder,
        model,
        examples,
        max_steps=400,
        per_device_train_batch_size=len(examples),
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        mel_statistics_batches=10,
        logging_steps=100,
        ema_decay=0.95,
        eval_dataset=examples,
        generation_metrics=metrics,
    )
    trainer.train()
    return trainer.evaluate(), answers


def error_of_mel(mel, target) -> float:
    """The mean error of a mel that was said, as a part of the mean deviation of the one that was to be said."""
    target = target.flatten(0, 1).clamp(min=-7)
    assert mel.shape == target.shape
    error = (torch.from_numpy(mel).clamp(min=-7) - target).abs().mean()
    return (error / (target - target.mean(dim=0)).abs().mean()).item()


def assert_learnt(metrics, answers, exchanges, examples) -> None:
    """All losses near zero; every answer to the letter, every spoken one of the right length and close to its target."""
    tasks = {task for task, _ in exchanges}
    assert {task: metrics[f"eval_{task}_exact"] for task in tasks} == dict.fromkeys(tasks, 1.0)
    assert metrics["eval_text_loss"] < 0.01
    assert metrics["eval_state_loss"] < 0.02
    assert metrics["eval_speech_loss"] < 0.05
    assert metrics["eval_auxiliary_loss"] < 0.05
    spoken = [(answer, example) for answer, example in zip(answers, examples) if answer.is_spoken]
    assert len(spoken) == 2
    for answer, example in spoken:
        assert not answer.is_truncated
        assert error_of_mel(answer.mel, example["mel_labels"]) < 0.15, answer.task


def test_the_trainer_teaches_every_task(tmp_path):
    model = model_to_teach()
    processor = tiny_processor(model.config)
    exchanges, examples = list(conversations(processor).items()), encoded_examples(copies=1)
    metrics, answers = teach(tmp_path, model, processor, exchanges, examples)
    assert_learnt(metrics, answers, exchanges, examples)


def fit_vocoder(model, waveforms: list[np.ndarray], num_steps: int = 300) -> None:
    """Lets the vocoder of a model learn to say these sounds, which are as long as each other."""
    vocoder = VocoderInTraining(model.vocoder, VocoderOptions(), model.config.speech_config.mel_floor).train()
    batch = torch.from_numpy(np.stack(waveforms))
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        vocoder(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(vocoder.parameters(), 1.0)
        optimizer.step()
        scheduler.step()


def test_what_it_says_it_understands(tmp_path):
    """
    Two words, each a sound, are learnt both ways. What the model then says of a text goes through its own vocoder and to its
    own ears, which write the text.
    """
    model = model_to_teach()
    processor = tiny_processor(model.config)
    rate = model.config.sampling_rate
    sounds = {text: tone(frequency, 0.5)[::2].copy() for text, frequency in (("tin", 300), ("four", 700))}
    fit_vocoder(model, list(sounds.values()))
    exchanges = []
    for text, waveform in sounds.items():
        written = {"type": "text", "text": text}
        sound = {"array": waveform, "sampling_rate": rate}
        said = [{"role": "assistant", "content": [written, {"type": "audio", "audio": sound}]}]
        exchanges.append(("say", processor.make_conversation("say", text=text) + said))
        heard = [{"role": "assistant", "content": [written]}]
        exchanges.append(("transcribe", processor.make_conversation("transcribe", audio=sound) + heard))
    examples = [processor.encode_training_example(conversation) for _, conversation in exchanges]
    metrics, answers = teach(tmp_path, model, processor, exchanges, examples)
    assert_learnt(metrics, answers, exchanges, examples)
    assert [answer.heard for answer in answers if answer.is_spoken] == ["tin", "four"]
