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
"""A conversation in memory: its messages, and the keys and values of what was said, so that no turn is read twice."""

from typing import Any

import torch

from .answering import Answer, answer, prepare
from .loading import LoadedModel


class Conversation:
    """
    Args:
        loaded (`LoadedModel`):
            Who answers.
        system (`str`, *optional*):
            The system message before the first turn.
    """

    def __init__(self, loaded: LoadedModel, system: str | None = None):
        self.loaded = loaded
        self.system = system
        self.reset()

    def reset(self) -> None:
        """Forgets all turns."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        self.cache: Any = None
        self.prompt_ids = torch.zeros(0, dtype=torch.long)

    def answer(self, message: dict[str, Any], options: dict[str, Any]) -> Answer:
        """
        The answer to one more message, `{"text": …}` or `{"audio": …}`, printed as it comes. A message that could not be
        answered is forgotten.
        """
        processor = self.loaded.processor
        messages = [*self.messages, *processor.make_conversation("ask", **message)]
        inputs = prepare(self.loaded, messages)
        prompt_ids = inputs["input_ids"][0]
        # taken out while it is written to: after an interruption it would hold half an answer
        cache, self.cache = self._cache_of(prompt_ids), None
        result = answer(self.loaded, inputs, cache=cache, **options)
        self.cache, self.prompt_ids = result.cache, prompt_ids
        text = processor.decode(result.token_ids, skip_special_tokens=True)
        self.messages = [*messages, {"role": "assistant", "content": text}]
        return result

    def _cache_of(self, prompt_ids: torch.LongTensor) -> Any:
        """
        The cache cut to what it has in common with `prompt_ids` (num_steps,): all of the last prompt, as a rule. The
        answer after it is read again, as text: its speech is no part of the history.
        """
        num_shared = num_shared_steps(self.prompt_ids, prompt_ids)
        if self.cache is None or num_shared == 0:
            return None
        try:
            self.cache.crop(num_shared - self.cache.get_seq_length())
        except (RuntimeError, NotImplementedError, AttributeError):
            # layers that keep only a window, or a running sum, cannot go back: all is read again
            return None
        return self.cache


def num_shared_steps(first: torch.LongTensor, second: torch.LongTensor) -> int:
    """How many ids (num_steps,) two prompts have in common from their start."""
    length = min(len(first), len(second))
    differs = first[:length] != second[:length]
    return int(differs.int().argmax()) if differs.any() else length
