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
"""
The state machine of an answer: which speech state may follow which, when text is due and over, and when a row is done.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from .configuration_flow_omni import FlowOmniConfig


class FlowOmniAnswer:
    """
    The state of every row of a batch, and what may come next.

    A spoken answer runs through pad, start, generating ... generating, stop. Speech starts after `speech_delay` text
    tokens (or with the end of a shorter text), as in training. It may not stop before `min_speech_steps` patches, nor
    before its text has ended. It must stop when it is longer than any reading of the text could be; such a row is
    marked as `truncated`. The `generation_config` has the options of [`FlowOmniGenerationMixin.generate`] resolved.
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
        self.num_positions = 0
        self.states = zeros(torch.long) + config.pad_state_id
        self.num_text_tokens = zeros(torch.long)
        self.num_patches = zeros(torch.long)
        self.text_has_ended = zeros(torch.bool)
        self.text_had_ended = zeros(torch.bool)  # before the newest position
        self.truncated = zeros(torch.bool)
        self.log_waiting = zeros(torch.float32)  # of a speech decoder: log-probability that no token is due yet

    def next_states(self, state_logits: torch.Tensor) -> torch.LongTensor:
        """The legal state of the next position (batch_size,) with the highest of `state_logits` (batch_size, 4)."""
        legal = self.legal_states()
        scores = state_logits.float().masked_fill(~legal, -math.inf)
        return scores.argmax(dim=-1)

    def legal_states(self) -> torch.BoolTensor:
        """Which states (batch_size, 4) may come next, by id."""
        pad, start, generating, stop = self.config.state_ids
        is_silent, is_starting, is_generating = (self.states == state for state in (pad, start, generating))
        may_start, must_start = self._start_rules(is_silent)
        too_long = self.num_patches >= self.max_speech_steps()
        may_stop = self.text_has_ended & (self.num_patches >= self.min_speech_steps)

        legal = torch.zeros(len(self.states), 4, dtype=torch.bool, device=self.states.device)
        legal[:, pad] = (is_silent & ~must_start) | (self.states == stop)
        legal[:, start] = is_silent & may_start
        legal[:, generating] = is_starting | (is_generating & ~(too_long & self.text_has_ended))
        legal[:, stop] = is_generating & (may_stop | (too_long & self.text_has_ended))
        return legal

    def _start_rules(self, is_silent: torch.BoolTensor) -> tuple[torch.BoolTensor, torch.BoolTensor]:
        """Whether silent rows may, and whether they must, start speech at the next position."""
        if self.mode == "text":
            return torch.zeros_like(is_silent), torch.zeros_like(is_silent)
        if self.mode == "auto":
            return is_silent & self._may_still_start(), torch.zeros_like(is_silent)
        is_time = self.text_has_ended | (self.num_positions >= self.config.speech_config.speech_delay)
        return is_time, is_time

    def _may_still_start(self) -> torch.BoolTensor:
        """Whether speech may start this late, as in training: after the delay, or with the end of a shorter text."""
        is_early = self.num_positions <= self.config.speech_config.speech_delay
        return ~self.text_had_ended & is_early

    def max_speech_steps(self) -> torch.Tensor:
        """Patches (batch_size,) that a reading of the text so far can take at most."""
        seconds = self.num_text_tokens * self.seconds_per_token + self.extra_seconds
        return (seconds * self.config.speech_config.steps_per_second).ceil()

    def next_due(self, advance_logits: torch.Tensor, follows: torch.BoolTensor) -> torch.BoolTensor:
        """
        Rows (batch_size,) whose next text token is due at the next position: because it `follows` by rule, or from the
        scores of a speech decoder (batch_size,) as soon as it is more likely due by then than not. A single score rarely
        passes one half where the time is uncertain, so that waiting for one that does would always be late. Longer than
        any reading of the text so far could be, no row waits.
        """
        self.log_waiting = self.log_waiting + nn.functional.logsigmoid(-advance_logits.float())
        is_due = follows | (self.log_waiting < math.log(0.5)) | (self.num_patches >= self.max_speech_steps())
        self.log_waiting = self.log_waiting.masked_fill(is_due, 0.0)
        return is_due

    def advance(self, states: torch.LongTensor, is_text: torch.BoolTensor, ends_text: torch.BoolTensor) -> None:
        """Records one position, whose state has been chosen: rows with a text token, and rows whose text ends."""
        _, _, generating, stop = self.config.state_ids
        self.truncated = self.truncated | ((states == stop) & (self.num_patches >= self.max_speech_steps()))
        self.num_text_tokens = self.num_text_tokens + is_text.long()
        self.text_had_ended = self.text_has_ended
        self.text_has_ended = self.text_has_ended | ends_text
        self.states = states
        self.num_patches = self.num_patches + (states == generating).long()
        self.num_positions += 1

    def is_finished(self) -> torch.BoolTensor:
        """Rows (batch_size,) whose text and speech have ended."""
        has_stopped = self.states == self.config.stop_state_id
        if self.mode == "speech":
            return has_stopped
        is_silent = self.states == self.config.pad_state_id
        has_no_speech = is_silent & self.text_has_ended
        if self.mode == "auto":
            has_no_speech = has_no_speech & ~self._may_still_start()
        return has_stopped | has_no_speech

    def mark_truncated(self, is_finished: torch.BoolTensor) -> None:
        """Marks rows that end here before the end, or even the start, of their speech."""
        has_started = (self.num_patches > 0) | (self.states == self.config.start_state_id)
        needs_speech = torch.ones_like(has_started) if self.mode == "speech" else has_started
        has_stopped = self.states == self.config.stop_state_id
        self.truncated = self.truncated | (is_finished & needs_speech & ~has_stopped)


