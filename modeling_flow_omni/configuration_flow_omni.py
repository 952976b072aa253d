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
"""The configuration of Flow-Omni: one class for the whole, one for its speech side; the ears and the LLM bring their own."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.type_validators import activation_fn_key, positive_int_field

from .configuration_flow_omni_vocoder import FlowOmniVocoderConfig
from .declared_fields import FlowOmniBaseConfig, non_negative_field, positive_field, share_field


@strict
class FlowOmniSpeechConfig(FlowOmniBaseConfig):
    r"""
    The speech side of a [`FlowOmniForSpeechGeneration`]: mel geometry, speech transformer, speech head.

    Args:
        sampling_rate (`int`, *optional*, defaults to 24000):
            Samples per second of the speech that the model produces.
        n_fft (`int`, *optional*, defaults to 1024):
            Window of the Fourier transform behind the mel-spectrogram, in samples.
        hop_length (`int`, *optional*, defaults to 256):
            Samples between two mel frames.
        num_mel_bins (`int`, *optional*, defaults to 100):
            Mel bands of a frame.
        mel_padding (`str`, *optional*, defaults to `"center"`):
            Where the first frame lies: `"center"` on the first sample, `"same"` so that `n` samples give `n / hop_length`
            frames. The names are those of Vocos.
        frames_per_step (`int`, *optional*, defaults to 4):
            Mel frames that one step of the language model brings forth, a *patch*. 1 is the paper.
        speech_delay (`int`, *optional*, defaults to 3):
            Text tokens of the answer that run ahead of the `start` state.
        mel_floor (`float`, *optional*, defaults to -7.0):
            Lowest log-mel value the model sees. Digital silence lies at -16 and would stretch the scale for nothing.
        initial_mel_mean (`float`, *optional*, defaults to -0.8):
            Mean of the log-mel values until training has measured it for every band.
        initial_mel_std (`float`, *optional*, defaults to 2.2):
            Standard deviation of the log-mel values until training has measured it for every band.
        num_hidden_layers (`int`, *optional*, defaults to 2):
            Layers of the speech transformer, which are of the language model's own kind and width.
        intermediate_size (`int`, *optional*):
            Width of their feed-forward networks. Defaults to the language model's.
        head_type (`str`, *optional*, defaults to `"flow"`):
            How a patch is drawn: `"flow"` from noise, by flow matching; `"residual_vq"` as codes of a residual vector
            quantiser, the discrete baseline.
        head_hidden_size (`int`, *optional*, defaults to 512):
            Width of the head.
        head_num_layers (`int`, *optional*, defaults to 3):
            Residual blocks of the head.
        head_hidden_act (`str`, *optional*, defaults to `"silu"`):
            Activation of the head.
        time_embedding_size (`int`, *optional*, defaults to 256):
            Size of the sinusoidal embedding of the flow time.
        prediction_type (`str`, *optional*, defaults to `"data"`):
            What the flow head puts out: the clean patch (`"data"`) or the `"velocity"`, as in the paper.
        min_time_to_data (`float`, *optional*, defaults to 0.05):
            Smallest `1 - t` by which a predicted patch is turned into a velocity.
        time_logit_mean (`float`, *optional*, defaults to -0.4):
            Mean of the logit of the flow times drawn in training.
        time_logit_std (`float`, *optional*, defaults to 1.0):
            Standard deviation of that logit.
        num_noise_draws (`int`, *optional*, defaults to 4):
            Noise draws for each target patch of a training step: the head is cheap beside the language model.
        condition_dropout (`float`, *optional*, defaults to 0.1):
            Share of training conditions replaced by the learnt empty one, which guidance needs.
        num_codebooks (`int`, *optional*, defaults to 8):
            Codebooks of the residual quantiser.
        codebook_size (`int`, *optional*, defaults to 1024):
            Codes of each codebook.
        patch_noise (`float`, *optional*, defaults to 0.5):
            In training, the patches that the language model reads carry noise of a deviation drawn from `[0, patch_noise]`,
            so that it learns not to trust its own small errors.
        patch_dropout (`float`, *optional*, defaults to 0.2):
            A share of those patches, drawn for each row from `[0, patch_dropout]`, is left out altogether. Where many are
            missing only the text says what comes next: the higher, the sooner a model from nothing follows its text.
        own_patches (`float`, *optional*, defaults to 0.0):
            In training, before noise and gaps, a share of the previous patches, drawn for each row from `[0, own_patches]`,
            is replaced by those that the model itself finds most typical there, for the language model and the speech
            transformer alike: it learns to go on from its own voice. Costs a second pass forwards.
        clean_context (`bool`, *optional*, defaults to `True`):
            Whether the speech transformer reads the previous patches as they are, in training too. A small model, whose own
            patches are far from the targets, may lean on them and forget the text: with `False` its speech transformer
            reads what its language model reads.
    """

    model_type = "flow_omni_speech"
    base_config_key = "speech_config"

    sampling_rate: int = positive_int_field(default=24000)
    n_fft: int = positive_int_field(default=1024)
    hop_length: int = positive_int_field(default=256)
    num_mel_bins: int = positive_int_field(default=100)
    mel_padding: Literal["center", "same"] = "center"
    frames_per_step: int = positive_int_field(default=4)
    speech_delay: int = non_negative_field(default=3)
    mel_floor: float = -7.0
    initial_mel_mean: float = -0.8
    initial_mel_std: float = positive_field(default=2.2)
    num_hidden_layers: int = positive_int_field(default=2)
    intermediate_size: int | None = positive_int_field(default=None)
    head_type: Literal["flow", "residual_vq"] = "flow"
    head_hidden_size: int = positive_int_field(default=512)
    head_num_layers: int = positive_int_field(default=3)
    head_hidden_act: str = activation_fn_key(default="silu")
    time_embedding_size: int = positive_int_field(default=256)
    prediction_type: Literal["data", "velocity"] = "data"
    min_time_to_data: float = positive_field(default=0.05)
    time_logit_mean: float = -0.4
    time_logit_std: float = non_negative_field(default=1.0)
    num_noise_draws: int = positive_int_field(default=4)
    condition_dropout: float = share_field(default=0.1)
    num_codebooks: int = positive_int_field(default=8)
    codebook_size: int = positive_int_field(default=1024)
    patch_noise: float = non_negative_field(default=0.5)
    patch_dropout: float = share_field(default=0.2)
    own_patches: float = share_field(default=0.0)
    clean_context: bool = True

    def validate_architecture(self):
        if self.hop_length > self.n_fft:
            raise ValueError(
                f"`hop_length` ({self.hop_length}) exceeds `n_fft` ({self.n_fft}): samples between two windows would "
                "never be seen. Lower `hop_length`."
            )
        if self.min_time_to_data > 1:
            raise ValueError(
                f"`min_time_to_data` ({self.min_time_to_data}) must be at most 1, the time that the whole path takes."
            )
        if self.time_embedding_size % 2:
            raise ValueError(
                f"`time_embedding_size` ({self.time_embedding_size}) must be even: half of it are sines, half cosines."
            )

    @property
    def patch_size(self) -> int:
        """Numbers in a patch: `frames_per_step * num_mel_bins`."""
        return self.frames_per_step * self.num_mel_bins

    @property
    def steps_per_second(self) -> float:
        """Steps of the language model in a second of speech."""
        return self.sampling_rate / (self.hop_length * self.frames_per_step)


@strict
class FlowOmniConfig(FlowOmniBaseConfig):
    r"""
    The configuration of a [`FlowOmniForSpeechGeneration`]. The defaults are small enough to build anywhere.

    Args:
        audio_config (`PreTrainedConfig` or `dict`, *optional*):
            The Whisper whose encoder listens. Defaults to a small one.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            The causal language model: Qwen2, Qwen3, Llama or any other of their shape. Defaults to a small Qwen2.
        speech_config (`FlowOmniSpeechConfig` or `dict`, *optional*):
            The speech side: mel geometry, speech transformer, head.
        vocoder_config (`FlowOmniVocoderConfig` or `dict`, *optional*):
            The vocoder that the checkpoint carries. `None` carries none: the model then returns mel-spectrograms only.
        audio_token_id (`int`, *optional*):
            Id of the placeholder `<|audio|>`, one for each step of heard speech. Defaults to the last of the vocabulary.
        audio_blank_token_id (`int`, *optional*):
            The token that a step of heard speech stands for when it adds nothing to what was heard before, in the loss of
            listening (CTC). Defaults to `audio_token_id`, which nothing is ever written with.
        adapter_stack_size (`int`, *optional*, defaults to 4):
            Encoder frames (of 20 ms) that the adapter joins into one step.
        adapter_hidden_size (`int`, *optional*):
            Width of the adapter's linear blocks. Defaults to the language model's.
        adapter_num_layers (`int`, *optional*, defaults to 2):
            Linear blocks of the adapter.
        adapter_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation between them.
        pad_state_id (`int`, *optional*, defaults to 0):
            Speech state of a step outside speech.
        start_state_id (`int`, *optional*, defaults to 1):
            Speech state of the one step before the first patch.
        generating_state_id (`int`, *optional*, defaults to 2):
            Speech state of a step that brings forth a patch.
        stop_state_id (`int`, *optional*, defaults to 3):
            Speech state of the one step after the last patch.
        text_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the cross-entropy of the text tokens.
        state_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the cross-entropy of the speech states.
        speech_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the head's loss (flow matching, or codes).
        auxiliary_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the L1 error of a linear guess of the patch from the head's condition.
        audio_loss_weight (`float`, *optional*, defaults to 0.3):
            Weight of the loss of listening, where transcripts of what is heard are passed as `audio_labels`.
        state_class_weights (`list[float]`, *optional*, defaults to `[0.5, 5.0, 1.0, 5.0]`):
            Weight of each speech state in its cross-entropy, by id: starts and stops are rare and matter most.
        tie_word_embeddings (`bool`, *optional*):
            Whether the text head shares the input embeddings. Defaults to what `text_config` says.
    """

    model_type = "flow_omni"
    keys_to_ignore_at_inference = ["cache", "condition"]
    sub_configs = {
        "audio_config": AutoConfig,
        "text_config": AutoConfig,
        "speech_config": FlowOmniSpeechConfig,
        "vocoder_config": FlowOmniVocoderConfig,
    }

    _default_audio_fields = {
        "model_type": "whisper",
        "d_model": 192,
        "encoder_layers": 4,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 768,
        "decoder_layers": 1,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 768,
    }
    _default_text_fields = {
        "model_type": "qwen2",
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    speech_config: dict | PreTrainedConfig | None = None
    vocoder_config: dict | PreTrainedConfig | None = None
    audio_token_id: int | None = None
    audio_blank_token_id: int | None = None
    adapter_stack_size: int = positive_int_field(default=4)
    adapter_hidden_size: int | None = positive_int_field(default=None)
    adapter_num_layers: int = positive_int_field(default=2)
    adapter_hidden_act: str = activation_fn_key(default="gelu")
    pad_state_id: int = 0
    start_state_id: int = 1
    generating_state_id: int = 2
    stop_state_id: int = 3
    text_loss_weight: float = non_negative_field(default=1.0)
    state_loss_weight: float = non_negative_field(default=1.0)
    speech_loss_weight: float = non_negative_field(default=1.0)
    auxiliary_loss_weight: float = non_negative_field(default=1.0)
    audio_loss_weight: float = non_negative_field(default=0.3)
    state_class_weights: list[float | int] | tuple[float | int, ...] = (0.5, 5.0, 1.0, 5.0)
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        self.audio_config = _auto_config(self.audio_config, self._default_audio_fields)
        self.text_config = _auto_config(self.text_config, self._default_text_fields)
        if not isinstance(self.speech_config, PreTrainedConfig):
            self.speech_config = FlowOmniSpeechConfig(**(self.speech_config or {}))
        if isinstance(self.vocoder_config, dict):
            self.vocoder_config = FlowOmniVocoderConfig(**self.vocoder_config)
        self.state_class_weights = [float(weight) for weight in self.state_class_weights]
        if self.audio_token_id is None:
            self.audio_token_id = self.text_config.vocab_size - 1
        if self.audio_blank_token_id is None:
            self.audio_blank_token_id = self.audio_token_id
        if self.adapter_hidden_size is None:
            self.adapter_hidden_size = self.text_config.hidden_size
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        if self.audio_config.model_type != "whisper":
            raise ValueError(
                f"`audio_config` is of the type `{self.audio_config.model_type}`: only Whisper's encoder can listen. "
                "Pass a `WhisperConfig`."
            )
        if not 0 <= self.audio_token_id < self.text_config.vocab_size:
            raise ValueError(
                f"`audio_token_id` ({self.audio_token_id}) lies outside the vocabulary of {self.text_config.vocab_size} "
                "tokens: pass the id of `<|audio|>` in the tokenizer, and resize the embeddings if it is a new token."
            )
        if not 0 <= self.audio_blank_token_id < self.text_config.vocab_size:
            raise ValueError(
                f"`audio_blank_token_id` ({self.audio_blank_token_id}) lies outside the vocabulary of "
                f"{self.text_config.vocab_size} tokens: pass the id of a token that no transcript has."
            )
        if sorted(self.state_ids) != [0, 1, 2, 3]:
            raise ValueError(
                f"The ids of the speech states (pad, start, generating, stop) are {self.state_ids}: they must be 0, 1, "
                "2 and 3 in some order."
            )
        if len(self.state_class_weights) != 4 or not all(weight >= 0 for weight in self.state_class_weights):
            raise ValueError(
                f"`state_class_weights` is {self.state_class_weights}: pass four numbers of at least 0, one for each "
                "speech state, in the order of their ids."
            )
        if self.vocoder_config is not None:
            self._validate_vocoder_geometry()

    def _validate_vocoder_geometry(self):
        names = {"sampling_rate": "sampling_rate", "n_fft": "n_fft", "hop_length": "hop_length"}
        names |= {"num_mel_bins": "num_mel_bins", "mel_padding": "padding"}
        for speech_name, vocoder_name in names.items():
            speech_value = getattr(self.speech_config, speech_name)
            vocoder_value = getattr(self.vocoder_config, vocoder_name)
            if speech_value != vocoder_value:
                raise ValueError(
                    f"`speech_config.{speech_name}` ({speech_value}) differs from `vocoder_config.{vocoder_name}` "
                    f"({vocoder_value}): the vocoder can only sound the mel-spectrograms it was trained on. Set the "
                    "former to the latter."
                )

    @property
    def state_ids(self) -> list[int]:
        """The ids of the speech states: pad, start, generating, stop."""
        return [self.pad_state_id, self.start_state_id, self.generating_state_id, self.stop_state_id]

    @property
    def sampling_rate(self) -> int:
        """Samples per second of the speech that the model produces (read by transformers' pipelines)."""
        return self.speech_config.sampling_rate


def _auto_config(config: PreTrainedConfig | dict | None, default_fields: dict[str, Any]) -> PreTrainedConfig:
    """A config as given, from its fields, or from `default_fields`, whose model type also serves fields without one."""
    if isinstance(config, PreTrainedConfig):
        return config
    fields = dict(default_fields if config is None else config)
    model_type = fields.pop("model_type", default_fields["model_type"])
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"`model_type={model_type!r}` is unknown to the installed transformers: use a type it knows, such as "
            f"`{default_fields['model_type']}`, or upgrade transformers."
        )
    return CONFIG_MAPPING[model_type](**fields)


__all__ = ["FlowOmniConfig", "FlowOmniSpeechConfig"]
