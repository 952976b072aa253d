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
"""The server: OpenAI's shapes, driven by its own client, and what strangers cannot do."""

import asyncio
import base64
import io
import json
import logging
import sys
import threading
import time
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import get_args

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn
import websockets
from openai import AsyncOpenAI, BadRequestError, OpenAI
from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel
from serving_tools import GENERATION, loud_detector, make_session, noise, silence
from tiny import tiny_model, tiny_processor

from flow_omni.serving.app import DrainingServer, make_app
from flow_omni.serving.audio import decode_samples, encode_samples
from flow_omni.serving.limits import JSONFormatter, Limits, ServerSettings
from flow_omni.serving.realtime import RealtimeProtocol


TOKEN = "a-secret"
EVENT_CLASSES = {
    get_args(one.model_fields["type"].annotation)[0]: one for one in get_args(get_args(RealtimeServerEvent)[0])
}
QUESTION = np.concatenate([silence(0.4), noise(1.0), silence(0.7)])


def checked(event: dict) -> dict:
    """A server event, if it is exactly what OpenAI's types say: all that is needed, and nothing else."""
    parsed = EVENT_CLASSES[event["type"]].model_validate(event)
    # the type of a session is that of the request; the response has these fields as well
    allowed = {"id", "object", "expires_at"} if event["type"].startswith("session.") else set()
    assert set(extras(parsed)) <= allowed, event
    return event


def extras(value) -> list[str]:
    """Fields that OpenAI's types do not have."""
    if isinstance(value, BaseModel):
        found = list(value.model_extra or {})
        return found + [name for field in type(value).model_fields for name in extras(getattr(value, field))]
    return [name for one in value for name in extras(one)] if isinstance(value, list) else []


def pcm(samples: np.ndarray) -> str:
    """Samples at 16 kHz as the wire has them by default."""
    return base64.b64encode(encode_samples(np.repeat(samples, 3)[::2], "audio/pcm")).decode()


