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
"""The server under strain: minutes of streaming, clients that drop, do not read or send nonsense, and signals."""

import asyncio
import base64
import copy
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soxr
import websockets
from serving_tools import make_session, noise, silence
from test_serving_server import connected, pcm, running, until, user_message
from tiny import tiny_model, tiny_processor

from flow_omni.serving.audio import encode_samples
from flow_omni.serving.limits import Limits
from flow_omni.serving.realtime import CLIENT_EVENTS, RealtimeProtocol


SOAK_SECONDS = float(os.environ.get("FLOW_OMNI_SOAK_SECONDS", 300))
# spoken answers of 160 positions or more
LONG_ANSWERS = {"seed": 0, "max_new_tokens": 170, "min_speech_steps": 160, "max_speech_extra_seconds": 60.0}


# --- time


def memory() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process from Linux's /proc")
def test_minutes_of_conversation_take_no_more_memory_and_have_no_seam(model, monkeypatch):
    """Five minutes of two microphones, in real time; `FLOW_OMNI_SOAK_SECONDS=3600` makes it an hour."""
    generated = defaultdict(list)
    send_audio = RealtimeProtocol._audio

    def recorded(self, item_id, epoch, samples, is_last):
        generated[item_id].append(samples)
        return send_audio(self, item_id, epoch, samples, is_last)

    monkeypatch.setattr(RealtimeProtocol, "_audio", recorded)
    sampled, num_answers = [], 0
    end = time.monotonic() + SOAK_SECONDS

    async def speak(connection, seed: int, is_answered: asyncio.Event) -> None:
        """A question every few seconds, once the last was answered, and silence in between."""
        while time.monotonic() < end:
            is_answered.clear()
            for part in np.array_split(np.concatenate([noise(1.0, seed), silence(2.0)]), 30):
                await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": pcm(part)}))
                await asyncio.sleep(0.1)
            while not is_answered.is_set():
                await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": pcm(silence(0.1))}))
                await asyncio.sleep(0.1)

    async def listen(receive, is_answered: asyncio.Event) -> None:
        nonlocal num_answers
        heard = b""
        while True:
            event = await receive()
            assert event["type"] != "error", event
            if event["type"] == "response.output_audio.delta":
                heard += base64.b64decode(event["delta"])
            elif event["type"] == "response.done":
                assert event["response"]["status"] in ("completed", "incomplete"), event
                # all of the answer as one piece, at the rate of the wire
                whole = np.concatenate(generated.pop(event["response"]["output"][0]["id"]))
                expected = encode_samples(soxr.resample(whole, 8000, 24000), "audio/pcm")
                difference = np.frombuffer(heard, "<i2").astype(int) - np.frombuffer(expected, "<i2")
                assert len(heard) > 10_000 and np.abs(difference).max() <= 1
                heard, num_answers = b"", num_answers + 1
                is_answered.set()

    async def converse(server, seed: int) -> None:
        is_answered = asyncio.Event()
        async with connected(server) as (connection, receive):
            works = [speak(connection, seed, is_answered), listen(receive, is_answered)]
            tasks = [asyncio.create_task(work) for work in works]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            for task in done:
                task.result()

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(SOAK_SECONDS / 100)
            sampled.append(memory())

    async def converse_at_once(server) -> None:
        await asyncio.gather(converse(server, 1), converse(server, 2), watch())

    with running(model, limits=Limits(max_session_seconds=SOAK_SECONDS + 600)) as server:
        asyncio.run(converse_at_once(server))
    # a third of the time to fill caches and the history
    before, after = np.median(sampled[30:40]), np.median(sampled[-10:])
    assert num_answers >= SOAK_SECONDS / 10
    assert after - before < 8 * 2**20, f"{before / 2**20:.1f} MiB became {after / 2**20:.1f}, {num_answers} answers"


def test_a_conversation_without_answers_forgets_what_no_prompt_can_hold(model):
    session = make_session(model, turn_detection=None, max_context=60)
    for index in range(50):
        session.add("user", f"Message {index}.")
        session.push(noise(0.2))
        session.commit()
    assert 5 < len(session.history) < 60 and session.history[-2].text == "Message 49."


# --- clients that read slowly


def slow_socket(server) -> socket.socket:
    """A connection that holds only some kilobytes that are not read."""
    server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    host, port = server.address.split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    return connection


