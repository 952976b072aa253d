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
"""Conversations as users write them, checked and brought into the one form that the chat template reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .audio_io import decode_base64


ROLES = ("system", "developer", "user", "assistant", "tool")
# An item may hold one of these; of a dataset's row, which has several, the first counts.
AUDIO_KEYS = ("audio", "array", "bytes", "base64", "path", "url", "audio_url")
DATASET_KEYS = {"array", "bytes", "path"}


def as_batch(conversation: Any) -> tuple[list[Sequence], bool]:
    """One conversation or several as a list of them, and whether there were several."""
    if hasattr(conversation, "messages"):
        conversation = conversation.messages
    if isinstance(conversation, Mapping | str) or not isinstance(conversation, Sequence):
        raise TypeError(
            f"Got a conversation of the type `{type(conversation).__name__}`: pass a list of messages, such as "
            '[{"role": "user", "content": "Hello."}], or a list of such lists.'
        )
    if len(conversation) == 0:
        raise ValueError("The conversation is empty: pass at least one message.")
    is_batch = hasattr(conversation[0], "messages") or isinstance(conversation[0], list | tuple)
    if not is_batch:
        return [conversation], False
    return [getattr(single, "messages", single) for single in conversation], True


def normalize_conversation(
    conversation: Sequence[Mapping],
    read_audio: Callable[[Mapping], Any] | None = None,
    forbidden_text: str | None = None,
) -> list[dict]:
    """
    Checks every message and drops what is no part of a history: the sound of the assistant's earlier answers.

    Args:
        conversation (`Sequence[Mapping]`):
            Messages with `role` and `content`: a string, or a list of `text` and `audio` items.
        read_audio (`Callable`, *optional*):
            Turns an audio item into a waveform. Without it, audio items stay mere placeholders.
        forbidden_text (`str`, *optional*):
            The audio placeholder, which in somebody's text would be taken for audio.
    """
    if len(conversation) == 0:
        raise ValueError("The conversation is empty: pass at least one message.")
    return [
        normalize_message(message, name_message(message, index), read_audio, forbidden_text)
        for index, message in enumerate(conversation)
    ]


def normalize_message(
    message: Mapping,
    where: str,
    read_audio: Callable[[Mapping], Any] | None = None,
    forbidden_text: str | None = None,
) -> dict:
    """One checked message, its content a string or a list of `text` and `audio` items."""
    message = {key: value for key, value in message.items() if value is not None}
    if message.get("role") not in ROLES:
        has = f"has the role {message['role']!r}" if "role" in message else f"has no `role` (keys: {sorted(message)})"
        raise ValueError(f"{where} {has}: it must be one of {', '.join(ROLES)}.")
    if "content" not in message:
        if message.get("tool_calls"):
            return message
        raise ValueError(f"{where} has no `content`: pass a string, or a list of `text` and `audio` items.")
    content = message["content"]
    if isinstance(content, str):
        check_text(content, where, forbidden_text)
        return message
    if not isinstance(content, list | tuple):
        raise TypeError(
            f"{where} has a content of the type `{type(content).__name__}`: pass a string, or a list of `text` and "
            "`audio` items."
        )
    items = [normalize_item(item, where, forbidden_text) for item in content]
    if message["role"] == "assistant":
        kinds = {item["type"] for item in items}
        if kinds == {"audio"}:
            raise ValueError(
                f'{where} has audio and no text: add what it says as a {{"type": "text", "text": …}} item. Of earlier '
                "answers, only the text is read."
            )
        items = [item for item in items if item["type"] == "text"]
    return message | {"content": [_loaded(item, where, read_audio) for item in items]}


def normalize_item(item: Any, where: str, forbidden_text: str | None) -> dict:
    """One checked item of a content list."""
    if isinstance(item, str):
        item = {"type": "text", "text": item}
    if not isinstance(item, Mapping) or "type" not in item:
        shown = f"keys: {sorted(item)}" if isinstance(item, Mapping) else repr(item)
        raise ValueError(
            f'{where} has an item without a `type` ({shown}): write {{"type": "text", "text": …}} or '
            '{"type": "audio", "path": …}.'
        )
    item = {key: value for key, value in item.items() if value is not None}
    if item["type"] == "text":
        if not isinstance(item.get("text"), str):
            raise ValueError(f"{where} has a text item without a string under `text` (keys: {sorted(item)}): add it.")
        check_text(item["text"], where, forbidden_text)
        return {"type": "text", "text": item["text"]}
    if item["type"] == "audio":
        return item
    raise ValueError(f"{where} has an item of the type {item['type']!r}: only `text` and `audio` are understood.")


def check_text(text: str, where: str, forbidden_text: str | None) -> None:
    if forbidden_text is not None and forbidden_text in text:
        raise ValueError(
            f"{where} holds `{forbidden_text}` in its text, which stands for audio: pass audio as an item "
            f'{{"type": "audio", "path": …}}, and take `{forbidden_text}` out of the text.'
        )


def audio_source(item: Mapping) -> Any:
    """What [`load_audio`] can read of an audio item."""
    found = [key for key in AUDIO_KEYS if item.get(key) is not None]
    if not found or (len(found) > 1 and not set(found) <= DATASET_KEYS):
        raise ValueError(
            f"An audio item has the keys {sorted(item)}: it must hold its audio under exactly one of "
            f"{', '.join(f'`{key}`' for key in AUDIO_KEYS)}."
        )
    source = item[found[0]]
    return decode_base64(source) if found[0] == "base64" else source


def split_answer(conversation: Any) -> tuple[list[Mapping], Mapping]:
    """The messages of a training conversation up to the answer, and the answer."""
    conversations, is_batch = as_batch(conversation)
    if is_batch:
        raise TypeError("Got several conversations for one example: encode them one by one.")
    conversation = conversations[0]
    history, answer = list(conversation[:-1]), conversation[-1]
    role = answer.get("role") if isinstance(answer, Mapping) else answer
    if not history or role != "assistant":
        raise ValueError(
            f"A training conversation of {len(conversation)} message(s) ends with {role!r}: the last message must be the "
            "assistant's answer, and at least one must come before it."
        )
    return history, answer


def text_of(message: Mapping) -> str:
    """The text of a normalized message."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(item["text"] for item in content if item["type"] == "text")


def audio_item_of(message: Mapping) -> Mapping | None:
    """The one audio item of a message, if it has any."""
    content = message.get("content")
    if isinstance(content, str | None):
        return None
    items = [item for item in content if isinstance(item, Mapping) and item.get("type") == "audio"]
    if len(items) > 1:
        raise ValueError(f"The answer has {len(items)} audio items: join its speech into one.")
    return items[0] if items else None


def name_message(message: Any, index: int) -> str:
    if not isinstance(message, Mapping):
        raise TypeError(
            f"Message {index} is of the type `{type(message).__name__}`: messages are dictionaries such as "
            '{"role": "user", "content": "Hello."}.'
        )
    return f"Message {index} ({message.get('role')})"


def _loaded(item: Mapping, where: str, read_audio: Callable[[Mapping], Any] | None) -> Mapping:
    """The item with its waveform, or as a mere placeholder."""
    if item["type"] == "text":
        return item
    if read_audio is None:
        return {"type": "audio"}
    try:
        return {"type": "audio", "audio": read_audio(item)}
    except (ValueError, TypeError, OSError) as error:
        error.add_note(f"The audio is in {where}.")
        raise
