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
"""Generation: `generate()` and `stream()` over two parallel streams, on the hooks of `GenerationMixin`."""

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.cache_utils import Cache
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    GenerationMode,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
)
from transformers.generation.streamers import BaseStreamer
from transformers.masking_utils import create_causal_mask, create_masks_for_generate
from transformers.utils import ModelOutput

from .answer_states import FlowOmniAnswer, FlowOmniSpokenText, FlowOmniWrittenToken
from .configuration_flow_omni import FlowOmniConfig


# Those of a model that needs a few solver steps.
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
SPEECH_OPTIONS = (*GENERATION_DEFAULTS, "return_audio", "seed", "generator", "voice", "answer_ids")
GENERATION_MODES = ("speech", "text", "auto")
DEFAULT_MAX_NEW_TOKENS = 1024
# Inputs with one value per position, and what padding holds.
ALIGNED_INPUTS = {
    "attention_mask": 0,
    "position_ids": 0,
    "speech_states": 0,
    "previous_patches": 0.0,
    "labels": -100,
    "state_labels": -100,
}


@dataclass
class FlowOmniGenerateOutput(GenerateDecoderOnlyOutput):
    """
    Outputs of `FlowOmniForSpeechGeneration.generate`.

    Args:
        sequences (`torch.LongTensor` of shape `(batch_size, prompt_length + num_new_positions)`): Text ids of prompt
            and answer, without the steps of a speech decoder at which no token is due; padding after a row's text.
        speech_states (`torch.LongTensor` of shape `(batch_size, num_new_positions)`): Speech states of the answer.
        mel (`torch.FloatTensor` of shape `(batch_size, max_frames, num_mel_bins)`): Log-mel-spectrograms of the
            answers, right-padded with `mel_floor`.
        mel_lengths (`torch.LongTensor` of shape `(batch_size,)`): Frames of each row's mel-spectrogram.
        audio (`list[torch.FloatTensor]`, *optional*): The waveform of each row, one-dimensional, empty for a row
            without speech.
        speech_truncated (`torch.BoolTensor` of shape `(batch_size,)`): Rows whose speech was cut: by the length limit,
            by `max_new_tokens`, or by a stopping criterion.
        scores, logits, attentions, hidden_states, cache:
            As in [`~transformers.generation.GenerateDecoderOnlyOutput`]: scores and logits of the positions at which a
            row had text left, attentions and hidden states of the language model, and the cache of its layers and the
            speech transformer's.
    """

    speech_states: torch.LongTensor | None = None
    mel: torch.FloatTensor | None = None
    mel_lengths: torch.LongTensor | None = None
    audio: list[torch.FloatTensor] | None = None
    speech_truncated: torch.BoolTensor | None = None


@dataclass
class FlowOmniStep(ModelOutput):
    """
    One position of the answer, as `FlowOmniForSpeechGeneration.stream` yields it: tensors of shape `(batch_size,)`,
    and `mel` of shape `(batch_size, frames_per_step, num_mel_bins)`. The last five are as in
    [`FlowOmniGenerateOutput`].
    """

    text_ids: torch.LongTensor | None = None  # padding where `is_text` is false
    is_text: torch.BoolTensor | None = None  # rows with a text token at this position
    states: torch.LongTensor | None = None  # speech states
    mel: torch.FloatTensor | None = None  # log-mel patches; `mel_floor` where `is_generating` is false
    is_generating: torch.BoolTensor | None = None  # rows with a patch at this position
    is_finished: torch.BoolTensor | None = None  # rows that end at this position
    speech_truncated: torch.BoolTensor | None = None  # rows whose speech has been cut
    audio: list[torch.FloatTensor] | None = None  # new samples of each row (none, while the vocoder looks ahead)
    scores: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    cache: Cache | None = None


@dataclass
class FlowOmniCall:
    """
    A forward pass that the decoding loop waits for. `FlowOmniForSpeechGeneration.decode` yields it and is sent the
    result, so that the calls of several loops can run as one batch.
    """

    function: Callable
    kwargs: dict[str, Any]

    def run(self) -> Any:
        return self.function(**self.kwargs)


