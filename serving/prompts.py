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
"""Prompts that are read while they grow: windows of audio, the rendered conversation, and the cache of what was read."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from .turns import SAMPLING_RATE


# A window is cut at the quietest place within this last part of it, so that few words are cut in two.
CUT_REGION = 0.25
CUT_SAMPLES = SAMPLING_RATE // 20

_window_keys = itertools.count(1)


@dataclass(frozen=True)
class Window:
    """
    A stretch of audio that is encoded by itself, once. In a prompt, all its positions have the key `-key`.

    Attributes:
        embeddings: `(num_positions, hidden_size)`, what the language model reads.
        text: What the audio adapter spells, where it does so by itself.
    """

    embeddings: torch.Tensor
    num_samples: int
    text: str | None = None
    key: int = field(default_factory=lambda: next(_window_keys))

    @property
    def num_positions(self) -> int:
        return len(self.embeddings)


@torch.no_grad()
def encode_window(model: Any, processor: Any, samples: np.ndarray) -> Window:
    # the extractor wants 10 ms; what is shorter is no word
    samples = np.pad(samples, (0, max(0, SAMPLING_RATE // 10 - len(samples))))
    inputs = processor.feature_extractor([samples], sampling_rate=SAMPLING_RATE, return_tensors="pt")
    inputs = inputs.to(model.device, dtype=model.dtype)
    heard = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
    text = processor.transcripts_of(heard)[0] if model.config.adapter_compression == "ctc" else None
    return Window(heard.pooler_output, len(samples), text)


class TurnAudio:
    """
    The audio of a turn, cut into windows. A window is final once it is cut; only the audio after the last cut is kept
    as samples, at most `window_seconds` of it.
    """

    def __init__(self, encode: Callable[[np.ndarray], Window], window_seconds: float):
        self.encode = encode
        self.window_samples = int(window_seconds * SAMPLING_RATE)
        self.windows: list[Window] = []
        self.rest = np.zeros(0, dtype=np.float32)

    @property
    def num_samples(self) -> int:
        return sum(window.num_samples for window in self.windows) + len(self.rest)

    def push(self, samples: np.ndarray) -> bool:
        """Adds samples; whether they completed a window."""
        self.rest = np.concatenate([self.rest, samples])
        is_cut = False
        while len(self.rest) >= self.window_samples:
            cut = self._quietest()
            self.windows.append(self.encode(self.rest[:cut]))
            self.rest = self.rest[cut:]
            is_cut = True
        return is_cut

    def _quietest(self) -> int:
        """The middle of the quietest 50 ms near the end of a window."""
        first = int(self.window_samples * (1 - CUT_REGION))
        region = self.rest[first : self.window_samples]
        if len(region) < 2 * CUT_SAMPLES:
            return self.window_samples
        parts = region[: len(region) // CUT_SAMPLES * CUT_SAMPLES].reshape(-1, CUT_SAMPLES)
        return first + int(np.square(parts).mean(axis=1).argmin()) * CUT_SAMPLES + CUT_SAMPLES // 2

    def all_windows(self) -> list[Window]:
        """The final windows, and one of the rest, which stays as it is."""
        return [*self.windows, *([self.encode(self.rest)] if len(self.rest) else [])]


@dataclass(frozen=True)
class Prompt:
    """Token ids, a key for each (the id, or that of a window), and the windows in their order."""

    ids: list[int]
    keys: list[int]
    windows: list[Window]

    def up_to_audio(self) -> "Prompt":
        """The part up to the last position of audio, which does not change when the message goes on; perhaps none."""
        end = max((index for index, key in enumerate(self.keys) if key < 0), default=-1) + 1
        return Prompt(self.ids[:end], self.keys[:end], self.windows)


def render(processor: Any, messages: Sequence[dict]) -> Prompt:
    """
    The prompt for the next answer. Messages are those of `apply_chat_template`, with [`Window`]s as the audio of items,
    which are not encoded again.
    """
    items = [item for message in messages if not isinstance(message["content"], str) for item in message["content"]]
    windows = [item["audio"] for item in items if item["type"] == "audio"]
    parts = processor.apply_chat_template(messages, add_generation_prompt=True).split(processor.audio_token)
    if len(parts) != len(windows) + 1:
        raise ValueError(
            f"The chat template wrote {len(parts) - 1} audios for the {len(windows)} of the conversation."
        )
    # as the processor does: placeholders are expanded in the text, which is tokenized as a whole
    expanded = [parts[0]]
    for window, part in zip(windows, parts[1:]):
        expanded += [processor.audio_token * window.num_positions, part]
    ids = processor.tokenizer("".join(expanded), add_special_tokens=False)["input_ids"]
    keys, left = list(ids), [-window.key for window in windows for _ in range(window.num_positions)]
    positions = [index for index, token in enumerate(ids) if token == processor.audio_token_id]
    if len(positions) != len(left):
        raise ValueError(f"The prompt has {len(positions)} positions of audio, and its windows have {len(left)}.")
    for index, key in zip(positions, left):
        keys[index] = key
    return Prompt(ids, keys, windows)


class PromptCache:
    """Keys and values of the prompt of one conversation, as far as it was read. What has changed is read again."""

    def __init__(self, model: Any):
        self.model = model
        self.keys: list[int] = []
        self.cache = self._new_cache()

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config.text_config)

    def __len__(self) -> int:
        return len(self.keys)

    def clear(self) -> None:
        self.keys, self.cache = [], self._new_cache()

    @torch.no_grad()
    def read(self, prompt: Prompt) -> int:
        """Reads what the cache lacks of a prompt; returns the number of positions read."""
        if not prompt.ids:
            return 0
        inputs = self.inputs(prompt, num_left=0)
        num_read = len(prompt.ids) - len(self)
        if num_read > 0:
            del inputs["attention_mask"]
            inputs["input_ids"] = inputs["input_ids"][:, len(self) :]
            if "audio_embeddings" in inputs:
                num_known = sum(key < 0 for key in self.keys)
                inputs["audio_embeddings"] = inputs["audio_embeddings"][num_known:]
            nothing = torch.empty(0, dtype=torch.long, device=self.model.device)
            self.model(**inputs, use_cache=True, logits_to_keep=nothing)
            self.keys = list(prompt.keys)
        return num_read

    def inputs(self, prompt: Prompt, num_left: int = 1) -> dict[str, Any]:
        """
        Inputs of `generate` for a prompt, of which `num_left` positions or more are left to read. What it does not
        share with the cache is removed from the latter, and so is everything that was generated after it.
        """
        # a prompt whose reading was called off is not in the cache to its end
        limit = min(len(self.keys), self.cache.get_seq_length(), len(prompt.keys) - num_left)
        num_shared = next((i for i in range(limit) if self.keys[i] != prompt.keys[i]), limit)
        # a window is read as a whole
        while 0 < num_shared < len(prompt.keys) and prompt.keys[num_shared] == prompt.keys[num_shared - 1] < 0:
            num_shared -= 1
        self._crop(num_shared)
        inputs = {
            "input_ids": torch.tensor([prompt.ids], device=self.model.device),
            "attention_mask": torch.ones(1, len(prompt.ids), dtype=torch.long, device=self.model.device),
            "cache": self.cache,
        }
        if prompt.windows:
            # `generate` leaves out those that the cache holds
            inputs["audio_embeddings"] = torch.cat([window.embeddings for window in prompt.windows])
        return inputs

    def _crop(self, length: int) -> None:
        excess = self.cache.get_seq_length() - length
        if excess > 0:
            try:
                self.cache.crop(-excess)
            except RuntimeError:
                # layers with a sliding window have lost the start: everything is read again
                self.clear()
                return
        self.keys = self.keys[:length]