@contextmanager
def running(model, processor=None, make_detector=loud_detector, **settings):
    """A server in a thread, on a free port."""
    settings = ServerSettings(**{"generation": GENERATION} | settings)
    app = make_app(model, processor or tiny_processor(), settings, make_detector)
    config = uvicorn.Config(
        app, port=0, log_level="error", ws="websockets-sansio", ws_max_size=settings.limits.max_message_bytes
    )
    server = DrainingServer(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        server.address = f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.state = app.state.server
        yield server
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(model):
    with running(model) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return OpenAI(api_key="none", base_url=f"http://{server.address}/v1", max_retries=0)


@asynccontextmanager
async def connected(server, path="/v1/realtime", **options):
    """A plain WebSocket, with a function that gives the next event and checks it."""
    async with websockets.connect(f"ws://{server.address}{path}", max_size=None, **options) as socket:

        async def receive() -> dict:
            return checked(json.loads(await asyncio.wait_for(socket.recv(), 20)))

        assert (await receive())["type"] == "session.created"
        yield socket, receive


async def until(receive, kind: str) -> list[dict]:
    events = [await receive()]
    while events[-1]["type"] != kind:
        events.append(await receive())
    return events


def types(events) -> list[str]:
    """The types of events, without repetitions."""
    names = [event["type"] for event in events]
    return [name for name, before in zip(names, [None, *names]) if name != before]


def protocol(model, **settings) -> RealtimeProtocol:
    return RealtimeProtocol(make_session(model, **settings), "flow-omni")


def received(protocol, event_type, **fields) -> list[dict]:
    return [checked(message.event) for message in protocol.receive({"type": event_type, **fields})]


def finished(protocol) -> list[dict]:
    """All events until nothing is left to generate."""
    events = []
    while rows := protocol.rows():
        steps = dict(protocol.session.step_loop.step(rows))
        events += [checked(message.event) for row in rows for message in protocol.take(row, steps.get(row))]
    return events


def user_message(text: str = "Hello.") -> dict:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


# --- the protocol


def test_the_client_of_openai_asks_aloud_and_is_answered(server):
    async def talk():
        events, sound = [], b""
        client = AsyncOpenAI(api_key="none", base_url=f"http://{server.address}/v1")
        async with client.realtime.connect(model="flow-omni") as connection:
            transcription = {"input": {"transcription": {"model": "flow-omni"}}}
            await connection.session.update(session={"type": "realtime", "audio": transcription})
            for part in np.array_split(QUESTION, 10):
                await connection.input_audio_buffer.append(audio=pcm(part))
            async for event in connection:
                events.append(checked(event.model_dump(exclude_unset=True)))
                sound += base64.b64decode(event.delta) if event.type == "response.output_audio.delta" else b""
                names = {one["type"] for one in events}
                if {"response.done", "conversation.item.input_audio_transcription.completed"} <= names:
                    return events, sound

    events, sound = asyncio.run(talk())
    names = [name for name in types(events) if "transcription" not in name]
    assert names[:11] == [
        "session.created",
        "session.updated",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
    ]
    assert names[-6:] == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    response = events[-1]["response"] if events[-1]["type"] == "response.done" else None
    response = response or next(event for event in events if event["type"] == "response.done")["response"]
    transcript = "".join(e["delta"] for e in events if e["type"] == "response.output_audio_transcript.delta")
    assert response["output"][0]["content"][0]["transcript"] == transcript
    assert len(sound) > 2000 and len(sound) % 2 == 0
    assert response["usage"]["total_tokens"] > response["usage"]["output_tokens"] > 0


def test_sound_over_the_wire_is_that_of_the_session(model):
    served = protocol(model)
    received(served, "conversation.item.create", item=user_message())
    received(served, "response.create")
    wire = b"".join(
        base64.b64decode(e["delta"]) for e in finished(served) if e["type"] == "response.output_audio.delta"
    )
    session = make_session(model)
    session.add("user", "Hello.")
    session.respond()
    samples = np.concatenate([event.samples for event in session.run() if hasattr(event, "samples")])
    # 8 kHz in the tiny model, 24 kHz on the wire
    assert len(wire) // 2 == pytest.approx(3 * len(samples), abs=4)


@pytest.mark.parametrize("name", ["audio/pcmu", "audio/pcma"])
def test_telephone_formats_carry_a_byte_for_a_sample_both_ways(model, name):
    served = protocol(model)
    formats = {"input": {"format": {"type": name}}, "output": {"format": {"type": name}}}
    (updated,) = received(served, "session.update", session={"type": "realtime", "audio": formats})
    assert updated["session"]["audio"]["input"]["format"] == {"type": name}
    question = base64.b64encode(encode_samples(QUESTION[::2], name)).decode()
    events = received(served, "input_audio_buffer.append", audio=question) + finished(served)
    assert "input_audio_buffer.committed" in types(events)
    wire = b"".join(base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta")
    assert len(wire) == served.answer_item.spoken.num_samples
    tone = np.sin(np.arange(800) / 10).astype(np.float32) / 2
    np.testing.assert_allclose(decode_samples(encode_samples(tone, name), name), tone, atol=0.02)


def test_speech_over_an_answer_cancels_it_and_no_stale_sound_is_sent(model):
    served = protocol(model, generation=GENERATION | {"max_new_tokens": 200, "min_speech_steps": 150})
    received(served, "input_audio_buffer.append", audio=pcm(QUESTION))
    messages = []
    for _ in range(30):
        ((row, step),) = served.session.step_loop.step(served.rows())
        messages += served.take(row, step)
    sound = [message for message in messages if message.event["type"] == "response.output_audio.delta"]
    assert sound and all(message.epoch > served.stale_epoch for message in sound)
    events = received(served, "input_audio_buffer.append", audio=pcm(noise(0.2)))
    assert types(events)[0] == "input_audio_buffer.speech_started" and types(events)[-1] == "response.done"
    done = events[-1]["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
    # what waits to be sent is stale now
    assert all(message.epoch <= served.stale_epoch for message in sound) and served.rows() == []
    item_id = done["output"][0]["id"]
    (truncated,) = received(served, "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=10)
    assert truncated["audio_end_ms"] == 10
    # it was a cough: the rest is another response
    events = received(served, "input_audio_buffer.append", audio=pcm(silence(0.8)))
    assert types(events)[:2] == ["input_audio_buffer.speech_stopped", "response.created"]
    assert finished(served)[-1]["response"]["status"] in ("completed", "incomplete")


def test_a_response_is_cancelled_by_the_client(model):
    served = protocol(model)
    received(served, "conversation.item.create", item=user_message())
    (created, *_) = received(served, "response.create", response={"metadata": {"a": "b"}})
    assert created["response"]["metadata"] == {"a": "b"}
    (error,) = received(served, "response.create")
    assert error["error"]["code"] == "conversation_already_has_active_response"
    events = received(served, "response.cancel", response_id=created["response"]["id"])
    assert events[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    (error,) = received(served, "response.cancel", event_id="mine")
    assert error["error"] | {"message": ""} == {
        "type": "invalid_request_error",
        "code": "response_cancel_not_active",
        "message": "",
        "param": "response_id",
        "event_id": "mine",
    }


def test_text_alone_has_the_events_of_text(model):
    served = protocol(model)
    received(served, "session.update", session={"type": "realtime", "output_modalities": ["text"]})
    received(served, "conversation.item.create", item=user_message())
    events = received(served, "response.create") + finished(served)
    names = types(events)
    assert "response.output_text.delta" in names and "response.output_text.done" in names
    assert not any("audio" in name for name in names)
    assert events[-1]["response"]["output_modalities"] == ["text"]


def test_items_are_created_retrieved_and_deleted(model):
    served = protocol(model, turn_detection=None)
    first = received(served, "conversation.item.create", item=user_message("One.") | {"id": "one"})
    assert types(first) == ["conversation.item.added", "conversation.item.done"]
    audio = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": pcm(noise(0.5))}]}
    received(served, "conversation.item.create", item=audio, previous_item_id="root")
    content = [{"type": "output_audio", "transcript": "Two."}]
    (added, _) = received(
        served, "conversation.item.create", item={"type": "message", "role": "assistant", "content": content}
    )
    assert added["previous_item_id"] == "one"
    (retrieved,) = received(served, "conversation.item.retrieve", item_id="one")
    assert retrieved["item"]["content"] == [{"type": "input_text", "text": "One."}]
    assert types(received(served, "conversation.item.delete", item_id="one")) == ["conversation.item.deleted"]
    assert [item.role for item in served.session.history] == ["user", "assistant"]
    received(served, "input_audio_buffer.append", audio=pcm(noise(0.5)))
    assert types(received(served, "input_audio_buffer.commit"))[0] == "input_audio_buffer.committed"
    received(served, "input_audio_buffer.append", audio=pcm(noise(0.5)))
    assert types(received(served, "input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    (error,) = received(served, "input_audio_buffer.commit")
    assert error["error"]["code"] == "input_audio_buffer_commit_empty"


def test_a_session_update_changes_what_it_names_and_all_of_turn_detection(model):
    served = protocol(model)
    detection = {"type": "server_vad", "threshold": 0.8, "prefix_padding_ms": 100}
    (updated,) = received(
        served, "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
    )
    vad = updated["session"]["audio"]["input"]["turn_detection"]
    assert (vad["threshold"], vad["prefix_padding_ms"], vad["silence_duration_ms"]) == (0.8, 100, 500)
    assert served.session.state.detector.settings.threshold == 0.8
    update = {"type": "realtime", "instructions": "Be brief.", "max_output_tokens": 7}
    (updated,) = received(served, "session.update", session=update)
    assert updated["session"]["audio"]["input"]["turn_detection"] == vad
    settings = served.session.settings
    assert (settings.instructions, settings.generation["max_new_tokens"]) == ("Be brief.", 7)
    (updated,) = received(
        served, "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    )
    assert served.session.state.detector is None


@pytest.mark.parametrize(
    ("update", "param"),
    [
        ({"type": "transcription"}, "session.type"),
        ({"output_modalities": ["audio", "text"]}, "session.output_modalities"),
        ({"tools": [{"type": "function", "name": "f"}]}, "session.tools"),
        ({"model": "another"}, "session.model"),
        ({"colour": "red"}, "session.colour"),
        ({"instructions": 5}, "session.instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"audio": 5}, "session.audio"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "session.audio.input.format.rate"),
        ({"audio": {"input": {"format": {"type": "audio/opus"}}}}, "session.audio.input.format"),
        ({"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, "session.noise_reduction"),
        ({"audio": {"input": {"turn_detection": {"type": "magic"}}}}, "session.audio.input.turn_detection"),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5000}}}},
            "session.audio.input.turn_detection",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
            "session.audio.input.turn_detection",
        ),
        ({"audio": {"output": {"voice": "alloy"}}}, "session.audio.output.voice"),
        ({"audio": {"output": {"speed": 1.5}}}, "session.audio.output.speed"),
    ],
)
def test_what_a_session_cannot_do_is_refused_by_name_and_changes_nothing(model, update, param):
    served = protocol(model)
    before = json.dumps(served.config)
    (error,) = received(served, "session.update", session={"type": "realtime"} | update)
    assert error["error"]["param"] == param
    assert json.dumps(served.config) == before


# --- connections


def test_two_clients_at_once_do_not_hear_each_other(server, model):
    async def ask(text):
        async with connected(server) as (socket, receive):
            await socket.send(json.dumps({"type": "conversation.item.create", "item": user_message(text)}))
            await socket.send(json.dumps({"type": "response.create"}))
            events = await until(receive, "response.done")
        return "".join(event["delta"] for event in events if event["type"] == "response.output_audio.delta")

    async def ask_both():
        return await asyncio.gather(*map(ask, ["Hello.", "What is the capital of France?"]))

    together = asyncio.run(ask_both())
    alone = [asyncio.run(ask(text)) for text in ("Hello.", "What is the capital of France?")]
    assert together == alone and together[0] != together[1]


def test_a_token_is_needed_where_there_is_one(model):
    async def open_socket(server, **options):
        async with connected(server, **options):
            return True

    with running(model, token=TOKEN) as server:
        url, right = f"http://{server.address}", {"authorization": f"Bearer {TOKEN}"}
        assert httpx.get(url + "/health").json()["status"] == "ok"
        for path in ("/v1/models", "/metrics"):
            assert httpx.get(url + path).json()["error"]["code"] == "invalid_api_key"
            assert httpx.get(url + path, headers={"authorization": "Bearer wrong"}).status_code == 401
            assert httpx.get(url + path, headers=right).status_code == 200
        with pytest.raises(websockets.InvalidStatus, match="401"):
            asyncio.run(open_socket(server))
        assert asyncio.run(open_socket(server, additional_headers=right))
        # as a page does
        protocols = ["realtime", f"openai-insecure-api-key.{TOKEN}"]
        assert asyncio.run(open_socket(server, subprotocols=protocols))


def test_pages_of_other_origins_are_refused_unless_they_are_allowed(model):
    async def open_socket(server, origin):
        async with connected(server, origin=origin):
            return True

    with running(model, allowed_origins=("https://friend.example",)) as server:
        for origin in ("https://stranger.example", "null"):
            with pytest.raises(websockets.InvalidStatus, match="403"):
                asyncio.run(open_socket(server, origin))
            answer = httpx.get(f"http://{server.address}/v1/models", headers={"origin": origin})
            assert answer.json()["error"]["code"] == "origin_not_allowed"
        for origin in ("https://friend.example", f"http://{server.address}"):
            assert asyncio.run(open_socket(server, origin))


def test_limits_are_errors_that_name_them(model):
    limits = Limits(
        max_sessions=1,
        max_message_bytes=2**20,
        max_pending_bytes=20_000,
        max_pending_turns=1,
        max_body_bytes=10_000,
        max_text_characters=50,
        max_turn_seconds=2.0,
    )

    async def check(server):
        async with connected(server) as (socket, receive):
            with pytest.raises(websockets.InvalidStatus, match="429"):
                async with connected(server):
                    pass
            # the engine is held up, so that events wait
            release = threading.Event()
            (client,) = server.state.engine.clients
            client.post(lambda subject: release.wait(10) and [])
            event = {"type": "input_audio_buffer.append", "audio": pcm(silence(0.25))}
            for _ in range(3):
                await socket.send(json.dumps(event))
            error = (await until(receive, "error"))[-1]["error"]
            assert error["code"] == "input_backpressure" and "20000" in error["message"]
            for _ in range(2):
                await socket.send(json.dumps({"type": "input_audio_buffer.commit", "event_id": "turn"}))
            for expected in (None, "turn"):  # the third part of the audio, the second turn
                error = (await until(receive, "error"))[-1]["error"]
                assert (error["code"], error["event_id"]) == ("input_backpressure", expected)
            release.set()
            # a second of silence has no turn, so that the commit is an error too
            assert (await until(receive, "error"))[-1]["error"]["code"] == "input_audio_buffer_commit_empty"
            with pytest.raises(websockets.ConnectionClosed, match="1009"):
                await socket.send(json.dumps({"type": "x" * 2**21}))
                await until(receive, "never")
        text = {"input": "x" * 51}
        url = f"http://{server.address}/v1/audio/speech"
        for _ in range(100):
            if server.state.num_open == 0:
                break
            await asyncio.sleep(0.05)
        assert httpx.post(url, json=text).json()["error"]["code"] == "text_too_long"
        large = httpx.post(url, content=b"x" * 10_001)
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        chunked = httpx.post(url, content=iter([b"x" * 6_000] * 2))
        assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "body_too_large")

    with running(model, limits=limits) as server:
        asyncio.run(check(server))


def test_a_turn_that_the_client_must_commit_is_bounded(model):
    served = protocol(model, turn_detection=None, max_turn_seconds=2.0)
    assert received(served, "input_audio_buffer.append", audio=pcm(noise(1.5))) == []
    (error,) = received(served, "input_audio_buffer.append", audio=pcm(noise(1.0)))
    assert "longer than 2 s" in error["error"]["message"]
    assert types(received(served, "input_audio_buffer.commit"))[0] == "input_audio_buffer.committed"


def test_idle_and_old_sessions_are_closed(model):
    async def wait(server):
        async with connected(server) as (_, receive):
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await until(receive, "never")
        return closed.value.rcvd.reason

    with running(model, limits=Limits(idle_seconds=0.2)) as server:
        assert asyncio.run(wait(server)) == "idle"
    with running(model, limits=Limits(max_session_seconds=0.2)) as server:
        assert asyncio.run(wait(server)) == "session_expired"


def test_a_client_that_does_not_read_stops_its_answer_and_no_memory_grows(model):
    """The socket's own buffers hold some megabytes, so the limits are small and the outbox is filled by hand."""
    limits = Limits(max_output_bytes=1000)

    async def check(server):
        async with connected(server) as (socket, receive):
            (client,) = server.state.engine.clients
            blocked = replace(client)
            assert not client.is_blocked()
            await socket.send(json.dumps({"type": "conversation.item.create", "item": user_message()}))
            await until(receive, "conversation.item.done")
            client.is_blocked = lambda: True
            await socket.send(json.dumps({"type": "response.create"}))
            await until(receive, "response.content_part.added")
            await asyncio.sleep(0.3)
            assert client.subject.session.state.answer.num_positions == 0
            client.is_blocked = blocked.is_blocked
            await until(receive, "response.done")

    with running(model, limits=limits) as server:
        asyncio.run(check(server))


def test_output_that_is_not_read_counts_until_it_is():
    from flow_omni.serving.connections import Outbox
    from flow_omni.serving.realtime import Message

    async def check():
        outbox = Outbox(Limits(max_output_bytes=1000))
        outbox.deliver([Message({"type": "response.output_audio.delta", "delta": "x" * 900})])
        assert outbox.is_full()
        async for batch in outbox.batches():
            assert len(batch) == 1 and outbox.is_full()
            break
        await asyncio.sleep(0)
        return outbox

    assert not asyncio.run(check()).is_full()


def test_a_server_that_is_told_to_stop_lets_answers_end(model):
    async def ask(server):
        async with connected(server) as (socket, receive):
            await socket.send(json.dumps({"type": "conversation.item.create", "item": user_message()}))
            await socket.send(json.dumps({"type": "response.create"}))
            await until(receive, "response.output_audio.delta")
            server.should_exit = True
            await asyncio.sleep(0.15)
            assert server.state.is_draining
            done = (await until(receive, "response.done"))[-1]["response"]
            with pytest.raises(websockets.ConnectionClosed):
                await until(receive, "never")
            return done["status"]

    slow = tiny_model()
    generation = GENERATION | {"max_new_tokens": 200, "min_speech_steps": 100, "max_speech_extra_seconds": 60.0}
    # a machine that is busy with other work may take long
    with running(slow, generation=generation, limits=Limits(drain_seconds=120.0)) as server:
        assert asyncio.run(ask(server)) in ("completed", "incomplete")


# --- requests


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("name", ["wav", "pcm", "mp3", "flac", "opus"])
def test_a_text_is_read_aloud_in_every_format(client, name):
    content = client.audio.speech.create(
        model="flow-omni", input="Hello.", voice="default", response_format=name
    ).content
    if name == "pcm":
        samples, rate = np.frombuffer(content, dtype="<i2"), 24000
    else:
        if name == "wav":
            # the length in the header is that of a stream
            content = content[:40] + (len(content) - 44).to_bytes(4, "little") + content[44:]
        samples, rate = soundfile.read(io.BytesIO(content))
    assert len(samples) / rate > 0.1 and rate in (24000, 48000)


def test_speech_is_streamed(client):
    with client.audio.speech.with_streaming_response.create(
        model="flow-omni", input="Hello.", voice="default", response_format="pcm"
    ) as response:
        parts = list(response.iter_bytes(1))
    assert len(parts) > 100
    with client.audio.speech.with_streaming_response.create(
        model="flow-omni", input="Hello.", voice="default", response_format="pcm", stream_format="sse"
    ) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line]
    assert len(events) > 3 and events[-1]["type"] == "speech.audio.done"
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == b"".join(parts)


def test_a_file_is_transcribed(client):
    file = ("question.wav", wav(noise(1.0)))
    text = client.audio.transcriptions.create(model="flow-omni", file=file).text
    streamed = list(client.audio.transcriptions.create(model="flow-omni", file=file, stream=True))
    assert [event.type for event in streamed][-1] == "transcript.text.done" and streamed[-1].text == text != ""
    assert "".join(event.delta for event in streamed[:-1]).strip() == text
    silent = ("silence.wav", wav(silence(1.0)))
    assert client.audio.transcriptions.create(model="flow-omni", file=silent).text == ""


def spoken_message(data: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]}]


def test_a_chat_takes_audio_and_gives_text_and_audio(client):
    messages = spoken_message(base64.b64encode(wav(noise(1.0))).decode())
    text = client.chat.completions.create(model="flow-omni", messages=messages, seed=0)
    assert text.choices[0].message.content and text.choices[0].message.audio is None and text.usage.total_tokens > 30
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "default", "format": "wav"}}
    answer = client.chat.completions.create(model="flow-omni", messages=messages, **spoken)
    data = base64.b64decode(answer.choices[0].message.audio.data)
    assert data[:4] == b"RIFF" and len(data) > 2000 and answer.choices[0].message.audio.transcript
    spoken["audio"]["format"] = "pcm16"
    stream = client.chat.completions.create(model="flow-omni", messages=messages, stream=True, **spoken)
    deltas = [chunk.choices[0].delta.model_dump().get("audio") or {} for chunk in stream]
    assert b"".join(base64.b64decode(delta.get("data") or "") for delta in deltas) == data[44:]
    transcript = "".join(delta.get("transcript") or "" for delta in deltas)
    assert transcript == answer.choices[0].message.audio.transcript


