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
"""Generation: `generate()` and `stream()` over two parallel streams, on the hooks of transformers' `GenerationMixin`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.cache_utils import Cache
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    GenerationMode,
    LogitsProcessorList,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
)
from transformers.generation.streamers import BaseStreamer
from transformers.masking_utils import create_causal_mask, create_masks_for_generate
from transformers.utils import ModelOutput

from .answer_states import FlowOmniAnswer
from .audio_rows import audio_indices_of_rows, uncached_audios
from .input_streams import InputStreams
from .randomness import choose_tokens, draw_noise, row_generators
from .repetition import EndAfterRepeatsLogitsProcessor


# Options of speech generation, for a call and a generation config that do not set them.
GENERATION_DEFAULTS = {
    "generation_mode": "speech",
    "num_flow_steps": 2,
    "flow_temperature": 1.0,
    "flow_guidance_scale": 1.0,
    "min_speech_steps": 2,
    "max_speech_seconds_per_token": 1.2,
    "max_speech_extra_seconds": 2.0,
    "end_after_repeats": 0,
}
SPEECH_OPTIONS = (*GENERATION_DEFAULTS, "return_audio", "seed", "generator")
LEAST_VALUES = {
    "num_flow_steps": 1,
    "flow_temperature": 0.0,
    "min_speech_steps": 0,
    "max_speech_seconds_per_token": 0.0,
    "max_speech_extra_seconds": 0.0,
    "end_after_repeats": 0,
}
DEFAULT_MAX_NEW_TOKENS = 1024
GENERATION_MODES = ("speech", "text", "auto")


@dataclass
class FlowOmniGenerateOutput(GenerateDecoderOnlyOutput):
    """
    Outputs of `FlowOmniForSpeechGeneration.generate`.

    Args:
        sequences (`torch.LongTensor` of shape `(batch_size, prompt_length + num_new_steps)`):
            Text ids of prompt and answer; padding after a row's text has ended.
        speech_states (`torch.LongTensor` of shape `(batch_size, num_new_steps)`):
            Speech states of the answer.
        mel (`torch.FloatTensor` of shape `(batch_size, max_frames, num_mel_bins)`):
            Log-mel-spectrograms of the answers, right-padded with `mel_floor`.
        mel_lengths (`torch.LongTensor` of shape `(batch_size,)`):
            Frames of each row's mel-spectrogram.
        audio (`list[torch.FloatTensor]`, *optional*):
            The waveform of each row, one-dimensional, empty for a row that did not speak.
        speech_truncated (`torch.BoolTensor` of shape `(batch_size,)`):
            Rows whose speech was cut: by the cap on its length, by `max_new_tokens`, or by a stopping criterion.
        scores (`tuple[torch.FloatTensor]`, *optional*, returned with `output_scores=True`):
            Processed scores of the text token `(batch_size, vocab_size)` of each step at which some row still wrote text.
        logits (`tuple[torch.FloatTensor]`, *optional*, returned with `output_logits=True`):
            The same, unprocessed.
        attentions (`tuple[tuple[torch.FloatTensor]]`, *optional*, returned with `output_attentions=True`):
            The language model's attentions at each step.
        hidden_states (`tuple[tuple[torch.FloatTensor]]`, *optional*, returned with `output_hidden_states=True`):
            The language model's hidden states at each step.
        cache (`Cache`, *optional*, returned with `use_cache=True`):
            Keys and values of the language model's and the speech transformer's layers.
    """

    speech_states: torch.LongTensor | None = None
    mel: torch.FloatTensor | None = None
    mel_lengths: torch.LongTensor | None = None
    audio: list[torch.FloatTensor] | None = None
    speech_truncated: torch.BoolTensor | None = None


@dataclass
class FlowOmniStep(ModelOutput):
    """
    One step of the answer, as `FlowOmniForSpeechGeneration.stream` yields it.

    Args:
        text_ids (`torch.LongTensor` of shape `(batch_size,)`):
            The text token of each row; padding where `is_text` is false.
        is_text (`torch.BoolTensor` of shape `(batch_size,)`):
            Rows that wrote text at this step.
        states (`torch.LongTensor` of shape `(batch_size,)`):
            The speech state of each row.
        mel (`torch.FloatTensor` of shape `(batch_size, frames_per_step, num_mel_bins)`):
            The log-mel patch of each row; `mel_floor` where `is_generating` is false.
        is_generating (`torch.BoolTensor` of shape `(batch_size,)`):
            Rows that spoke at this step.
        is_finished (`torch.BoolTensor` of shape `(batch_size,)`):
            Rows for which this step is the last.
        speech_truncated (`torch.BoolTensor` of shape `(batch_size,)`):
            Rows whose speech has been cut.
        audio (`list[torch.FloatTensor]`, *optional*):
            The samples of each row that became ready at this step (none, while the vocoder looks ahead).
        scores, logits, attentions, hidden_states, cache:
            As in [`FlowOmniGenerateOutput`], of this step.
    """

    text_ids: torch.LongTensor | None = None
    is_text: torch.BoolTensor | None = None
    states: torch.LongTensor | None = None
    mel: torch.FloatTensor | None = None
    is_generating: torch.BoolTensor | None = None
    is_finished: torch.BoolTensor | None = None
    speech_truncated: torch.BoolTensor | None = None
    audio: list[torch.FloatTensor] | None = None
    scores: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    cache: Cache | None = None


class FlowOmniGenerationMixin(GenerationMixin):
    """Speech generation for a model with a text head, a state head, a speech head and perhaps a vocoder."""

    def generate(
        self, inputs: torch.Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs
    ) -> FlowOmniGenerateOutput | torch.LongTensor:
        r"""
        Answers in text, or in text and speech. All that [`~transformers.GenerationMixin.generate`] takes for greedy
        search and sampling works on the text stream; beyond it:

        Args:
            inputs (`torch.LongTensor` of shape `(batch_size, prompt_length)`, *optional*):
                The `input_ids` that [`FlowOmniProcessor`] prepared, left-padded. Also taken as `input_ids=`.
            generation_config (`GenerationConfig`, *optional*):
                Options for this call. It may carry those below as well.
            generation_mode (`str`, *optional*, defaults to `"speech"`):
                `"speech"` to write and speak, `"text"` only to write, `"auto"` to let the model decide. (`"audio"`, as
                transformers' pipelines say, is `"speech"`.)
            return_audio (`bool`, *optional*):
                Whether to run the vocoder. Defaults to true where the model has one.
            num_flow_steps (`int`, *optional*, defaults to 2):
                Steps of the flow's solver for each patch.
            flow_temperature (`float`, *optional*, defaults to 1.0):
                Factor of the flow's noise. 0 makes speech deterministic.
            flow_guidance_scale (`float`, *optional*, defaults to 1.0):
                Classifier-free guidance of the speech head.
            seed (`int` or `list[int]`, *optional*):
                Makes noise and sampled text reproducible. Row `i` of a batch uses `seed + i`, or the `i`-th of a list,
                and is then the same whatever else is in the batch.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Source of randomness for all rows, or one for each row, instead of `seed`.
            min_speech_steps (`int`, *optional*, defaults to 2):
                Patches before which speech may not stop.
            max_speech_seconds_per_token (`float`, *optional*, defaults to 1.2):
                With `max_speech_extra_seconds` (2.0), the cap on the length of speech in proportion to its text.
            end_after_repeats (`int`, *optional*, defaults to 0):
                Ends a text as soon as a phrase of 4 to 64 tokens stands so many times in a row. 0 never does.
            kwargs:
                Everything else, among it `max_new_tokens` (steps, 1024 by default), `do_sample`, `temperature`, `top_p`,
                `streamer` (receives the text), `stopping_criteria`, `cache` and `num_return_sequences`.

        Returns:
            [`FlowOmniGenerateOutput`], or with `return_dict_in_generate=False` the `sequences` alone.
        """
        return super().generate(inputs, generation_config, **kwargs)

    def stream(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: BaseStreamer | None = None,
        **kwargs,
    ) -> Iterator[FlowOmniStep]:
        """
        Yields every step of the answer as it is made, its text, its patch and its sound. Takes what `generate` takes;
        `generate` returns the sum of these steps.
        """
        steps = super().generate(
            inputs, generation_config, streamer=streamer, custom_generate=type(self)._stream, **kwargs
        )
        return _with_streamer(steps, streamer)

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict]:
        """Resolves the options of speech: the call's, else the generation config's, else `GENERATION_DEFAULTS`."""
        options = {name: kwargs.pop(name, None) for name in SPEECH_OPTIONS}
        sources = (kwargs, generation_config, self.generation_config)
        is_without_length = not _is_set(sources, "max_new_tokens") and not _is_set(sources, "max_length")
        returns_dict = not _is_set(sources, "return_dict_in_generate")
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)

        if is_without_length:
            generation_config.max_new_tokens = DEFAULT_MAX_NEW_TOKENS
        if returns_dict:
            generation_config.return_dict_in_generate = True
        for name, value in options.items():
            if value is None:
                value = getattr(generation_config, name, None)
            setattr(generation_config, name, GENERATION_DEFAULTS.get(name) if value is None else value)
        if generation_config.generation_mode == "audio":
            generation_config.generation_mode = "speech"
        if generation_config.return_audio is None:
            generation_config.return_audio = self.vocoder is not None
        self._check_options(generation_config)
        return generation_config, model_kwargs

    def _check_options(self, generation_config: GenerationConfig) -> None:
        if generation_config.generation_mode not in GENERATION_MODES:
            raise ValueError(
                f"`generation_mode` is {generation_config.generation_mode!r}: choose one of {', '.join(GENERATION_MODES)}."
            )
        for name, least in LEAST_VALUES.items():
            value = getattr(generation_config, name)
            if not isinstance(value, type(least) if isinstance(least, int) else (int, float)) or not value >= least:
                kind = "a whole number" if isinstance(least, int) else "a number"
                raise ValueError(f"`{name}` is {value!r}: it must be {kind}, at least {least}.")
        if generation_config.end_after_repeats == 1:
            raise ValueError("`end_after_repeats` is 1: every phrase stands once. Say 2 or more, or 0 to end none.")
        if generation_config.seed is not None and generation_config.generator is not None:
            raise ValueError("Got both `seed` and `generator`: pass one of them.")
        if generation_config.cache_implementation == "paged":
            raise ValueError(
                '`cache_implementation="paged"` (continuous batching) knows text alone: leave it out, or take "static".'
            )
        if generation_config.return_audio and self.vocoder is None:
            raise ValueError(
                "`return_audio=True` needs a vocoder, and this model has none: assemble it with one "
                "(`from_pretrained_parts(vocoder=...)`), or take the mel-spectrograms from `output.mel`."
            )

    def _validate_generation_mode(self, generation_mode: GenerationMode, *args) -> None:
        super()._validate_generation_mode(generation_mode, *args)
        if generation_mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            raise ValueError(
                f"Two parallel streams can only be decoded greedily or sampled, not by {generation_mode.value}: leave "
                "`num_beams` at 1 and pass no assistant."
            )

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ) -> None:
        # one step more than text needs: the last step, too, runs through the model if it speaks
        max_cache_length = max_cache_length + 1
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        if model_kwargs.get("cache") is not None:
            self.speech_transformer.extend_cache(model_kwargs["cache"], max_cache_length)

    @staticmethod
    def create_masks_for_generate(config, inputs_embeds, attention_mask, cache, position_ids=None, **kwargs):
        """
        The masks for a static cache: those of the language model's kinds of layers (or `"language_model"`, where they all
        are of one kind), and `"speech_transformer"`, whose attention is never cut to a window.
        """
        arguments = {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "cache": cache,
            "position_ids": position_ids,
        }
        masks = create_masks_for_generate(config=config, **arguments)
        masks = dict(masks) if isinstance(masks, dict) else {"language_model": masks}
        masks["speech_transformer"] = create_causal_mask(config=config.get_text_config(), **arguments)
        return masks

    def _get_logits_processor(
        self, generation_config: GenerationConfig, input_ids_seq_length: int | None = None, *args, **kwargs
    ) -> LogitsProcessorList:
        processors = super()._get_logits_processor(generation_config, input_ids_seq_length, *args, **kwargs)
        # the placeholder of heard speech is nothing to say
        processors.append(SuppressTokensLogitsProcessor([self.config.audio_token_id], device=kwargs.get("device")))
        num_repeats = getattr(generation_config, "end_after_repeats", 0)
        ends = getattr(generation_config, "_eos_token_tensor", None)
        if num_repeats and ends is not None:
            pad_token_id = int(generation_config._pad_token_tensor)
            processors.append(
                EndAfterRepeatsLogitsProcessor(num_repeats, input_ids_seq_length or 0, ends.tolist(), pad_token_id)
            )
        return processors

    def _get_stopping_criteria(self, *args, **kwargs) -> StoppingCriteriaList:
        # The end of the text ends a row only if it does not speak: `FlowOmniAnswer` knows.
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        return StoppingCriteriaList([one for one in criteria if not isinstance(one, EosTokenCriteria)])

    def _expand_inputs_for_generation(self, expand_size: int = 1, input_ids=None, **model_kwargs):
        """With `num_return_sequences`, repeats the audios row by row, as their placeholders are repeated."""
        features, mask = (model_kwargs.pop(name, None) for name in ("input_features", "input_features_mask"))
        if features is not None and expand_size > 1:
            if input_ids.shape[1] == 0:
                raise ValueError(
                    "`num_return_sequences` needs `input_ids`, whose placeholders say which audio belongs to which row, beside "
                    "`inputs_embeds`."
                )
            rows = audio_indices_of_rows(input_ids, features, mask, self.config)
            order = torch.tensor([index for row in rows for _ in range(expand_size) for index in row])
            features = features[order.to(features.device)]
            mask = mask[order.to(mask.device)] if mask is not None else None
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, input_ids=input_ids, **model_kwargs
        )
        audio = {"input_features": features, "input_features_mask": mask}
        model_kwargs |= {name: value for name, value in audio.items() if value is not None}
        return input_ids, model_kwargs

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        is_first_iteration=False,
        cache=None,
        inputs_embeds=None,
        **kwargs,
    ):
        """Cuts what belongs to steps (states, patches) or to audios down to what the cache does not hold yet."""
        if next_sequence_length is not None and next_sequence_length < 1:
            raise ValueError(
                f"The cache holds {cache.get_seq_length()} steps, the prompt has {input_ids.shape[1]}: nothing is left "
                "to read. Append the next turn to the prompt, or crop `cache`; an answer cannot be taken up in the "
                "middle of its speech."
            )
        features, mask = (kwargs.pop(name, None) for name in ("input_features", "input_features_mask"))
        step_inputs = {name: kwargs.pop(name, None) for name in ("speech_states", "previous_patches")}
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            is_first_iteration=is_first_iteration,
            cache=cache,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        sized_like = model_inputs.get("input_ids")
        num_steps = (sized_like if sized_like is not None else model_inputs["inputs_embeds"]).shape[1]
        for name, value in step_inputs.items():
            if value is not None:
                # cloned: the stride of a slice grows with the answer, and a compiled step would be compiled again for each
                model_inputs[name] = value[:, -num_steps:].clone(memory_format=torch.contiguous_format)

        if is_first_iteration and inputs_embeds is None:
            features, mask = uncached_audios(input_ids, num_steps, features, mask, self.config)
        if features is not None and (is_first_iteration or not kwargs.get("use_cache", True)):
            model_inputs |= {"input_features": features}
            model_inputs |= {"input_features_mask": mask} if mask is not None else {}
        return model_inputs

    def _sample(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        **model_kwargs,
    ) -> FlowOmniGenerateOutput | torch.LongTensor:
        """Adds up the steps of the answer."""
        if synced_gpus:
            raise ValueError(
                "`synced_gpus=True` (generation from weights sharded by FSDP or ZeRO-3) is not supported, since rows speak "
                "for different lengths: gather the weights first, or generate from a saved checkpoint."
            )
        steps = self._steps(input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs)
        steps = list(_with_streamer(steps, streamer))
        text_ids = torch.stack([step.text_ids for step in steps], dim=1)
        sequences = torch.cat([input_ids, text_ids], dim=1)
        if not generation_config.return_dict_in_generate:
            return sequences
        mel, mel_lengths = self._gather_mel(steps)
        return FlowOmniGenerateOutput(
            sequences=sequences,
            speech_states=torch.stack([step.states for step in steps], dim=1),
            mel=mel,
            mel_lengths=mel_lengths,
            audio=self._sound(mel, mel_lengths) if generation_config.return_audio else None,
            speech_truncated=steps[-1].speech_truncated,
            cache=steps[-1].cache,
            **{
                name: tuple(step[name] for step in steps if step.get(name) is not None) or None
                for name in ("scores", "logits", "attentions", "hidden_states")
            },
        )

    def _gather_mel(self, steps: list[FlowOmniStep]) -> tuple[torch.FloatTensor, torch.LongTensor]:
        """The patches of each row, one after another: (batch_size, max_frames, num_mel_bins) and the lengths."""
        is_generating = torch.stack([step.is_generating for step in steps], dim=1)
        patches = torch.stack([step.mel for step in steps], dim=1)
        rows = [row_patches[chosen].flatten(0, 1) for row_patches, chosen in zip(patches, is_generating)]
        mel = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=self.config.speech_config.mel_floor
        )
        return mel, is_generating.sum(dim=1) * self.config.speech_config.frames_per_step

    def _sound(self, mel: torch.FloatTensor, mel_lengths: torch.LongTensor) -> list[torch.FloatTensor]:
        """The waveform of each row on its own, so that it does not depend on the rest of the batch."""
        return [
            self.vocoder(row[None, :length]).squeeze(0) if length > 0 else row.new_zeros(0)
            for row, length in zip(mel, mel_lengths.tolist())
        ]

    @torch.no_grad()
    def _stream(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs,
    ) -> Iterator[FlowOmniStep]:
        """The steps with their sound: one stream of the vocoder for each row that speaks."""
        sounding = {}
        for step in self._steps(input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
            if generation_config.return_audio:
                step.audio = [self._sound_step(step, row, sounding) for row in range(len(input_ids))]
            yield step

    def _sound_step(self, step: FlowOmniStep, row: int, sounding: dict) -> torch.FloatTensor:
        """The samples of one row that a step makes ready; after its last patch also those held back until then."""
        samples = [step.mel.new_zeros(0)]
        if step.is_generating[row]:
            if row not in sounding:
                sounding[row] = self.vocoder.stream(batch_size=1)
            samples.append(sounding[row].push(step.mel[row : row + 1]).squeeze(0))
        if step.is_finished[row] and row in sounding:
            samples.append(sounding.pop(row).finish().squeeze(0))
        return torch.cat([part.to(samples[-1].device) for part in samples])

    @torch.no_grad()
    def _steps(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs,
    ) -> Iterator[FlowOmniStep]:
        """
        The decoding loop. Each step takes the text token and the speech state that the last forward pass scored, runs
        the next forward pass on them, and draws the patch of a generating step from it.
        """
        device, batch_size = input_ids.device, len(input_ids)
        answer = FlowOmniAnswer(batch_size, self.config, generation_config, device)
        generators = row_generators(generation_config.seed, generation_config.generator, batch_size)
        model_forward = (
            self.get_compiled_call(generation_config.compile_config)
            if self._valid_auto_compile_criteria(model_kwargs, generation_config)
            else self.__call__
        )
        outputs = self._prefill(input_ids, generation_config, model_kwargs, is_first_iteration=True)
        model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
        streams = InputStreams(self.config, model_kwargs, outputs.condition)
        patches = outputs.condition.new_zeros(batch_size, self.config.speech_config.patch_size, dtype=torch.float32)
        is_unfinished = torch.ones(batch_size, dtype=torch.bool, device=device)

        while is_unfinished.any():
            step = FlowOmniStep(attentions=outputs.attentions, hidden_states=outputs.hidden_states)
            step.is_text = is_unfinished & ~answer.text_is_over
            step.text_ids = self._next_text(step, outputs, input_ids, logits_processor, generation_config, generators)
            states = answer.next_states(outputs.state_logits[:, -1].to(device))
            step.states = torch.where(is_unfinished, states, self.config.pad_state_id)
            answer.advance(step.text_ids, step.states, generation_config._eos_token_tensor)

            input_ids = torch.cat([input_ids, step.text_ids[:, None]], dim=-1)
            streams.append(step.states, patches)
            step.is_generating = is_unfinished & (step.states == self.config.generating_state_id)
            is_stopped = answer.is_finished() | stopping_criteria(input_ids, step.scores).to(device)
            step.is_finished = is_unfinished & is_stopped
            is_unfinished = is_unfinished & ~is_stopped
            answer.note_cuts(step.is_finished)

            if is_unfinished.any() or step.is_generating.any():
                model_kwargs |= streams.inputs()
                model_inputs = self.prepare_inputs_for_generation(
                    input_ids, next_sequence_length=1 if streams.use_cache else None, **model_kwargs
                )
                if (answer.text_is_over | ~is_unfinished).all():
                    # an empty index: the vocabulary head has nothing left to do
                    model_inputs["logits_to_keep"] = torch.empty(0, dtype=torch.long, device=device)
                outputs = model_forward(**model_inputs, return_dict=True)
                model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
            patches = self._next_patches(outputs, step.is_generating, generators, generation_config)
            step.mel = self._mel_of_patches(patches, step.is_generating)
            step.speech_truncated = answer.truncated
            step.cache = model_kwargs.get("cache")
            yield step

    def _next_text(
        self,
        step: FlowOmniStep,
        outputs: ModelOutput,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        generation_config: GenerationConfig,
        generators: list[torch.Generator] | None,
    ) -> torch.LongTensor:
        """The next text token (batch_size,) of the rows that still write, padding for the others."""
        pad_token = generation_config._pad_token_tensor
        pad_token_id = int(pad_token) if pad_token is not None else 0
        if not step.is_text.any():
            return torch.full_like(step.is_text, pad_token_id, dtype=torch.long)
        # copied: a slice would keep the prompt's logits alive
        logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=input_ids.device)
        # processors may write into what they are given
        scores = logits_processor(input_ids, logits.clone() if generation_config.output_logits else logits)
        if generation_config.output_scores:
            step.scores = scores
        if generation_config.output_logits:
            step.logits = logits
        tokens = choose_tokens(scores, step.is_text, generation_config.do_sample, generators)
        return torch.where(step.is_text, tokens, pad_token_id)

    def _next_patches(
        self,
        outputs: ModelOutput,
        is_generating: torch.BoolTensor,
        generators: list[torch.Generator] | None,
        generation_config: GenerationConfig,
    ) -> torch.FloatTensor:
        """The normalised patch (batch_size, patch_size) of each generating row, zeros for the others."""
        condition = outputs.condition[:, -1]
        patches = condition.new_zeros(len(condition), self.config.speech_config.patch_size, dtype=torch.float32)
        rows = is_generating.nonzero().squeeze(-1)
        if len(rows) == 0:
            return patches
        rows = rows.to(condition.device)
        noise = draw_noise(self.speech_head, rows.tolist(), generators, condition.device)
        patches[rows] = self.speech_head(
            condition[rows],
            noise=noise,
            num_steps=generation_config.num_flow_steps,
            temperature=generation_config.flow_temperature,
            guidance_scale=generation_config.flow_guidance_scale,
        ).to(patches.device)
        # what the model reads back lies where it was taught: no lower than the floor
        return torch.where(
            is_generating[:, None].to(patches.device), self.mel_normalizer.hold_above_floor(patches), 0.0
        )

    def _mel_of_patches(self, patches: torch.FloatTensor, is_generating: torch.BoolTensor) -> torch.FloatTensor:
        """Log-mel frames (batch_size, frames_per_step, num_mel_bins), at the floor where there is no patch."""
        config = self.config.speech_config
        mel = self.mel_normalizer.denormalize(patches.view(-1, config.frames_per_step, config.num_mel_bins))
        return torch.where(is_generating[:, None, None].to(mel.device), mel, config.mel_floor)


def _with_streamer(steps: Iterator[FlowOmniStep], streamer: BaseStreamer | None) -> Iterator[FlowOmniStep]:
    """The steps, while the streamer gets their text."""
    for step in steps:
        if streamer is not None and step.is_text.any():
            streamer.put(step.text_ids.cpu())
        yield step
    if streamer is not None:
        streamer.end()


def _is_set(sources: tuple, name: str) -> bool:
    """Whether a generation option is given in any of the call's arguments and generation configs."""
    values = (source.get(name) if isinstance(source, dict) else getattr(source, name, None) for source in sources)
    return any(value is not None for value in values)
