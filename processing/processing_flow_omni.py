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
"""The processor: conversations of text and audio to the model's inputs, and the model's output to text and audio."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from .audio_io import flat_list
from .conversations import as_batch, audio_items, chat_template_for, check_conversation, end_of_turn_id, split_answer
from .feature_extraction_flow_omni import FlowOmniFeatureExtractor
from .parallel_streams import (
    SpeechState,
    collate_examples,
    join_streams,
    places_of_words,
    separate_streams,
    spread_bytes,
    timed_text,
    words_with_tokens,
)


# The user's message of each task. With an empty prompt, the message is the user's text or audio alone.
TASK_PROMPTS = {"ask": "", "say": "Read aloud: {text}", "transcribe": "Transcribe the speech."}


class FlowOmniProcessor(ProcessorMixin):
    """
    Wraps the tokenizer of the language model and a [`FlowOmniFeatureExtractor`].

    Args:
        feature_extractor (`FlowOmniFeatureExtractor`):
            Computes the features of input audio, and the mel patches of spoken answers.
        tokenizer (`PreTrainedTokenizerBase`):
            The language model's tokenizer, with `audio_token` in its vocabulary. It is set to pad on the left.
        chat_template (`str` or `dict`, *optional*):
            Defaults to the tokenizer's, or ChatML if it has none, extended to audio items.
        audio_token (`str`, *optional*, defaults to `"<|audio|>"`):
            The placeholder of a position of input audio.
        speech_delay (`int`, *optional*, defaults to 3):
            Number of text tokens of an answer before its speech starts, in training examples.
        max_audio_seconds (`float`, *optional*, defaults to 600.0):
            Maximum length of an audio.
        task_prompts (`dict[str, str]`, *optional*):
            The prompts that [`make_conversation`] writes for the tasks `ask`, `say` (with `{text}`, which is replaced)
            and `transcribe`, for instance in another language.
        ctc_alphabet (`str`, *optional*, defaults to the letters of English, apostrophe and space):
            The symbols that the model's audio adapter spells with.
        speech_loop (`str`, *optional*, defaults to `"language_model"`), voices (`list[str]`, *optional*):
            Those of the model's config. With `"speech_decoder"`, the steps of speech are a sequence of their own.
    """

    # rendered prompts have all special tokens already, and rows end where the answer begins
    text_kwargs = {"padding": True, "padding_side": "left", "add_special_tokens": False, "return_tensors": "pt"}

    def __init__(
        self,
        feature_extractor,
        tokenizer,
        chat_template=None,
        audio_token: str = "<|audio|>",
        speech_delay: int = 3,
        max_audio_seconds: float = 600.0,
        task_prompts: dict[str, str] | None = None,
        ctc_alphabet: str = "abcdefghijklmnopqrstuvwxyz' ",
        speech_loop: str = "language_model",
        voices: Sequence[str] = ("default",),
    ):
        if not hasattr(feature_extractor, "extract_mel"):
            raise TypeError(
                f"`feature_extractor` is a `{type(feature_extractor).__name__}`, not a `FlowOmniFeatureExtractor`: other "
                "models' processors cannot be loaded. Build one with `FlowOmniProcessor.from_parts`."
            )
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        self.audio_token = audio_token
        self.audio_token_id = tokenizer.get_vocab().get(audio_token)
        if self.audio_token_id is None:
            raise ValueError(f"The tokenizer lacks `{audio_token}`: `FlowOmniProcessor.from_parts` adds it.")
        self.speech_delay = speech_delay
        self.speech_loop, self.voices = speech_loop, list(voices)
        self.max_audio_seconds = max_audio_seconds
        self.ctc_alphabet = ctc_alphabet
        self.task_prompts = TASK_PROMPTS | (task_prompts or {})
        if "{text}" not in self.task_prompts["say"] or len(self.task_prompts) > len(TASK_PROMPTS):
            raise ValueError(
                f"`task_prompts` is {task_prompts}: its keys must be among {', '.join(TASK_PROMPTS)}, and `say` must "
                "contain {text}, which is replaced by the text to say."
            )
        self.chat_template = chat_template_for(tokenizer, audio_token, chat_template or tokenizer.chat_template)
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._end_of_turn: tuple[tuple, int] | None = None

    @classmethod
    def from_parts(cls, tokenizer, config, audio_token: str = "<|audio|>", **kwargs) -> "FlowOmniProcessor":
        """
        The processor for a language model's tokenizer, which gets the audio token if it lacks it, and a
        [`FlowOmniConfig`]. `kwargs` are other arguments of the processor.
        """
        # a token that is in the vocabulary keeps its id, and is never split from now on
        tokenizer.add_special_tokens({"extra_special_tokens": [audio_token]}, replace_extra_special_tokens=False)
        audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        if audio_token_id != config.audio_token_id:
            raise ValueError(
                f"The id of `{audio_token}` in the tokenizer is {audio_token_id}, but `audio_token_id` of the config is "
                f"{config.audio_token_id}: set the latter to the former."
            )
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
        kwargs.setdefault("ctc_alphabet", config.ctc_alphabet)
        kwargs.setdefault("speech_loop", config.speech_loop)
        kwargs.setdefault("voices", speech_config.voices)
        return cls(feature_extractor, tokenizer, audio_token=audio_token, **kwargs)

    @property
    def frames_per_step(self) -> int:
        return self.feature_extractor.frames_per_step

    @property
    def adapter_stack_size(self) -> int:
        return self.feature_extractor.adapter_stack_size

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of generated speech."""
        return self.feature_extractor.speech_sampling_rate

    @property
    def unused_input_names(self) -> list[str]:
        return ["token_type_ids"]

    @property
    def answer_end_token_id(self) -> int:
        """The token that ends an answer: the first that the chat template writes after an assistant's message."""
        # cached, as every training example needs it; users may set another template
        key = (repr(self.chat_template), self.tokenizer.eos_token, len(self.tokenizer))
        if self._end_of_turn is None or self._end_of_turn[0] != key:
            self._end_of_turn = (key, end_of_turn_id(self))
        return self._end_of_turn[1]

    def __call__(self, text=None, audio=None, **kwargs: Unpack[ProcessingKwargs]) -> BatchFeature:
        r"""
        Prepares rendered prompts; [`apply_chat_template`] renders them from conversations.

        Args:
            text (`str` or `list[str]`, *optional*):
                The prompts, with one `audio_token` for each audio.
            audio (audio or `list` of audios, *optional*):
                One audio per placeholder, in the order of the placeholders over all prompts: anything that
                [`load_audio`] reads.
            kwargs:
                `sampling_rate` of arrays (defaults to the feature extractor's), and options of the tokenizer.

        Returns:
            `input_ids` and `attention_mask`, and if there is audio `input_features` and `input_features_mask`.
        """
        if kwargs.get("images") is not None or kwargs.get("videos") is not None:
            raise ValueError("Got `images` or `videos`: the model's inputs are text and audio only.")
        return super().__call__(text=text, audio=audio, **kwargs)

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if isinstance(text, str | list | tuple):  # a new list, as placeholders are replaced in it
            text = [text] if isinstance(text, str) else list(text)
        # the feature extractor loads each audio, once
        return images, text, videos, None if audio is None else flat_list(audio)

    def _process_audio(self, audio, **kwargs):
        return super()._process_audio(audio, max_seconds=self.max_audio_seconds, **kwargs)

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs) -> str:
        # the feature extractor pads to whole positions
        num_frames = int(audio_inputs["input_features_mask"][audio_idx].sum())
        return self.audio_token * (num_frames // self.feature_extractor.frames_per_position)

    def _multimodal_inputs_from_conversations(self, conversations, *args, **kwargs):
        # transformers would load files here, at a rate that it guesses, and refuse other sources
        prompts = [message for messages in conversations for message in messages if message["role"] != "assistant"]
        return [], [], audio_items(prompts), {}

    def apply_chat_template(
        self, conversation, chat_template: str | None = None, sanitize_control_tokens: bool = False, **kwargs
    ):
        """
        Renders conversations, and with `tokenize=True` and `return_dict=True` prepares the model's inputs.

        Args:
            conversation (`list[dict]` or `list[list[dict]]`):
                Messages with `role` and `content`: a string, or a list of items. An item is `{"type": "text", "text":
                …}` or `{"type": "audio", …}`, with the audio under `audio` (anything that [`load_audio`] reads),
                `array` (and its `sampling_rate`), `bytes`, `base64`, `path` or `url`. Of earlier answers, the model
                reads only the text.
            chat_template (`str`, *optional*):
                A template, or the name of one of the processor's.
            sanitize_control_tokens (`bool`, *optional*, defaults to `False`):
                Whether to tokenize control tokens in the messages' texts as plain text.
            kwargs:
                The other arguments of `ProcessorMixin.apply_chat_template`, such as `add_generation_prompt`,
                `continue_final_message`, `return_dict`, `return_tensors`, `tools`, and variables of the template.
        """
        if chat_template is not None and "{" in chat_template:  # a template, not a name
            chat_template = chat_template_for(self.tokenizer, self.audio_token, chat_template)
        for single in as_batch(conversation)[0]:
            check_conversation(single, None if sanitize_control_tokens else self.audio_token)
        return super().apply_chat_template(
            conversation, chat_template=chat_template, sanitize_control_tokens=sanitize_control_tokens, **kwargs
        )

    def make_conversation(self, task: str, text: str | None = None, audio: Any = None) -> list[dict]:
        """
        The conversation of a task: `ask` a question in `text`, `audio` or both, `say` a `text`, or `transcribe` an
        `audio`. An audio is anything that [`load_audio`] reads.
        """
        given = tuple(name for name, value in (("text", text), ("audio", audio)) if value is not None)
        accepted = {"ask": [("text",), ("audio",), ("text", "audio")], "say": [("text",)], "transcribe": [("audio",)]}
        if task not in accepted:
            raise ValueError(f"The task is {task!r}: it must be one of {', '.join(accepted)}.")
        if given not in accepted[task]:
            needed = " or ".join(f"`{' and '.join(names)}`" for names in accepted[task])
            raise ValueError(f"The task {task!r} got {' and '.join(given) or 'no input'}: pass {needed}.")
        prompt = self.task_prompts[task]
        if task == "say":
            prompt = prompt.replace("{text}", text)
        elif text is not None:
            prompt = f"{prompt} {text}".strip()
        content = [{"type": "audio", "audio": audio}] if audio is not None else []
        if prompt:
            content.append({"type": "text", "text": prompt})
        return [{"role": "user", "content": content}]

    def answer_ids(self, texts: str | Sequence[str]) -> torch.LongTensor:
        """
        Texts `(num_texts, num_tokens)` for `generate(answer_ids=...)`, by which a speech decoder reads them aloud. Each ends
        in the end of an answer.
        """
        end = self.answer_end_token_id
        rows = [
            torch.tensor([*self.tokenizer(text, add_special_tokens=False)["input_ids"], end])
            for text in ([texts] if isinstance(texts, str) else texts)
        ]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=end)

    def prepare_training_inputs(
        self, conversations, text_layout: str = "leading", word_times: Sequence | None = None
    ) -> BatchFeature:
        """
        A training batch of one or several conversations, with one list of `word_times` for each; see
        [`encode_training_example`].
        """
        conversations, is_batch = as_batch(conversations)
        if word_times is None or not is_batch:
            word_times = [word_times] * len(conversations)
        if len(word_times) != len(conversations):
            raise ValueError(
                f"Got the word times of {len(word_times)} answers for {len(conversations)} conversations: pass one list "
                "for each."
            )
        pairs = zip(conversations, word_times)
        return self.collate([self.encode_training_example(single, text_layout, times) for single, times in pairs])

    def encode_training_example(
        self,
        conversation: Sequence[Mapping],
        text_layout: str = "leading",
        word_times: Sequence[tuple] | None = None,
        voice: str | None = None,
        character_times: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """
        One training example, without padding. The messages before the answer go through [`apply_chat_template`], so
        that prompts are the same in training and inference.

        Args:
            conversation (`list[dict]`):
                Messages. The last one is the assistant's: the text of the answer, and if it is spoken its audio item.
            text_layout (`str`, *optional*, defaults to `"leading"`):
                The text of a spoken answer leads, one token per position, or with `"timed"` comes shortly before its
                speech. A speech decoder reads it as it is said, by the times that are given.
            word_times (`list[tuple[str, float]]`, *optional*):
                For the timed layout, and a speech decoder: the words as they are written in the answer, each with the
                second in which it begins.
            voice (`str`, *optional*):
                For a speech decoder: the one of `voices` that speaks. Defaults to the first.
            character_times (`list[float]`, *optional*):
                For a speech decoder: the second in which each character of the answer is said, which is more precise
                than `word_times`.
        """
        if text_layout not in ("leading", "timed"):
            raise ValueError(f'`text_layout` is {text_layout!r}: choose "leading" or "timed".')
        history, text, speech = split_answer(conversation, self.audio_token)
        prompt = self.apply_chat_template(history, add_generation_prompt=True, tokenize=True, return_dict=True)
        patches = num_patches = None
        if speech is not None:
            patches = self.feature_extractor.extract_mel(speech, max_seconds=self.max_audio_seconds)
            num_patches = len(patches)
        prompt_ids = prompt["input_ids"][0].tolist()
        if self.speech_loop == "speech_decoder":
            example = self._beside_speech_decoder(text, prompt_ids, num_patches, word_times, character_times)
            if voice is not None and voice not in self.voices:
                raise ValueError(f"There is no voice {voice!r}: the model's `voices` are {', '.join(self.voices)}.")
            example["voice_id"] = self.voices.index(voice or self.voices[0])
        else:
            word_times = (word_times or ()) if text_layout == "timed" and speech is not None else None
            text_ids, pad_token_id = self._text_stream(text, num_patches, word_times), self.tokenizer.pad_token_id
            example = join_streams(prompt_ids, text_ids, pad_token_id, num_patches, self.speech_delay)
        padded = zip(prompt.get("input_features", []), prompt.get("input_features_mask", []))
        example["input_features"] = [features[:, mask.bool()] for features, mask in padded]
        if speech is not None:
            num_missing = int((example["speech_states"] == SpeechState.GENERATING).sum()) - num_patches
            example["mel_labels"] = torch.cat([patches, self.feature_extractor.silent_patches(num_missing)])
        return example

    def _beside_speech_decoder(
        self,
        text: str,
        prompt_ids: list[int],
        num_patches: int | None,
        word_times: Sequence[tuple] | None,
        character_times: Sequence[float] | None,
    ) -> dict[str, torch.Tensor]:
        """The streams of an answer beside a speech decoder, and if it is spoken the bytes that the decoder reads."""
        token_ids, offsets = self._tokens_of_answer(text, with_offsets=True)
        streams = separate_streams(prompt_ids, [*token_ids, self.answer_end_token_id], num_patches)
        if num_patches is None:
            return streams
        times = list(enumerate(character_times)) if character_times else []
        if len(times) not in (0, len(text)):
            raise ValueError(
                f"Got the times of {len(times)} characters for an answer of {len(text)}: pass one for each."
            )
        if word_times and not times:
            times = places_of_words(text, word_times)
        rate = self.feature_extractor.patches_per_second
        return streams | spread_bytes(text, offsets, times, len(prompt_ids), rate, num_patches)

    def _tokens_of_answer(self, text: str, with_offsets: bool) -> tuple[list[int], list[tuple[int, int]] | None]:
        """The tokens of an answer, and if wanted the characters that each covers."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=with_offsets)
        if self.answer_end_token_id in encoded["input_ids"]:
            end = self.tokenizer.convert_ids_to_tokens(self.answer_end_token_id)
            raise ValueError(f"The answer {text!r} contains `{end}`, which ends an answer: remove it.")
        return encoded["input_ids"], encoded.get("offset_mapping")

    def _text_stream(self, text: str, num_patches: int | None, word_times: Sequence | None) -> list[int]:
        """The tokens of an answer and its end, and with `word_times` the pads between its words (the timed layout)."""
        (token_ids, offsets), end = self._tokens_of_answer(text, word_times is not None), self.answer_end_token_id
        if word_times is None:
            return [*token_ids, end]
        rate = self.feature_extractor.patches_per_second
        words = words_with_tokens(text, token_ids, offsets, word_times, rate, num_patches)
        return timed_text(words, end, self.tokenizer.pad_token_id)

    def collate(self, examples: Sequence[dict]) -> BatchFeature:
        """A batch of training examples for the model's `forward`, padded on the right."""
        return BatchFeature(collate_examples(examples, self.tokenizer.pad_token_id))

    def post_process_generation(self, output: Mapping, skip_special_tokens: bool = True, **kwargs) -> list[dict]:
        """
        The answers in the output of `generate`: for each row a dictionary with `text`, `audio` (`np.ndarray`, or
        `None` if there is no speech) and `sampling_rate`. `kwargs` are arguments of the tokenizer's `batch_decode`.
        """
        answer_ids = output["sequences"][:, -output["speech_states"].shape[1] :]
        texts = self.tokenizer.batch_decode(answer_ids, skip_special_tokens=skip_special_tokens, **kwargs)
        waveforms = output["audio"] if output.get("audio") is not None else [()] * len(texts)
        waveforms = [_to_numpy(waveform) if len(waveform) > 0 else None for waveform in waveforms]
        return [
            {"text": text, "audio": waveform, "sampling_rate": self.sampling_rate}
            for text, waveform in zip(texts, waveforms)
        ]

    def transcripts_of(self, audio_features: Any) -> list[str]:
        """
        What CTC has heard in each audio: of the output of `model.get_audio_features`, where the adapter spells
        (`adapter_compression="ctc"`). The language model has chosen among likely texts, and generates nothing.
        """
        if audio_features.windows[0].token_ids is None:
            raise ValueError(
                'The audio adapter does not spell: only one with `adapter_compression="ctc"` transcribes by itself. Ask '
                'the language model (`make_conversation("transcribe", audio=...)`).'
            )
        windows = [
            [
                self.tokenizer.decode([token for token in ids if token >= 0]).strip()
                for ids in window.token_ids.tolist()
            ]
            for window in audio_features.windows
        ]
        return [" ".join(filter(None, texts)) for texts in zip(*windows)]

    def post_process_multimodal_output(
        self, generated_outputs, skip_special_tokens: bool = True, generation_mode: str | None = None, **kwargs
    ) -> list:
        """For pipelines: the waveforms (`generation_mode="audio"` or `"speech"`), or the texts with their prompts."""
        is_output = isinstance(generated_outputs, Mapping)
        if generation_mode not in ("audio", "speech"):
            sequences = generated_outputs["sequences"] if is_output else generated_outputs
            mode = None if generation_mode == "auto" else generation_mode
            return super().post_process_multimodal_output(sequences, skip_special_tokens, mode, **kwargs)
        audio = generated_outputs.get("audio") if is_output else None
        if audio is None:
            raise ValueError(
                "The output of `generate` has no audio: pass `return_audio=True` to a model with a vocoder."
            )
        return [_to_numpy(waveform) for waveform in audio]


def _to_numpy(waveform: torch.Tensor) -> np.ndarray:
    return waveform.detach().float().cpu().numpy()
