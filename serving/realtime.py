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
"""OpenAI's Realtime protocol (the GA events) on a session: dictionaries in, dictionaries out. No web in it."""

import base64
import binascii
import copy
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .audio import FORMATS, StreamResampler, decode_samples, encode_samples
from .events import (
    AnswerDone,
    AnswerStarted,
    AudioChunk,
    Event,
    Interrupted,
    Item,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Transcript,
    TurnCommitted,
)
from .session import FlowOmniSession, SessionSettings, voice_option
from .step_loop import Row
from .turns import SAMPLING_RATE, TurnDetection


CLIENT_EVENTS = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.delete",
    "conversation.item.retrieve",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
)
VAD_FIELDS = {
    "server_vad": ("threshold", "prefix_padding_ms", "silence_duration_ms", "create_response", "interrupt_response"),
    "semantic_vad": ("eagerness", "create_response", "interrupt_response"),
}
# What `session.update` may repeat, and not change.
FIXED_FIELDS = ("id", "object", "model", "expires_at")
MAX_ERROR_CHARACTERS, MAX_ID_CHARACTERS = 1000, 512
MAX_METADATA = 16  # pairs of a key and a value, of OpenAI's lengths
STATUS = {"completed": "completed", "incomplete": "incomplete", "failed": "failed"}  # all others are "cancelled"


class ProtocolError(ValueError):
    """A mistake of the client, with the `code` and the parameter of OpenAI's errors."""

    def __init__(self, message: str, code: str = "invalid_value", param: str | None = None):
        super().__init__(message)
        self.code, self.param = code, param


@dataclass(frozen=True)
class Message:
    """A server event. One with an `epoch` is stale once the session says so."""

    event: dict[str, Any]
    epoch: int | None = None


def error_event(error: Exception, event_id: Any = None) -> dict[str, Any]:
    is_client = isinstance(error, ValueError | TypeError | KeyError | ImportError)
    message = str(error) if is_client else "The server failed at this event."
    return {
        "type": "error",
        "event_id": _new_id("event"),
        "error": {
            "type": "invalid_request_error" if is_client else "server_error",
            "code": getattr(error, "code", "invalid_value" if is_client else "server_error"),
            # what the client sent may be in it
            "message": message if len(message) <= MAX_ERROR_CHARACTERS else message[:MAX_ERROR_CHARACTERS] + " …",
            "param": getattr(error, "param", None),
            "event_id": event_id if isinstance(event_id, str) and len(event_id) <= MAX_ID_CHARACTERS else None,
        },
    }


