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
"""How long a question waits: times of single questions, streamed as a user would hear them."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from ..training.generation_metrics import Question
from .questions import AskedRow, spread


# The spoken answer to a spoken question is what a user waits for; without such rows the next best.
TASKS = ("speech_to_speech", "text_to_speech", "say")


def measure_speed(
    questions: Sequence[AskedRow], model: Any, processor: Any, num_questions: int = 8, seed: int = 0, **options: Any
) -> dict[str, float]:
    """
    Times of `num_questions` spoken answers, one at a time: medians of the waits for the first text and the first sound,
    from the question as samples on; and the real-time factor, all computing over all speech.
    """
    by_task = {task: [asked for asked in questions if asked.task == task] for task in TASKS}
    task = next((task for task in TASKS if by_task[task]), None)
    if task is None or num_questions == 0 or model.vocoder is None:
        return {}
    asked = [one.question(processor) for one in spread(by_task[task], num_questions)]
    # the first answer of a process pays for memory and kernels
    _stream(asked[0], model, processor, seed, options)
    times = [_stream(one, model, processor, seed + number, options) for number, one in enumerate(asked)]
    speech_seconds = sum(time["speech_seconds"] for time in times)
    values = {"num_rows": len(times), "speech_seconds": speech_seconds}
    if speech_seconds > 0:
        values["real_time_factor"] = sum(time["seconds"] for time in times) / speech_seconds
    for name in ("first_text_ms", "first_sound_ms"):
        waits = [time[name] for time in times if name in time]
        if waits:
            values[name] = median(waits)
    return values


@torch.no_grad()
def _stream(question: Question, model: Any, processor: Any, seed: int, options: dict[str, Any]) -> dict[str, float]:
    """The seconds of one answer, and when its first text and sound were there."""
    times, num_samples = {}, 0
    start = time.perf_counter()
    inputs = processor.apply_chat_template(
        question.prompt, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, dtype=model.dtype)
    for step in model.stream(
        **inputs, **{"generation_mode": "speech", "return_audio": True, "do_sample": False, "seed": seed} | options
    ):
        # on a graphics card, a number is there when it can be read
        new_samples = len(step.audio[0].cpu())
        now = (time.perf_counter() - start) * 1000
        times.setdefault("first_text_ms", now)
        if new_samples:
            times.setdefault("first_sound_ms", now)
        num_samples += new_samples
    return times | {"seconds": time.perf_counter() - start, "speech_seconds": num_samples / processor.sampling_rate}
