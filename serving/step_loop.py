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
"""Batches across sessions: one step of several answers, which join and leave at any time, in one forward pass."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..modeling_flow_omni.generation_flow_omni import FlowOmniCall, FlowOmniStep
from ..modeling_flow_omni.modeling_flow_omni_vocoder import VocoderStream


ROWS_ATTENTION = "flow_omni_rows"
# Matrix products over this many rows or more give each row the same bits on CPUs, whatever the others are: batches
# are padded to multiples of it. (One row alone is another kernel, with another order of summation.) In fp32 this
# does not hold for every size of a layer: kernels choose by size how they add up.
ROW_MULTIPLE = 4
# Inputs of a decoding step that are one row each: of any, of one whose language model reads speech too, and of a speech
# decoder. Then those that a row of one position does not need.
TEXT_INPUTS = {"input_ids", "position_ids"}
SPEECH_INPUTS = TEXT_INPUTS | {"speech_states", "previous_patches"}
DECODER_INPUTS = ("text_inputs", "speech_states", "previous_patches", "voice_ids", "position_ids")
OTHER_INPUTS = {"attention_mask", "cache", "use_cache", "return_dict", "logits_to_keep"}


class RowsCache(Cache):
    """The caches of several rows, each of its own length, as that of a batch with one new position for each row."""

    def __init__(self, caches: Sequence[Cache]):
        self.caches = caches
        # the model looks only at how many layers there are
        super().__init__(layers=caches[0].layers)

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *args, **kwargs):
        """All keys and values of each row, as lists. Rows beyond the caches are padding, and are dropped."""
        rows = zip(self.caches, keys.split(1), values.split(1))
        updated = [cache.update(row_keys, row_values, layer_idx) for cache, row_keys, row_values in rows]
        return [pair[0] for pair in updated], [pair[1] for pair in updated]


def rows_attention(module, query: torch.Tensor, key, value, attention_mask=None, **kwargs):
    """Each row attends to its own past, exactly as alone: no row sees padding, and the length of none matters."""
    rows = zip(query.split(1), key, value)
    outputs = [sdpa_attention_forward(module, *row, None, **kwargs)[0] for row in rows]
    padding = query.shape[0] - len(outputs)
    return torch.cat([*outputs, *[torch.zeros_like(outputs[0])] * padding]), None


ALL_ATTENTION_FUNCTIONS.register(ROWS_ATTENTION, rows_attention)


class Row:
    """One answer on its way: the decoding loop of `model.decode`, and the vocoder's stream."""

    def __init__(self, loop: Generator[FlowOmniCall | FlowOmniStep, Any, None]):
        self.loop = loop
        self.vocoder_stream: VocoderStream | None = None
        self.error: Exception | None = None

    def close(self) -> None:
        self.loop.close()
        self.vocoder_stream = None