def test_a_chat_streams_text(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}]
    whole = client.chat.completions.create(model="flow-omni", messages=messages).choices[0].message.content
    stream = client.chat.completions.create(
        model="flow-omni", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage.total_tokens > 0 and chunks[-2].choices[0].finish_reason in ("stop", "length")


def test_addresses_and_paths_of_strangers_are_never_opened(client, monkeypatch, tmp_path):
    def opened(*args, **kwargs):
        raise AssertionError("an address was opened")

    monkeypatch.setattr(urllib.request, "urlopen", opened)
    path = tmp_path / "question.wav"
    path.write_bytes(wav(noise(1.0)))
    for data in ("http://127.0.0.1:1/x.wav", "https://example.org/x.wav", str(path), f"file://{path}"):
        with pytest.raises(BadRequestError, match="base64"):
            client.chat.completions.create(model="flow-omni", messages=spoken_message(data))
    parts = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]
    with pytest.raises(BadRequestError, match="Parts are"):
        client.chat.completions.create(model="flow-omni", messages=[{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("audio/speech", {"input": " "}, "input"),
        ("audio/speech", {"input": "Hi.", "voice": "alloy"}, "voice"),
        ("audio/speech", {"input": "Hi.", "response_format": "aac"}, "response_format"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": [1]}, "tools"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 2}, "n"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "temperature": 9}, "temperature"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "modalities": ["audio"]}, "modalities"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_by_name(server, path, body, param):
    answer = httpx.post(f"http://{server.address}/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_what_is_not_there_is_said_so(server):
    url = f"http://{server.address}"
    assert httpx.get(url + "/v1/models").json()["data"][0]["id"] == "flow-omni"
    assert httpx.get(url + "/v1/models/other").json()["error"]["code"] == "model_not_found"
    answer = httpx.post(url + "/v1/audio/speech", json={"model": "tts-1", "input": "Hi."})
    assert answer.json()["error"]["code"] == "model_not_found"
    assert httpx.post(url + "/v1/audio/speech", content=b"{").json()["error"]["code"] == "invalid_json"
    assert httpx.post(url + "/v1/audio/transcriptions", files={"file": b"no audio"}).status_code == 400
    assert httpx.get(url + "/v1/chat/completions").status_code == 405


def test_metrics_count_answers_and_steps(server, client):
    client.audio.speech.create(model="flow-omni", input="Hello.", voice="default", response_format="wav")
    text = httpx.get(f"http://{server.address}/metrics").text
    for name in ("flow_omni_answers_total", "flow_omni_step_seconds_count", "flow_omni_opened_total"):
        assert name in text


def test_logs_are_json_lines():
    record = logging.LogRecord("x", logging.INFO, "", 0, "closed %s", ("now",), None)
    record.fields = {"seconds": 1.5}
    line = json.loads(JSONFormatter().format(record))
    assert (line["event"], line["level"], line["seconds"]) == ("closed now", "info", 1.5)


def test_logs_have_tracebacks_of_failures_and_none_of_what_clients_send():
    try:
        b"\xff".decode()
    except UnicodeDecodeError:
        failure = sys.exc_info()
    for name, is_shown in (("uvicorn.error", False), ("flow_omni.serving", True)):
        record = logging.LogRecord(name, logging.ERROR, "", 0, "failed", (), failure)
        assert ("exception" in json.loads(JSONFormatter().format(record))) == is_shown
