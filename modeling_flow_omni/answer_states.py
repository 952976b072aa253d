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
from bisect import bisect_right
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from .configuration_flow_omni import FlowOmniConfig
from .speech_decoder import END_OF_TEXT, NUM_NEIGHBOURS, FlowOmniSpeechDecoder, bounded
from .text_normalization import FlowOmniNumberReader


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
        # a speech decoder waits for no text: it reads letter by letter
        self.speech_delay = 0 if config.speech_loop == "speech_decoder" else config.speech_config.speech_delay
        self.num_positions = 0
        self.states = zeros(torch.long) + config.pad_state_id
        self.num_text_tokens = zeros(torch.long)
        self.num_patches = zeros(torch.long)
        self.text_has_ended = zeros(torch.bool)
        self.text_had_ended = zeros(torch.bool)  # before the newest position
        self.truncated = zeros(torch.bool)

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
        is_time = self.text_has_ended | (self.num_positions >= self.speech_delay)
        return is_time, is_time

    def _may_still_start(self) -> torch.BoolTensor:
        """Whether speech may start this late, as in training: after the delay, or with the end of a shorter text."""
        is_early = self.num_positions <= self.speech_delay
        return ~self.text_had_ended & is_early

    def max_speech_steps(self) -> torch.Tensor:
        """Patches (batch_size,) that a reading of the text so far can take at most."""
        seconds = self.num_text_tokens * self.seconds_per_token + self.extra_seconds
        return (seconds * self.config.speech_config.steps_per_second).ceil()

    def bytes_to_read(self, log_rates: torch.Tensor) -> torch.Tensor:
        """
        How far each row reads on in its text (batch_size,), by the `log_rates` (batch_size,) of a speech decoder. Longer
        than any reading of the text so far could be, no row waits.
        """
        rates = bounded(log_rates).exp()
        is_late = self.num_patches >= self.max_speech_steps()
        return torch.where(is_late, rates.clamp(min=1.0), rates)

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
    input_ids: torch.LongTensor  # prompt and text up to the token
    outputs: dict[str, Any]  # of the language model, from which the token was chosen, as in `FlowOmniStep`
    hidden_states: torch.FloatTensor | None = None  # (batch_size, hidden_size) at the token, once the next is written


def next_token(written: Generator[Any, Any, None]) -> Generator[Any, Any, FlowOmniWrittenToken]:
    """The next token of a text, after the calls that whoever writes it yields to be run."""
    item = next(written)
    while not isinstance(item, FlowOmniWrittenToken):
        item = written.send((yield item))
    return item