class RealtimeProtocol:
    """
    One connection. `receive` takes an event of the client; it, `take` and `start` give the events of the server.

    Args:
        session (`FlowOmniSession`): The session, with `settings` as they are at the start.
        model_name (`str`): What the client sees as the model.
        max_session_seconds (`float`): For `expires_at`.
        max_audio_bytes (`int`): Bytes of audio in one event.
        max_text_characters (`int`): Characters of one text.
    """

    def __init__(
        self,
        session: FlowOmniSession,
        model_name: str,
        max_session_seconds: float = 3600.0,
        max_audio_bytes: int = 15 * 2**20,
        max_text_characters: int = 8192,
    ):
        self.session = session
        self.max_text_characters = max_text_characters
        self.max_audio_bytes = max_audio_bytes
        self.conversation_id = _new_id("conv")
        self.response: dict[str, Any] | None = None
        self.response_epoch = 0
        self.answer_item: Item | None = None
        self.metadata: dict | None = None
        self._encoder: Callable[[np.ndarray, bool], bytes] | None = None
        pcm = {"type": "audio/pcm", "rate": FORMATS["audio/pcm"][0]}
        turn_detection = session.settings.turn_detection
        self.config: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": _new_id("sess"),
            "model": model_name,
            "expires_at": int(time.time() + max_session_seconds),
            "output_modalities": [session.settings.output],
            "instructions": session.settings.instructions or "",
            "audio": {
                "input": {
                    "format": dict(pcm),
                    "turn_detection": _vad_config(turn_detection) if turn_detection else None,
                    "transcription": {"model": model_name} if session.settings.transcribe else None,
                    "noise_reduction": None,
                },
                "output": {"format": dict(pcm), "voice": session.voices[0], "speed": 1.0},
            },
            "max_output_tokens": "inf",
            "tools": [],
            "tool_choice": "auto",
            "tracing": None,
            "truncation": "auto",
            "prompt": None,
            "include": None,
        }

    @property
    def stale_epoch(self) -> int:
        return self.session.state.stale_epoch

    def start(self) -> list[Message]:
        return [_message("session.created", session=copy.deepcopy(self.config))]

    def rows(self) -> list[Row]:
        return self.session.rows()

    def take(self, row: Row, step: Any | None) -> list[Message]:
        return self._translate(self.session.take(row, step))

    def close(self) -> None:
        self.session.close()

    # --- events of the client

    def receive(self, event: Any) -> list[Message]:
        """The answer to an event of the client: an `error` event, if it was wrong."""
        event_id = event.get("event_id") if isinstance(event, dict) else None
        try:
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                raise ProtocolError("An event is a JSON object with a `type`.", "invalid_event")
            if event["type"] not in CLIENT_EVENTS:
                raise ProtocolError(
                    f"The event type {event['type'][:100]!r} is not supported.", "unknown_event", "type"
                )
            return getattr(self, "_on_" + event["type"].replace(".", "_"))(event)
        except (ValueError, TypeError, KeyError, ImportError) as error:
            return [Message(error_event(error, event_id))]

    def _on_session_update(self, event: dict) -> list[Message]:
        changes = _field(event, "session", dict)
        config = copy.deepcopy(self.config)
        # the type is required by OpenAI; a client that leaves it out means this one
        if changes.get("type", "realtime") != "realtime":
            raise ProtocolError(f"The session type {changes['type']!r} is not supported.", param="session.type")
        for name in FIXED_FIELDS:
            if changes.get(name, config[name]) != config[name]:
                raise ProtocolError(f"`{name}` cannot be changed in a session.", param=f"session.{name}")
        _merge(config, changes, "session")
        settings = self._settings(config)
        self.session.update(settings)
        self.config = config
        return [_message("session.updated", session=copy.deepcopy(config))]

    def _settings(self, config: dict) -> SessionSettings:
        """The settings of a session's config, which is checked."""
        base = self.session.settings
        modalities = config["output_modalities"]
        if modalities not in (["audio"], ["text"]):
            raise ProtocolError(
                f'`output_modalities` is {modalities!r}: use ["audio"] or ["text"].', param="session.output_modalities"
            )
        for name in ("tools", "noise_reduction", "tracing", "prompt", "include"):
            place = config["audio"]["input"] if name == "noise_reduction" else config
            if place[name]:
                raise ProtocolError(
                    f"`{name}` is not supported: leave it out.", "unsupported_value", f"session.{name}"
                )
            place[name] = [] if name == "tools" else None
        for side in ("input", "output"):
            _check_format(config["audio"][side]["format"], f"session.audio.{side}.format")
        output = config["audio"]["output"]
        output["voice"] = check_voice(output["voice"], self.session.voices, "session.audio.output.voice")
        if output["speed"] != 1.0:
            raise ProtocolError(
                "Only the `speed` 1.0 is supported.", "unsupported_value", "session.audio.output.speed"
            )
        output["speed"] = 1.0
        if config["truncation"] not in ("auto",):
            raise ProtocolError('Only the `truncation` "auto" is supported.', param="session.truncation")
        if config["tool_choice"] not in ("auto", "none"):
            raise ProtocolError('There are no tools: `tool_choice` is "auto" or "none".', param="session.tool_choice")
        instructions = self._text(config, "instructions", "session.instructions")
        transcription = config["audio"]["input"]["transcription"]
        if transcription is not None:
            _check_transcription(transcription, "session.audio.input.transcription")
        generation = {name: value for name, value in base.generation.items() if name != "max_new_tokens"}
        return SessionSettings(
            turn_detection=_turn_detection(config["audio"]["input"]["turn_detection"]),
            instructions=instructions or None,
            output=modalities[0],
            transcribe=transcription is not None,
            window_seconds=base.window_seconds,
            max_turn_seconds=base.max_turn_seconds,
            max_context=base.max_context,
            generation=generation
            | voice_option(self.session.model, output["voice"])
            | _max_tokens(config["max_output_tokens"], base.generation.get("max_new_tokens")),
        )

    def _on_input_audio_buffer_append(self, event: dict) -> list[Message]:
        name = self.config["audio"]["input"]["format"]["type"]
        samples = decode_samples(_decode_base64(event, "audio", self.max_audio_bytes), name)
        return self._translate(self.session.push(samples, FORMATS[name][0]))

    def _on_input_audio_buffer_commit(self, event: dict) -> list[Message]:
        try:
            return self._translate(self.session.commit())
        except ValueError as error:
            raise ProtocolError(str(error), "input_audio_buffer_commit_empty") from error

    def _on_input_audio_buffer_clear(self, event: dict) -> list[Message]:
        return [_message("input_audio_buffer.cleared"), *self._translate(self.session.clear())]

    def _on_conversation_item_create(self, event: dict) -> list[Message]:
        item = _field(event, "item", dict)
        if item.get("type") != "message":
            raise ProtocolError(
                f"Items of the type {str(item.get('type'))[:100]!r} are not supported.", param="item.type"
            )
        text, audio = self._content(item)
        after = event.get("previous_item_id")
        if after is not None and not isinstance(after, str):
            raise ProtocolError("`previous_item_id` must be a string.", param="previous_item_id")
        item_id = item.get("id")
        if item_id is not None and (not isinstance(item_id, str) or not 0 < len(item_id) <= 32):
            raise ProtocolError("The `id` of an item is a string of at most 32 characters.", param="item.id")
        rate = FORMATS[self.config["audio"]["input"]["format"]["type"]][0]
        added = self.session.add(str(item.get("role")), text, audio, rate, item_id, after)
        return self._item_messages(added)

    def _content(self, item: dict) -> tuple[str, np.ndarray | None]:
        """The text and the audio in an item's content."""
        texts, waveforms = [], []
        allowed = {"assistant": ("output_text", "output_audio")}.get(item.get("role"), ("input_text", "input_audio"))
        for index, part in enumerate(_field(item, "content", list)):
            param = f"item.content[{index}]"
            if not isinstance(part, dict) or part.get("type") not in allowed:
                raise ProtocolError(f"A part of the content must be one of {', '.join(allowed)}.", param=param)
            if part["type"] == "input_audio":
                name = self.config["audio"]["input"]["format"]["type"]
                waveforms.append(decode_samples(_decode_base64(part, "audio", self.max_audio_bytes), name))
            else:
                # of the audio of an answer the model reads the transcript
                texts.append(self._text(part, "transcript" if part["type"] == "output_audio" else "text", param))
        if not any(texts) and not any(map(len, waveforms)):
            raise ProtocolError("The item has no content.", param="item.content")
        return "".join(texts), np.concatenate(waveforms) if any(map(len, waveforms)) else None

    def _text(self, fields: dict, name: str, param: str) -> str:
        text = fields.get(name)
        if not isinstance(text, str):
            raise ProtocolError(f"`{name}` must be a string.", "invalid_type", param)
        if len(text) > self.max_text_characters:
            raise ProtocolError(
                f"`{name}` has {len(text)} characters, of at most {self.max_text_characters}.", "text_too_long", param
            )
        return text

    def _on_conversation_item_delete(self, event: dict) -> list[Message]:
        item_id = _field(event, "item_id", str)
        self.session.delete(item_id)
        return [_message("conversation.item.deleted", item_id=item_id)]

    def _on_conversation_item_retrieve(self, event: dict) -> list[Message]:
        item = self.session.item(_field(event, "item_id", str))
        return [_message("conversation.item.retrieved", item=self._item(item))]

    def _on_conversation_item_truncate(self, event: dict) -> list[Message]:
        item_id, end = _field(event, "item_id", str), _field(event, "audio_end_ms", int)
        if _field(event, "content_index", int) != 0:
            raise ProtocolError("`content_index` must be 0: answers have one part.", param="content_index")
        self.session.truncate(item_id, end)
        return [_message("conversation.item.truncated", item_id=item_id, content_index=0, audio_end_ms=end)]

    def _on_response_create(self, event: dict) -> list[Message]:
        response = event.get("response") or {}
        if not isinstance(response, dict):
            raise ProtocolError("`response` must be an object.", param="response")
        known = {"output_modalities", "instructions", "max_output_tokens", "metadata", "conversation"}
        for name, value in response.items():
            if name not in known and value:
                raise ProtocolError(
                    f"`{name[:100]}` is not supported here.", "unknown_parameter", f"response.{name[:100]}"
                )
        if response.get("conversation", "auto") != "auto":
            raise ProtocolError('Only the `conversation` "auto" is supported.', param="response.conversation")
        options = _max_tokens(response.get("max_output_tokens") or self.config["max_output_tokens"], None)
        modalities = response.get("output_modalities") or self.config["output_modalities"]
        if modalities not in (["audio"], ["text"]):
            raise ProtocolError(
                f'`output_modalities` is {modalities!r}: use ["audio"] or ["text"].',
                param="response.output_modalities",
            )
        if response.get("instructions") is not None:
            options["instructions"] = self._text(response, "instructions", "response.instructions")
        self.metadata = _metadata(response.get("metadata"))
        try:
            return self._translate(self.session.respond(output=modalities[0], **options))
        except ValueError as error:
            is_active = self.response is not None
            code = "conversation_already_has_active_response" if is_active else "invalid_value"
            raise ProtocolError(str(error), code) from error

    def _on_response_cancel(self, event: dict) -> list[Message]:
        response_id = event.get("response_id")
        if self.response is None or response_id not in (None, self.response["id"]):
            raise ProtocolError("There is no such response to cancel.", "response_cancel_not_active", "response_id")
        return self._translate(self.session.cancel())

    # --- events of the server

    def _translate(self, events: Sequence[Event]) -> list[Message]:
        return [message for event in events for message in getattr(self, f"_of_{type(event).__name__}")(event)]

    def _of_SpeechStarted(self, event: SpeechStarted) -> list[Message]:
        return [_message("input_audio_buffer.speech_started", item_id=event.item_id, audio_start_ms=event.audio_ms)]

    def _of_SpeechStopped(self, event: SpeechStopped) -> list[Message]:
        return [_message("input_audio_buffer.speech_stopped", item_id=event.item_id, audio_end_ms=event.audio_ms)]

    def _of_TurnCommitted(self, event: TurnCommitted) -> list[Message]:
        item = self._find(event.item_id)
        previous = self._previous(item)
        committed = _message("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        return [committed, *self._item_messages(item)]

    def _of_Transcript(self, event: Transcript) -> list[Message]:
        name = "conversation.item.input_audio_transcription."
        if not event.is_final:
            return [_message(name + "delta", item_id=event.item_id, content_index=0, delta=event.text)]
        seconds = sum(window.num_samples for window in self._find(event.item_id).windows) / SAMPLING_RATE
        usage = {"type": "duration", "seconds": seconds}
        return [
            _message(name + "completed", item_id=event.item_id, content_index=0, transcript=event.text, usage=usage)
        ]

    def _of_AnswerStarted(self, event: AnswerStarted) -> list[Message]:
        item = self.answer_item = self._find(event.item_id)
        kind = "text" if item.spoken is None else "audio"
        output = self.config["audio"]["output"]
        self.response_epoch = event.epoch
        self.response = {
            "object": "realtime.response",
            "id": _new_id("resp"),
            "status": "in_progress",
            "status_details": None,
            "output": [],
            "conversation_id": self.conversation_id,
            "output_modalities": [kind],
            "max_output_tokens": self.config["max_output_tokens"],
            "audio": {"output": {"format": output["format"], "voice": output["voice"]}},
            "usage": None,
            "metadata": self.metadata,
        }
        self.metadata = None
        self._encoder = _encoder(self.session.output_rate, output["format"]["type"])
        shown = self._item(item, "in_progress") | {"content": []}
        part = {"type": "audio", "transcript": ""} if kind == "audio" else {"type": "text", "text": ""}
        return [
            _message("response.created", response=dict(self.response)),
            self._of_response("response.output_item.added", item=shown),
            _message("conversation.item.added", item=shown, previous_item_id=self._previous(item)),
            self._of_response("response.content_part.added", item_id=item.id, content_index=0, part=part),
        ]

    def _of_TextDelta(self, event: TextDelta) -> list[Message]:
        name = "audio_transcript" if self._is_spoken() else "text"
        return [
            self._of_response(
                f"response.output_{name}.delta", item_id=event.item_id, content_index=0, delta=event.text
            )
        ]

    def _of_AudioChunk(self, event: AudioChunk) -> list[Message]:
        return self._audio(event.item_id, event.epoch, event.samples, False)

    def _audio(self, item_id: str, epoch: int, samples: np.ndarray, is_last: bool) -> list[Message]:
        content = self._encoder(samples, is_last)
        if not content:
            return []
        delta = base64.b64encode(content).decode()
        message = self._of_response("response.output_audio.delta", item_id=item_id, content_index=0, delta=delta)
        return [Message(message.event, epoch)]

    def _of_Interrupted(self, event: Interrupted) -> list[Message]:
        if self.response is None:
            return []  # it was generated, and is still played
        return self._of_AnswerDone(AnswerDone(event.item_id, event.epoch, self.answer_item.text, "interrupted"))

    def _of_AnswerDone(self, event: AnswerDone) -> list[Message]:
        if self.response is None or event.epoch != self.response_epoch:
            return []  # the response ended when the answer was interrupted
        item = self.answer_item
        status = STATUS.get(event.status, "cancelled")
        details: dict[str, Any] = {"type": status}
        if event.status in ("interrupted", "cancelled", "incomplete"):
            reasons = {"interrupted": "turn_detected", "cancelled": "client_cancelled"}
            details["reason"] = reasons.get(event.status, "max_output_tokens")
        if event.status == "failed":
            details["error"] = {"type": "server_error", "code": "server_error"}
        place = {"item_id": item.id, "content_index": 0}
        messages = []
        shown = self._item(item, "completed" if status == "completed" else "incomplete")
        if self._is_spoken():
            if status in ("completed", "incomplete"):
                messages += self._audio(item.id, event.epoch, np.zeros(0, dtype=np.float32), True)
            messages.append(self._of_response("response.output_audio.done", **place))
            messages.append(self._of_response("response.output_audio_transcript.done", transcript=event.text, **place))
            part = {"type": "audio", "transcript": event.text}
        else:
            messages.append(self._of_response("response.output_text.done", text=event.text, **place))
            part = {"type": "text", "text": event.text}
        messages += [
            self._of_response("response.content_part.done", part=part, **place),
            self._of_response("response.output_item.done", item=shown),
            _message("conversation.item.done", item=shown, previous_item_id=self._previous(item)),
        ]
        usage = {"input_tokens": event.num_read, "output_tokens": event.num_generated}
        usage["total_tokens"] = sum(usage.values())
        done = {"status": status, "status_details": details, "output": [shown], "usage": usage}
        messages.append(_message("response.done", response=self.response | done))
        self.response = None
        return messages

    def _is_spoken(self) -> bool:
        return self.response is not None and self.response["output_modalities"] == ["audio"]

    def _of_response(self, name: str, **fields: Any) -> Message:
        return _message(name, response_id=self.response["id"], output_index=0, **fields)

    # --- items

    def _find(self, item_id: str) -> Item:
        """An item, or what is left of one that was deleted or forgotten since."""
        found = (item for item in self.session.history if item.id == item_id)
        return next(found, Item(item_id, "user"))

    def _item_messages(self, item: Item) -> list[Message]:
        shown, previous = self._item(item), self._previous(item)
        return [
            _message("conversation.item.added", item=shown, previous_item_id=previous),
            _message("conversation.item.done", item=shown, previous_item_id=previous),
        ]

    def _previous(self, item: Item) -> str | None:
        history = self.session.history
        index = next((index for index, other in enumerate(history) if other is item), 0)
        return history[index - 1].id if index > 0 else None

    @staticmethod
    def _item(item: Item, status: str = "completed") -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if item.role == "assistant":
            spoken = {"type": "output_audio", "transcript": item.text}
            content.append({"type": "output_text", "text": item.text} if item.spoken is None else spoken)
        else:
            content += [{"type": "input_audio", "transcript": item.transcript}] if item.windows else []
            content += [{"type": "input_text", "text": item.text}] if item.text else []
        shown = {"id": item.id, "object": "realtime.item", "type": "message", "status": status}
        return shown | {"role": item.role, "content": content}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:20]}"


