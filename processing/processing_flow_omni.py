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
"""The processor: conversations of text and sound into the model's inputs, and the model's answers back into both."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Unpack

import numpy as np
import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from .audio_io import load_audio
from .chat_template import chat_template_for, with_flat_contents
from .conversations import (
    as_batch,
    audio_item_of,
    audio_source,
    normalize_conversation,
    normalize_message,
    split_answer,
    text_of,
)
from .feature_extraction_flow_omni import FlowOmniFeatureExtractor
from .parallel_streams import (
    ParallelStreams,
    SpeechState,
    leading_layout,
    num_audio_tokens,
    timed_layout,
    words_with_tokens,
)
from .training_examples import as_example, collate_examples


# Rendered prompts hold every special token already; rows end where the answer begins.
TEXT_DEFAULTS = {"padding": True, "padding_side": "left", "add_special_tokens": False, "return_tensors": "pt"}

# What the user's message says in each task; an empty one lets the user's own words stand alone.
TASK_PROMPTS = {"ask": "", "say": "Read aloud: {text}", "transcribe": "Transcribe the speech."}


class FlowOmniProcessorKwargs(ProcessingKwargs, total=False):
    # for older versions of transformers, which read no defaults from the processor's `text_kwargs`
    _defaults = {"text_kwargs": TEXT_DEFAULTS}


class FlowOmniProcessor(ProcessorMixin):
    """
    Wraps the tokenizer of the language model and a [`FlowOmniFeatureExtractor`].

    Args:
        feature_extractor (`FlowOmniFeatureExtractor`):
            Turns waveforms into features, and into the mel patches of spoken answers.
        tokenizer (`PreTrainedTokenizerBase`):
            The language model's, with `audio_token` among its special tokens. It is set to pad on the left, as
            generation needs it.
        chat_template (`str` or `dict`, *optional*):
            Defaults to the tokenizer's own, or ChatML where it has none, taught to read audio items.
        audio_token (`str`, *optional*, defaults to `"<|audio|>"`):
            The placeholder of a step of heard speech.
        speech_delay (`int`, *optional*, defaults to 3):
            Text tokens of an answer that run ahead of its speech, in training examples.
        max_audio_seconds (`float`, *optional*, defaults to 600.0):
            Longest audio that is accepted.
        task_prompts (`dict[str, str]`, *optional*):
            What [`make_conversation`] writes for the tasks `ask`, `say` (with `{text}` where the text goes) and
            `transcribe`. Replace them to work in another language.
    """

    valid_processor_kwargs = FlowOmniProcessorKwargs
    text_kwargs = TEXT_DEFAULTS

    def __init__(
        self,
        feature_extractor,
        tokenizer,
        chat_template=None,
        audio_token: str = "<|audio|>",
        speech_delay: int = 3,
        max_audio_seconds: float = 600.0,
        task_prompts: dict[str, str] | None = None,
    ):
        if not hasattr(feature_extractor, "extract_mel"):
            raise TypeError(
                f"`feature_extractor` is a `{type(feature_extractor).__name__}`: a `FlowOmniFeatureExtractor` is needed. A "
                "checkpoint of another kind cannot be loaded; build a processor with `FlowOmniProcessor.from_parts`."
            )
        if not isinstance(speech_delay, int) or speech_delay < 0:
            raise ValueError(f"`speech_delay` is {speech_delay!r}: it must be a number of tokens, 0 or more.")
        if not max_audio_seconds > 0:
            raise ValueError(f"`max_audio_seconds` is {max_audio_seconds!r}: it must be a positive number of seconds.")
        self.audio_token = audio_token
        self.speech_delay = speech_delay
        self.max_audio_seconds = max_audio_seconds
        self.task_prompts = _checked_task_prompts(task_prompts)
        self._unknown_fields = {}
        self._answer_end: tuple[tuple, int] | None = None
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        self.audio_token_id = _id_of_token(tokenizer, audio_token)
        if self.chat_template is None:
            self.chat_template = chat_template_for(tokenizer, audio_token)
        elif isinstance(self.chat_template, str):
            self.chat_template = with_flat_contents(self.chat_template, audio_token)
        tokenizer.padding_side = "left"

    @classmethod
    def from_parts(cls, tokenizer, config, audio_token: str = "<|audio|>", **kwargs) -> "FlowOmniProcessor":
        """
        The processor of a model with this config around the language model's tokenizer, which gets the audio token if it
        lacks it, and a pad token (its end of sequence) if it has none.

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                The language model's.
            config (`FlowOmniConfig`):
                The model's.
            kwargs:
                Other arguments of the processor.
        """
        state_ids = [config.pad_state_id, config.start_state_id, config.generating_state_id, config.stop_state_id]
        if state_ids != list(SpeechState):
            raise ValueError(
                f"The config numbers the speech states (pad, start, generating, stop) {state_ids}: the processor writes "
                f"{[int(state) for state in SpeechState]}. Use these."
            )
        # a token that the vocabulary has already keeps its id, and is from now on never split
        tokenizer.add_special_tokens({"extra_special_tokens": [audio_token]}, replace_extra_special_tokens=False)
        audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        if audio_token_id != config.audio_token_id:
            raise ValueError(
                f"The tokenizer numbers `{audio_token}` {audio_token_id}, the config says `audio_token_id` is "
                f"{config.audio_token_id}: set the config's to {audio_token_id}, and resize the embeddings if they are fewer."
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        speech_config = config.speech_config
        feature_extractor = FlowOmniFeatureExtractor(
            feature_size=config.audio_config.num_mel_bins,
            adapter_stack_size=config.adapter_stack_size,
            frames_per_step=speech_config.frames_per_step,
            speech_sampling_rate=speech_config.sampling_rate,
            speech_n_fft=speech_config.n_fft,
            speech_hop_length=speech_config.hop_length,
            speech_num_mel_bins=speech_config.num_mel_bins,
            speech_padding=speech_config.mel_padding,
        )
        kwargs.setdefault("speech_delay", speech_config.speech_delay)
        return cls(feature_extractor, tokenizer, audio_token=audio_token, **kwargs)

    @property
    def frames_per_step(self) -> int:
        return self.feature_extractor.frames_per_step

    @property
    def adapter_stack_size(self) -> int:
        return self.feature_extractor.adapter_stack_size

    @property
    def sampling_rate(self) -> int:
        """Samples per second of the speech that the model says."""
        return self.feature_extractor.speech_sampling_rate

    @property
    def unused_input_names(self) -> list[str]:
        return ["token_type_ids"]

    @property
    def answer_end_token_id(self) -> int:
        """The token that ends an answer: whatever the chat template writes after an assistant's message."""
        # every training example asks for it, and to find it out takes a tenth of the time of one
        depends_on = (repr(self.chat_template), self.tokenizer.eos_token, len(self.tokenizer))
        if self._answer_end is None or self._answer_end[0] != depends_on:
            self._answer_end = (depends_on, self._find_answer_end())
        return self._answer_end[1]

    def _find_answer_end(self) -> int:
        marker = "ANSWER"
        conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": marker}]
        rendered = self.apply_chat_template(conversation, tokenize=False)
        tail = self.tokenizer(rendered.rpartition(marker)[-1], add_special_tokens=False).input_ids
        control_ids = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        end = next((token_id for token_id in tail if token_id in control_ids), self.tokenizer.eos_token_id)
        if marker not in rendered or end is None:
            raise ValueError(
                f"The chat template renders a question {conversation[0]['content']!r} and its answer {marker!r} as "
                f"{rendered!r}: the answer must be in it, and a special token (or the tokenizer's `eos_token`) must end it."
            )
        return end

    def __call__(
        self, text: str | list[str] | None = None, audio: Any = None, **kwargs: Unpack[FlowOmniProcessorKwargs]
    ) -> BatchFeature:
        r"""
        Prepares rendered prompts; [`apply_chat_template`] renders them from conversations.

        Args:
            text (`str` or `list[str]`, *optional*):
                The prompts, with one `audio_token` for each audio.
            audio (audio or `list` of audios, *optional*):
                What the placeholders stand for, in their order over all prompts: arrays, tensors, paths, URLs, bytes,
                file objects or audio columns of `datasets`.
            kwargs:
                `sampling_rate` of arrays (the feature extractor's by default), and options of the tokenizer.

        Returns:
            [`BatchFeature`] with `input_ids` and `attention_mask`, and `input_features` and `input_features_mask` if there
            is audio.
        """
        _check_call(text, audio, kwargs)
        if audio is not None:
            sampling_rate = _pop_sampling_rate(kwargs)
            audio = [self._load(item, sampling_rate) for item in _flat_list(audio)]
            kwargs["sampling_rate"] = self.feature_extractor.sampling_rate
        return super().__call__(text=text, audio=audio, **kwargs)

    def validate_inputs(self, text=None, audio=None, **kwargs) -> None:
        if text is None:
            return
        texts = [text] if isinstance(text, str) else text
        num_placeholders = sum(single.count(self.audio_token) for single in texts)
        num_waveforms = len(audio) if audio is not None else 0
        if num_placeholders != num_waveforms:
            raise ValueError(
                f"Got {num_waveforms} waveforms for {num_placeholders} `{self.audio_token}` placeholders: the number of "
                f"`{self.audio_token}` tokens in the prompts should be the same as the number of waveforms. Pass one per "
                "placeholder, in the order of the conversation."
            )

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs) -> str:
        num_frames = int(audio_inputs["input_features_mask"][audio_idx].sum())
        return self.audio_token * num_audio_tokens(num_frames, self.adapter_stack_size)

    def apply_chat_template(
        self,
        conversation,
        chat_template: str | None = None,
        tokenize: bool = False,
        processor_kwargs: dict | None = None,
        sanitize_control_tokens: bool = False,
        **kwargs,
    ):
        """
        Renders conversations, and with `tokenize=True` and `return_dict=True` prepares the model's inputs.

        Args:
            conversation (`list[dict]` or `list[list[dict]]`):
                Messages with `role` and `content`: a string, or a list of items. An item is `{"type": "text", "text": …}`
                or `{"type": "audio", …}` with the audio under one of `audio` (anything that [`load_audio`] reads), `array`,
                `bytes`, `base64`, `path`, `url` or `audio_url`, and, for an array, its `sampling_rate`. Of earlier
                answers of the assistant, only the text is kept.
            sanitize_control_tokens (`bool`, *optional*, defaults to `False`):
                Whether control tokens in the messages' text are read as plain text, which takes a recent transformers.
            kwargs:
                The other arguments of `ProcessorMixin.apply_chat_template`, such as `add_generation_prompt`,
                `continue_final_message`, `return_dict`, `return_tensors`, `tools`, and variables of the template.
        """
        if chat_template is not None and "{" in chat_template:
            # a template, not the name of one
            chat_template = with_flat_contents(chat_template, self.audio_token)
        processor_kwargs = dict(processor_kwargs or {})
        rates = [_pop_sampling_rate(options) for options in (kwargs, processor_kwargs)]
        read_audio = partial(self._load_item, sampling_rate=next((rate for rate in rates if rate is not None), None))

        conversations, is_batch = as_batch(conversation)
        conversations = [
            normalize_conversation(
                single,
                read_audio=read_audio if tokenize else None,
                forbidden_text=None if sanitize_control_tokens else self.audio_token,
            )
            for single in conversations
        ]
        if sanitize_control_tokens:
            if not hasattr(self.tokenizer, "_mark_chat_inputs"):
                raise ValueError(
                    "`sanitize_control_tokens=True` is unknown to this version of transformers, which would let users write "
                    "control tokens: update transformers."
                )
            kwargs["sanitize_control_tokens"] = True
        return super().apply_chat_template(
            conversations if is_batch else conversations[0],
            chat_template=chat_template,
            tokenize=tokenize,
            processor_kwargs=processor_kwargs,
            **kwargs,
        )

    def make_conversation(
        self, task: Literal["ask", "say", "transcribe"], text: str | None = None, audio: Any = None
    ) -> list[dict]:
        """
        The conversation of a task: `ask` a question in `text` or `audio`, `say` a `text`, or `transcribe` an `audio`.

        Args:
            task (`str`):
                `"ask"`, `"say"` or `"transcribe"`.
            text (`str`, *optional*):
                The question, or what to say.
            audio (audio, *optional*):
                The question, or the speech to transcribe, from wherever [`load_audio`] reads it.
        """
        if task not in self.task_prompts:
            raise ValueError(f"The task is {task!r}: it must be one of {', '.join(self.task_prompts)}.")
        needed = {
            "ask": text is not None or audio is not None,
            "say": text is not None,
            "transcribe": audio is not None,
        }
        if not needed[task]:
            remedies = {"ask": "`text` or `audio` (or both)", "say": "`text`", "transcribe": "`audio`"}
            raise ValueError(f"The task {task!r} got nothing to work on: pass {remedies[task]}.")
        surplus = {"say": ("audio", audio), "transcribe": ("text", text)}.get(task)
        if surplus is not None and surplus[1] is not None:
            raise ValueError(f"The task {task!r} takes no `{surplus[0]}`: leave it out, or use the task 'ask'.")
        prompt = self.task_prompts[task]
        if task == "say":
            prompt = prompt.replace("{text}", text)
        elif text is not None:
            prompt = f"{prompt} {text}".strip()
        content = [{"type": "audio", "audio": audio}] if audio is not None else []
        if prompt:
            content.append({"type": "text", "text": prompt})
        return [{"role": "user", "content": content}]

    def prepare_training_inputs(
        self,
        conversations,
        text_layout: Literal["leading", "timed"] = "leading",
        word_times: Sequence | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """
        A training batch: the last message of each conversation is the assistant's, and the target. See
        [`encode_training_example`] for the arguments; `word_times` are one list for each conversation.
        """
        if return_tensors != "pt":
            raise ValueError(f'`return_tensors` is {return_tensors!r}: training batches are tensors. Pass "pt".')
        conversations, is_batch = as_batch(conversations)
        if word_times is None:
            word_times = [None] * len(conversations)
        elif not is_batch:
            word_times = [word_times]
        if len(word_times) != len(conversations):
            raise ValueError(
                f"Got the word times of {len(word_times)} answers for {len(conversations)} conversations: pass one list (or "
                "None) for each."
            )
        return self.collate(
            [
                self.encode_training_example(conversation, text_layout=text_layout, word_times=times)
                for conversation, times in zip(conversations, word_times)
            ]
        )

    def encode_training_example(
        self,
        conversation: Sequence[Mapping],
        text_layout: Literal["leading", "timed"] = "leading",
        word_times: Sequence[tuple] | None = None,
    ) -> dict[str, Any]:
        """
        One training example, unpadded. Everything before the answer goes the way of inference, through
        [`apply_chat_template`], so that the model meets the same prompts in training and in use.

        Args:
            conversation (`list[dict]`):
                Messages, of which the last is the assistant's: its text, and if it is spoken its audio item.
            text_layout (`str`, *optional*, defaults to `"leading"`):
                Whether the text of a spoken answer runs ahead at one token a step, or is `"timed"`: each word shortly
                before it is heard.
            word_times (`list[tuple[str, float]]`, *optional*):
                For the timed layout: the words as they are written in the answer, and the second in which each begins.
        """
        history, answer = split_answer(conversation)
        if text_layout not in ("leading", "timed"):
            raise ValueError(f'`text_layout` is {text_layout!r}: choose "leading" or "timed".')
        prompt = self.apply_chat_template(
            history, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        text = text_of(normalize_message(answer, "The answer", forbidden_text=self.audio_token))
        speech = audio_item_of(answer)
        patches = None if speech is None else self._patches_of(speech)
        streams = self._lay_out(prompt["input_ids"][0].tolist(), text, patches, text_layout, word_times)
        if patches is not None and streams.num_patches > len(patches):
            silence = self.feature_extractor.silent_patches(streams.num_patches - len(patches))
            patches = torch.cat([patches, silence])
        features = [
            feature[:, mask.bool()]
            for feature, mask in zip(prompt.get("input_features", []), prompt.get("input_features_mask", []))
        ]
        return as_example(streams, features, patches)

    def collate(self, examples: Sequence[dict]) -> BatchFeature:
        """A batch of encoded examples, padded on the right, for the model's `forward`."""
        return BatchFeature(collate_examples(examples, self._text_pad_token_id))

    def decode(self, token_ids, **kwargs):
        """
        Decodes token ids as the tokenizer does; of what `generate` returned, the answers: for each row a dictionary of
        `text`, `audio` (`np.ndarray`, or `None` where nothing was said) and `sampling_rate`.
        """
        if _is_generate_output(token_ids):
            return self._answers(token_ids, **kwargs)
        return self.tokenizer.decode(token_ids, **kwargs)

    def batch_decode(self, sequences, **kwargs):
        """[`decode`] for several sequences of token ids."""
        if _is_generate_output(sequences):
            return self._answers(sequences, **kwargs)
        return self.tokenizer.batch_decode(sequences, **kwargs)

    def post_process_multimodal_output(
        self, generated_outputs, skip_special_tokens: bool = True, generation_mode: str | None = None, **kwargs
    ) -> list:
        """
        What transformers' pipelines ask for: the waveforms (`generation_mode="audio"` or `"speech"`) or else the texts of
        what `generate` returned, prompts included.
        """
        if generation_mode in ("audio", "speech"):
            audio = generated_outputs.get("audio") if _is_generate_output(generated_outputs) else None
            if audio is None:
                raise ValueError(
                    "There is no audio in what `generate` returned: the model needs a vocoder, and `return_audio=True` and "
                    "`return_dict_in_generate=True`."
                )
            return [_to_numpy(waveform) for waveform in audio]
        if generation_mode not in (None, "text", "auto"):
            raise ValueError(f'`generation_mode` is {generation_mode!r}: this model answers with "text" or "audio".')
        is_output = _is_generate_output(generated_outputs)
        sequences = generated_outputs["sequences"] if is_output else generated_outputs
        return self.tokenizer.batch_decode(sequences, skip_special_tokens=skip_special_tokens, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """
        The fields, among them those of a checkpoint that this version does not know, and the `auto_map` by which
        `trust_remote_code` finds this class. That depends on the class alone: transformers writes it into the object
        when saving, where it would tell saved objects from new ones.
        """
        output = self._unknown_fields | super().to_dict()
        output.pop("auto_map", None)
        if self._auto_class is not None:
            module = self.__class__.__module__.rpartition(".")[-1]
            output["auto_map"] = {self._auto_class: f"{module}.{self.__class__.__name__}"}
        return output

    @classmethod
    def from_args_and_dict(cls, args, processor_dict: dict[str, Any], **kwargs):
        loaded = super().from_args_and_dict(args, processor_dict, **kwargs)
        processor = loaded[0] if isinstance(loaded, tuple) else loaded
        known = {*cls.__init__.__code__.co_varnames, "auto_map", "processor_class"}
        processor._unknown_fields = {name: value for name, value in processor_dict.items() if name not in known}
        return loaded

    @property
    def _text_pad_token_id(self) -> int:
        if self.tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no `pad_token`, which fills rows of unequal length: set one.")
        return self.tokenizer.pad_token_id

    def _load(self, source: Any, sampling_rate: int | None = None) -> np.ndarray:
        return load_audio(source, self.feature_extractor.sampling_rate, sampling_rate, self.max_audio_seconds)

    def _load_item(self, item: Mapping, sampling_rate: int | None = None) -> np.ndarray:
        """The waveform of an audio item; `sampling_rate` is that of arrays whose item does not name it."""
        return self._load(audio_source(item), item.get("sampling_rate") or sampling_rate)

    def _patches_of(self, item: Mapping) -> torch.Tensor:
        """The mel patches of a spoken answer."""
        source, rate = audio_source(item), item.get("sampling_rate")
        waveform = load_audio(source, self.sampling_rate, rate, self.max_audio_seconds)
        return self.feature_extractor.extract_mel(waveform)

    def _lay_out(
        self,
        prompt_ids: list[int],
        text: str,
        patches: torch.Tensor | None,
        text_layout: str,
        word_times: Sequence[tuple] | None,
    ) -> ParallelStreams:
        """The two streams of a prompt and its answer."""
        end, pad = self.answer_end_token_id, self._text_pad_token_id
        is_timed = text_layout == "timed" and patches is not None
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=is_timed)
        answer_ids = encoded["input_ids"]
        if end in answer_ids:
            raise ValueError(
                f"The answer {text!r} holds `{self.tokenizer.convert_ids_to_tokens(end)}`, which ends an answer: take it out."
            )
        if not is_timed:
            num_patches = None if patches is None else len(patches)
            return leading_layout(prompt_ids, answer_ids, end, pad, num_patches, self.speech_delay)
        if word_times is None:
            raise ValueError(
                'The timed layout got no `word_times`: pass the second in which each word begins, or use `text_layout="leading"`.'
            )
        words = words_with_tokens(
            text,
            answer_ids,
            encoded["offset_mapping"],
            [(word, onset) for word, onset, *_ in word_times],
            self.feature_extractor.speech_steps_per_second,
        )
        return timed_layout(prompt_ids, words, end, pad, len(patches), self.speech_delay)

    def _answers(self, output: Mapping, skip_special_tokens: bool = True, **kwargs) -> list[dict[str, Any]]:
        """The answers in what `generate` returned, one dictionary a row."""
        new_ids = output["sequences"][:, -output["speech_states"].shape[1] :]
        texts = self.tokenizer.batch_decode(new_ids, skip_special_tokens=skip_special_tokens, **kwargs)
        waveforms = [None] * len(texts) if output.get("audio") is None else map(_to_numpy, output["audio"])
        return [
            {
                "text": text,
                "audio": waveform if waveform is not None and waveform.size > 0 else None,
                "sampling_rate": self.sampling_rate,
            }
            for text, waveform in zip(texts, waveforms)
        ]


def _checked_task_prompts(task_prompts: dict[str, str] | None) -> dict[str, str]:
    """The prompts of all tasks: those given, and the defaults of the others."""
    task_prompts = TASK_PROMPTS | (task_prompts or {})
    unknown = set(task_prompts) - set(TASK_PROMPTS)
    if unknown:
        raise ValueError(f"`task_prompts` has the keys {sorted(unknown)}: the tasks are {', '.join(TASK_PROMPTS)}.")
    if "{text}" not in task_prompts["say"]:
        raise ValueError(
            f"The prompt of the task 'say' is {task_prompts['say']!r}: it must hold {{text}}, where the text goes."
        )
    return task_prompts


def _check_call(text: Any, audio: Any, options: Mapping) -> None:
    """Whether there is something to prepare, and nothing that cannot be."""
    for name in ("images", "videos"):
        if options.get(name) is not None:
            raise ValueError(f"Got `{name}`: this model reads text and hears audio, and sees nothing. Leave them out.")
    if text is None and audio is None:
        raise ValueError("Got neither `text` nor `audio`: pass at least one of them.")
    is_list = isinstance(text, list | tuple) and len(text) > 0 and all(isinstance(single, str) for single in text)
    if not is_list and not isinstance(text, str | None):
        raise ValueError(f"`text` is {text!r}: pass a string or a list of strings.")


def _id_of_token(tokenizer: Any, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != token:
        raise ValueError(
            f"The tokenizer does not know `{token}`, which stands for audio: `FlowOmniProcessor.from_parts` adds it."
        )
    return token_id


def _pop_sampling_rate(options: dict) -> int | None:
    """Takes the sampling rate of arrays out of call options, where it may lie flat or among `audio_kwargs`."""
    flat = options.pop("sampling_rate", None)
    if options.get("audio_kwargs"):
        options["audio_kwargs"] = dict(options["audio_kwargs"])
        nested = options["audio_kwargs"].pop("sampling_rate", None)
        return flat if flat is not None else nested
    return flat


def _flat_list(audio: Any) -> list:
    """One audio, several, or several for each prompt, as one list. A list of numbers is one waveform."""
    if not isinstance(audio, list | tuple) or all(isinstance(item, int | float | np.number) for item in audio):
        return [audio]
    return [leaf for item in audio for leaf in _flat_list(item)]


def _is_generate_output(output: Any) -> bool:
    return isinstance(output, Mapping) and "sequences" in output


def _to_numpy(waveform: Any) -> np.ndarray:
    if isinstance(waveform, torch.Tensor):
        waveform = waveform.detach().float().cpu().numpy()
    return np.asarray(waveform, dtype=np.float32).reshape(-1)
