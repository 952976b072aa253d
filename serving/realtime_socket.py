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
"""`/v1/realtime`: one WebSocket, with its limits, on a protocol that runs in the engine's thread."""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from .connections import Counter, Outbox, Server
from .engine import Client
from .realtime import Message, ProtocolError, RealtimeProtocol, error_event


logger = logging.getLogger("flow_omni.serving")

# Events that make the server work for long; only so many of them may wait.
TURN_EVENTS = {"input_audio_buffer.commit", "response.create"}
MAX_DEPTH = 16  # of objects and lists in each other in an event, of which none needs more than eight
EVENT_OVERHEAD = 500  # bytes that an event takes beside its text while it waits


class RealtimeSocket:
    """One connection, from its acceptance to its end."""

    def __init__(self, server: Server, websocket: WebSocket, client: Client, outbox: Outbox):
        self.server, self.websocket, self.client, self.outbox = server, websocket, client, outbox
        self.limits = server.limits
        self.pending_bytes, self.pending_turns = Counter(), Counter()
        self.started = self.last_event = time.monotonic()
        self.answer_started: float | None = None

    async def run(self) -> str:
        """Serves the connection, and returns why it ended."""
        self.client.post(lambda protocol: protocol.start())
        tasks = [asyncio.create_task(work) for work in (self._receive(), self._send(), self._watch())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> str:
        try:
            while True:
                received = await self.websocket.receive()
                if received["type"] == "websocket.disconnect":
                    return "client_closed"
                self.last_event = time.monotonic()
                self._accept(received.get("text"))
                # Each event may be answered by an error. A client that reads none of them is not read from either.
                while self.outbox.is_full():
                    await asyncio.sleep(0.02)
        except WebSocketDisconnect:
            return "client_closed"

    def _accept(self, text: str | None) -> None:
        """Hands an event of the client to the engine, or refuses it at once."""
        event, event_id = None, None
        try:
            if text is None:
                raise ProtocolError("Events are sent as text: JSON objects.", "invalid_event")
            if len(text) > self.limits.max_message_bytes:
                raise ProtocolError(f"An event has at most {self.limits.max_message_bytes} bytes.", "event_too_large")
            size = len(text) + EVENT_OVERHEAD
            if self.pending_bytes.value + size > self.limits.max_pending_bytes and self.pending_bytes.value:
                raise ProtocolError(
                    f"{self.pending_bytes.value} bytes of events wait to be handled, of at most "
                    f"{self.limits.max_pending_bytes}: send audio as it is recorded. This event was dropped.",
                    "input_backpressure",
                )
            event = _parse(text)
            event_id = event.get("event_id") if isinstance(event, dict) else None
            is_turn = isinstance(event, dict) and str(event.get("type")) in TURN_EVENTS
            if is_turn and self.pending_turns.value >= self.limits.max_pending_turns:
                raise ProtocolError(
                    f"{self.limits.max_pending_turns} turns wait to be handled: wait for their answers.",
                    "input_backpressure",
                )
        except ProtocolError as error:
            self.server.metrics.refused.labels(error.code).inc()
            self.outbox.deliver([Message(error_event(error, event_id if isinstance(event_id, str) else None))])
            return
        self.pending_bytes.add(size)
        self.pending_turns.add(is_turn)

        def handle(protocol: RealtimeProtocol) -> Sequence[Message]:
            try:
                return protocol.receive(event)
            finally:
                self.pending_bytes.add(-size)
                self.pending_turns.add(-is_turn)

        self.client.post(handle)

    async def _send(self) -> str:
        async for batch in self.outbox.batches():
            for message in batch:
                if isinstance(message, Exception):
                    logger.error("event_failed", exc_info=message)
                    await self._send_event(error_event(message))
                    await self.websocket.close(1011)
                    return "failed"
                protocol = self.client.subject
                if message.epoch is not None and (protocol is None or message.epoch <= protocol.stale_epoch):
                    continue
                self._observe(message.event)
                try:
                    await asyncio.wait_for(self._send_event(message.event), self.limits.slow_reader_seconds)
                except TimeoutError:
                    return await self._close(1008, "slow_reader")
                except (WebSocketDisconnect, RuntimeError, OSError):
                    return "client_closed"
        return "server_closed"

    async def _send_event(self, event: dict[str, Any]) -> None:
        await self.websocket.send_text(json.dumps(event))

    def _observe(self, event: dict[str, Any]) -> None:
        metrics, kind = self.server.metrics, event["type"]
        if kind == "response.created":
            self.answer_started = time.monotonic()
        elif kind == "response.output_audio.delta" and self.answer_started is not None:
            metrics.first_audio.observe(time.monotonic() - self.answer_started)
            self.answer_started = None
        elif kind == "response.done":
            metrics.answers.labels(event["response"]["status"]).inc()
        elif kind == "error":
            metrics.refused.labels(event["error"]["code"]).inc()

    async def _watch(self) -> str:
        """Ends a connection that is idle, too old, or in the way of a server that stops."""
        while True:
            await asyncio.sleep(min(1.0, self.limits.idle_seconds / 4, self.limits.max_session_seconds / 4))
            now = time.monotonic()
            if now - self.last_event > self.limits.idle_seconds and not self.client.is_busy:
                return await self._close(1000, "idle")
            if now - self.started > self.limits.max_session_seconds:
                error = ProtocolError(f"A session lasts {self.limits.max_session_seconds:g} s.", "session_expired")
                await self._send_event(error_event(error))
                return await self._close(1000, "session_expired")

    async def _close(self, code: int, reason: str) -> str:
        try:
            await asyncio.wait_for(self.websocket.close(code, reason), 1.0)
        except (TimeoutError, RuntimeError, OSError):
            pass
        return reason


def _parse(text: str) -> Any:
    try:
        event = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"The event is not JSON ({type(error).__name__}).", "invalid_json") from error
    # copying and writing what is nested deeply would end in a RecursionError
    level = [event]
    for _ in range(MAX_DEPTH):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [value for values in inner for value in values]
    if level:
        raise ProtocolError(f"The event is nested more than {MAX_DEPTH} levels deep.", "invalid_event")
    return event


def _refuse_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}.")


async def serve_realtime(server: Server, websocket: WebSocket) -> None:
    """Accepts a connection, for which there must be room, and serves it."""

    def make() -> RealtimeProtocol:
        limits = server.limits
        return RealtimeProtocol(
            server.make_session(),
            server.settings.model_name,
            limits.max_session_seconds,
            limits.max_message_bytes,
            limits.max_text_characters,
        )

    offered = websocket.scope.get("subprotocols", [])
    async with server.client("realtime", make) as (client, outbox):
        await websocket.accept("realtime" if "realtime" in offered else None)
        socket = RealtimeSocket(server, websocket, client, outbox)
        reason = "failed"
        try:
            reason = await socket.run()
        finally:
            seconds = round(time.monotonic() - socket.started, 1)
            logger.info("session_closed", extra={"fields": {"reason": reason, "seconds": seconds}})