def _message(name: str, **fields: Any) -> Message:
    return Message({"type": name, "event_id": _new_id("event"), **fields})


def _field(event: dict, name: str, kind: type) -> Any:
    value = event.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProtocolError(f"`{name}` is missing or not of the type {kind.__name__}.", "invalid_type", name)
    return value


def _decode_base64(event: dict, name: str, max_bytes: int) -> bytes:
    text = _field(event, name, str)
    if len(text) * 3 // 4 > max_bytes:
        raise ProtocolError(f"`{name}` has more than {max_bytes} bytes: send smaller parts.", "audio_too_large", name)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"`{name}` is not base64 ({error}).", "invalid_base64", name) from error


def _merge(config: dict, changes: dict, path: str) -> None:
    """Writes changes into a config, which has all keys that there may be."""
    for name, value in changes.items():
        if name not in config:
            raise ProtocolError(
                f"Unknown parameter `{path}.{name[:100]}`.", "unknown_parameter", f"{path}.{name[:100]}"
            )
        # objects that are replaced as a whole: another type has other fields
        is_whole = name in ("turn_detection", "transcription", "format", "voice")
        if isinstance(config[name], dict) and not is_whole:
            if not isinstance(value, dict):
                raise ProtocolError(f"`{path}.{name}` must be an object.", "invalid_type", f"{path}.{name}")
            _merge(config[name], value, f"{path}.{name}")
        elif name == "turn_detection":
            config[name] = _vad_config(_turn_detection(value)) if value is not None else None
        else:
            config[name] = value