class FlowOmniGenerationMixin(GenerationMixin):
    """Speech generation for a model with a text head, a state head, a speech head and perhaps a vocoder."""

    def generate(
        self, inputs: torch.Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs
    ) -> FlowOmniGenerateOutput | torch.LongTensor:
        r"""
        Answers in text, or in text and speech. Takes all that [`~transformers.GenerationMixin.generate`] takes for
        greedy search and sampling, which concerns the text stream, and:

        Args:
            inputs (`torch.LongTensor` of shape `(batch_size, prompt_length)`, *optional*): The `input_ids` that
                [`FlowOmniProcessor`] prepared, left-padded. Also accepted as `input_ids=`.
            generation_config (`GenerationConfig`, *optional*): Options for this call. It may hold those below as well.
            generation_mode (`str`, *optional*, defaults to `"speech"`): `"speech"` for text and speech, `"text"` for
                text alone, `"auto"` to let the model decide. (`"audio"`, as transformers' pipelines call it, is
                `"speech"`.)
            return_audio (`bool`, *optional*): Whether to run the vocoder. Defaults to true where the model has one.
            num_flow_steps (`int`, *optional*, defaults to 2): Solver steps for each patch. 1 with a head
                that learned to jump (`flow_objective="lsd"`).
            flow_temperature (`float`, *optional*, defaults to 1.0): Factor of the flow's noise. 0 makes speech
                deterministic.
            flow_guidance_scale (`float`, *optional*, defaults to 1.0): Classifier-free guidance of the speech head.
            seed (`int` or `list[int]`, *optional*): Makes noise and sampled text reproducible. Row `i` of a batch uses
                `seed + i`, or the `i`-th of a list, and is then the same whatever else is in the batch.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of randomness for all rows, or
                one for each row, instead of `seed`.
            voice (`str` or `list[str]`, *optional*): One of the `voices` of a speech decoder, or one for each row.
                Defaults to the first.
            answer_ids (`torch.LongTensor` of shape `(batch_size, num_tokens)`, *optional*): A text that a speech decoder
                reads aloud instead of an answer of the language model, which runs only if the decoder reads its hidden
                states. Padded on the right with the end of the text.
            min_speech_steps (`int`, *optional*, defaults to 2): Patches before which speech may not stop.
            max_speech_seconds_per_token (`float`, *optional*, defaults to 1.2): With `max_speech_extra_seconds` (2.0),
                the limit on the length of speech in proportion to its text.
            end_after_repeats (`int`, *optional*, defaults to 0): Ends a text as soon as a phrase of 4 to 64 tokens
                occurs this many times in a row. 0 never does.
            kwargs:
                Everything else, such as `max_new_tokens` (positions, 1024 by default; beside a speech decoder the
                tokens of the text, which is spoken to its end), `do_sample`, `temperature`, `streamer` (receives the
                text), `stopping_criteria`, `cache` and `num_return_sequences`.

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
        Yields every position of the answer as it is generated: text, patch and audio. Takes what `generate` takes;
        `generate` returns the sum of these positions.
        """
        steps = super().generate(
            inputs, generation_config, streamer=streamer, custom_generate=type(self)._stream, **kwargs
        )
        return _with_streamer(steps, streamer)

    def decode(
        self, inputs: torch.Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs
    ) -> Generator[FlowOmniCall | FlowOmniStep, Any, None]:
        """
        The decoding loop itself, for servers: as `stream`, but without audio, and each [`FlowOmniCall`] is yielded
        instead of run. Send its result (`loop.send(call.run())`) to go on.
        """
        return super().generate(inputs, generation_config, custom_generate=type(self)._steps, **kwargs)

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """Options of speech generation, for a call and a generation config that do not set them."""
        is_flow_map = self.config.speech_config.flow_objective == "lsd"
        return GENERATION_DEFAULTS | ({"num_flow_steps": 1} if is_flow_map else {})

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict]:
        """Resolves the speech options: the call's, else the generation config's, else `generation_defaults`."""
        options = {name: kwargs.pop(name, None) for name in SPEECH_OPTIONS}
        # read before transformers fills in its own defaults (20 positions, sequences alone)
        configs = [vars(one) for one in (generation_config, self.generation_config) if one is not None]
        given = {name for source in (kwargs, *configs) for name, value in source.items() if value is not None}
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        if not given & {"max_new_tokens", "max_length"}:
            generation_config.max_new_tokens = DEFAULT_MAX_NEW_TOKENS
        if "return_dict_in_generate" not in given:
            generation_config.return_dict_in_generate = True
        for name, value in options.items():
            if value is None:
                value = getattr(generation_config, name, None)
            setattr(generation_config, name, self.generation_defaults.get(name) if value is None else value)
        if generation_config.generation_mode == "audio":
            generation_config.generation_mode = "speech"
        if generation_config.return_audio is None:
            generation_config.return_audio = self.vocoder is not None
        self._check_options(generation_config)
        return generation_config, model_kwargs

    def _check_options(self, generation_config: GenerationConfig) -> None:
        if generation_config.generation_mode not in GENERATION_MODES:
            mode = generation_config.generation_mode
            raise ValueError(f"`generation_mode` is {mode!r}: choose one of {', '.join(GENERATION_MODES)}.")
        if self.speech_decoder is not None and generation_config.generation_mode == "auto":
            raise ValueError(
                '`generation_mode="auto"` lets the language model decide whether to speak, but a speech decoder speaks '
                'whatever it writes: choose "speech" or "text".'
            )
        if generation_config.voice is not None and self.speech_decoder is None:
            raise ValueError("Got a `voice`, but only a model with a speech decoder has voices: leave it out.")
        if generation_config.answer_ids is not None and self.speech_decoder is None:
            raise ValueError(
                "Got `answer_ids`, but only a speech decoder reads a text as it is: ask the language model to read it aloud "
                '(`make_conversation("say", text=...)`).'
            )
        for name, minimum in (("num_flow_steps", 1), ("min_speech_steps", 0), ("end_after_repeats", 0)):
            value = getattr(generation_config, name)
            if not isinstance(value, int) or value < minimum:
                raise ValueError(f"`{name}` is {value!r}: it must be an integer of at least {minimum}.")
        for name in ("flow_temperature", "max_speech_seconds_per_token", "max_speech_extra_seconds"):
            value = getattr(generation_config, name)
            if not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"`{name}` is {value!r}: it must be a number of at least 0.")
        if generation_config.end_after_repeats == 1:
            raise ValueError(
                "`end_after_repeats` is 1, which every phrase reaches: use 2 or more, or 0 to disable it."
            )
        if generation_config.seed is not None and generation_config.generator is not None:
            raise ValueError("Got both `seed` and `generator`: pass one of them.")
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
        # one position more than text needs: the last one, too, runs through the model if it generates a patch
        max_cache_length = max_cache_length + 1
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        if model_kwargs.get("cache") is not None and self.speech_transformer is not None:
            self.speech_transformer.extend_cache(model_kwargs["cache"], max_cache_length)

    @staticmethod
    def create_masks_for_generate(config, inputs_embeds, attention_mask, cache, position_ids=None, **kwargs):
        """
        The masks for a static cache: those of the language model's layer types (or `"language_model"`, where all are
        of one type), and `"speech_transformer"`, whose attention has no sliding window.
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
        # the placeholder of audio is not text
        processors.append(SuppressTokensLogitsProcessor([self.config.audio_token_id], device=kwargs.get("device")))
        if getattr(generation_config, "answer_ids", None) is not None:
            return LogitsProcessorList([GivenTextLogitsProcessor(generation_config, input_ids_seq_length or 0)])
        num_repeats = getattr(generation_config, "end_after_repeats", 0)
        ends = getattr(generation_config, "_eos_token_tensor", None)
        if num_repeats and ends is not None:
            pad_token_id = int(generation_config._pad_token_tensor)
            processors.append(
                EndAfterRepeatsLogitsProcessor(num_repeats, input_ids_seq_length or 0, ends.tolist(), pad_token_id)
            )
        return processors

    def _get_stopping_criteria(self, *args, **kwargs) -> StoppingCriteriaList:
        # the end of the text ends a row only if it has no speech, which `FlowOmniAnswer` decides
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        return StoppingCriteriaList([one for one in criteria if not isinstance(one, EosTokenCriteria)])

    def _prepare_model_inputs(self, inputs=None, bos_token_id=None, model_kwargs=None):
        """
        With `adapter_compression="ctc"` only the adapter knows how many positions the audios take up: they are encoded
        here, and the placeholders that are left over are taken out of the prompt, which `prompt_ids` keeps whole.
        """
        inputs, name, model_kwargs = super()._prepare_model_inputs(inputs, bos_token_id, model_kwargs)
        features, mask = (model_kwargs.get(key) for key in ("input_features", "input_features_mask"))
        if self.config.adapter_compression is None or name != "input_ids":
            return inputs, name, model_kwargs
        if features is None:
            is_read = model_kwargs.get("audio_embeddings") is not None or model_kwargs.get("cache") is None
            if not is_read and (inputs == self.config.audio_token_id).any():
                raise ValueError(
                    "The prompt has `<|audio|>` placeholders of which the cache holds fewer: with "
                    '`adapter_compression="ctc"` pass the `input_features` of all audios of the prompt, of which only the '
                    "adapter knows the positions."
                )
            return inputs, name, model_kwargs
        for key in ("input_features", "input_features_mask"):
            model_kwargs.pop(key, None)
        audio = self.get_audio_features(features, mask)
        aligned = {key: model_kwargs.get(key) for key in ALIGNED_INPUTS}
        aligned = drop_unheard(
            inputs, num_audio_tokens(features, mask, self.config), audio.audio_lengths.tolist(), self.config, **aligned
        )
        model_kwargs |= {"prompt_ids": inputs, "audio_embeddings": audio.pooler_output}
        inputs = aligned.pop("input_ids")
        model_kwargs |= {key: value for key, value in aligned.items() if value is not None}
        return inputs, name, model_kwargs

    def _prepare_attention_mask_for_generation(self, inputs_tensor, generation_config, model_kwargs):
        # `_prepare_model_inputs` makes one where the caller passed none
        mask = model_kwargs.get("attention_mask")
        if mask is not None:
            return mask
        return super()._prepare_attention_mask_for_generation(inputs_tensor, generation_config, model_kwargs)

    def _expand_inputs_for_generation(self, expand_size: int = 1, input_ids=None, **model_kwargs):
        """With `num_return_sequences`, repeats the audios row by row, as their placeholders are repeated."""
        if model_kwargs.get("audio_embeddings") is not None and expand_size > 1:
            rows = model_kwargs.pop("audio_embeddings").split(
                (input_ids == self.config.audio_token_id).sum(dim=-1).tolist()
            )
            repeated = torch.cat([row for row in rows for _ in range(expand_size)])
            input_ids, model_kwargs = super()._expand_inputs_for_generation(
                expand_size=expand_size, input_ids=input_ids, **model_kwargs
            )
            return input_ids, model_kwargs | {"audio_embeddings": repeated}
        features, mask = (model_kwargs.pop(name, None) for name in ("input_features", "input_features_mask"))
        if features is not None and expand_size > 1:
            lengths = num_audio_tokens(features, mask, self.config)
            rows = audios_of_rows(input_ids, lengths, self.config.audio_token_id)
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
        self, input_ids, next_sequence_length=None, is_first_iteration=False, cache=None, inputs_embeds=None, **kwargs
    ):
        """Cuts speech states, previous patches and audios down to what the cache does not hold yet."""
        if next_sequence_length is not None and next_sequence_length < 1:
            raise ValueError(
                f"The cache holds {cache.get_seq_length()} positions, the prompt has {input_ids.shape[1]}: nothing is "
                "left to read. Append the next turn to the prompt, or crop `cache`; an answer cannot be continued in "
                "the middle of its speech."
            )
        features, mask = (kwargs.pop(name, None) for name in ("input_features", "input_features_mask"))
        embeddings = kwargs.pop("audio_embeddings", None)
        speech_inputs = {name: kwargs.pop(name, None) for name in ("speech_states", "previous_patches")}
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            is_first_iteration=is_first_iteration,
            cache=cache,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        text_inputs = model_inputs.get("input_ids")
        num_positions = (text_inputs if text_inputs is not None else model_inputs["inputs_embeds"]).shape[1]
        for name, value in speech_inputs.items():
            if value is not None:
                # cloned: the stride of a slice grows with the answer, and `torch.compile` would compile every step
                model_inputs[name] = value[:, -num_positions:].clone(memory_format=torch.contiguous_format)

        if embeddings is not None:
            if is_first_iteration or not kwargs.get("use_cache", True):
                # those whose placeholders are in the cache are left out
                is_audio = input_ids == self.config.audio_token_id
                is_new = (
                    torch.arange(input_ids.shape[1], device=input_ids.device) >= input_ids.shape[1] - num_positions
                )
                model_inputs["audio_embeddings"] = embeddings[is_new.expand_as(is_audio)[is_audio]]
            return model_inputs
        if is_first_iteration and inputs_embeds is None:
            features, mask = uncached_audios(input_ids, num_positions, features, mask, self.config)
        if features is not None and (is_first_iteration or not kwargs.get("use_cache", True)):
            model_inputs |= {"input_features": features}
            model_inputs |= {"input_features_mask": mask} if mask is not None else {}
        return model_inputs

    def _sample(
        self,
        input_ids: torch.LongTensor,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        **kwargs,
    ) -> FlowOmniGenerateOutput | torch.LongTensor:
        """Collects the positions of the answer."""
        if synced_gpus:
            raise ValueError(
                "`synced_gpus=True` (weights sharded by FSDP or ZeRO-3) is not supported, since the speech of rows "
                "differs in length: gather the weights first, or generate from a saved checkpoint."
            )
        prompt_ids = kwargs.pop("prompt_ids", input_ids)
        steps = _run_calls(self._steps(input_ids, generation_config=generation_config, **kwargs))
        steps = list(_with_streamer(steps, streamer))
        # a speech decoder leaves gaps between the tokens
        is_gap = ~torch.stack([step.is_text for step in steps], dim=1)
        text_ids = torch.stack([step.text_ids for step in steps], dim=1)
        text_ids = text_ids.gather(1, is_gap.long().argsort(dim=1, stable=True))
        sequences = torch.cat([prompt_ids, text_ids], dim=1)
        if not generation_config.return_dict_in_generate:
            return sequences
        mel, mel_lengths = self._collect_mel(steps)
        return FlowOmniGenerateOutput(
            sequences=sequences,
            speech_states=torch.stack([step.states for step in steps], dim=1),
            mel=mel,
            mel_lengths=mel_lengths,
            audio=self._vocode(mel, mel_lengths) if generation_config.return_audio else None,
            speech_truncated=steps[-1].speech_truncated,
            cache=steps[-1].cache,
            **{
                name: tuple(step[name] for step in steps if step.get(name) is not None) or None
                for name in ("scores", "logits", "attentions", "hidden_states")
            },
        )

    def _collect_mel(self, steps: list[FlowOmniStep]) -> tuple[torch.FloatTensor, torch.LongTensor]:
        """The patches of each row, one after another: (batch_size, max_frames, num_mel_bins) and the lengths."""
        is_generating = torch.stack([step.is_generating for step in steps], dim=1)
        patches = torch.stack([step.mel for step in steps], dim=1)
        rows = [row_patches[chosen].flatten(0, 1) for row_patches, chosen in zip(patches, is_generating)]
        mel = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=self.config.speech_config.mel_floor
        )
        return mel, is_generating.sum(dim=1) * self.config.speech_config.frames_per_step

    def _vocode(self, mel: torch.FloatTensor, mel_lengths: torch.LongTensor) -> list[torch.FloatTensor]:
        """The waveform of each row on its own, so that it does not depend on the rest of the batch."""
        return [
            self.vocoder(row[None, :length]).squeeze(0) if length > 0 else row.new_zeros(0)
            for row, length in zip(mel, mel_lengths.tolist())
        ]

    @torch.no_grad()
    def _stream(
        self, input_ids: torch.LongTensor, generation_config: GenerationConfig, **kwargs
    ) -> Iterator[FlowOmniStep]:
        """The positions with their audio: one vocoder stream for each row with speech."""
        streams = {}
        for step in _run_calls(self._steps(input_ids, generation_config=generation_config, **kwargs)):
            if generation_config.return_audio:
                step.audio = [self._vocode_step(step, row, streams) for row in range(len(input_ids))]
            yield step

    def _vocode_step(self, step: FlowOmniStep, row: int, streams: dict) -> torch.FloatTensor:
        """The samples of one row that a position makes ready; after its last patch also those held back until then."""
        samples = [step.mel.new_zeros(0)]
        if step.is_generating[row]:
            if row not in streams:
                streams[row] = self.vocoder.stream()
            samples.append(streams[row].push(step.mel[row : row + 1]).squeeze(0))
        if step.is_finished[row] and row in streams:
            samples.append(streams.pop(row).finish().squeeze(0))
        return torch.cat([part.to(samples[-1].device) for part in samples])

    def _steps(self, *args, **kwargs) -> Generator[FlowOmniCall | FlowOmniStep, Any, None]:
        """The positions of the answer, and the calls to be run for them, in the loop of the config."""
        kwargs.pop("prompt_ids", None)  # only `generate` gives the prompt back
        has_decoder = self.speech_decoder is not None
        return (self._speech_decoder_steps if has_decoder else self._language_model_steps)(*args, **kwargs)

    @torch.no_grad()
    def _language_model_steps(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs,
    ) -> Generator[FlowOmniCall | FlowOmniStep, Any, None]:
        """
        The decoding loop. Each iteration takes the text token and the speech state that the last forward pass scored,
        runs the next forward pass on them, and samples the patch of a generating position from it. It yields its calls
        to be run, and the steps.
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
        use_cache = model_kwargs.get("use_cache", True)
        model_kwargs |= self._prompt_speech_inputs(outputs.condition, **model_kwargs)
        patches = outputs.condition.new_zeros(batch_size, self.config.speech_config.patch_size, dtype=torch.float32)
        is_unfinished = torch.ones(batch_size, dtype=torch.bool, device=device)

        while is_unfinished.any():
            step = FlowOmniStep(attentions=outputs.attentions, hidden_states=outputs.hidden_states)
            step.is_text = is_unfinished & ~answer.text_has_ended
            step.text_ids = self._next_text(step, outputs, input_ids, logits_processor, generation_config, generators)
            states = answer.next_states(outputs.state_logits[:, -1].to(device))
            step.states = torch.where(is_unfinished, states, self.config.pad_state_id)
            answer.advance(step.states, step.is_text, step.is_text & _is_end(step.text_ids, generation_config))

            input_ids = torch.cat([input_ids, step.text_ids[:, None]], dim=-1)
            _append_speech_inputs(model_kwargs, step.states, patches)
            step.is_generating = is_unfinished & (step.states == self.config.generating_state_id)
            is_stopped = answer.is_finished() | stopping_criteria(input_ids, step.scores).to(device)
            step.is_finished = is_unfinished & is_stopped
            is_unfinished = is_unfinished & ~is_stopped
            answer.mark_truncated(step.is_finished)

            if is_unfinished.any() or step.is_generating.any():
                model_inputs = self.prepare_inputs_for_generation(
                    input_ids, next_sequence_length=1 if use_cache else None, **model_kwargs
                )
                if (answer.text_has_ended | ~is_unfinished).all():
                    # an empty index: the vocabulary head has nothing left to do
                    model_inputs["logits_to_keep"] = torch.empty(0, dtype=torch.long, device=device)
                outputs = yield FlowOmniCall(model_forward, {**model_inputs, "return_dict": True})
                model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
            condition = outputs.condition[:, -1]
            patches = yield from self._next_patches(condition, step.is_generating, generators, generation_config)
            step.mel = self._mel_of_patches(patches, step.is_generating)
            step.speech_truncated = answer.truncated
            step.cache = model_kwargs.get("cache")
            yield step

    @torch.no_grad()
    def _speech_decoder_steps(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs,
    ) -> Generator[FlowOmniCall | FlowOmniStep, Any, None]:
        """
        The loop of a speech decoder. Each iteration reads the byte that is due, for which the language model is asked to
        write on if its neighbours are not known yet, runs the decoder, and samples a patch. What is decided about the next
        step is read once and on the CPU.
        """
        device, batch_size = input_ids.device, len(input_ids)
        answer = FlowOmniAnswer(batch_size, self.config, generation_config, torch.device("cpu"))
        generators = row_generators(generation_config.seed, generation_config.generator, batch_size)
        noise_generators = derived_generators(generators)
        if generation_config.answer_ids is None or self.config.speech_config.reads_hidden_states:
            written = self._written_tokens(input_ids, logits_processor, generation_config, generators, **model_kwargs)
        else:
            written = _given_tokens(input_ids, generation_config)
        has_speech = generation_config.generation_mode != "text"
        table = getattr(self.model.audio_adapter, "token_bytes", None)
        if table is not None and table.any():
            self.speech_decoder.spelling.token_bytes = table
        decoder = self.speech_decoder if has_speech else None
        text = FlowOmniSpokenText(written, batch_size, _pad_token_id(generation_config), decoder)
        # the maximum length is that of the text, whose speech goes on
        criteria = [one for one in stopping_criteria if not (has_speech and isinstance(one, MaxLengthCriteria))]
        voice_ids = self._voice_ids(generation_config.voice, batch_size, device)
        cache = self.speech_decoder.new_cache()
        state_logits = torch.zeros(batch_size, len(self.config.state_ids))
        patches = torch.zeros(batch_size, self.config.speech_config.patch_size, device=device)
        is_unfinished = torch.ones(batch_size, dtype=torch.bool)

        while is_unfinished.any():
            yield from text.read(is_unfinished & ~answer.text_has_ended)
            states = torch.where(is_unfinished, answer.next_states(state_logits), self.config.pad_state_id)
            answer.advance(states, text.is_text, text.ends_text)
            is_generating = is_unfinished & (states == self.config.generating_state_id)
            is_stopped = answer.is_finished()
            for criterion in criteria:
                is_stopped = is_stopped | criterion(text.input_ids, text.outputs.get("scores")).cpu()
            is_finished = is_unfinished & is_stopped
            is_unfinished = is_unfinished & ~is_stopped
            answer.mark_truncated(is_finished)

            if has_speech and (is_unfinished.any() or is_generating.any()):
                inputs = {
                    "text_inputs": text.inputs,
                    "speech_states": states.to(device)[:, None],
                    "previous_patches": patches[:, None],
                    "voice_ids": voice_ids,
                    "position_ids": voice_ids.new_full((batch_size, 1), answer.num_positions - 1),
                    "cache": cache,
                }
                condition = (yield FlowOmniCall(self.speech_decoder, inputs))[:, -1]
                patches = yield from self._next_patches(condition, is_generating, noise_generators, generation_config)
                scores = torch.cat([self.state_head(condition), self.advance_head(condition)], dim=-1)
                state_logits, log_rates = scores.float().cpu().split([len(self.config.state_ids), 1], dim=-1)
                text.advance(answer.bytes_to_read(log_rates.squeeze(-1)))
            # made at once: each assignment to an output class costs as much as a small layer
            yield FlowOmniStep(
                text_ids=text.text_ids.to(device),
                is_text=text.is_text.to(device),
                states=states.to(device),
                mel=self._mel_of_patches(patches, is_generating),
                is_generating=is_generating.to(device),
                is_finished=is_finished.to(device),
                speech_truncated=answer.truncated.to(device),
                **text.outputs,
            )

    def _written_tokens(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        generation_config: GenerationConfig,
        generators: list[torch.Generator] | None,
        **model_kwargs,
    ) -> Generator[FlowOmniCall | FlowOmniWrittenToken, Any, None]:
        """
        The text of an answer, a token of every row whenever one is asked for: exactly what the language model writes
        without speech. The `hidden_states` of a token are there once the next one is written, as both need the language
        model's forward pass over the token, a call to be run.
        """
        model_forward = (
            self.get_compiled_call(generation_config.compile_config)
            if self._valid_auto_compile_criteria(model_kwargs, generation_config)
            else self.__call__
        )
        outputs = self._prefill(input_ids, generation_config, model_kwargs, is_first_iteration=True)
        model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
        has_speech = generation_config.generation_mode != "text"
        reads_hidden_states = has_speech and self.config.speech_config.reads_hidden_states
        has_ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        while True:
            is_full = input_ids.shape[1] >= generation_config.max_length
            is_text = torch.zeros_like(has_ended) if is_full else ~has_ended
            step = FlowOmniStep(is_text=is_text, attentions=outputs.attentions, hidden_states=outputs.hidden_states)
            text_ids = self._next_text(step, outputs, input_ids, logits_processor, generation_config, generators)
            ends_text = ~has_ended & (~is_text | _is_end(text_ids, generation_config))
            input_ids = torch.cat([input_ids, text_ids[:, None]], dim=-1)
            has_ended = has_ended | ends_text
            names = ("scores", "logits", "attentions", "hidden_states")
            own_outputs = {name: getattr(step, name) for name in names} | {"cache": model_kwargs.get("cache")}
            token = FlowOmniWrittenToken(text_ids.cpu(), is_text.cpu(), ends_text.cpu(), input_ids, own_outputs)
            if reads_hidden_states and has_ended.all():
                # of ends alone, at which no state is read
                token.hidden_states = outputs.last_hidden_state[:, -1]
            yield token
            if reads_hidden_states or input_ids.shape[1] < generation_config.max_length:
                next_length = 1 if model_kwargs.get("use_cache", True) else None
                model_inputs = self.prepare_inputs_for_generation(
                    input_ids, next_sequence_length=next_length, **model_kwargs
                )
                outputs = yield FlowOmniCall(model_forward, {**model_inputs, "return_dict": True})
                model_kwargs = self._update_model_kwargs_for_generation(outputs, model_kwargs)
            if reads_hidden_states:
                token.hidden_states = outputs.last_hidden_state[:, -1]

    def _voice_ids(self, voice: str | Sequence[str] | None, batch_size: int, device: torch.device) -> torch.LongTensor:
        """The index of each row's voice: (batch_size,)"""
        voices = self.config.speech_config.voices
        names = [voice or voices[0]] * batch_size if voice is None or isinstance(voice, str) else list(voice)
        if len(names) != batch_size:
            raise ValueError(f"Got {len(names)} voices for {batch_size} rows: pass one, or as many as there are rows.")
        for name in names:
            if name not in voices:
                raise ValueError(f"There is no voice {name!r}: the voices of this model are {', '.join(voices)}.")
        return torch.tensor([voices.index(name) for name in names], device=device)

    def _prompt_speech_inputs(self, condition, speech_states=None, previous_patches=None, **kwargs):
        """The speech states and previous patches of the prompt: those of the call, else none."""
        shape = condition.shape[:2]
        if speech_states is None:
            speech_states = condition.new_full(shape, self.config.pad_state_id, dtype=torch.long)
        if previous_patches is None:
            previous_patches = condition.new_zeros(*shape, self.config.speech_config.patch_size, dtype=torch.float32)
        return {"speech_states": speech_states, "previous_patches": previous_patches}

    def _next_text(
        self,
        step: FlowOmniStep,
        outputs: ModelOutput,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        generation_config: GenerationConfig,
        generators: list[torch.Generator] | None,
    ) -> torch.LongTensor:
        """The next text token (batch_size,) of the rows whose text has not ended, padding for the others."""
        pad_token_id = _pad_token_id(generation_config)
        if not step.is_text.any():
            return torch.full_like(step.is_text, pad_token_id, dtype=torch.long)
        # copied: a slice would keep the prompt's logits alive
        logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=input_ids.device)
        # processors may write into their input
        scores = logits_processor(input_ids, logits.clone() if generation_config.output_logits else logits)
        if generation_config.output_scores:
            step.scores = scores
        if generation_config.output_logits:
            step.logits = logits
        tokens = choose_tokens(scores, step.is_text, generation_config.do_sample, generators)
        return torch.where(step.is_text, tokens, pad_token_id)

    def _next_patches(
        self,
        condition: torch.FloatTensor,
        is_generating: torch.BoolTensor,
        generators: list[torch.Generator] | None,
        generation_config: GenerationConfig,
    ) -> Generator[FlowOmniCall, torch.FloatTensor, torch.FloatTensor]:
        """The normalised patch (batch_size, patch_size) of each generating row, zeros for the others."""
        patches = condition.new_zeros(len(condition), self.config.speech_config.patch_size, dtype=torch.float32)
        rows = is_generating.nonzero().squeeze(-1)
        if len(rows) == 0:
            return patches
        rows = rows.to(condition.device)
        if generators is None:
            noise = [self.speech_head.draw_noise(None, condition.device) for _ in rows]
        else:
            noise = [self.speech_head.draw_noise(generators[row], generators[row].device) for row in rows.tolist()]
        sampling = {
            "condition": condition[rows],
            "noise": torch.stack(noise).to(condition.device),
            "num_steps": generation_config.num_flow_steps,
            "temperature": generation_config.flow_temperature,
            "guidance_scale": generation_config.flow_guidance_scale,
        }
        patches[rows] = (yield FlowOmniCall(self.speech_head, sampling)).to(patches.device)
        # the model reads back what it saw in training: nothing below the floor
        return torch.where(is_generating[:, None].to(patches.device), self.mel_normalizer.clamp_to_floor(patches), 0.0)

    def _mel_of_patches(self, patches: torch.FloatTensor, is_generating: torch.BoolTensor) -> torch.FloatTensor:
        """Log-mel frames (batch_size, frames_per_step, num_mel_bins), at the floor where there is no patch."""
        config = self.config.speech_config
        mel = self.mel_normalizer.denormalize(patches.view(-1, config.frames_per_step, config.num_mel_bins))
        return torch.where(is_generating[:, None, None].to(mel.device), mel, config.mel_floor)