@dataclass
class FlowOmniWrittenToken:
    """One token of the text that a speech decoder speaks: tensors of shape `(batch_size,)`."""

    text_ids: torch.LongTensor
    is_text: torch.BoolTensor  # rows with a token
    ends_text: torch.BoolTensor  # rows that end: with an end token, or without one at the maximum length
    follows: torch.BoolTensor  # rows in which it is due right after the token before
    input_ids: torch.LongTensor  # prompt and text up to the token
    outputs: dict[str, Any]  # of the language model, from which the token was chosen, as in `FlowOmniStep`
    text_inputs: torch.FloatTensor | None = None  # what the decoder reads: (batch_size, hidden_size)


class FlowOmniDueText:
    """
    The text of an answer as a speech decoder reads it, each row at its own pace, while the language model writes a
    token of all rows at a time: what a row does not need yet is kept.

    After [`take`], `text_ids` (batch_size,) are the tokens of the step, `is_text` and `ends_text` its rows with a token
    and those whose text ends, `inputs` (batch_size, 1, hidden_size) what the decoder reads (`None` without any),
    `follows` the rows whose next token is due at the next step, `input_ids` the text so far, and `outputs` those of the
    language model, if a token was taken for the first time.
    """

    def __init__(self, written: Iterator[FlowOmniWrittenToken], batch_size: int, pad_token_id: int, has_inputs: bool):
        self.written, self.tokens, self.pad_token_id, self.has_inputs = written, [], pad_token_id, has_inputs
        self.num_taken, self.follows = [0] * batch_size, torch.zeros(batch_size, dtype=torch.bool)

    def take(self, is_due: torch.BoolTensor) -> None:
        """Takes the next token of the rows where one `is_due` (batch_size,)."""
        self.text_ids = torch.full(is_due.shape, self.pad_token_id)
        self.is_text = self.ends_text = torch.zeros_like(is_due)
        self.inputs = None
        self.outputs = {}
        rows = is_due.nonzero().squeeze(-1).tolist()
        if rows:
            newest, num_taken = max(self.num_taken[row] for row in rows), max(self.num_taken)
            while self._is_unfinished(newest):
                self.tokens.append(next(self.written))
            if newest == num_taken:
                self.input_ids, self.outputs = self.tokens[newest].input_ids, dict(self.tokens[newest].outputs)
            self.is_text, self.ends_text = torch.zeros_like(is_due), torch.zeros_like(is_due)
            self.follows = self.follows.clone()
        self.outputs["cache"] = self.tokens[-1].outputs["cache"]
        for row in rows:
            token = self.tokens[self.num_taken[row]]
            self.text_ids[row], self.is_text[row] = token.text_ids[row], token.is_text[row]
            self.ends_text[row] = token.ends_text[row]
            if self.has_inputs:
                if self.inputs is None:
                    self.inputs = torch.zeros_like(token.text_inputs)[:, None]
                self.inputs[row, 0] = token.text_inputs[row]
            self.num_taken[row] += 1
            is_last = self.num_taken[row] == len(self.tokens)  # the text is over
            self.follows[row] = is_last or self.tokens[self.num_taken[row]].follows[row]

    def _is_unfinished(self, index: int) -> bool:
        """Whether the token has not been written yet, or has no inputs because the next one has not."""
        return index >= len(self.tokens) or (self.has_inputs and self.tokens[index].text_inputs is None)