def _vad_config(settings: TurnDetection) -> dict[str, Any]:
    fields = asdict(settings)
    return {"type": settings.type} | {name: fields[name] for name in VAD_FIELDS[settings.type]}


def _turn_detection(value: Any) -> TurnDetection | None:
    param = "session.audio.input.turn_detection"
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("type") not in VAD_FIELDS:
        raise ProtocolError("`turn_detection` must be null, or have the type server_vad or semantic_vad.", param=param)
    fields = {name: field for name, field in value.items() if field is not None}
    unknown = [name for name in fields if name not in ("type", *VAD_FIELDS[value["type"]])]
    if unknown:
        raise ProtocolError(
            f"`turn_detection` of the type {value['type']} does not support {unknown[0][:100]!r}.", param=param
        )
    for name in ("create_response", "interrupt_response"):
        if not isinstance(fields.get(name, True), bool):
            raise ProtocolError(f"`{name}` must be true or false.", "invalid_type", f"{param}.{name}")
    if isinstance(fields.get("threshold", 0.5), bool) or not isinstance(fields.get("threshold", 0.5), int | float):
        raise ProtocolError("`threshold` must be a number.", "invalid_type", f"{param}.threshold")
    try:
        return TurnDetection(**fields)
    except (ValueError, TypeError) as error:
        raise ProtocolError(str(error), param=param) from error


