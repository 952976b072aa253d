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
"""Conversations: the checks of what users pass, and the chat template that renders them."""

from collections.abc import Mapping, Sequence
from typing import Any


ROLES = ("system", "developer", "user", "assistant", "tool")

# Rebinds `messages`, so that a template written for text alone gets strings. The audio of assistant messages is dropped.
# `trim_blocks` removes the last newline, so that the language model's template still begins at the start of a line.
FLATTEN_CONTENTS = """\
{#- Flow-Omni: an audio item becomes its placeholder, text items are joined. -#}
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
    {%- if message.content is not defined or message.content is none or message.content is string -%}
        {%- set flat.messages = flat.messages + [message] -%}
    {%- else -%}
        {%- set joined = namespace(content='') -%}
        {%- for item in message.content -%}
            {%- if item is string -%}
                {%- set joined.content = joined.content + item -%}
            {%- elif item.type == 'text' -%}
                {%- set joined.content = joined.content + item.text -%}
            {%- elif item.type == 'audio' and message.role != 'assistant' -%}
                {%- set joined.content = joined.content + 'AUDIO_TOKEN' -%}
            {%- endif -%}
        {%- endfor -%}
        {%- set flat.messages = flat.messages + [dict(message, content=joined.content)] -%}
    {%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages %}
"""

# For language models without a chat template.
CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
            {{- (message.content or '') + 'END_OF_TURN' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- (message.content or '') + 'END_OF_TURN\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def chat_template_for(tokenizer: Any, audio_token: str, template: str | dict | None) -> str | dict[str, str]:
    """One or several templates, or ChatML, that take audio items."""
    if isinstance(template, dict):
        return {name: chat_template_for(tokenizer, audio_token, named) for name, named in template.items()}
    if template is None:
        end = "<|im_end|>" if "<|im_end|>" in tokenizer.get_vocab() else tokenizer.eos_token
        template = CHATML.replace("END_OF_TURN", end or "")
    # a saved tokenizer shares the template of its processor: do not extend it twice
    flatten_contents = FLATTEN_CONTENTS.replace("AUDIO_TOKEN", audio_token)
    return template if template.startswith(flatten_contents) else flatten_contents + template


def end_of_turn_id(processor: Any) -> int:
    """The token that ends an answer: the first control token that the chat template writes after an answer."""
    tokenizer, marker = processor.tokenizer, "ANSWER"
    conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": marker}]
    rendered = processor.apply_chat_template(conversation)
    tail = tokenizer(rendered.rpartition(marker)[-1], add_special_tokens=False).input_ids
    control_ids = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    end = next((token_id for token_id in tail if token_id in control_ids), tokenizer.eos_token_id)
    if marker not in rendered or end is None:
        raise ValueError(
            f"The chat template renders {conversation} as {rendered!r}: it must contain the answer, and end it with a "
            "special token (or the tokenizer needs an `eos_token`)."
        )
    return end


def as_batch(conversation: Any) -> tuple[list[Sequence], bool]:
    """One or several conversations as a list of them, and whether there were several."""
    conversation = getattr(conversation, "messages", conversation)
    if not isinstance(conversation, list | tuple):
        raise TypeError(
            f"Got a conversation of the type `{type(conversation).__name__}`: pass a list of messages, such as "
            '[{"role": "user", "content": "Hello."}], or a list of such lists.'
        )
    first = conversation[0] if conversation else None
    is_batch = isinstance(first, list | tuple) or hasattr(first, "messages")
    conversations = [getattr(single, "messages", single) for single in conversation] if is_batch else [conversation]
    if not all(conversations):
        raise ValueError("The conversation is empty: pass at least one message.")
    return conversations, is_batch


def check_conversation(conversation: Sequence[Mapping], audio_token: str | None = None) -> None:
    """Checks every message. `audio_token` must not occur in texts, where it would be taken for audio."""
    for index, message in enumerate(conversation):
        check_message(message, f"Message {index}", audio_token)


def check_message(message: Mapping, name: str, audio_token: str | None = None) -> None:
    """Checks the `role` of a message and its `content`: a string, or a list of `text` and `audio` items."""
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise ValueError(
            f"{name} is {str(message)[:200]}: write it as {{'role': …, 'content': …}}, with one of the roles "
            f"{', '.join(ROLES)}."
        )
    role, content = message["role"], message.get("content")
    name = f"{name} ({role})"
    if content is None and message.get("tool_calls"):
        return
    if not isinstance(content, str | list | tuple):
        raise TypeError(
            f"{name} has `content` of the type `{type(content).__name__}`: pass a string, or a list of `text` and "
            "`audio` items."
        )
    for item in [content] if isinstance(content, str) else content:
        check_item({"type": "text", "text": item} if isinstance(item, str) else item, name, audio_token)
    if role == "assistant" and audio_items([message]) and not text_of(message):
        raise ValueError(
            f"{name} has audio and no text: add its transcript as an item {{'type': 'text', 'text': …}}. Of earlier "
            "answers, the model reads only the text."
        )


def check_item(item: Any, name: str, audio_token: str | None) -> None:
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind not in ("text", "audio") or (kind == "text" and not isinstance(item.get("text"), str)):
        raise ValueError(
            f"{name} has the item {str(item)[:200]}: write {{'type': 'text', 'text': …}} or {{'type': 'audio', 'path': "
            "…}."
        )
    if kind == "text" and audio_token is not None and audio_token in item["text"]:
        raise ValueError(
            f"{name} has `{audio_token}` in its text, which stands for audio: remove it, and pass audio as an item "
            "{'type': 'audio', 'path': …}."
        )


def audio_items(messages: Sequence[Mapping]) -> list[Mapping]:
    """The audio items of checked messages, in their order."""
    contents = [message.get("content") for message in messages]
    items = [item for content in contents if isinstance(content, list | tuple) for item in content]
    return [item for item in items if isinstance(item, Mapping) and item["type"] == "audio"]


def text_of(message: Mapping) -> str:
    """The text of a checked message."""
    content = message["content"]
    items = [item for item in content if isinstance(item, str) or item["type"] == "text"]
    return "".join(item if isinstance(item, str) else item["text"] for item in items)


def split_answer(conversation: Any, audio_token: str) -> tuple[list[Mapping], str, Mapping | None]:
    """The messages before the answer of a training conversation, the answer's text, and its audio item if it is spoken."""
    conversations, is_batch = as_batch(conversation)
    if is_batch:
        raise TypeError("Got several conversations for one example: encode them one by one.")
    *history, answer = conversations[0]
    check_message(answer, "The answer", audio_token)
    if not history or answer["role"] != "assistant":
        raise ValueError(
            f"A training conversation of {len(conversations[0])} message(s) ends with the role {answer['role']!r}: the "
            "last message must be the assistant's answer, and at least one must come before it."
        )
    speech = audio_items([answer])
    if len(speech) > 1:
        raise ValueError(f"The answer has {len(speech)} audio items: join its speech into one.")
    return history, text_of(answer), speech[0] if speech else None
