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
"""The events of a session, and the items of its history."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .prompts import Window


Status = Literal["completed", "incomplete", "cancelled", "interrupted", "failed"]


@dataclass(frozen=True)
class SpeechStarted:
    """The user speaks. `item_id` is that of the item which the turn becomes, `audio_ms` counts from the first sample."""

    item_id: str
    audio_ms: int


@dataclass(frozen=True)
class SpeechStopped:
    item_id: str
    audio_ms: int


@dataclass(frozen=True)
class TurnCommitted:
    """A turn has become an item of the history."""

    item_id: str


@dataclass(frozen=True)
class Transcript:
    """What the user said, or with `is_final=False` the next part of it."""

    item_id: str
    text: str
    is_final: bool = True


@dataclass(frozen=True)
class AnswerStarted:
    """
    An answer, or the rest of one that was interrupted by mistake (`is_resumed`), which is an item of its own. All that
    belongs to it has its `epoch`: output of an earlier epoch is stale.
    """

    item_id: str
    epoch: int
    is_resumed: bool = False


@dataclass(frozen=True)
class TextDelta:
    item_id: str
    epoch: int
    text: str


@dataclass(frozen=True)
class AudioChunk:
    """Samples `(num_samples,)`, float32, that follow those of the chunk before."""

    item_id: str
    epoch: int
    samples: np.ndarray
    sampling_rate: int


@dataclass(frozen=True)
class Interrupted:
    """The user speaks over an answer, of which `audio_end_ms` were played by then. No more of it will come."""

    item_id: str
    epoch: int
    audio_end_ms: int


@dataclass(frozen=True)
class AnswerDone:
    """
    The end of an answer, with all of its text, and the positions read and generated for it. An answer that was
    interrupted has had its [`Interrupted`] before.
    """

    item_id: str
    epoch: int
    text: str
    status: Status
    error: str | None = None
    num_read: int = 0
    num_generated: int = 0


Event = (
    SpeechStarted
    | SpeechStopped
    | TurnCommitted
    | Transcript
    | AnswerStarted
    | TextDelta
    | AudioChunk
    | Interrupted
    | AnswerDone
)


@dataclass
class Spoken:
    """What links the text of an answer to its audio, from its start."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)  # of the tokens, counted from the start of the answer
    num_samples: int = 0
    is_complete: bool = False


@dataclass
class Item:
    """
    A message of the history: text, windows of audio, or both; for an answer its text, as far as it was played. An
    answer that was resumed has two items, the second of which begins at a later sample and character.
    """

    id: str
    role: Literal["system", "user", "assistant"]
    text: str = ""
    windows: list[Window] = field(default_factory=list)
    transcript: str | None = None
    spoken: Spoken | None = None
    first_sample: int = 0
    first_character: int = 0

    def content(self) -> list[dict[str, Any]]:
        """The content for the chat template."""
        audio = [{"type": "audio", "audio": window} for window in self.windows]
        return audio + ([{"type": "text", "text": self.text}] if self.text else [])