def _append_speech_inputs(model_kwargs: dict[str, Any], states: torch.LongTensor, patches: torch.FloatTensor) -> None:
    """Appends the states (batch_size,) of a position, and the patches (batch_size, patch_size) of the one before."""
    newest = {"speech_states": states[:, None], "previous_patches": patches[:, None]}
    for name, value in newest.items():
        earlier = model_kwargs[name]
        model_kwargs[name] = torch.cat([earlier, value.to(earlier.device)], dim=1)
    if model_kwargs.get("use_cache", True):
        # the model has read the earlier patches, which are large
        model_kwargs["previous_patches"] = newest["previous_patches"]


def _run_calls(loop: Generator[FlowOmniCall | FlowOmniStep, Any, None]) -> Iterator[FlowOmniStep]:
    """The steps of a decoding loop, whose calls are run one by one."""
    for item in loop:
        while isinstance(item, FlowOmniCall):
            item = loop.send(item.run())
        yield item


def _with_streamer(steps: Iterator[FlowOmniStep], streamer: BaseStreamer | None) -> Iterator[FlowOmniStep]:
    """The positions, while the streamer receives their text."""
    for step in steps:
        if streamer is not None and step.is_text.any():
            streamer.put(step.text_ids.cpu())
        yield step
    if streamer is not None:
        streamer.end()