class FlowOmniSpokenText:
    """
    The text of an answer as a speech decoder reads it, each row at its own pace, while the language model writes a
    token of all rows at a time: what a row does not need yet is kept.

    After [`read`], `text_ids` (batch_size,) are the tokens of the step, `is_text` and `ends_text` its rows with a token
    and those whose text ends, `inputs` (batch_size, 1, hidden_size) what the decoder reads, `input_ids` the text so far,
    and `outputs` those of the language model, if a token was taken for the first time. A row takes a token when its first
    byte is reached, at most one in a step. Without a `decoder`, for text alone, it takes one in every step.
    """

    def __init__(
        self,
        written: Generator[Any, Any, None],
        batch_size: int,
        pad_token_id: int,
        decoder: FlowOmniSpeechDecoder | None,
    ):
        self.written, self.tokens, self.pad_token_id, self.decoder = written, [], pad_token_id, decoder
        self.num_taken = [0] * batch_size
        self.rows = [FlowOmniReadRow(decoder, row) for row in range(batch_size)] if decoder is not None else []
        # a byte is reached when its middle is
        self.progress = torch.full((batch_size,), 0.5)
        self.inputs = None

    def read(self, is_reading: torch.BoolTensor) -> Generator[Any, Any, None]:
        """
        Finds the inputs of the next step, and the tokens that the rows take that have not read all of their text. Yields
        the calls to be run for tokens that are not written yet.
        """
        self.text_ids = torch.full(is_reading.shape, self.pad_token_id)
        self.is_text, self.ends_text = torch.zeros_like(is_reading), torch.zeros_like(is_reading)
        rows = is_reading.nonzero().squeeze(-1).tolist()
        for row in rows:
            while self._needs_token(row):
                self.tokens.append((yield from next_token(self.written)))
                for one in self.rows:
                    one.add(self.tokens)
        is_due = [row for row in rows if self._is_due(row)]
        self.outputs = {"cache": self.tokens[-1].outputs["cache"]}
        if is_due:
            newest = max(self.num_taken[row] for row in is_due)
            if newest == max(self.num_taken):
                self.input_ids, self.outputs = self.tokens[newest].input_ids, dict(self.tokens[newest].outputs)
        for row in is_due:
            token = self.tokens[self.num_taken[row]]
            self.text_ids[row], self.is_text[row] = token.text_ids[row], token.is_text[row]
            self.ends_text[row] = token.ends_text[row]
            self.num_taken[row] += 1
        if self.decoder is not None:
            places = self.progress.long().tolist()
            vectors = [row.vectors[min(place, len(row.vectors) - 1)] for row, place in zip(self.rows, places)]
            self.inputs = torch.stack(vectors)[:, None]

    def advance(self, num_bytes: torch.Tensor) -> None:
        """Reads on by so many bytes (batch_size,)."""
        self.progress = self.progress + num_bytes

    def _needs_token(self, row: int) -> bool:
        """Whether the language model must write on before the row can be read."""
        if self.decoder is None:
            return self.num_taken[row] >= len(self.tokens)
        return not self.rows[row].has_ended and int(self.progress[row]) >= len(self.rows[row].vectors)

    def _is_due(self, row: int) -> bool:
        return self.decoder is None or self.rows[row].starts[self.num_taken[row]] <= int(self.progress[row])


SPACE = ord(" ")


class FlowOmniReadRow:
    """
    The text of one row as its speech decoder reads it: the bytes of its tokens, and the vectors of those whose
    neighbours are known. Each token is embedded on its own, so that the vectors depend on nothing but the text.
    """

    def __init__(self, decoder: FlowOmniSpeechDecoder, row: int):
        self.decoder, self.row = decoder, row
        self.bytes, self.starts, self.vectors, self.has_ended = [], [], [], False
        self.numbers = FlowOmniNumberReader(decoder.spelling.language)

    def add(self, tokens: list[FlowOmniWrittenToken]) -> None:
        """The newest of the tokens, the first of which are known, and the vectors that it makes possible."""
        if self.has_ended:
            return
        token, spelling = tokens[-1], self.decoder.spelling
        self.has_ended = bool(token.ends_text[self.row])
        written = b"" if self.has_ended else spelling.bytes_of(int(token.text_ids[self.row]))
        # a number belongs to the last of its tokens: the others have no bytes
        number, said = self.numbers.push(written, is_last=self.has_ended)
        if not self.starts:
            number, said = b"", number + said
        self._append(spelling.spell_out(number))
        self.starts.append(len(self.bytes))
        self._append([END_OF_TEXT] if self.has_ended else spelling.spell_out(said))
        ends = [*self.starts[1:], len(self.bytes)]
        while len(self.vectors) < len(self.bytes):
            index = bisect_right(self.starts, len(self.vectors)) - 1
            end = ends[index]
            if not self.has_ended and end + NUM_NEIGHBOURS > len(self.bytes):
                return
            hidden_states = tokens[index].hidden_states
            if hidden_states is not None:
                hidden_states = hidden_states[self.row]
            self.vectors += self.decoder.embed_part(self.bytes, self.starts[index], end, hidden_states)

    def _append(self, said: list[int]) -> None:
        for byte in said:
            # one space between words; before the first, where some tokenizers write one, none
            if byte != SPACE or (self.bytes and self.bytes[-1] != SPACE):
                self.bytes.append(byte)
