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
"""The chat template: contents that are lists become strings, then the language model's own template takes over."""

from typing import Any


# Rebinds `messages`, so that a template that was written for text alone sees strings. Of an assistant's earlier message
# the text is kept. The newline at the end is eaten by `trim_blocks`; what follows starts at the start of a line, as the
# language model's template always did.
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

# For language models that were never taught to chat.
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


def chat_template_for(tokenizer: Any, audio_token: str) -> str | dict[str, str]:
    """The tokenizer's own chat template, or ChatML where it has none, taught to read audio items."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        return {name: with_flat_contents(named_template, audio_token) for name, named_template in template.items()}
    return with_flat_contents(template if template is not None else chatml_for(tokenizer), audio_token)


def with_flat_contents(template: str, audio_token: str) -> str:
    """`template` behind [`FLATTEN_CONTENTS`], once: a saved tokenizer shares the template of its processor."""
    flatten_contents = FLATTEN_CONTENTS.replace("AUDIO_TOKEN", audio_token)
    return template if template.startswith(flatten_contents) else flatten_contents + template


def chatml_for(tokenizer: Any) -> str:
    """ChatML whose turns end with `<|im_end|>`, or with the tokenizer's own end where it does not know that token."""
    knows_chatml = "<|im_end|>" in tokenizer.get_vocab()
    end_of_turn = "<|im_end|>" if knows_chatml else tokenizer.eos_token
    if end_of_turn is None:
        raise ValueError(
            "The tokenizer has no chat template, no `<|im_end|>` and no `eos_token`, so nothing could end an answer: set one "
            "of them."
        )
    return CHATML.replace("END_OF_TURN", end_of_turn)
