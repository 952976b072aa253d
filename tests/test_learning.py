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
"""Learning: a tiny model overfits one example of every task, then says and writes it back by generation."""

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_processor


def tone(frequency: float, seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * 16000)) / 16000
    return (0.3 * np.sin(2 * np.pi * frequency * time * (1 + 0.2 * time))).astype(np.float32)


def conversations(processor) -> dict[str, list[dict]]:
    """One conversation of each task; tones stand for speech."""
    question, other_question = tone(300, 0.3), tone(700, 0.25)

    def sound(waveform):
        return {"array": waveform, "sampling_rate": 16000}

    def answer(text, waveform=None):
        speech = [] if waveform is None else [{"type": "audio", "audio": sound(waveform)}]
        content = [{"type": "text", "text": text}, *speech]
        return [{"role": "assistant", "content": content}]

    def prompt(task, **inputs):
        return processor.make_conversation(task, **inputs)

    return {
        "ask": prompt("ask", text="two and two") + answer("four"),
        "say": prompt("say", text="tin") + answer("tin", tone(900, 0.3)),
        "transcribe": prompt("transcribe", audio=sound(question)) + answer("why"),
        "answer": prompt("ask", audio=sound(other_question)) + answer("so so", tone(500, 0.4)),
    }


@pytest.fixture(scope="module")
def learnt():
    """For each task the example, the answer to its prompt after a hundred steps on all four, and the processor."""
    model = tiny_model(
        text={"hidden_size": 64, "intermediate_size": 128},
        speech={"patch_noise": 0.05, "patch_dropout": 0.0, "condition_dropout": 0.0, "head_hidden_size": 64},
    ).train()
    processor = tiny_processor(model.config)
    examples = conversations(processor)
    batch = processor.prepare_training_inputs(list(examples.values()))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=100)
    for _ in range(100):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    model.eval()
    answers = {}
    for task, (*prompt, answer) in examples.items():
        inputs = processor.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        mode = "text" if len(answer["content"]) == 1 else "speech"
        answers[task] = model.generate(**inputs, generation_mode=mode, flow_temperature=0.0, max_new_tokens=80)
    return examples, answers, processor


def test_each_task_is_written_back(learnt):
    examples, answers, processor = learnt
    for task, output in answers.items():
        expected = examples[task][-1]["content"][0]["text"]
        assert processor.post_process_generation(output)[0]["text"] == expected, task
        assert not output.speech_truncated.any(), task


def test_each_spoken_answer_is_said_back(learnt):
    examples, answers, processor = learnt
    for task in ("say", "answer"):
        mel = answers[task].mel[0].clamp(min=-7)
        target = processor.encode_training_example(examples[task])["mel_labels"].flatten(0, 1).clamp(min=-7)
        assert len(mel) == len(target), task
        error, spread = (mel - target).abs().mean(), (target - target.mean(dim=0)).abs().mean()
        assert error < 0.25 * spread, task