def _pad_token_id(generation_config: GenerationConfig) -> int:
    pad_token = generation_config._pad_token_tensor
    return int(pad_token) if pad_token is not None else 0


def _is_end(text_ids: torch.LongTensor, generation_config: GenerationConfig) -> torch.BoolTensor:
    """Rows of `text_ids` (batch_size,) with a token that ends a text."""
    ends = generation_config._eos_token_tensor
    return torch.zeros_like(text_ids, dtype=torch.bool) if ends is None else torch.isin(text_ids, ends)


# --- a text that is given


class GivenTextLogitsProcessor(LogitsProcessor):
    """Allows each row nothing but the tokens of the `answer_ids` of the options, and then their end."""

    def __init__(self, generation_config: GenerationConfig, prompt_length: int):
        self.generation_config, self.prompt_length = generation_config, prompt_length

    def __call__(self, input_ids, scores):
        tokens = _given_token(self.generation_config, input_ids.shape[1] - self.prompt_length).to(scores.device)
        return torch.full_like(scores, -math.inf).scatter(1, tokens[:, None], 0.0)


def _given_token(generation_config: GenerationConfig, index: int) -> torch.LongTensor:
    """The token (batch_size,) at a place of the `answer_ids`, behind which the text ends."""
    answer_ids, end = generation_config.answer_ids, int(generation_config._eos_token_tensor[0])
    if index < answer_ids.shape[1]:
        return answer_ids[:, index]
    return answer_ids.new_full(answer_ids.shape[:1], end)