class StepLoop:
    """
    Runs steps of several answers together. A row is the same, bit for bit, whatever the others are.

    The loops of `model.decode` stop at each forward pass that they need. Passes of one kind are run as one batch; all
    else, such as the choice of a token, is the code of `generate`. Passes over a whole prompt are not batched.

    Args:
        model (`FlowOmniForSpeechGeneration`): The model. It must not be used by others during a step.
        max_rows (`int`): Rows of a batch.
    """

    def __init__(self, model, max_rows: int = 8):
        self.model = model
        self.max_rows = max_rows
        self.is_batched = all(config._attn_implementation == "sdpa" for config in self._text_configs())

    def _text_configs(self) -> list:
        modules = self.model.model.language_model, self.model.speech_transformer, self.model.speech_decoder
        return [module.config for module in modules if module is not None]

    def add(self, inputs: dict[str, torch.Tensor], **options) -> Row:
        """A row for the inputs of one prompt and options of `generate`. Its prompt is read in its first step."""
        return Row(self.model.decode(**inputs, **options))

    @torch.no_grad()
    def step(self, rows: Sequence[Row]) -> list[tuple[Row, FlowOmniStep]]:
        """
        The next position of each row, with its audio. A row that fails gets an `error`, closes, and has no step; the
        others go on.
        """
        waiting = {row: self._resume(row, None) for row in rows}
        steps = {row: item for row, item in waiting.items() if isinstance(item, FlowOmniStep)}
        while calls := {row: item for row, item in waiting.items() if isinstance(item, FlowOmniCall)}:
            # speech decoders wait for the rows whose text is not written yet, so that all of them run as one batch
            texts = {row: call for row, call in calls.items() if call.function is not self.model.speech_decoder}
            waiting |= {row: self._resume(row, result) for row, result in self._run(texts or calls)}
            steps |= {row: item for row, item in waiting.items() if isinstance(item, FlowOmniStep)}
        if self.model.vocoder is not None:
            self._vocode(steps)
        for row, step in steps.items():
            if step.is_finished[0]:
                row.close()
        return [(row, steps[row]) for row in rows if row in steps]

    def _resume(self, row: Row, result: Any) -> FlowOmniCall | FlowOmniStep | None:
        try:
            return row.loop.send(result)
        except Exception as error:
            row.error = error
            row.close()
            return None

    def _run(self, calls: dict[Row, FlowOmniCall]) -> Iterator[tuple[Row, Any]]:
        """Runs the calls, those that agree together."""
        groups: dict[Any, list[Row]] = {}
        for row, call in calls.items():
            groups.setdefault(self._kind(call), []).append(row)
        for kind, rows in groups.items():
            if kind[0] == "alone":
                yield from ((row, calls[row].run()) for row in rows)
                continue
            run = {"position": self._run_positions, "decoder": self._run_decoder, "head": self._run_head}[kind[0]]
            for start in range(0, len(rows), self.max_rows):
                batch = rows[start : start + self.max_rows]
                yield from zip(batch, run([calls[row] for row in batch]))

    def _kind(self, call: FlowOmniCall) -> tuple:
        """What calls must have in common to run as one batch."""
        kwargs = call.kwargs
        if call.function is self.model.speech_head:
            return ("head", *(value for name, value in kwargs.items() if name not in ("condition", "noise")))
        if not self.is_batched:
            return ("alone",)
        if call.function is self.model.speech_decoder and len(kwargs["speech_states"]) == 1:
            return ("decoder",)
        names = kwargs.keys() - OTHER_INPUTS
        is_position = names in (TEXT_INPUTS, SPEECH_INPUTS) and kwargs["input_ids"].shape == (1, 1)
        # others, such as a static cache, need a mask, or remember more than keys and values
        if is_position and {type(layer) for layer in kwargs["cache"].layers} <= {
            DynamicLayer,
            DynamicSlidingWindowLayer,
        }:
            return ("position", *sorted(names))
        return ("alone",)

    def _num_rows(self, num_rows: int) -> int:
        """With padding. Other devices choose kernels by shape: there all batches have one shape."""
        if self.model.device.type != "cpu":
            return self.max_rows
        return -(-num_rows // ROW_MULTIPLE) * ROW_MULTIPLE

    def _cat(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        padding = self._num_rows(len(tensors)) - len(tensors)
        return torch.cat([*tensors, *tensors[:1] * padding])

    def _run_positions(self, calls: list[FlowOmniCall]) -> Iterator[Any]:
        """One forward pass over the next position of each row, and the outputs of each."""
        names = calls[0].kwargs.keys() - OTHER_INPUTS
        inputs = {name: self._cat([call.kwargs[name] for call in calls]) for name in names}
        no_text = [isinstance(call.kwargs.get("logits_to_keep"), torch.Tensor) for call in calls]
        if all(no_text):
            inputs["logits_to_keep"] = calls[0].kwargs["logits_to_keep"]
        caches = [call.kwargs["cache"] for call in calls]
        # no masks: every row sees all of its own past, and nothing else
        masks = dict.fromkeys(("language_model", "speech_transformer"))
        with self._rows_attention():
            outputs = self.model(
                **inputs, attention_mask=masks, cache=RowsCache(caches), use_cache=True, return_dict=True
            )
        for row, cache in enumerate(caches):
            own = {
                name: value[row : row + 1] if isinstance(value, torch.Tensor) else value
                for name, value in outputs.items()
            }
            yield type(outputs)(**own | {"cache": cache})

    @contextmanager
    def _rows_attention(self) -> Iterator[None]:
        configs = self._text_configs()
        before = [config._attn_implementation_internal for config in configs]
        try:
            for config in configs:
                config._attn_implementation_internal = ROWS_ATTENTION
            yield
        finally:
            for config, implementation in zip(configs, before):
                config._attn_implementation_internal = implementation

    def _run_decoder(self, calls: list[FlowOmniCall]) -> Iterator[torch.Tensor]:
        """The condition of the next step of each row."""
        inputs = {name: self._cat([call.kwargs[name] for call in calls]) for name in DECODER_INPUTS}
        with self._rows_attention():
            conditions = calls[0].function(**inputs, cache=RowsCache([call.kwargs["cache"] for call in calls]))
        return iter(conditions[: len(calls)].split(1))

    def _run_head(self, calls: list[FlowOmniCall]) -> Iterator[torch.Tensor]:
        tensors = {name: self._cat([call.kwargs[name] for call in calls]) for name in ("condition", "noise")}
        patches = calls[0].function(**calls[0].kwargs | tensors)
        return iter(patches[: len(calls)].split(1))

    def _vocode(self, steps: dict[Row, FlowOmniStep]) -> None:
        """Gives the steps their audio: a list of one waveform, as `stream` does."""
        groups: dict[tuple, list[Row]] = {}
        for row, step in steps.items():
            step.audio = [step.mel.new_zeros(0)]
            if step.is_generating[0]:
                row.vocoder_stream = row.vocoder_stream or self.model.vocoder.stream()
                groups.setdefault(row.vocoder_stream.batch_key(), []).append(row)
        for rows in groups.values():
            for start in range(0, len(rows), self.max_rows):
                batch = rows[start : start + self.max_rows]
                streams, mel = [row.vocoder_stream for row in batch], torch.cat([steps[row].mel for row in batch])
                samples = VocoderStream.push_together(streams, mel, self._num_rows(len(batch)))
                for row, waveform in zip(batch, samples):
                    steps[row].audio = [waveform[0]]
        for row, step in steps.items():
            if step.is_finished[0] and row.vocoder_stream is not None:
                rest = row.vocoder_stream.finish()[0]
                step.audio = [torch.cat([step.audio[0].to(rest.device), rest])]
