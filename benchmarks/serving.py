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
Latency and throughput of serving on this machine, with the bundled model: first audio after a spoken question over the
socket, interruptions, and several answers as one batch.

    python benchmarks/serving.py                                   # about five minutes
    python benchmarks/serving.py --quick                           # one question of each kind
    python benchmarks/serving.py --markdown table.md
"""

import argparse
import asyncio
import base64
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
import uvicorn
import websockets
from common import describe_machine, rounded, show, summary

from flow_omni.bundled import EXAMPLE_QUESTION, load_bundled
from flow_omni.serving.app import DrainingServer, make_app
from flow_omni.serving.audio import encode_samples
from flow_omni.serving.limits import ServerSettings
from flow_omni.serving.step_loop import StepLoop


RATE = 24000
PART_SECONDS = 0.02
TURNS = {
    "server_vad, 500 ms": {"type": "server_vad"},
    "server_vad, 200 ms": {"type": "server_vad", "silence_duration_ms": 200},
    "semantic_vad": {"type": "semantic_vad"},
    "committed by the client": None,
}


@contextmanager
def running(model: Any, processor: Any) -> Iterator[str]:
    """A server in a thread, and its address."""
    app = make_app(model, processor, ServerSettings(generation={"seed": 0}))
    server = DrainingServer(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1/realtime"
    finally:
        server.should_exit = True
        thread.join()


def load_question(seconds: float = 0.0) -> np.ndarray:
    """The example question without the silence around it, said again until so many seconds are full."""
    samples, rate = soundfile.read(EXAMPLE_QUESTION, dtype="float32")
    samples = soxr.resample(samples, rate, RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    samples = samples[loud[0] : loud[-1] + 1]
    return np.tile(samples, max(1, math.ceil(seconds * RATE / len(samples))))


class Caller:
    """A client that sends its microphone in real time, and notes when events come."""

    def __init__(self, socket: Any):
        self.socket = socket
        self.events: list[tuple[float, dict]] = []

    async def send(self, event: dict) -> None:
        await self.socket.send(json.dumps(event))

    async def speak(self, samples: np.ndarray) -> float:
        """Sends samples as fast as they would be recorded; the time at which the last one was."""
        start, num_samples = time.perf_counter(), int(PART_SECONDS * RATE)
        for index in range(0, len(samples), num_samples):
            part = samples[index : index + num_samples]
            await asyncio.sleep(max(0.0, start + (index + len(part)) / RATE - time.perf_counter()))
            audio = base64.b64encode(encode_samples(part, "audio/pcm")).decode()
            await self.send({"type": "input_audio_buffer.append", "audio": audio})
        return time.perf_counter()

    async def be_silent(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self.speak(np.zeros(int(PART_SECONDS * RATE), dtype=np.float32))

    async def listen(self, kind: str, reached: asyncio.Event) -> None:
        async for text in self.socket:
            self.events.append((time.perf_counter(), json.loads(text)))
            if self.events[-1][1]["type"] == kind:
                reached.set()
                return

    def first(self, kind: str, after: float = 0.0) -> float:
        return next(moment for moment, event in self.events if event["type"] == kind and moment > after)


async def connect(address: str, turn_detection: dict | None) -> Caller:
    caller = Caller(await websockets.connect(address, max_size=None))
    audio = {"input": {"turn_detection": turn_detection}}
    await caller.send({"type": "session.update", "session": {"type": "realtime", "audio": audio}})
    return caller


async def first_audio(address: str, turn_detection: dict | None, question: np.ndarray) -> float:
    """Seconds from the last sample of a question to the first of its answer."""
    caller, done = await connect(address, turn_detection), asyncio.Event()
    listening = asyncio.create_task(caller.listen("response.output_audio.delta", done))
    await caller.speak(np.zeros(RATE // 4, dtype=np.float32))
    end = await caller.speak(question)
    if turn_detection is None:
        await caller.send({"type": "input_audio_buffer.commit"})
        await caller.send({"type": "response.create"})
    else:
        await caller.be_silent(done)
    await listening
    await caller.socket.close()
    return caller.first("response.output_audio.delta") - end


async def interruption(address: str, question: np.ndarray) -> tuple[float, float]:
    """Seconds from the start of speech over an answer to the VAD's event, and from there to the last sound sent."""
    caller, speaking, cut = await connect(address, {"type": "server_vad"}), asyncio.Event(), asyncio.Event()
    listening = asyncio.create_task(caller.listen("response.output_audio.delta", speaking))
    await caller.speak(np.concatenate([np.zeros(RATE // 4, dtype=np.float32), question]))
    await caller.be_silent(speaking)
    await listening
    listening = asyncio.create_task(caller.listen("response.done", cut))
    start = time.perf_counter()
    await caller.speak(question)
    await listening
    detected = caller.first("input_audio_buffer.speech_started", start)
    sounds = [moment for moment, event in caller.events if event["type"] == "response.output_audio.delta"]
    await caller.socket.close()
    return detected - start, max(0.0, max(sounds) - detected)


def batch(model: Any, processor: Any, num_rows: int) -> tuple[float, float]:
    """Seconds of so many answers at once, and of audio in all of them."""
    conversation = processor.make_conversation("ask", audio=str(EXAMPLE_QUESTION))
    inputs = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    loop, start, num_samples = StepLoop(model), time.perf_counter(), 0
    rows = [loop.add(dict(inputs), seed=row) for row in range(num_rows)]
    while rows:
        steps = loop.step(rows)
        num_samples += sum(len(step.audio[0]) for _, step in steps)
        rows = [row for row, step in steps if not step.is_finished[0]]
    return time.perf_counter() - start, num_samples / processor.sampling_rate


def measure(num_questions: int, lengths: tuple[float, ...]) -> dict[str, dict[str, dict[str, str]]]:
    model, processor = load_bundled()
    tables: dict[str, dict[str, dict[str, str]]] = {"Machine": {"": describe_machine()}}
    column: dict[str, str] = {}
    with running(model, processor) as address:
        for name, turn_detection in TURNS.items():
            for seconds in lengths:
                samples = [
                    asyncio.run(first_audio(address, turn_detection, load_question(seconds)))
                    for _ in range(num_questions)
                ]
                high = sorted(samples)[max(0, math.ceil(0.95 * len(samples)) - 1)]
                row = f"{name}, question of {len(load_question(seconds)) / RATE:.0f} s"
                column[row] = f"{rounded(median(samples) * 1000)}, {rounded(high * 1000)}"
        tables["First audio after the last sample of a question (ms): median, 95 %"] = {"bundled model": column}
        pairs = [asyncio.run(interruption(address, load_question())) for _ in range(num_questions)]
    tables["Interruptions (ms)"] = {
        "bundled model": {
            "from the start of speech to the VAD's event": summary([pair[0] for pair in pairs], 1000),
            "from the VAD's event to the last sound": summary([pair[1] for pair in pairs], 1000),
        }
    }
    column = {}
    for num_rows in (1, 2, 4, 8):
        results = [batch(model, processor, num_rows) for _ in range(max(2, num_questions // 3))]
        seconds = [result[0] for result in results]
        column[f"{num_rows} at once, seconds"] = summary(seconds)
        column[f"{num_rows} at once, real-time factor of each"] = rounded(
            median(result[0] * num_rows / result[1] for result in results)
        )
    tables["Several answers as one batch"] = {"bundled model": column}
    return tables


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one question of each kind")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", 1)))
    parser.add_argument("--markdown", type=Path, help="file to write the tables to")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    number, lengths = (1, (0.0,)) if options.quick else (10, (0.0, 12.0))
    show(measure(number, lengths), options.markdown)


if __name__ == "__main__":
    main()
