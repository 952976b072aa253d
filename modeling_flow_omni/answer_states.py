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
"""The state machine of an answer: which speech state may follow which, when text is over, and when a row is done."""

import math

import torch
from transformers import GenerationConfig

from .configuration_flow_omni import FlowOmniConfig


class FlowOmniAnswer:
    """
    What has been said so far in every row of a batch, and what may come next.

    A spoken answer runs through pad, start, generating ... generating, stop. Speech starts after `speech_delay` text
    tokens (or with the end of a shorter text), as it did in training. It may not stop before `min_speech_steps` patches,
    nor before its text is over. It must stop when it has become longer than any reading of the text could be; such a row
    is marked as `truncated`.

    Args:
        batch_size (`int`):
            Rows of the batch.
        config (`FlowOmniConfig`):
            Of the model.
        generation_config (`GenerationConfig`):
            With the options of [`FlowOmniGenerationMixin.generate`] resolved.
        device (`torch.device`):
            Where the states lie.
    """

    def __init__(
        self, batch_size: int, config: FlowOmniConfig, generation_config: GenerationConfig, device: torch.device
    ):
        def zeros(dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(batch_size, dtype=dtype, device=device)

        self.config = config
        self.mode = generation_config.generation_mode
        self.min_speech_steps = generation_config.min_speech_steps
        self.seconds_per_token = generation_config.max_speech_seconds_per_token
        self.extra_seconds = generation_config.max_speech_extra_seconds
        self.num_steps = 0
        self.states = zeros(torch.long) + config.pad_state_id
        self.num_text_tokens = zeros(torch.long)
        self.num_patches = zeros(torch.long)
        self.text_is_over = zeros(torch.bool)
        self.text_was_over = zeros(torch.bool)  # ... before the newest step
        self.truncated = zeros(torch.bool)

    def next_states(self, state_logits: torch.Tensor) -> torch.LongTensor:
        """The legal state of the next step (batch_size,) that `state_logits` (batch_size, 4) like best."""
        legal = self.legal_states()
        scores = state_logits.float().masked_fill(~legal, -math.inf)
        return scores.argmax(dim=-1)

    def legal_states(self) -> torch.BoolTensor:
        """Which states (batch_size, 4) may come next, by id."""
        pad, start, generating, stop = self.config.state_ids
        is_silent, is_starting, is_generating = (self.states == state for state in (pad, start, generating))
        may_start, must_start = self._start_rules(is_silent)
        too_long = self.num_patches >= self.max_speech_steps()
        may_stop = self.text_is_over & (self.num_patches >= self.min_speech_steps)

        legal = torch.zeros(len(self.states), 4, dtype=torch.bool, device=self.states.device)
        legal[:, pad] = (is_silent & ~must_start) | (self.states == stop)
        legal[:, start] = is_silent & may_start
        legal[:, generating] = is_starting | (is_generating & ~(too_long & self.text_is_over))
        legal[:, stop] = is_generating & (may_stop | (too_long & self.text_is_over))
        return legal

    def _start_rules(self, is_silent: torch.BoolTensor) -> tuple[torch.BoolTensor, torch.BoolTensor]:
        """Whether silent rows may, and whether they must, start to speak at the next step."""
        if self.mode == "text":
            return torch.zeros_like(is_silent), torch.zeros_like(is_silent)
        if self.mode == "auto":
            return is_silent & self._may_still_start(), torch.zeros_like(is_silent)
        is_time = self.text_is_over | (self.num_steps >= self.config.speech_config.speech_delay)
        return is_time, is_time

    def _may_still_start(self) -> torch.BoolTensor:
        """Whether speech has ever started this late in training: after the delay, or with the end of a shorter text."""
        is_early = self.num_steps <= self.config.speech_config.speech_delay
        return ~self.text_was_over & is_early

    def max_speech_steps(self) -> torch.Tensor:
        """Patches (batch_size,) that a reading of the text so far can take at the most."""
        seconds = self.num_text_tokens * self.seconds_per_token + self.extra_seconds
        return (seconds * self.config.speech_config.steps_per_second).ceil()

    def advance(
        self, text_ids: torch.LongTensor, states: torch.LongTensor, eos_token_ids: torch.LongTensor | None
    ) -> None:
        """Takes one step: its text and its state have been chosen."""
        _, _, generating, stop = self.config.state_ids
        self.truncated = self.truncated | ((states == stop) & (self.num_patches >= self.max_speech_steps()))
        self.num_text_tokens = self.num_text_tokens + (~self.text_is_over).long()
        self.text_was_over = self.text_is_over
        if eos_token_ids is not None:
            self.text_is_over = self.text_is_over | torch.isin(text_ids, eos_token_ids)
        self.states = states
        self.num_patches = self.num_patches + (states == generating).long()
        self.num_steps += 1

    def is_finished(self) -> torch.BoolTensor:
        """Rows (batch_size,) that have said everything."""
        has_stopped = self.states == self.config.stop_state_id
        if self.mode == "speech":
            return has_stopped
        is_silent = self.states == self.config.pad_state_id
        has_nothing_to_say = is_silent & self.text_is_over
        if self.mode == "auto":
            has_nothing_to_say = has_nothing_to_say & ~self._may_still_start()
        return has_stopped | has_nothing_to_say

    def mark_truncated(self, is_finished: torch.BoolTensor) -> None:
        """Marks rows that end here before the end, or even the start, of their speech."""
        was_speaking = (self.num_patches > 0) | (self.states == self.config.start_state_id)
        was_to_speak = was_speaking if self.mode != "speech" else torch.ones_like(was_speaking)
        has_stopped = self.states == self.config.stop_state_id
        self.truncated = self.truncated | (is_finished & was_to_speak & ~has_stopped)
