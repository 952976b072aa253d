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
"""The requests over HTTP: speech, transcriptions, and chat completions with audio in and out."""

import base64
import io
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from ..processing.audio_io import decode_base64, load_audio
from .audio import StreamResampler, encode_samples, wav_header
from .connections import Server
from .events import AnswerDone, AudioChunk, Event, TextDelta, Transcript
from .realtime import ProtocolError, check_voice
from .session import FlowOmniSession, voice_option, voices_of
from .turns import SAMPLING_RATE


SPEECH_RATE = 24000
# Format -> media type, and how libsndfile calls it. `wav` and `pcm` are streamed, the others are encoded at the end.
SPEECH_FORMATS = {
    "wav": ("audio/wav", ("WAV", "PCM_16")),
    "pcm": ("audio/pcm", None),
    "mp3": ("audio/mpeg", ("MP3", "MPEG_LAYER_III")),
    "flac": ("audio/flac", ("FLAC", "PCM_16")),
    "opus": ("audio/ogg", ("OGG", "OPUS")),
}
# Whisper's encoder sees 30 seconds at once; each window of a file is transcribed by itself.
FILE_WINDOW_SECONDS = 30.0
SILENCE = 1e-4


@dataclass
class FileTranscription:
    """Transcribes the windows of a file one after another."""

    session: FlowOmniSession
    waveforms: list[np.ndarray]

    def rows(self) -> list:
        return self.session.rows()

    def take(self, row: Any, step: Any | None) -> Sequence[Event]:
        events = self.session.take(row, step)
        if any(isinstance(event, Transcript) and event.is_final for event in events):
            events = [*events, *self.start()]
        return events

    def start(self) -> Sequence[Event]:
        events: list[Event] = []
        while self.waveforms:
            waveform = self.waveforms.pop(0)
            # for silence, a model would invent a transcript
            if np.abs(waveform).max() > SILENCE:
                item = self.session.add("user", audio=waveform)
                heard = self.session.transcribe(item)
                events += [Transcript(item.id, one.text, is_final=False) for one in heard] + heard
            if self.session.rows():
                return events
        return [*events, AnswerDone("", 0, "", "completed")]

    def close(self) -> None:
        self.session.close()


async def speech(server: Server, request: Request) -> Response:
    """`/v1/audio/speech`: reads a text aloud."""
    body = await _json(request)
    known = {"model", "input", "voice", "response_format", "speed", "stream_format", "instructions"}
    _refuse_others(body, known)
    server.check_model(body.get("model"))
    text = _text(server, body, "input")
    voice = _voice(server, body, "voice")
    if body.get("speed", 1.0) != 1.0 or body.get("instructions"):
        raise ProtocolError("`speed` and `instructions` are not supported.", "unsupported_value", "speed")
    name, stream_format = body.get("response_format", "mp3"), body.get("stream_format", "audio")
    if name not in SPEECH_FORMATS or stream_format not in ("audio", "sse"):
        formats = ", ".join(SPEECH_FORMATS)
        raise ProtocolError(
            f"`response_format` is one of {formats}, `stream_format` audio or sse.", param="response_format"
        )
    (message,) = server.processor.make_conversation("say", text=text)
    prompt = "".join(item["text"] for item in message["content"])

    options = dict(voice)
    if server.model.speech_decoder is not None:
        options["answer_ids"] = server.processor.answer_ids(text)

    def start(session: FlowOmniSession) -> Sequence[Event]:
        session.add("user", prompt)
        return session.respond(**options)

    parts = _speech_parts(server, _answer(server, "speech", start, turn_detection=None, output="audio"), name)
    if stream_format == "sse":
        return await _stream(_speech_events(parts), "text/event-stream")
    return await _stream(parts, SPEECH_FORMATS[name][0])


async def _speech_parts(server: Server, events: AsyncIterator[Event], name: str) -> AsyncIterator[bytes]:
    """The bytes of an answer's audio in a format of `SPEECH_FORMATS`."""
    encoder = AudioEncoder(server.processor.sampling_rate, name)
    async for event in events:
        if isinstance(event, AudioChunk) and (part := encoder.push(event.samples)):
            yield part
    yield encoder.finish()


async def _speech_events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield _sse({"type": "speech.audio.delta", "audio": base64.b64encode(part).decode()})
    yield _sse({"type": "speech.audio.done", "usage": None})