def check_voice(value: Any, voices: list[str], param: str) -> str:
    """The name of a voice, which clients write as such or as an object with its `id`."""
    name = value.get("id") if isinstance(value, dict) else value
    if name not in voices:
        raise ProtocolError(f"The voice {str(name)[:100]!r} is not there: there is {', '.join(voices)}.", param=param)
    return name


def _check_format(value: Any, param: str) -> None:
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in FORMATS:
        raise ProtocolError(f"A format has one of the types {', '.join(FORMATS)}.", param=param)
    if unknown := set(value) - {"type", "rate"}:
        raise ProtocolError(f"A format has no field {min(unknown)[:100]!r}.", "unknown_parameter", param)
    if value.get("rate", FORMATS[name][0]) != FORMATS[name][0]:
        raise ProtocolError(f"The rate of {name} is {FORMATS[name][0]}.", param=f"{param}.rate")


def _check_transcription(value: Any, param: str) -> None:
    known = ("model", "language", "prompt")
    if not isinstance(value, dict) or not set(value) <= set(known):
        raise ProtocolError(f"`transcription` is null, or an object of {', '.join(known)}.", param=param)
    if not all(isinstance(field, str | None) for field in value.values()):
        raise ProtocolError("The fields of `transcription` must be strings.", "invalid_type", param)


def _metadata(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > MAX_METADATA:
        raise ProtocolError(f"`metadata` must be an object of at most {MAX_METADATA} fields.", param="metadata")
    if not all(len(name) <= 64 and isinstance(text, str) and len(text) <= 512 for name, text in value.items()):
        raise ProtocolError(
            "`metadata` has names of at most 64 characters, and texts of at most 512.", param="metadata"
        )
    return value


def _max_tokens(value: Any, default: int | None) -> dict[str, int]:
    if value in (None, "inf"):
        return {} if default is None else {"max_new_tokens": default}
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096:
        raise ProtocolError(
            '`max_output_tokens` must be an integer from 1 to 4096, or "inf".', param="max_output_tokens"
        )
    return {"max_new_tokens": value}


def _encoder(rate: int, name: str) -> Callable[[np.ndarray, bool], bytes]:
    """Encodes the chunks of one answer."""
    resampler = StreamResampler(rate, FORMATS[name][0])
    return lambda samples, is_last: encode_samples(resampler.push(samples, is_last), name)