def _given_tokens(
    input_ids: torch.LongTensor, generation_config: GenerationConfig
) -> Generator[FlowOmniWrittenToken, Any, None]:
    """The `answer_ids` of the options as if the language model had written them, which does not run."""
    has_ended = torch.zeros(len(input_ids), dtype=torch.bool)
    for index in itertools.count():
        text_ids = _given_token(generation_config, index).to(input_ids.device)
        is_text = ~has_ended
        ends_text = is_text & _is_end(text_ids, generation_config).cpu()
        has_ended = has_ended | ends_text
        input_ids = torch.cat([input_ids, text_ids[:, None]], dim=-1)
        yield FlowOmniWrittenToken(text_ids.cpu(), is_text, ends_text, input_ids, {"cache": None})


# --- randomness by row


def row_generators(
    seed: int | Sequence[int] | None, generator: torch.Generator | list[torch.Generator] | None, batch_size: int
) -> list[torch.Generator] | None:
    """
    The source of randomness of each row: from `seed` (row `i` takes `seed + i`, or the `i`-th seed), or as given.
    `None` stands for torch's global one.
    """
    if generator is None and seed is None:
        return None
    if isinstance(generator, torch.Generator):
        return [generator] * batch_size
    if generator is None and hasattr(seed, "__index__"):
        seed = [int(seed) + row for row in range(batch_size)]
    sources = generator if generator is not None else seed
    if len(sources) != batch_size:
        name = "generators" if generator is not None else "seeds"
        raise ValueError(f"Got {len(sources)} {name} for {batch_size} rows: pass one, or as many as there are rows.")
    # on the CPU whatever the model's device, so that a seed means the same everywhere
    return sources if generator is not None else [torch.Generator("cpu").manual_seed(int(one)) for one in sources]