class AudioEncoder:
    """Encodes the audio of one answer: streamable formats at once, others at its end."""

    def __init__(self, sampling_rate: int, name: str):
        self.name = name
        self.is_streamed = name in ("wav", "pcm")
        self._resampler = StreamResampler(sampling_rate, SPEECH_RATE)
        self._waveform: list[np.ndarray] = []
        self._header = wav_header(SPEECH_RATE) if name == "wav" else b""

    def push(self, samples: np.ndarray, is_last: bool = False) -> bytes:
        samples = self._resampler.push(samples, is_last)
        if not self.is_streamed:
            self._waveform.append(samples)
            return b""
        content, self._header = self._header + encode_samples(samples, "audio/pcm"), b""
        return content

    def finish(self) -> bytes:
        """The rest, or the whole file."""
        rest = self.push(np.zeros(0, dtype=np.float32), is_last=True)
        return rest if self.is_streamed else encode_file(np.concatenate(self._waveform), self.name)


def encode_file(waveform: np.ndarray, name: str) -> bytes:
    container, subtype = SPEECH_FORMATS[name][1]
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1.0, 1.0), SPEECH_RATE, format=container, subtype=subtype)
    return file.getvalue()


async def transcriptions(server: Server, request: Request) -> Response:
    """`/v1/audio/transcriptions`: writes down what a file says."""
    async with request.form(max_files=1, max_fields=20) as form:
        fields = dict(form)
        upload = fields.pop("file", None)
        if not hasattr(upload, "read"):
            raise ProtocolError("`file` is missing: send the audio as a file of the form.", param="file")
        content = await upload.read()
    # language and temperature are hints that the model has no use for
    _refuse_others(fields, {"model", "response_format", "stream", "language", "temperature"})
    server.check_model(fields.get("model"))
    kind = fields.get("response_format", "json")
    if kind not in ("json", "text", "verbose_json"):
        raise ProtocolError("`response_format` must be json, text or verbose_json.", param="response_format")
    waveform = load_audio(content, SAMPLING_RATE, server.limits.max_file_seconds)
    server.metrics.audio_seconds.labels("in").inc(len(waveform) / SAMPLING_RATE)
    step = int(FILE_WINDOW_SECONDS * SAMPLING_RATE)
    waveforms = [waveform[start : start + step] for start in range(0, len(waveform), step)]

    def make() -> FileTranscription:
        session = server.make_session(
            turn_detection=None,
            output="text",
            window_seconds=FILE_WINDOW_SECONDS,
            max_turn_seconds=FILE_WINDOW_SECONDS + 1,
        )
        return FileTranscription(session, waveforms)

    texts = _transcript_parts(_events(server, "transcription", make, lambda subject: subject.start()))
    if str(fields.get("stream", "false")).lower() == "true":
        return await _stream(_transcript_events(texts), "text/event-stream")
    text = "".join([part async for part in texts]).strip()
    if kind == "text":
        return PlainTextResponse(text + "\n")
    seconds = len(waveform) / SAMPLING_RATE
    usage = {"type": "duration", "seconds": seconds}
    more = {"task": "transcribe", "language": "unknown", "duration": seconds} if kind == "verbose_json" else {}
    return JSONResponse({"text": text, "usage": usage} | more)


