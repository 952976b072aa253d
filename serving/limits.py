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
"""The settings and limits of a server, its metrics and its logs."""

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(frozen=True)
class Limits:
    """What a server grants. What goes beyond is refused with an error that names the limit."""

    max_sessions: int = 16  # sockets and requests that generate, together
    max_pending_bytes: int = 4 * 2**20  # of one client's events that wait to be handled
    max_pending_turns: int = 4  # of one client's commits and answers that wait to be handled
    max_message_bytes: int = 16 * 2**20  # of one event
    max_body_bytes: int = 25 * 2**20  # of one request
    max_output_bytes: int = 1 * 2**20  # of output that a client has not read, beyond which no more is generated
    slow_reader_seconds: float = 30.0  # after which a client that reads nothing of it is left
    max_turn_seconds: float = 60.0  # of audio in one turn
    max_file_seconds: float = 600.0  # of audio in one file
    max_text_characters: int = 8192  # in one text
    max_new_tokens: int = 1024  # of one answer
    idle_seconds: float = 300.0  # without an event, after which a socket is closed
    max_session_seconds: float = 3600.0
    drain_seconds: float = 20.0  # in which answers may end after the server was told to stop


@dataclass(frozen=True)
class ServerSettings:
    """
    Args:
        model_name: What clients see and ask for.
        token: If set, requests must carry it as `Authorization: Bearer`.
        allowed_origins: Origins of pages, besides the server's own, that may use the server from a browser.
        generation: Options of `generate` for all answers.
    """

    model_name: str = "flow-omni"
    token: str | None = None
    allowed_origins: tuple[str, ...] = ()
    window_seconds: float = 8.0
    max_batch: int = 8
    generation: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


class Metrics:
    """The metrics at `/metrics`, in a registry of their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.sessions = Gauge("flow_omni_sessions", "Open sockets and requests that generate", registry=self.registry)
        self.opened = Counter("flow_omni_opened", "Opened ones", ["kind"], registry=self.registry)
        self.refused = Counter("flow_omni_refused", "Refused requests and events", ["code"], registry=self.registry)
        self.answers = Counter("flow_omni_answers", "Answers that ended", ["status"], registry=self.registry)
        self.audio_seconds = Counter("flow_omni_audio_seconds", "Audio", ["direction"], registry=self.registry)
        self.first_audio = Histogram(
            "flow_omni_first_audio_seconds",
            "From the end of a turn, or the request for an answer, to its first audio",
            buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5),
            registry=self.registry,
        )
        self.step_seconds = Histogram(
            "flow_omni_step_seconds",
            "Duration of a decoding step of all rows",
            buckets=(0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.5),
            registry=self.registry,
        )
        self.step_rows = Histogram(
            "flow_omni_step_rows", "Rows in a decoding step", buckets=(1, 2, 4, 8, 16), registry=self.registry
        )

    def observe_step(self, num_rows: int, seconds: float) -> None:
        self.step_rows.observe(num_rows)
        self.step_seconds.observe(seconds)


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, and the fields that were passed as `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        # uvicorn logs text that is not UTF-8, which is the client's mistake, as if it were its own
        is_of_client = record.name == "uvicorn.error" and record.exc_info and record.exc_info[0] is UnicodeDecodeError
        if record.exc_info and not is_of_client:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


LOG_CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JSONFormatter}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
        for name in ("flow_omni.serving", "uvicorn")
    },
}