def derived_generators(generators: list[torch.Generator] | None) -> list[torch.Generator] | None:
    """
    A generator for each row that its own has seeded: a speech decoder draws noise at other times than the language
    model draws tokens, and which comes first depends on the other rows of the batch.
    """
    if generators is None:
        return None
    seeds = [torch.randint(2**62, (1,), generator=generator, device=generator.device) for generator in generators]
    return [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]


def choose_tokens(
    scores: torch.FloatTensor, is_text: torch.BoolTensor, do_sample: bool, generators: list[torch.Generator] | None
) -> torch.LongTensor:
    """
    The best token of each row of `scores` (batch_size, vocab_size), or a sampled one. Rows whose text has ended draw
    nothing, as they would draw nothing alone.
    """
    tokens = scores.argmax(dim=-1)
    if not do_sample:
        return tokens
    probabilities = scores.softmax(dim=-1)
    if generators is None:
        return torch.multinomial(probabilities, num_samples=1).squeeze(-1)
    for row in is_text.nonzero().squeeze(-1).tolist():
        generator = generators[row]
        tokens[row] = torch.multinomial(probabilities[row].to(generator.device), num_samples=1, generator=generator)
    return tokens


# --- the end of texts that repeat themselves


# Shorter phrases count as their multiples: one token must occur four times as often, for "000" may be meant. Longer
# loops are not searched: the length limit comes sooner.
SHORTEST_PHRASE, LONGEST_PHRASE = 4, 64


