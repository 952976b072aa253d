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
"""Between the event loop and the engine: bounded queues both ways, and slots for so many clients."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from .engine import Client, Engine
from .events import AudioChunk
from .limits import Limits, Metrics, ServerSettings
from .realtime import Message
from .session import FlowOmniSession, SessionSettings, can_speak
from .step_loop import StepLoop
from .turns import SAMPLING_RATE, TurnDetection, TurnDetector, make_detector


class Counter:
    """A number that two threads change."""

    def __init__(self):
        self.value = 0
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        with self._lock:
            self.value += amount


class Outbox:
    """Output of the engine on its way to one client."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.num_bytes = Counter()
        self._queue: asyncio.Queue = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def deliver(self, output: Sequence[Any]) -> None:
        """Called in the engine's thread, or in that of the loop."""
        self.num_bytes.add(sum(map(_size, output)))
        self._loop.call_soon_threadsafe(self._queue.put_nowait, output)

    def is_full(self) -> bool:
        return self.num_bytes.value > self.limits.max_output_bytes

    async def batches(self) -> AsyncIterator[Sequence[Any]]:
        """Batches of output. Each counts as read when the next is asked for."""
        while True:
            batch = await self._queue.get()
            try:
                yield batch
            finally:
                self.num_bytes.add(-sum(map(_size, batch)))


def _size(output: Any) -> int:
    if isinstance(output, Message):
        return 200 + len(output.event.get("delta", ""))
    return 200 + (output.samples.nbytes if isinstance(output, AudioChunk) else 0)


class Server:
    """What all connections share: the engine, the limits, the metrics, and whether it is ready."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        settings: ServerSettings,
        make_detector: Callable[[TurnDetection], TurnDetector] = make_detector,
    ):
        self.model, self.processor, self.settings = model, processor, settings
        self.limits = settings.limits
        self.metrics = Metrics()
        self.engine = Engine(StepLoop(model, settings.max_batch), self.metrics.observe_step)
        self.make_detector = make_detector
        self.num_open = 0
        self.is_ready = self.is_draining = False

    def make_session(self, **settings: Any) -> FlowOmniSession:
        generation = {"max_new_tokens": self.limits.max_new_tokens}
        generation |= self.settings.generation | settings.pop("generation", {})
        defaults = {
            "window_seconds": self.settings.window_seconds,
            "max_turn_seconds": self.limits.max_turn_seconds,
            "output": "audio" if can_speak(self.model) else "text",
        }
        session_settings = SessionSettings(**defaults | settings, generation=generation)
        return FlowOmniSession(self.model, self.processor, session_settings, self.engine.step_loop, self.make_detector)

    def check_model(self, name: Any) -> None:
        """Clients may leave out the model; one that is not here is an error."""
        served = self.settings.model_name
        if name not in (None, "", served):
            message = f"There is no model {str(name)[:100]!r}: this server has {served!r}."
            raise HTTPException(404, {"message": message, "code": "model_not_found", "param": "model"})

    def refusal(self) -> tuple[int, str, str] | None:
        """Why no client can be let in now: status, code and message."""
        if self.is_draining or not self.is_ready:
            return 503, "not_ready", "The server is shutting down." if self.is_draining else "The server warms up."
        if self.num_open >= self.limits.max_sessions:
            return 429, "too_many_sessions", f"The server has {self.limits.max_sessions} sessions: try again later."
        return None

    @asynccontextmanager
    async def client(self, kind: str, make: Callable[[], Any]) -> AsyncIterator[tuple[Client, Outbox]]:
        """A client of the engine, as long as the context lasts; an HTTP error where there is no room."""
        if refusal := self.refusal():
            status, code, message = refusal
            self.metrics.refused.labels(code).inc()
            raise HTTPException(status, {"message": message, "code": code})
        outbox = Outbox(self.limits)
        client = self.engine.open(make, outbox.deliver, outbox.is_full)
        self.num_open += 1
        self.metrics.sessions.set(self.num_open)
        self.metrics.opened.labels(kind).inc()
        try:
            yield client, outbox
        finally:
            client.close()
            self.num_open -= 1
            self.metrics.sessions.set(self.num_open)

    async def warm_up(self) -> None:
        """Answers a second of silence: else the first client would wait for what is set up at the first use."""

        def start(session: FlowOmniSession) -> Sequence[Any]:
            session.add("user", audio=np.zeros(SAMPLING_RATE, dtype=np.float32))
            return session.respond(max_new_tokens=12)

        self.is_ready = True
        try:
            async with self.client("warm_up", self.make_session) as (client, outbox):
                client.post(start)
                await self.until_done(outbox)
        except BaseException:
            self.is_ready = False
            raise

    async def until_done(self, outbox: Outbox) -> list[Any]:
        """All events of one answer."""
        return [event async for event in self.events(outbox)]

    async def events(self, outbox: Outbox) -> AsyncIterator[Any]:
        """The events of one answer, as they come. Errors of the engine are raised."""
        async for batch in outbox.batches():
            for event in batch:
                if isinstance(event, Exception):
                    raise event
                yield event
                if type(event).__name__ == "AnswerDone":
                    self.metrics.answers.labels(event.status).inc()
                    return
                if isinstance(event, AudioChunk):
                    self.metrics.audio_seconds.labels("out").inc(len(event.samples) / event.sampling_rate)

    async def drain(self) -> None:
        """Lets answers end, and takes no new clients."""
        self.is_draining = True
        deadline = asyncio.get_running_loop().time() + self.limits.drain_seconds
        while not self.engine.is_idle() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        # what is generated must also be sent
        await asyncio.sleep(0.2)