async def _transcript_parts(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    async for event in events:
        if isinstance(event, Transcript):
            # windows are joined by a space
            yield " " if event.is_final else event.text


async def _transcript_events(texts: AsyncIterator[str]) -> AsyncIterator[bytes]:
    whole = ""
    async for text in texts:
        whole += text
        yield _sse({"type": "transcript.text.delta", "delta": text})
    yield _sse({"type": "transcript.text.done", "text": whole.strip()})


async def chat_completions(server: Server, request: Request) -> Response:
    """`/v1/chat/completions`: answers messages of text and audio, in text or in text and audio."""
    body = await _json(request)
    known = {
        "model",
        "messages",
        "modalities",
        "audio",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
    }
    _refuse_others(body, known | {"temperature", "seed", "top_p", "user", "n", "store", "metadata"})
    server.check_model(body.get("model"))
    if body.get("n") not in (None, 1):
        raise ProtocolError("Only one answer is given: leave out `n`.", "unsupported_value", "n")
    modalities = body.get("modalities") or ["text"]
    if not isinstance(modalities, list) or set(modalities) not in ({"text"}, {"text", "audio"}):
        raise ProtocolError('`modalities` must be ["text"] or ["text", "audio"].', param="modalities")
    is_spoken, is_streamed = "audio" in modalities, bool(body.get("stream"))
    name = _audio_format(body, is_streamed) if is_spoken else None
    messages = _messages(server, body)
    options = _generation(body) | (_voice(server, body.get("audio") or {}, "audio.voice") if is_spoken else {})

    def start(session: FlowOmniSession) -> Sequence[Event]:
        for role, text, audio in messages:
            session.add(role, text, audio)
        return session.respond(**options)

    output = "audio" if is_spoken else "text"
    events = _answer(server, "chat", start, turn_detection=None, output=output)
    answer = ChatAnswer(server, name, bool((body.get("stream_options") or {}).get("include_usage")))
    if is_streamed:
        return await _stream(answer.chunks(events), "text/event-stream")
    return JSONResponse(await answer.whole(events))


@dataclass
class ChatAnswer:
    """The objects of a chat completion."""

    server: Server
    audio_format: str | None
    include_usage: bool

    def __post_init__(self):
        self.id = f"chatcmpl-{uuid.uuid4().hex[:24]}"
        self.audio_id = f"audio_{uuid.uuid4().hex[:24]}"
        self.created = int(time.time())

    def _object(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.server.settings.model_name,
            **fields,
        }

    def _chunk(self, delta: dict, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return _sse(self._object("chat.completion.chunk", choices=[choice]))

    async def chunks(self, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
        encoder = AudioEncoder(self.server.processor.sampling_rate, "pcm") if self.audio_format else None
        yield self._chunk({"role": "assistant", "content": None if encoder else ""})
        async for event in events:
            if isinstance(event, TextDelta):
                shown = {"audio": {"id": self.audio_id, "transcript": event.text}}
                yield self._chunk(shown if encoder else {"content": event.text})
            elif isinstance(event, AudioChunk) and (part := encoder.push(event.samples)):
                yield self._chunk({"audio": {"id": self.audio_id, "data": base64.b64encode(part).decode()}})
            elif isinstance(event, AnswerDone):
                if encoder and (part := encoder.finish()):
                    yield self._chunk({"audio": {"id": self.audio_id, "data": base64.b64encode(part).decode()}})
                if encoder:
                    yield self._chunk({"audio": {"id": self.audio_id, "expires_at": self.created}})
                yield self._chunk({}, _finish_reason(event))
                if self.include_usage:
                    yield _sse(self._object("chat.completion.chunk", choices=[], usage=_usage(event)))
        yield b"data: [DONE]\n\n"

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        encoder = AudioEncoder(self.server.processor.sampling_rate, self.audio_format) if self.audio_format else None
        content, done = b"", None
        async for event in events:
            if isinstance(event, AudioChunk):
                content += encoder.push(event.samples)
            elif isinstance(event, AnswerDone):
                done = event
        message: dict[str, Any] = {"role": "assistant", "content": done.text, "refusal": None}
        if encoder:
            content += encoder.finish()
            data = base64.b64encode(content).decode()
            # OpenAI keeps the audio of earlier answers; here the client sends their text again
            audio = {"id": self.audio_id, "data": data, "transcript": done.text, "expires_at": self.created}
            message |= {"content": None, "audio": audio}
        choice = {"index": 0, "message": message, "finish_reason": _finish_reason(done), "logprobs": None}
        return self._object("chat.completion", choices=[choice], usage=_usage(done))


def _finish_reason(done: AnswerDone) -> str:
    return "stop" if done.status == "completed" else "length"


def _usage(done: AnswerDone) -> dict[str, int]:
    total = done.num_read + done.num_generated
    return {"prompt_tokens": done.num_read, "completion_tokens": done.num_generated, "total_tokens": total}


def _audio_format(body: dict, is_streamed: bool) -> str:
    audio = body.get("audio") or {}
    if not isinstance(audio, dict):
        raise ProtocolError("`audio` must be an object.", "invalid_type", "audio")
    name = {"pcm16": "pcm"}.get(audio.get("format"), audio.get("format") or "wav")
    if name not in SPEECH_FORMATS:
        raise ProtocolError("`audio.format` is one of wav, pcm16, mp3, flac, opus.", param="audio.format")
    if is_streamed and name != "pcm":
        raise ProtocolError('Streamed audio has the format "pcm16".', "unsupported_value", "audio.format")
    return name


def _messages(server: Server, body: dict) -> list[tuple[str, str, np.ndarray | None]]:
    """Role, text and audio of each message."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ProtocolError("`messages` must be a list of at least one message.", param="messages")
    found, num_samples = [], 0
    for index, message in enumerate(messages):
        param = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "developer", "user", "assistant"):
            raise ProtocolError(f"The role {str(role)[:50]!r} is not supported.", param=f"{param}.role")
        content, waveforms, texts = message.get("content"), [], []
        if content is None and role == "assistant":
            raise ProtocolError(
                "The audio of earlier answers is not kept: send their text as `content`.", param=f"{param}.content"
            )
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else _list(content, param):
            if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif isinstance(part, dict) and part.get("type") == "input_audio" and role == "user":
                data = part.get("input_audio")
                if not isinstance(data, dict) or not isinstance(data.get("data"), str):
                    raise ProtocolError("`input_audio` needs base64 `data`.", param=f"{param}.content")
                waveforms.append(
                    load_audio(decode_base64(data["data"]), SAMPLING_RATE, server.limits.max_turn_seconds)
                )
                num_samples += len(waveforms[-1])
            else:
                raise ProtocolError("Parts are `text`, and of the user `input_audio`.", param=f"{param}.content")
        text = "".join(texts)
        _check_length(server, text, f"{param}.content")
        role = "system" if role == "developer" else role
        found.append((role, text, np.concatenate(waveforms) if waveforms else None))
    if num_samples > server.limits.max_file_seconds * SAMPLING_RATE:
        raise ProtocolError(
            f"The messages have more than {server.limits.max_file_seconds:g} s of audio.", param="messages"
        )
    server.metrics.audio_seconds.labels("in").inc(num_samples / SAMPLING_RATE)
    return found


def _list(value: Any, param: str) -> list:
    if not isinstance(value, list):
        raise ProtocolError("The content must be a string or a list of parts.", param=param)
    return value


def _generation(body: dict) -> dict[str, Any]:
    """The options of `generate`."""
    options: dict[str, Any] = {}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 4096:
            raise ProtocolError(
                "`max_completion_tokens` must be an integer from 1 to 4096.", param="max_completion_tokens"
            )
        options["max_new_tokens"] = limit
    for name, most in (("temperature", 2.0), ("top_p", 1.0)):
        value = body.get(name)
        if value is None or (name == "top_p" and value == 1):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ProtocolError(f"`{name}` must be a number from 0 to {most:g}.", param=name)
        if value > 0:
            options |= {name: float(value), "do_sample": True}
    if body.get("seed") is not None:
        if isinstance(body["seed"], bool) or not isinstance(body["seed"], int) or not 0 <= body["seed"] < 2**63:
            raise ProtocolError("`seed` must be a whole number.", param="seed")
        options["seed"] = body["seed"]
    return options


# --- what they share


async def _events(
    server: Server, kind: str, make: Callable[[], Any], start: Callable[[Any], Sequence[Event]]
) -> AsyncIterator[Event]:
    """The events of one answer; the client of the engine lasts as long as they are read."""
    async with server.client(kind, make) as (client, outbox):
        client.post(start)
        async for event in server.events(outbox):
            if isinstance(event, AnswerDone) and event.status == "failed":
                raise RuntimeError(event.error)
            yield event


def _answer(
    server: Server, kind: str, start: Callable[[FlowOmniSession], Sequence[Event]], **settings: Any
) -> AsyncIterator[Event]:
    return _events(server, kind, lambda: server.make_session(**settings), start)


async def _stream(parts: AsyncIterator[bytes], media_type: str) -> Response:
    """A streamed response. What goes wrong before its first part is an error, and not an empty stream."""
    first = await anext(parts)

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for part in parts:
            yield part

    return StreamingResponse(whole(), media_type=media_type)


def _sse(event: dict) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


async def _json(request: Request) -> dict:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ProtocolError("The body is not JSON.", "invalid_json") from error
    if not isinstance(body, dict):
        raise ProtocolError("The body must be a JSON object.", "invalid_json")
    return body


def _refuse_others(fields: dict, known: set[str]) -> None:
    for name, value in fields.items():
        if name not in known and value not in (None, [], {}):
            raise ProtocolError(f"`{name[:100]}` is not supported: leave it out.", "unknown_parameter", name[:100])


def _voice(server: Server, fields: dict, param: str) -> dict[str, str]:
    """The option of `generate` for the voice that is asked for, or the first."""
    voices = voices_of(server.model)
    return voice_option(server.model, check_voice(fields.get("voice") or voices[0], voices, param))


def _text(server: Server, body: dict, name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str) or not text.strip():
        raise ProtocolError(f"`{name}` must be a text that is not empty.", param=name)
    _check_length(server, text, name)
    return text


def _check_length(server: Server, text: str, param: str) -> None:
    limit = server.limits.max_text_characters
    if len(text) > limit:
        raise ProtocolError(f"`{param}` has {len(text)} characters, of at most {limit}.", "text_too_long", param)