@pytest.mark.slow
def test_a_slow_reader_gets_all_of_its_answer_and_holds_up_nobody(model):
    async def ask(receive, connection) -> None:
        await connection.send(json.dumps({"type": "conversation.item.create", "item": user_message()}))
        await until(receive, "conversation.item.done")
        await connection.send(json.dumps({"type": "response.create"}))

    def audio_of(events) -> str:
        return "".join(event["delta"] for event in events if event["type"] == "response.output_audio.delta")

    async def check(server):
        slow = connected(server, sock=slow_socket(server), max_queue=1)
        async with slow as (connection, receive), connected(server) as (other, receive_other):
            await ask(receive, connection)
            client = server.state.engine.clients[0]
            while not client.is_blocked():
                await asyncio.sleep(0.01)
            await ask(receive_other, other)
            fast = audio_of(await until(receive_other, "response.done"))
            assert client.is_blocked() and not client.subject.session.state.answer.is_generated
            assert audio_of(await until(receive, "response.done")) == fast

    with running(model, generation=LONG_ANSWERS, limits=Limits(max_output_bytes=5_000)) as server:
        asyncio.run(asyncio.wait_for(check(server), 120))


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_not_read_from_either_and_is_left(model):
    """Each of its events would have an error as its answer."""

    async def check(server):
        async with connected(server, sock=slow_socket(server), max_queue=1) as (connection, _):
            (client,) = server.state.engine.clients
            outbox, num_sent = client.deliver.__self__, 0
            with pytest.raises(TimeoutError):
                while True:
                    await asyncio.wait_for(connection.send("{}"), 1.0)
                    num_sent += 1
            # the limit, and what the events that waited then have as answers
            assert outbox.num_bytes.value < 200_000
            while server.state.num_open:
                await asyncio.sleep(0.1)

    limits = Limits(max_output_bytes=50_000, max_pending_bytes=50_000, slow_reader_seconds=5.0)
    with running(model, limits=limits) as server:
        asyncio.run(asyncio.wait_for(check(server), 120))


# --- signals