class EndAfterRepeatsLogitsProcessor(LogitsProcessor):
    """
    Allows nothing but the end as soon as a phrase of 4 to 64 tokens occurs `num_repeats` times in a row, also within a
    word: "bees wheels wheels wheel" has "s wheel" three times. The prompt's phrases do not count, nor does
    `pad_token_id`, the gaps between words of the timed layout.
    """

    # it looks back at every token of an answer
    supports_continuous_batching = False

    def __init__(self, num_repeats: int, prompt_length: int, eos_token_ids: Sequence[int], pad_token_id: int):
        self.num_repeats, self.prompt_length = num_repeats, prompt_length
        self.eos_token_ids, self.pad_token_id = list(eos_token_ids), pad_token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        for row, answer in enumerate(input_ids[:, self.prompt_length :].tolist()):
            text = [token for token in answer if token != self.pad_token_id]
            if ends_in_repeats(text, self.num_repeats):
                # also where other options forbid the end: nothing else would be left
                scores[row] = -math.inf
                scores[row, self.eos_token_ids] = 0.0
        return scores


def ends_in_repeats(text: list[int], num_repeats: int) -> bool:
    """Whether the text ends in one phrase, so many times in a row."""
    lengths = range(SHORTEST_PHRASE, min(LONGEST_PHRASE, len(text) // num_repeats) + 1)
    return any(text[-length:] * num_repeats == text[-length * num_repeats :] for length in lengths)


# --- which audio belongs to which row


def num_audio_tokens(
    input_features: torch.Tensor, input_features_mask: torch.Tensor | None, config: FlowOmniConfig
) -> list[int]:
    """Positions of the sequence that each audio takes up."""
    if input_features_mask is None:
        num_frames = torch.full((len(input_features),), input_features.shape[-1])
    else:
        num_frames = input_features_mask.sum(dim=-1)
    # the encoder halves the frames, the adapter joins `adapter_stack_size` of what is left; both round up
    num_encoded = (num_frames + 1) // 2
    return (-(-num_encoded // config.adapter_stack_size)).tolist()


def audios_of_rows(input_ids: torch.LongTensor, lengths: list[int], audio_token_id: int) -> list[list[int]]:
    """The indices of the audios, which take up `lengths`, of each row of `input_ids` (batch_size, num_positions)."""
    ends, rows, first = [0, *itertools.accumulate(lengths)], [], 0
    for end in itertools.accumulate((input_ids == audio_token_id).sum(dim=-1).tolist()):
        if end not in ends:
            break
        rows.append(list(range(first, ends.index(end))))
        first = ends.index(end)
    if len(rows) != len(input_ids) or first != len(lengths):
        raise ValueError(
            f"The `<|audio|>` placeholders of {len(input_ids)} rows do not match {len(lengths)} audios of {lengths} "
            "positions: prepare both with `FlowOmniProcessor`, and do not truncate its `input_ids`."
        )
    return rows


def drop_unheard(
    input_ids: torch.LongTensor,
    num_placeholders: list[int],
    num_heard: list[int],
    config: FlowOmniConfig,
    **aligned: torch.Tensor | None,
) -> dict[str, torch.Tensor | None]:
    """
    `input_ids` (batch_size, num_positions), and `aligned` inputs and labels, without the placeholders that audios have
    too many of: of the `num_placeholders` of each, the first `num_heard` are kept. Rows are padded on the left. The
    `attention_mask` and the `position_ids` say where each begins.
    """
    audios_of_rows(input_ids, num_placeholders, config.audio_token_id)  # raises unless each is in its own row
    is_audio = input_ids == config.audio_token_id
    is_heard = [torch.arange(total) < kept for total, kept in zip(num_placeholders, num_heard)]
    is_kept = ~is_audio
    is_kept[is_audio] = torch.cat(is_heard).to(input_ids.device)
    if aligned.get("attention_mask") is None:
        aligned["attention_mask"] = torch.ones_like(input_ids)
    if aligned.get("position_ids") is not None:
        # without gaps where positions are dropped
        aligned["position_ids"] = aligned["position_ids"] - (~is_kept).cumsum(dim=-1).to(
            aligned["position_ids"].device
        )
    # dropped positions first, all others in their order
    order = is_kept.int().argsort(dim=-1, stable=True)[:, -int(is_kept.sum(dim=-1).max()) :]
    is_kept = is_kept.gather(1, order)
    compact = {}
    for name, values in (aligned | {"input_ids": input_ids}).items():
        if values is None:
            continue
        index = (
            order.to(values.device)
            .view(*order.shape, *[1] * (values.dim() - 2))
            .expand(*order.shape, *values.shape[2:])
        )
        kept = is_kept.to(values.device).view(*order.shape, *[1] * (values.dim() - 2))
        compact[name] = values.gather(1, index).masked_fill(~kept, ALIGNED_INPUTS.get(name, 0))
    if aligned.get("position_ids") is None:
        compact["position_ids"] = (compact["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
    return compact


def uncached_audios(
    input_ids: torch.LongTensor,
    num_uncached: int,
    input_features: torch.Tensor | None,
    input_features_mask: torch.Tensor | None,
    config: FlowOmniConfig,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """
    The features (and mask) of the audios whose placeholders lie in the last `num_uncached` positions of `input_ids`;
    the others are in the cache. The caller may have passed only those.
    """
    uncached_ids = input_ids[:, -num_uncached:]
    num_placeholders = (uncached_ids == config.audio_token_id).sum(dim=-1).tolist()
    if input_features is None:
        if sum(num_placeholders) > 0:
            raise ValueError(
                f"The prompt has {sum(num_placeholders)} `<|audio|>` placeholders but no audio: pass the "
                "`input_features` (and `input_features_mask`) that the processor returned with it."
            )
        return None, None
    lengths = num_audio_tokens(input_features, input_features_mask, config)
    if sum(num_placeholders) == sum(lengths):
        audios_of_rows(uncached_ids, lengths, config.audio_token_id)  # raises unless each is in its own row
        return input_features, input_features_mask
    kept = []
    for row, num_uncached_placeholders in zip(
        audios_of_rows(input_ids, lengths, config.audio_token_id), num_placeholders
    ):
        # placeholders of no audio of the row, of its last, of its last two, ...
        counts = [0, *itertools.accumulate(lengths[index] for index in reversed(row))]
        if num_uncached_placeholders not in counts:
            raise ValueError("The cache ends in the middle of an audio: crop `cache` to the end of a message.")
        kept += row[len(row) - counts.index(num_uncached_placeholders) :]
    if not kept:
        return None, None
    return input_features[kept], input_features_mask[kept] if input_features_mask is not None else None