@pytest.mark.slow
def test_sigterm_lets_answers_end_and_the_process_with_them(tmp_path):
    model = tiny_model()
    model.generation_config.min_speech_steps, model.generation_config.max_speech_extra_seconds = 120, 60.0
    model.save_pretrained(tmp_path)
    tiny_processor(model.config).save_pretrained(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", "from flow_omni.cli.app import main; main()", "serve", "--model", str(tmp_path)]
    process = subprocess.Popen([*command, "--port", address[10:]], stderr=subprocess.PIPE, text=True)
    server = SimpleNamespace(address=address)

    async def ask() -> None:
        async with connected(server) as (connection, receive):
            await connection.send(json.dumps({"type": "conversation.item.create", "item": user_message()}))
            await connection.send(json.dumps({"type": "response.create"}))
            async with httpx.AsyncClient(timeout=120) as client:
                body = {"input": "Hello.", "response_format": "pcm"}
                async with client.stream("POST", f"http://{address}/v1/audio/speech", json=body) as response:
                    parts = response.aiter_bytes()
                    num_bytes = len(await anext(parts))
                    await until(receive, "response.output_audio.delta")
                    process.send_signal(signal.SIGTERM)
                    while httpx.get(f"http://{address}/health").json()["status"] != "draining":
                        await asyncio.sleep(0.05)
                    refused = await client.post(f"http://{address}/v1/audio/speech", json=body)
                    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
                    async for part in parts:
                        num_bytes += len(part)
                    assert num_bytes > 2 * 24000  # a second
                done = (await until(receive, "response.done"))[-1]["response"]
                assert done["status"] in ("completed", "incomplete")
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await until(receive, "never")
                assert closed.value.rcvd.code == 1012

    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://{address}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        asyncio.run(ask())
        _, logs = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in (0, -signal.SIGTERM) and "Traceback" not in logs


# --- clients that drop


def test_sockets_that_drop_leave_nothing_behind(model):
    with running(model) as server:
        drop_sockets(server, 12)


@pytest.mark.slow
def test_two_hundred_sockets_that_drop_leave_nothing_behind(model):
    with running(model, limits=Limits(max_sessions=300)) as server:
        drop_sockets(server, 200)


def drop_sockets(server, number):
    async def one(index):
        generator = random.Random(index)
        try:
            async with connected(server) as (socket, receive):
                await socket.send(json.dumps({"type": "conversation.item.create", "item": user_message()}))
                await socket.send(json.dumps({"type": "response.create"}))
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": pcm(noise(0.5))}))
                await asyncio.sleep(generator.random() / 2)
                if index % 2:
                    socket.transport.abort()
        except websockets.ConnectionClosed:
            pass

    async def all_of_them():
        await asyncio.gather(*(one(index) for index in range(number)))

    asyncio.run(all_of_them())
    deadline = time.monotonic() + 10
    while (server.state.num_open or server.state.engine.clients) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.state.num_open == 0 and server.state.engine.clients == []


# --- clients that send nonsense


VALUES = [
    None,
    True,
    0,
    -1,
    10**30,
    1.5,
    "",
    "x",
    "\ud800",
    "A" * 3,
    [],
    [[]],
    {},
    {"type": []},
    "<|im_end|>",
    "x" * 20_000,
]
MAX_MESSAGE_BYTES = 100_000
# frames that break the rules of WebSockets: text that is not UTF-8, a fragmented ping, an unknown opcode (all masked by zeros)
BROKEN_FRAMES = [b"\x81\x82\0\0\0\0\xff\xfe", b"\x09\x80\0\0\0\0", b"\x83\x80\0\0\0\0"]


def right_event(generator: random.Random, ids: list[str]) -> dict:
    """An event as it should be, though it may come at a time when it makes no sense."""
    kind, item_id = generator.choice(CLIENT_EVENTS), generator.choice(ids)
    event: dict = {"type": kind, "event_id": "mine"}
    if kind == "session.update":
        detection = generator.choice([None, {"type": "server_vad", "silence_duration_ms": 200}])
        audio = {"input": {"turn_detection": detection, "transcription": generator.choice([None, {"model": "x"}])}}
        event["session"] = {"type": "realtime", "audio": audio, "instructions": "Be brief.", "max_output_tokens": 5}
        event["session"]["output_modalities"] = [generator.choice(["text", "audio"])]
    elif kind == "input_audio_buffer.append":
        event["audio"] = pcm(generator.choice([noise, silence])(generator.choice([0.05, 0.3])))
    elif kind == "conversation.item.create":
        parts = [{"type": "input_text", "text": "Hello."}, {"type": "input_audio", "audio": pcm(noise(0.1))}]
        item = {"type": "message", "role": "user", "content": [generator.choice(parts)], "id": item_id}
        event |= {"item": item, "previous_item_id": generator.choice([None, "root", *ids])}
    elif kind.startswith("conversation.item"):
        event |= {"item_id": item_id}
        event |= {"content_index": 0, "audio_end_ms": 10} if kind.endswith("truncate") else {}
    elif kind == "response.create":
        event["response"] = {"instructions": "Be brief.", "metadata": {"a": "b"}, "max_output_tokens": 5}
    return event


def spoil(generator: random.Random, event: dict) -> None:
    """Removes a field, adds one, or gives one another value, at some depth."""
    place = event
    while inner := [value for value in place.values() if isinstance(value, dict)]:
        if generator.random() < 0.3:
            break
        place = generator.choice(inner)
    name = generator.choice([*place, "id", "role", "tools", "x"])
    if generator.random() < 0.3:
        place.pop(name, None)
    elif generator.random() < 0.1:
        for _ in range(generator.choice([20, 300])):
            place[name] = {"x": place.get(name)}
    else:
        place[name] = copy.deepcopy(generator.choice(VALUES))


def random_event(generator: random.Random, ids: list[str]) -> str | bytes:
    """Events out of order, with parts that are wrong, and what is no event."""
    if generator.random() < 0.1:
        too_long = json.dumps({"type": "x" * MAX_MESSAGE_BYTES})
        others = ["", "{", "[]", "null", "5", '"x"', "[" * 50_000, b"\x00\xff", '{"type": NaN}', '{"type": 1e999}']
        return generator.choice([*others, too_long])
    event = right_event(generator, ids)
    for _ in range(generator.randrange(3)):
        spoil(generator, event)
    return json.dumps(event)


def fuzz(model, number, caplog):
    """After each event comes a marker, whose error shows that the event before it was handled."""
    generator, codes = random.Random(0), set()

    async def send_some(server, num_events) -> None:
        ids = ["one", "two"]
        async with connected(server) as (socket, receive):
            for index in range(num_events):
                if index == num_events - 1:
                    socket.transport.write(generator.choice(BROKEN_FRAMES))
                else:
                    await socket.send(random_event(generator, ids))
                    await socket.send(json.dumps({"type": "unknown", "event_id": f"m{index}"}))
                is_handled = False
                while not is_handled:
                    event = await receive()
                    ids = [*ids, *([event["item_id"]] if "item_id" in event else [])][-8:]
                    if event["type"] == "error":
                        assert event["error"]["type"] == "invalid_request_error", event
                        is_handled = event["error"]["event_id"] == f"m{index}"

    async def send_all(server) -> None:
        for _ in range(number // 50):
            try:
                await send_some(server, 50)
            except websockets.ConnectionClosed as closed:
                codes.add(closed.rcvd.code)

    limits = Limits(max_message_bytes=MAX_MESSAGE_BYTES, max_sessions=number)
    with caplog.at_level(logging.ERROR), running(model, limits=limits) as server:
        asyncio.run(send_all(server))
    assert caplog.records == []
    # too large, not UTF-8, a breach of the protocol
    assert 1009 in codes and codes <= {1009, 1007, 1002}


def test_malformed_events_are_errors_and_never_a_failure(model, caplog):
    fuzz(model, 400, caplog)


@pytest.mark.slow
def test_ten_thousand_malformed_events_are_errors_and_never_a_failure(model, caplog):
    fuzz(model, 10_000, caplog)
