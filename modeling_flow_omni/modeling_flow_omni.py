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
The model: Whisper's encoder and an adapter, a causal language model over two parallel streams (text, and speech states
with mel patches), and a speech decoder.
"""

import copy
import functools
import hashlib
import importlib
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, WhisperConfig
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticCache, StaticLayer
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .audio_adapters import (
    AUDIO_ADAPTERS,
    IGNORE_INDEX,
    FlowOmniAdapterOutput,
    FlowOmniCTCAdapter,
    FlowOmniEmbeddingNorm,
    letter_ctc_loss,
    token_ctc_loss,
)
from .configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig
from .generation_flow_omni import FlowOmniGenerationMixin, drop_unheard, num_audio_tokens
from .lexicon import score_token_rows
from .modeling_flow_omni_vocoder import FlowOmniVocoder
from .speech_decoder import FlowOmniSpeechDecoder, advance_labels, advance_loss
from .speech_heads import SPEECH_HEADS, FlowOmniResidualQuantizer, FlowOmniSpeechHead, FlowOmniZeroLinear


# tokens that the CTC loss of a training batch compares audio with, beside those of its transcripts
NUM_DRAWN_TOKENS = 2000

# transformers' auto classes that load a `FlowOmniForSpeechGeneration`
AUTO_CLASSES = ("AutoModel", "AutoModelForMultimodalLM", "AutoModelForTextToWaveform")

# the groups of modules that are trained or frozen together, by the prefixes of their parameters' names
MODULE_GROUPS: dict[str, tuple[str, ...]] = {
    "audio_encoder": ("model.audio_encoder.",),
    "audio_adapter": ("model.audio_adapter.",),
    "language_model": ("model.language_model.", "lm_head."),
    "speech_inputs": ("model.state_embedding.", "model.patch_proj."),
    "speech_decoder": ("speech_transformer.", "speech_decoder.", "speech_head.", "state_head.", "advance_head."),
    "vocoder": ("vocoder.",),
}


INPUTS_DOCSTRING = r"""
input_features (`torch.Tensor` of shape `(num_audios, num_mel_bins, num_frames)`, *optional*):
    Whisper's log-mel features of the audios, right-padded, in the order of their placeholders in `input_ids`.
input_features_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
    1 for frames of audio, 0 for padding.
audio_embeddings (`torch.Tensor` of shape `(num_audio_tokens, hidden_size)`, *optional*):
    What `get_audio_features` made of the audios, instead of `input_features`: one row for each placeholder.
speech_states (`torch.LongTensor` of shape `(batch_size, num_positions)`, *optional*):
    The speech state of every position. Defaults to `pad` throughout. Those of a speech decoder are of shape
    `(batch_size, num_steps)`: its steps are a sequence of their own, as are `state_labels` and `previous_patches`.
previous_patches (`torch.Tensor` of shape `(batch_size, num_positions, patch_size)`, *optional*):
    The normalised patch of the position before, zeros where that has none. Defaults to the targets, where `mel_labels`
    are passed (teacher forcing).
"""
SPEECH_DECODER_DOCSTRING = r"""
text_bytes (`torch.LongTensor` of shape `(batch_size, num_bytes)`, *optional*):
    For a speech decoder: the bytes of the text of each answer and its end, 256; 0 is padding.
byte_steps (`torch.LongTensor` of shape `(batch_size, num_bytes)`, *optional*):
    The step of speech at which each of `text_bytes` is reached, never falling; -100 is padding.
byte_positions (`torch.LongTensor` of shape `(batch_size, num_bytes)`, *optional*):
    The position in `input_ids` of the token of each of `text_bytes`, for a decoder that reads hidden states.
text_hidden_states (`torch.Tensor` of shape `(batch_size, num_positions, hidden_size)`, *optional*):
    For a speech decoder: the language model's final hidden states at `input_ids`. With them (or with
    `reads_hidden_states=False`) and without `labels` the language model does not run, and `input_ids` may be left out.
voice_ids (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
    For a speech decoder: the index in `voices` of each row's voice. Defaults to the first.
"""
LABELS_DOCSTRING = r"""
labels (`torch.LongTensor` of shape `(batch_size, num_positions)`, *optional*):
    Text targets, aligned with `input_ids` (the model shifts them); -100 is ignored.
state_labels (`torch.LongTensor` of shape `(batch_size, num_positions)`, *optional*):
    Speech state targets, aligned with `speech_states` (the model shifts them); -100 is ignored.
mel_labels (`torch.Tensor` of shape `(batch_size, max_patches, frames_per_step, num_mel_bins)`, *optional*):
    Log-mel targets, right-padded: the patches of each row's `generating` positions, in order.
audio_labels (`torch.LongTensor` of shape `(num_audios, max_labels)`, *optional*):
    The tokens of the transcript of each audio in `input_features`, padded with -100, for the CTC loss.
teacher_logits (`torch.Tensor` of shape `(num_targets, vocab_size)`, *optional*):
    For distillation: what a teacher scores at each text target, one after another over all rows. Needs `labels`.
letter_labels (`torch.LongTensor` of shape `(num_audios, max_letters)`, *optional*):
    The letters of these transcripts, as indices of `ctc_alphabet`, for an adapter with `adapter_compression="ctc"`.
"""


def fingerprint(language_model: PreTrainedModel, weights: dict[str, torch.Tensor] | None = None) -> dict[str, str]:
    """
    Hashes of a causal language model's weights, at up to 4,096 places in each: of its embeddings and norms, which
    quantisation leaves as they are, and of its other weights (none of a quantised model). `weights` are those of its
    backbone, where the model itself holds only a shard of them.
    """
    hashes = {"embeddings": hashlib.sha256(), "layers": hashlib.sha256()}
    is_quantised = getattr(language_model.config, "quantization_config", None) is not None
    # the parameters alone: in the state dict, bitsandbytes adds the scales of its weights
    for name, weight in sorted((weights or dict(language_model.base_model.named_parameters())).items()):
        group = "embeddings" if weight.dim() == 1 or name == "embed_tokens.weight" else "layers"
        if group == "layers" and is_quantised:
            continue
        values = weight.detach().flatten()
        # bf16: a checkpoint in bf16 has the same fingerprint when it is loaded in fp32
        sampled = values[:: max(1, len(values) // 4096)].to("cpu", torch.bfloat16)
        hashes[group].update(name.encode() + sampled.view(torch.int16).numpy().tobytes())
    digests = {group: digest.hexdigest()[:16] for group, digest in hashes.items()}
    return {"embeddings": digests["embeddings"]} if is_quantised else digests


def load_causal_lm(source: str, revision: str | None, dtype: torch.dtype) -> PreTrainedModel:
    """
    A causal language model by its folder or Hub id; where the package is installed, also of a GGUF file or of an
    installed package (`pypi:NAME==VERSION`).
    """
    try:
        convert = importlib.import_module("flow_omni.modeling_flow_omni.convert_flow_omni")
    except ModuleNotFoundError as error:
        if str(source).startswith("pypi:"):
            raise ImportError(
                f"Loading the language model {source!r} needs the package: pip install flow-omni"
            ) from error
        return AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=dtype)
    return convert.load_language_model(source, dtype, revision)


def count_parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """The number of parameters in each of `MODULE_GROUPS`, and of those that are trainable."""
    counts = {}
    for group, prefixes in MODULE_GROUPS.items():
        parameters = [parameter for name, parameter in model.named_parameters() if name.startswith(prefixes)]
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        counts[group] = (sum(parameter.numel() for parameter in parameters), trainable)
    return counts


@dataclass
class FlowOmniAudioFeatures(BaseModelOutputWithPooling):
    """
    Outputs of `FlowOmniModel.get_audio_features`.

    Args:
        pooler_output (`torch.Tensor` of shape `(num_audio_tokens, hidden_size)`): The embeddings of all audios, one
            after another, without padding.
        audio_lengths (`torch.LongTensor` of shape `(num_audios,)`): The number of embeddings of each.
        windows (`list[FlowOmniAdapterOutput]`): Outputs of the adapter for each window of 30 seconds.
        frame_lengths (`list[torch.LongTensor]`): Encoder frames of each audio in each window.
    """

    audio_lengths: torch.LongTensor | None = None
    windows: list[FlowOmniAdapterOutput] | None = None
    frame_lengths: list[torch.LongTensor] | None = None


@dataclass
class FlowOmniModelOutputWithPast(BaseModelOutputWithPast):
    """
    Outputs of `FlowOmniModel`.

    Args:
        audio_features (`FlowOmniAudioFeatures`, *optional*): The encoded audio.
    """

    audio_features: FlowOmniAudioFeatures | None = None


@dataclass
class FlowOmniOutputWithPast(CausalLMOutputWithPast):
    """
    Outputs of `FlowOmniForSpeechGeneration`.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when any labels are passed):
            The weighted sum of the losses below, each of which is returned when its labels are passed.
        logits (`torch.Tensor` of shape `(batch_size, num_positions, vocab_size)`, *optional*):
            Scores of the next text token. Not returned with `labels`: the head then runs at labelled positions alone.
        state_logits (`torch.Tensor` of shape `(batch_size, num_positions, 4)`):
            Scores of the next speech state.
        log_rates (`torch.Tensor` of shape `(batch_size, num_steps)`, *optional*):
            Of a speech decoder: the logarithm of how many bytes of the text it expects to read on until the next step.
        condition (`torch.Tensor` of shape `(batch_size, num_positions, hidden_size)`):
            Output of the speech transformer or speech decoder, the condition of each position's patch.
        last_hidden_state (`torch.Tensor` of shape `(batch_size, num_positions, hidden_size)`):
            The language model's final hidden states, which a speech decoder may read.
        text_loss, distillation_loss, state_loss, speech_loss, auxiliary_loss, ctc_loss, letter_loss, advance_loss (`torch.Tensor` \
        of shape `()`, *optional*):
            Cross-entropy of the text tokens, their divergence from a teacher, cross-entropy of the speech states, loss
            of the speech head and of its linear prediction, CTC losses of the encoded audio, Poisson loss of the bytes
            that a speech decoder reads in each step.
    """

    state_logits: torch.Tensor | None = None
    log_rates: torch.Tensor | None = None
    condition: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None
    distillation_loss: torch.Tensor | None = None
    state_loss: torch.Tensor | None = None
    speech_loss: torch.Tensor | None = None
    auxiliary_loss: torch.Tensor | None = None
    ctc_loss: torch.Tensor | None = None
    letter_loss: torch.Tensor | None = None
    advance_loss: torch.Tensor | None = None


# --- audio encoder and adapter


class FlowOmniAudioPositions(nn.Module):
    """Whisper's fixed sinusoids: a buffer, which is saved with the weights and never trained."""

    def __init__(self, num_positions: int, size: int):
        super().__init__()
        self.register_buffer("weight", sinusoids(num_positions, size))

    def forward(self, num_frames: int) -> torch.Tensor:
        return self.weight[:num_frames]


class FlowOmniAudioEncoder(WhisperEncoder):
    """
    `WhisperEncoder` for audio of any length: shorter audio is encoded at its own length, under a mask; longer audio in
    windows of 30 seconds, one after another. On one full window the output is Whisper's own.
    """

    def __init__(self, config: WhisperConfig):
        super().__init__(config)
        self.embed_positions = FlowOmniAudioPositions(self.max_source_positions, config.d_model)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, FlowOmniAudioPositions):
            init.copy_(module.weight, sinusoids(*module.weight.shape))

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutput:
        r"""
        Args:
            input_features (`torch.Tensor` of shape `(num_audios, num_mel_bins, num_frames)`):
                Whisper's log-mel features, of any length.
            attention_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
                1 for frames of audio, 0 for padding, which must be on the right.

        Returns:
            `BaseModelOutput`, whose `last_hidden_state` has the shape `(num_audios, ceil(num_frames / 2), d_model)`
            and is zero where a whole window is padding.
        """
        if input_features.shape[1] != self.num_mel_bins:
            raise ValueError(
                f"Got features of {input_features.shape[1]} mel bands for an encoder of {self.num_mel_bins}: use the "
                f"checkpoint's own processor, or set `feature_size={self.num_mel_bins}` of the feature extractor."
            )
        # dtype only: an offloaded encoder has its weights nowhere until its layers run
        input_features = input_features.to(self.conv1.weight.dtype)
        if attention_mask is None:
            attention_mask = input_features.new_ones(input_features.shape[0], input_features.shape[-1])
        window_length = self.max_source_positions * self.conv1.stride[0] * self.conv2.stride[0]
        windows = zip(
            input_features.split(window_length, dim=-1),
            attention_mask.to(input_features.device).split(window_length, dim=-1),
        )
        encoded = [self._encode_window(features, mask.bool(), **kwargs) for features, mask in windows]
        return BaseModelOutput(last_hidden_state=torch.cat(encoded, dim=1))

    def _encode_window(self, features: torch.Tensor, mask: torch.BoolTensor, **kwargs) -> torch.Tensor:
        return self.run_layers(self.embed_frames(features, mask), mask[:, ::2], **kwargs)

    def embed_frames(self, features: torch.Tensor, mask: torch.BoolTensor) -> torch.Tensor:
        """The input of the first layer, for one window of features (num_audios, num_mel_bins, num_frames)."""
        # Both convolutions see one frame to each side: beyond the end of a row these must be the zeros of the padding
        # that the row would get alone, before the first and again before the second.
        frame_mask = mask[:, None].to(features.dtype)
        hidden_states = nn.functional.gelu(self.conv1(features * frame_mask)) * frame_mask
        hidden_states = nn.functional.gelu(self.conv2(hidden_states)).permute(0, 2, 1)
        hidden_states = hidden_states + self.embed_positions(hidden_states.shape[1])
        return nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)

    def run_layers(
        self, hidden_states: torch.Tensor, mask: torch.BoolTensor, first: int = 0, last: int | None = None, **kwargs
    ) -> torch.Tensor:
        """
        The layers from `first` to before `last` on their input (num_audios, num_encoded, d_model) for one window, and
        after all layers the norm.
        """
        has_audio = mask.any(dim=-1, keepdim=True)
        # a row without audio in this window attends to all of it: attention over nothing would give NaN
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=mask | ~has_audio
        )
        for layer in self.layers[first:last]:
            if self.training and torch.rand([]) < self.layerdrop:
                continue
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        if last is not None:
            return hidden_states
        return torch.where(has_audio[..., None], self.layer_norm(hidden_states), 0.0)


# --- mel patches


class FlowOmniMelNormalizer(nn.Module):
    """Normalises log-mel values by statistics of the training data, measured before the first step, kept in fp32."""

    def __init__(self, config: FlowOmniSpeechConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.full((config.num_mel_bins,), config.initial_mel_mean, dtype=torch.float32))
        self.register_buffer("std", torch.full((config.num_mel_bins,), config.initial_mel_std, dtype=torch.float32))

    def _apply(self, fn, recurse: bool = True):
        # `model.to(bfloat16)` may move the statistics but not round them: they scale all generated speech
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)
        if self.mean.dtype != torch.float32:
            self.mean, self.std = mean.to(self.mean.device), std.to(self.std.device)
        return self

    def normalize(self, mel: torch.Tensor) -> torch.Tensor:
        """Log-mel values (..., num_mel_bins) to normalised ones, in fp32."""
        mel = mel.to(self.mean.device, torch.float32).clamp(min=self.config.mel_floor)
        return (mel - self.mean) / self.std

    def denormalize(self, mel: torch.Tensor) -> torch.Tensor:
        """Normalised values (..., num_mel_bins) to log-mel."""
        return mel.to(self.mean.device, torch.float32) * self.std + self.mean

    def clamp_to_floor(self, patches: torch.Tensor) -> torch.Tensor:
        """Normalised patches (..., patch_size), none of their values below the floor."""
        floor = (self.config.mel_floor - self.mean) / self.std
        return torch.maximum(patches.unflatten(-1, (-1, len(floor))), floor.to(patches.device)).flatten(-2)


def lay_out_patches(patches: torch.Tensor, is_generating: torch.BoolTensor) -> torch.Tensor:
    """
    Moves each row's right-padded patches (batch_size, max_patches, patch_size), in order, to the positions where
    `is_generating` (batch_size, num_positions): (batch_size, num_positions, patch_size), zeros elsewhere.
    """
    num_patches = int(is_generating.sum(dim=-1).max())
    if num_patches > patches.shape[1]:
        raise ValueError(
            f"A row has {num_patches} generating positions but only {patches.shape[1]} patches: `mel_labels` must "
            "hold one patch for each position whose speech state is `generating`."
        )
    if patches.shape[1] == 0:
        return patches.new_zeros(*is_generating.shape, patches.shape[-1])
    index = (is_generating.cumsum(dim=-1) - 1).clamp(min=0)
    laid_out = patches.gather(1, index[..., None].expand(-1, -1, patches.shape[-1]))
    return torch.where(is_generating[..., None], laid_out, 0.0)


def shift_patches(patches: torch.Tensor) -> torch.Tensor:
    """The previous patch of each position, zeros at the first: (batch_size, num_positions, patch_size)"""
    return torch.cat([torch.zeros_like(patches[:, :1]), patches[:, :-1]], dim=1)


def corrupt_patches(patches: torch.Tensor, config: FlowOmniSpeechConfig) -> torch.Tensor:
    """
    Patches as the language model reads them in training: each row with noise of its own standard deviation, and a
    fraction of its own set to zero. At inference the model reads its own patches, which are never as good as the
    targets.
    """
    has_patch = patches.abs().sum(dim=-1, keepdim=True) > 0
    std = torch.rand(len(patches), 1, 1, device=patches.device) * config.patch_noise
    dropout = torch.rand(len(patches), 1, 1, device=patches.device) * config.patch_dropout
    is_kept = torch.rand(*patches.shape[:2], 1, device=patches.device) >= dropout
    return torch.where(has_patch & is_kept, patches + std * torch.randn_like(patches), 0.0)


# --- losses


def text_logits(lm_head: nn.Module, hidden_states: torch.Tensor, labels: torch.LongTensor) -> tuple[torch.Tensor, ...]:
    """
    The logits (num_targets, vocab_size) and targets (num_targets,) of the text, from `hidden_states` (batch_size,
    num_positions, hidden_size) and `labels` (batch_size, num_positions), aligned with the input: position `t` predicts
    the label of `t + 1`. The vocabulary head runs only where there is a label: with 152 thousand tokens it would
    otherwise cost more than everything else.
    """
    targets = labels[:, 1:].to(hidden_states.device)
    is_target = targets != IGNORE_INDEX
    logits = lm_head(hidden_states[:, :-1][is_target]).float()
    return logits, targets[is_target].to(logits.device)


def text_losses(
    logits: torch.Tensor, targets: torch.LongTensor, teacher_logits: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Cross-entropy of the next text token, and its Kullback-Leibler divergence from a teacher."""
    num_targets = max(len(logits), 1)
    losses = {"text_loss": nn.functional.cross_entropy(logits, targets, reduction="sum") / num_targets}
    if teacher_logits is not None:
        if len(teacher_logits) != len(logits):
            raise ValueError(
                f"Got `teacher_logits` of {len(teacher_logits)} positions for {len(logits)} text targets: both must answer "
                "the same texts."
            )
        log_probs, expected = logits.log_softmax(dim=-1), teacher_logits.to(logits).log_softmax(dim=-1)
        divergence = nn.functional.kl_div(log_probs, expected, reduction="sum", log_target=True)
        losses["distillation_loss"] = divergence / num_targets
    return losses


def state_loss(state_logits: torch.Tensor, labels: torch.LongTensor, class_weights: list[float]) -> torch.Tensor:
    """
    Cross-entropy of the next speech state, weighted by class, from `state_logits` (batch_size, num_positions, 4) and
    `labels` (batch_size, num_positions), which are aligned as the text labels are.
    """
    logits = state_logits[:, :-1].flatten(0, 1).float()
    targets = labels[:, 1:].flatten().to(logits.device)
    weights = torch.tensor(class_weights, device=logits.device)
    loss = nn.functional.cross_entropy(logits, targets, weights, ignore_index=IGNORE_INDEX, reduction="sum")
    total_weight = torch.where(targets == IGNORE_INDEX, 0.0, weights[targets.clamp(min=0)]).sum()
    return loss / total_weight.clamp(min=1e-6)


def weighted_sum(losses: dict[str, torch.Tensor], config: FlowOmniConfig) -> torch.Tensor | None:
    """The sum of the losses by the weights of the config; `None` without any."""
    weighted = [getattr(config, f"{name}_weight") * loss for name, loss in losses.items()]
    return torch.stack([loss.to(weighted[0].device) for loss in weighted]).sum() if weighted else None


# --- the model


class FlowOmniZeroEmbedding(nn.Embedding):
    """An embedding that starts at zero, a class of its own as `FlowOmniZeroLinear` is."""


@auto_docstring
class FlowOmniPreTrainedModel(PreTrainedModel):
    config: FlowOmniConfig
    base_model_prefix = "model"
    input_modalities = ("audio", "text")
    output_modalities = ("text", "audio")
    supports_gradient_checkpointing = True
    # head and adapter run as one unit: split across devices, their layers would mix devices mid-computation
    _no_split_modules = [
        "FlowOmniFlowHead",
        "FlowOmniResidualVQHead",
        "FlowOmniAudioAdapter",
        "FlowOmniCTCAdapter",
        "FlowOmniMelNormalizer",
    ]
    _skip_keys_device_placement = ["cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, (FlowOmniZeroLinear, FlowOmniZeroEmbedding)):
            init.zeros_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, FlowOmniEmbeddingNorm):
            # the size of new embeddings; that of pretrained ones is measured when the parts are assembled
            init.constant_(module.weight, getattr(self.config.text_config, "initializer_range", 0.02))
        elif isinstance(module, FlowOmniCTCAdapter):
            init.normal_(module.blank, std=getattr(self.config.text_config, "initializer_range", 0.02))
            # as large as the positions that are added: smaller letters are not seen for hundreds of steps
            init.normal_(module.letter_conv1.weight, std=0.5)
            init.zeros_(module.token_bytes)
        elif isinstance(module, FlowOmniSpeechHead):
            init.zeros_(module.empty_condition)
        elif isinstance(module, FlowOmniResidualQuantizer):
            init.normal_(module.codebooks, std=1.0)
        elif isinstance(module, FlowOmniMelNormalizer):
            init.constant_(module.mean, module.config.initial_mel_mean)
            init.constant_(module.std, module.config.initial_mel_std)


@auto_docstring(
    custom_intro="""
    The Flow-Omni backbone: Whisper's encoder, the adapter, and a causal language model whose input at every position
    is the sum of a text token, a speech state and the previous mel patch.
    """
)
class FlowOmniModel(FlowOmniPreTrainedModel):
    def __init__(self, config: FlowOmniConfig):
        super().__init__(config)
        hidden_size = config.text_config.hidden_size
        self.audio_encoder = FlowOmniAudioEncoder(config.audio_config)
        self.audio_adapter = AUDIO_ADAPTERS[config.adapter_compression](config)
        # an adapter gets its language model after its own weights (`join_language_model`)
        self.language_model = None if config.is_adapter else AutoModel.from_config(config.text_config)
        # The inputs that the language model was not pretrained on start at zero: its text stays exactly what it was.
        # That of `pad`, the state of all text, stays at zero, so that training changes no text either.
        self.state_embedding = self.patch_proj = None
        if config.speech_loop == "language_model":
            self.state_embedding = FlowOmniZeroEmbedding(len(config.state_ids), hidden_size, config.pad_state_id)
            self.patch_proj = FlowOmniZeroLinear(config.speech_config.patch_size, hidden_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return None if self.language_model is None else self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def embed_text(self, input_ids: torch.LongTensor) -> torch.Tensor:
        """The embeddings of text. Those of `<|audio|>`, which may have none, are replaced by encoded audio."""
        if self.config.audio_token_id >= self.config.text_config.vocab_size:
            input_ids = input_ids.masked_fill(input_ids == self.config.audio_token_id, 0)
        return self.get_input_embeddings()(input_ids)

    @can_return_tuple
    @auto_docstring(custom_intro="Encodes audio into embeddings of the language model.")
    def get_audio_features(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None = None,
        lm_head: nn.Module | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        input_features_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
            1 for frames of audio, 0 for padding.
        lm_head (`nn.Module`, *optional*):
            Of the language model, which then chooses among the texts that CTC finds.

        Returns:
            [`FlowOmniAudioFeatures`].
        """
        if input_features_mask is None:
            shape, device = (input_features.shape[0], input_features.shape[-1]), input_features.device
            input_features_mask = torch.ones(shape, dtype=torch.long, device=device)
        outputs = self.audio_encoder(input_features, attention_mask=input_features_mask, return_dict=True, **kwargs)
        # the second convolution of the encoder has a stride of two
        encoded_mask = input_features_mask[:, ::2].to(outputs.last_hidden_state.device)
        features = self.adapt(outputs.last_hidden_state, encoded_mask, lm_head=lm_head)
        features.hidden_states, features.attentions = outputs.hidden_states, outputs.attentions
        return features

    def get_letter_logits(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        The scores of CTC over letters (num_audios, num_encoded, num_letters + 1), of which the last is the blank, where
        the adapter spells: all that forced alignment needs, without the search for words.
        """
        if self.config.adapter_compression != "ctc":
            raise ValueError("The model's audio adapter does not spell: use one of `adapter_compression='ctc'`.")
        encoded = self.audio_encoder(input_features, attention_mask=input_features_mask, return_dict=True)
        return self.audio_adapter.letter_head(encoded.last_hidden_state)

    def adapt(
        self,
        encoded: torch.Tensor,
        mask: torch.Tensor,
        with_embeddings: bool = True,
        lm_head: nn.Module | None = None,
    ) -> FlowOmniAudioFeatures:
        """
        The adapter's part of [`get_audio_features`], for outputs of the encoder and their mask (num_audios,
        num_encoded). Without embeddings, as for CTC alone, the language model has nothing to read.
        """
        # CTC, as the encoder, sees each window by itself
        is_ctc = self.config.adapter_compression == "ctc"
        length = self.audio_encoder.max_source_positions if is_ctc else max(1, mask.shape[1])
        windows, frame_lengths, mask = [], [], mask.long()
        has_language_model = lm_head is not None and self.language_model is not None
        score_texts = functools.partial(self.score_texts, lm_head) if has_language_model else None
        # as many positions at most as the frames make that `adapter_stack_size` joins: so many placeholders are prepared
        most = -(-mask.cumsum(dim=-1) // self.config.adapter_stack_size)
        for start in range(0, encoded.shape[1], length):
            window, window_mask = encoded[:, start : start + length], mask[:, start : start + length]
            before = most[:, start - 1] if start > 0 else 0
            max_positions = most[:, min(start + length, mask.shape[1]) - 1] - before
            table = self.get_token_embeddings() if with_embeddings else None
            windows.append(self.audio_adapter(window, window_mask, table, max_positions, score_texts))
            frame_lengths.append(window_mask.sum(dim=-1))
        features = FlowOmniAudioFeatures(last_hidden_state=encoded, windows=windows, frame_lengths=frame_lengths)
        if with_embeddings:
            mask = torch.cat([window.mask for window in windows], dim=1)
            features.pooler_output = torch.cat([window.embeddings for window in windows], dim=1)[mask]
            features.audio_lengths = mask.sum(dim=-1)
        return features

    def get_token_embeddings(self) -> torch.Tensor | None:
        """The language model's embeddings (vocab_size, hidden_size), which audio is compared with."""
        return None if self.language_model is None else self.get_input_embeddings().weight

    @torch.no_grad()
    def score_texts(
        self, lm_head: nn.Module, texts: list[list[int]], ends: list[int]
    ) -> tuple[list[float], list[list[float]]]:
        """
        The log-likelihoods that the language model gives to the tokens of each of the `texts`, and to each of the tokens
        `ends` after it.
        """
        config = self.config.text_config
        start = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
        start = start[0] if isinstance(start, list) else start or 0
        return score_token_rows(self.language_model, lm_head, [[start, *text] for text in texts], ends)

    def ctc_losses(
        self,
        audio: FlowOmniAudioFeatures,
        audio_labels: torch.LongTensor | None = None,
        letter_labels: torch.LongTensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The losses of the transcripts of encoded audio: over tokens, and over letters where the adapter spells."""
        losses = {}
        if audio_labels is None and letter_labels is None:
            return losses
        if len(audio.windows) > 1:
            raise ValueError(
                "CTC losses are for audio of at most 30 seconds: leave out `audio_labels` of longer audio."
            )
        (window,), (num_frames,) = audio.windows, audio.frame_lengths
        if letter_labels is not None and window.letter_logits is not None:
            losses["letter_loss"] = letter_ctc_loss(window.letter_logits, num_frames, letter_labels)
        if audio_labels is not None:
            table, blank_id = self.get_token_embeddings(), self.config.ctc_blank_token_id
            if window.token_states is not None:
                states, blank = window.token_states, self.audio_adapter.blank
                lengths = (window.letters != IGNORE_INDEX).sum(dim=-1)
            else:
                states, lengths, blank = window.embeddings, window.mask.sum(dim=-1), table[blank_id].detach()
            losses["ctc_loss"] = token_ctc_loss(
                states, lengths, table, blank, audio_labels, NUM_DRAWN_TOKENS if self.audio_adapter.training else None
            )
        return losses

    def encode_audio(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        input_ids: torch.LongTensor | None,
        lm_head: nn.Module | None = None,
        **aligned: torch.Tensor | None,
    ) -> tuple[FlowOmniAudioFeatures, dict[str, torch.Tensor | None]]:
        """
        The encoded audio, and `input_ids` and the `aligned` inputs in their order; with `adapter_compression="ctc"` without
        the placeholders that the audio does not take up.
        """
        audio = self.get_audio_features(input_features, input_features_mask, lm_head=lm_head)
        inputs = {"input_ids": input_ids, **aligned}
        if self.config.adapter_compression is None:
            return audio, inputs
        if input_ids is None:
            raise ValueError('`inputs_embeds` cannot be shortened (`adapter_compression="ctc"`): pass `input_ids`.')
        mask = aligned.get("attention_mask")
        if mask is not None and (not isinstance(mask, torch.Tensor) or mask.shape != input_ids.shape):
            raise ValueError(
                f"`attention_mask` does not have the shape {tuple(input_ids.shape)} of `input_ids`: with a cache, or masks "
                "made in advance, encode the audio by `get_audio_features` and pass its `pooler_output` as "
                "`audio_embeddings`."
            )
        num_placeholders = num_audio_tokens(input_features, input_features_mask, self.config)
        compact = drop_unheard(input_ids, num_placeholders, audio.audio_lengths.tolist(), self.config, **aligned)
        return audio, {name: compact.get(name) for name in inputs}

    def place_audio(
        self, inputs_embeds: torch.Tensor, input_ids: torch.LongTensor | None, audio_embeddings: torch.Tensor
    ) -> torch.Tensor:
        """`inputs_embeds` (batch_size, num_positions, hidden_size) with `audio_embeddings` instead of `<|audio|>`."""
        if input_ids is not None:
            is_audio = input_ids == self.config.audio_token_id
        else:
            placeholder = torch.tensor([[self.config.audio_token_id]], device=inputs_embeds.device)
            is_audio = (inputs_embeds == self.embed_text(placeholder)).all(dim=-1)
        if is_audio.sum() != len(audio_embeddings):
            raise ValueError(
                f"Got {int(is_audio.sum())} `<|audio|>` placeholders for {len(audio_embeddings)} positions of encoded "
                "audio: prepare both with the `FlowOmniProcessor` of this model, and do not truncate its `input_ids`."
            )
        is_audio = is_audio[..., None].to(inputs_embeds.device)
        return inputs_embeds.masked_scatter(is_audio, audio_embeddings.to(inputs_embeds.device, inputs_embeds.dtype))

    def add_speech_inputs(
        self,
        inputs_embeds: torch.Tensor,
        speech_states: torch.LongTensor | None,
        previous_patches: torch.Tensor | None,
    ) -> torch.Tensor:
        """Adds the speech states and the previous patches to the text: (batch_size, num_positions, hidden_size)"""
        if self.state_embedding is None:
            return inputs_embeds  # beside a speech decoder, the language model reads text alone
        if speech_states is None:
            speech_states = inputs_embeds.new_full(inputs_embeds.shape[:2], self.config.pad_state_id, dtype=torch.long)
        state_embeds = self.state_embedding(speech_states)
        inputs_embeds = inputs_embeds + state_embeds.to(inputs_embeds.device, inputs_embeds.dtype)
        if previous_patches is None:
            return inputs_embeds
        # no bias: where there is no previous patch, its zeros add nothing
        patch_embeds = self.patch_proj(previous_patches.to(self.patch_proj.weight.dtype))
        return inputs_embeds + patch_embeds.to(inputs_embeds.device, inputs_embeds.dtype)

    @can_return_tuple
    @auto_docstring(custom_args=INPUTS_DOCSTRING)
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        speech_states: torch.LongTensor | None = None,
        previous_patches: torch.Tensor | None = None,
        audio_embeddings: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> FlowOmniModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        audio_features = None
        if input_features is not None:
            audio_features, inputs = self.encode_audio(
                input_features,
                input_features_mask,
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                speech_states=speech_states,
                previous_patches=previous_patches,
            )
            audio_embeddings = audio_features.pooler_output
            input_ids, attention_mask, position_ids, speech_states, previous_patches = inputs.values()
        if inputs_embeds is None:
            inputs_embeds = self.embed_text(input_ids)
        if audio_embeddings is not None:
            inputs_embeds = self.place_audio(inputs_embeds, input_ids, audio_embeddings)

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=self.add_speech_inputs(inputs_embeds, speech_states, previous_patches),
            use_cache=use_cache,
            **kwargs,
        )
        if cache is not None and outputs.cache is not cache:
            raise ValueError(
                f"{type(self.language_model).__name__} was given a {type(cache).__name__} and returned another cache "
                f"({type(outputs.cache).__name__}), so that generation would lose its past: choose another language "
                "model, or install the version of transformers that it was written for."
            )
        return FlowOmniModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            audio_features=audio_features,
        )


class FlowOmniSpeechTransformer(FlowOmniPreTrainedModel):
    """
    Causal layers over the language model's hidden states plus the previous patch, uncorrupted (`clean_context`),
    without which the voice drifts. The layers have the language model's own class, share its rotary
    embedding, and keep their keys and values in the same cache, as the layers after its last.
    """

    def __init__(self, config: FlowOmniConfig):
        text_config, num_layers = config.text_config, config.speech_config.num_hidden_layers
        super().__init__(self.config_of_layers(config))
        self.first_layer_index = text_config.num_hidden_layers
        with torch.device("meta"):
            language_model = AutoModel.from_config(text_config)  # for its classes alone
        layer_class = type(language_model.layers[0])
        self.patch_proj = nn.Linear(config.speech_config.patch_size, text_config.hidden_size, bias=False)
        self.layers = nn.ModuleList(
            [layer_class(self.config, self.first_layer_index + index) for index in range(num_layers)]
        )
        self.norm = type(language_model.norm)(text_config.hidden_size, eps=text_config.rms_norm_eps)
        self.post_init()

    @staticmethod
    def config_of_layers(config: FlowOmniConfig):
        """The language model's config with the speech transformer's layers on top, all with full attention."""
        layer_config, num_layers = copy.deepcopy(config.text_config), config.speech_config.num_hidden_layers
        layer_config.num_hidden_layers += num_layers
        if getattr(layer_config, "layer_types", None) is not None:
            layer_config.layer_types = [*layer_config.layer_types, *["full_attention"] * num_layers]
        if getattr(layer_config, "no_rope_layers", None) is not None:
            layer_config.no_rope_layers = [*layer_config.no_rope_layers, *[1] * num_layers]
        if getattr(layer_config, "sliding_window", None) is not None:
            layer_config.sliding_window = None
        if config.speech_config.intermediate_size is not None:
            layer_config.intermediate_size = config.speech_config.intermediate_size
        return layer_config

    def extend_cache(self, cache: Cache, max_length: int | None = None) -> None:
        """Appends the layers that the language model's cache lacks; static ones hold at least `max_length`."""
        if cache.layer_class_to_replicate is not None:
            return  # it grows by itself
        while len(cache.layers) < self.first_layer_index + len(self.layers):
            if not isinstance(cache, StaticCache):
                cache.layers.append(DynamicLayer())
            else:
                # `generate` makes a cache as long as the longest so far, which may be longer than this call needs
                longest = max(getattr(layer, "max_cache_len", 0) for layer in cache.layers)
                cache.layers.append(StaticLayer(max(max_length or 0, longest)))

    def forward(
        self,
        hidden_states: torch.Tensor,
        previous_patches: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        cache: Cache | None = None,
        use_cache: bool = False,
    ) -> torch.Tensor:
        """
        `hidden_states` (batch_size, num_positions, hidden_size) of the language model and the patch before each
        position, `previous_patches` (batch_size, num_positions, patch_size) -> the condition of the patch *of* each
        position, in the shape of `hidden_states`.
        """
        if previous_patches is not None:
            patch_embeds = self.patch_proj(previous_patches.to(self.patch_proj.weight.dtype))
            hidden_states = hidden_states + patch_embeds.to(hidden_states.device)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                cache=cache,
                use_cache=use_cache,
            )
        return self.norm(hidden_states)


@auto_docstring(
    custom_intro="""
    Flow-Omni with its heads: the backbone, a text head, a state head, the speech transformer or speech decoder, a
    speech head that samples mel patches, and, if the config has one, a vocoder.
    """
)
class FlowOmniForSpeechGeneration(FlowOmniPreTrainedModel, FlowOmniGenerationMixin):
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _keep_in_fp32_modules_strict = ["mel_normalizer"]
    # Each loss is a mean over its own kind of target (tokens, states, patches), so one count of items cannot scale
    # them all: the Trainer must divide by the accumulation steps itself, which any `**kwargs` in `forward` would
    # prevent.
    accepts_loss_kwargs = False

    def __init__(self, config: FlowOmniConfig):
        super().__init__(config)
        hidden_size = config.text_config.hidden_size
        self.model = FlowOmniModel(config)
        self.speech_transformer = self.speech_decoder = self.advance_head = None
        if config.speech_loop == "speech_decoder":
            self.speech_decoder = FlowOmniSpeechDecoder(config)
            self.advance_head = nn.Linear(config.condition_size, 1)
        else:
            self.speech_transformer = FlowOmniSpeechTransformer(config)
        self.speech_head = SPEECH_HEADS[config.speech_config.head_type](config)
        self.lm_head = None
        if config.is_adapter:
            self._tied_weights_keys = {}
        else:
            self.lm_head = nn.Linear(hidden_size, config.text_config.vocab_size, bias=False)
        self.state_head = nn.Linear(config.condition_size, len(config.state_ids))
        self.mel_normalizer = FlowOmniMelNormalizer(config.speech_config)
        self.vocoder = FlowOmniVocoder(config.vocoder_config) if config.vocoder_config is not None else None
        self.post_init()

    @classmethod
    def from_pretrained_parts(
        cls, whisper: str, llm: str, vocoder: str | None = None, speech_decoder: str | None = None, **kwargs
    ):
        """
        Assembles a pretrained Whisper, a causal LLM and a Vocos into one model. What connects them is new and must be
        trained.

        Args:
            whisper (`str`):
                A Whisper: Hub id or folder (transformers, CTranslate2), `.pt` file or name (openai-whisper).
            llm (`str`):
                Hub id, folder, installed package (`pypi:NAME==VERSION`) or `.gguf` file of a causal language model.
            vocoder (`str`, *optional*):
                Hub id or folder of a Vocos, as published (`config.yaml`) or saved by this package.
            speech_decoder (`str`, *optional*):
                Hub id or folder of a checkpoint with a speech decoder, which is taken from it, with its vocoder and mel
                statistics. One with `reads_hidden_states=False` fits any language model without training.
            kwargs:
                `dtype` of the model; all others are fields of [`FlowOmniConfig`], such as `speech_config`.
        """
        try:
            # by name: a relative import would copy the file into every checkpoint
            convert = importlib.import_module("flow_omni.modeling_flow_omni.convert_flow_omni")
        except ModuleNotFoundError as error:
            raise ImportError("`from_pretrained_parts` needs the package: pip install flow-omni") from error
        return convert.assemble_from_pretrained_parts(cls, whisper, llm, vocoder, speech_decoder, **kwargs)

    @classmethod
    def from_pretrained(cls, *args, language_model: str | PreTrainedModel | None = None, **kwargs):
        """
        Loads as every model does, and adds the language model to an adapter: `language_model` is its folder, Hub id,
        installed package (`pypi:NAME==VERSION`) or GGUF file, or a loaded causal LLM, such as a quantised one.
        Defaults to the id that the adapter names.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.is_adapter:
            model.join_language_model(language_model)
        elif language_model is not None:
            raise ValueError("`language_model` is for adapters, and this checkpoint holds its own: leave it out.")
        return loaded

    def join_language_model(self, language_model: str | PreTrainedModel | None = None) -> None:
        """Adds the language model to an adapter, frozen, after comparing its fingerprint."""
        base = self.config.base_language_model
        if language_model is None and base["id"] is None:
            raise ValueError(
                "The adapter does not name its language model, which came from a folder: pass it as `language_model` (a "
                "folder, a Hub id, a GGUF file or a loaded causal LLM)."
            )
        if language_model is None:
            language_model = load_causal_lm(base["id"], base["revision"], self.dtype)
        elif not isinstance(language_model, PreTrainedModel):
            language_model = load_causal_lm(language_model, None, self.dtype)
        if not self._is_base(language_model):
            raise ValueError(
                f"The adapter was trained on the language model {base['id']!r} with the fingerprint "
                f"{base['fingerprint']}, but {language_model.name_or_path!r} has {fingerprint(language_model)}: pass the "
                "former as `language_model`."
            )
        language_model.set_attn_implementation(self.config._attn_implementation)
        self.model.language_model = language_model.base_model.requires_grad_(False)
        self.lm_head = language_model.get_output_embeddings().requires_grad_(False)
        self._tied_weights_keys = type(self)._tied_weights_keys
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=False)
        self.config.is_adapter = False

    def _is_base(self, language_model: PreTrainedModel, weights: dict[str, torch.Tensor] | None = None) -> bool:
        """Whether its weights are those of `base_language_model`, as far as both fingerprints reach."""
        expected, found = self.config.base_language_model["fingerprint"], fingerprint(language_model, weights)
        return all(found.get(group, digest) == digest for group, digest in expected.items())

    def save_pretrained(self, save_directory, include_language_model: bool | None = None, **kwargs):
        """
        Saves as every model does, with the code beside it and an `auto_map` for each of `AUTO_CLASSES`. Without the
        language model, the checkpoint is an adapter: by default where the language model is frozen and still the
        `base_language_model`. One that was trained before it was frozen is saved.
        """
        prefixes = MODULE_GROUPS["language_model"]
        weights = {
            name.removeprefix(prefixes[0]): weight
            for name, weight in (kwargs.get("state_dict") or {}).items()
            if name.startswith(prefixes[0])
        }
        is_base = self.config.base_language_model is not None and self._is_base(self.model.language_model, weights)
        if include_language_model is None:
            is_frozen = not any(p.requires_grad for name, p in self.named_parameters() if name.startswith(prefixes))
            include_language_model = not (is_frozen and is_base)
        elif not (include_language_model or is_base):
            raise ValueError(
                "`include_language_model=False` would lose the language model, which is not the `base_language_model` of the "
                "config: leave it out."
            )
        if not include_language_model:
            weights = kwargs.pop("state_dict", None) or self.state_dict()
            kwargs["state_dict"] = {name: w for name, w in weights.items() if not name.startswith(prefixes)}
        if self._auto_class is not None:
            own_name = f"{type(self).__module__.rsplit('.', 1)[-1]}.{type(self).__name__}"
            auto_map = getattr(self.config, "auto_map", None) or {}
            self.config.auto_map = auto_map | dict.fromkeys(AUTO_CLASSES, own_name)
        # a generation config derived from the model's config would lose its speech options when loaded
        self.generation_config._from_model_config = False
        self.config.is_adapter = not include_language_model
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.config.is_adapter = False

    def get_audio_features(self, *args, **kwargs):
        return self.model.get_audio_features(*args, **{"lm_head": self.lm_head} | kwargs)

    def get_letter_logits(self, *args, **kwargs):
        return self.model.get_letter_logits(*args, **kwargs)

    @can_return_tuple
    @auto_docstring(custom_args=INPUTS_DOCSTRING + SPEECH_DECODER_DOCSTRING + LABELS_DOCSTRING)
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        speech_states: torch.LongTensor | None = None,
        previous_patches: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        state_labels: torch.LongTensor | None = None,
        mel_labels: torch.Tensor | None = None,
        audio_labels: torch.LongTensor | None = None,
        letter_labels: torch.LongTensor | None = None,
        audio_embeddings: torch.Tensor | None = None,
        text_bytes: torch.LongTensor | None = None,
        byte_steps: torch.LongTensor | None = None,
        byte_positions: torch.LongTensor | None = None,
        text_hidden_states: torch.Tensor | None = None,
        voice_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> FlowOmniOutputWithPast:
        if self.speech_decoder is not None and speech_states is not None and speech_states.shape[1] > 0:
            text_inputs = {
                "input_ids": input_ids,
                "input_features": input_features,
                "input_features_mask": input_features_mask,
                "attention_mask": attention_mask,
                "position_ids": position_ids,
                "audio_embeddings": audio_embeddings,
                "labels": labels,
                "teacher_logits": teacher_logits,
                "audio_labels": audio_labels,
                "letter_labels": letter_labels,
            }
            return self.forward_speech_decoder(
                text_bytes,
                byte_steps,
                byte_positions,
                text_inputs | kwargs,
                text_hidden_states=text_hidden_states,
                speech_states=speech_states,
                previous_patches=previous_patches,
                voice_ids=voice_ids,
                state_labels=state_labels,
                mel_labels=mel_labels,
            )
        if self.speech_decoder is not None:
            speech_states = state_labels = mel_labels = None  # a batch of text alone
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        if audio_labels is not None and input_features is None:
            raise ValueError("`audio_labels` are transcripts of `input_features`: pass these too.")
        audio_features = None
        if input_features is not None:
            audio_features, inputs = self.model.encode_audio(
                input_features,
                input_features_mask,
                input_ids=input_ids,
                lm_head=self.lm_head,
                attention_mask=attention_mask,
                position_ids=position_ids,
                speech_states=speech_states,
                previous_patches=previous_patches,
                labels=labels,
                state_labels=state_labels,
            )
            audio_embeddings = audio_features.pooler_output
            input_ids, attention_mask, position_ids, speech_states, previous_patches, labels, state_labels = (
                inputs.values()
            )
        patches = None
        if mel_labels is not None:
            patches = self.prepare_patches(mel_labels, speech_states)
            previous_patches = shift_patches(patches) if previous_patches is None else previous_patches
        input_patches = context_patches = previous_patches
        if self.training and mel_labels is not None:
            input_patches = corrupt_patches(previous_patches, self.config.speech_config)
            context_patches = previous_patches if self.config.speech_config.clean_context else input_patches

        inputs = input_ids if input_ids is not None else inputs_embeds
        if use_cache is None:
            use_cache = labels is None and mel_labels is None and getattr(self.config.text_config, "use_cache", True)
        if self.training and self.is_gradient_checkpointing:
            use_cache, cache = False, None  # recomputed layers would append to it twice
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config.text_config)
        if cache is not None and self.speech_transformer is not None:
            self.speech_transformer.extend_cache(cache)
        if position_ids is None:
            past_length = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(inputs.shape[1], device=inputs.device) + past_length).unsqueeze(0)
        # made before the language model runs: masks are sized by the cache as it was before this call
        attention_mask, speech_mask = self.prepare_masks(attention_mask, cache, position_ids, inputs.shape[:2])

        outputs = self.model(
            input_ids=input_ids,
            audio_embeddings=audio_embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            speech_states=speech_states,
            previous_patches=input_patches,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        condition = state_logits = None
        if self.speech_transformer is not None:
            condition = self.speech_transformer(
                hidden_states,
                context_patches,
                attention_mask=speech_mask,
                position_ids=position_ids,
                position_embeddings=self.model.language_model.rotary_emb(hidden_states, position_ids),
                cache=cache,
                use_cache=use_cache,
            )
            state_logits = self.state_head(condition)

        losses, logits = {}, None
        if labels is not None:
            losses |= text_losses(*text_logits(self.lm_head, hidden_states, labels), teacher_logits)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept])
        if state_labels is not None:
            losses["state_loss"] = state_loss(state_logits, state_labels, self.config.state_class_weights)
        if mel_labels is not None:
            losses |= self.speech_losses(condition, patches, speech_states)
        if audio_features is not None:
            losses |= self.model.ctc_losses(audio_features, audio_labels, letter_labels)
        return FlowOmniOutputWithPast(
            loss=weighted_sum(losses, self.config),
            **losses,
            logits=logits,
            state_logits=state_logits,
            condition=condition,
            last_hidden_state=hidden_states,
            cache=cache if use_cache else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def forward_speech_decoder(
        self,
        text_bytes: torch.LongTensor,
        byte_steps: torch.LongTensor,
        byte_positions: torch.LongTensor | None,
        text_inputs: dict,
        text_hidden_states: torch.Tensor | None,
        speech_states: torch.LongTensor,
        previous_patches: torch.Tensor | None,
        voice_ids: torch.LongTensor | None,
        state_labels: torch.LongTensor | None,
        mel_labels: torch.Tensor | None,
    ) -> FlowOmniOutputWithPast:
        """
        The speech decoder over all steps of answers whose text is known. The language model runs before it, on the
        other inputs of [`forward`], where its hidden states or its losses are wanted.
        """
        if text_bytes is None or byte_steps is None:
            raise ValueError(
                "The speech decoder needs `text_bytes`, and `byte_steps`, the step at which each byte is reached: prepare both "
                "with a `FlowOmniProcessor` whose `speech_loop` is the config's."
            )
        losses, hidden_states = {}, text_hidden_states
        reads_hidden_states = self.config.speech_config.reads_hidden_states
        is_read = hidden_states is None and reads_hidden_states
        if is_read or any(text_inputs[name] is not None for name in ("labels", "audio_labels", "letter_labels")):
            no_logits = torch.empty(0, dtype=torch.long, device=text_bytes.device)
            text_outputs = self.forward(use_cache=False, logits_to_keep=no_logits, return_dict=True, **text_inputs)
            names = ("text_loss", "distillation_loss", "ctc_loss", "letter_loss")
            losses = {name: text_outputs[name] for name in names if text_outputs.get(name) is not None}
            if hidden_states is None:
                # the adapter may have dropped placeholders of audio, which stand before the answer
                hidden_states = text_outputs.last_hidden_state
                num_dropped = text_inputs["input_ids"].shape[1] - hidden_states.shape[1]
                hidden_states = nn.functional.pad(hidden_states, (0, 0, num_dropped, 0))
        patches = None
        if mel_labels is not None:
            patches = self.prepare_patches(mel_labels, speech_states)
            previous_patches = shift_patches(patches) if previous_patches is None else previous_patches
            if self.training:
                previous_patches = corrupt_patches(previous_patches, self.config.speech_config)

        vectors = self.speech_decoder.embed_text(text_bytes, hidden_states, byte_positions)
        laid_out = self.speech_decoder.lay_out_text(vectors, byte_steps, speech_states.shape[1])
        condition = self.speech_decoder(laid_out, speech_states, previous_patches, voice_ids)
        state_logits, log_rates = self.state_head(condition), self.advance_head(condition).squeeze(-1)
        if state_labels is not None:
            losses["state_loss"] = state_loss(state_logits, state_labels, self.config.state_class_weights)
            losses["advance_loss"] = advance_loss(log_rates, advance_labels(byte_steps, state_labels))
        if mel_labels is not None:
            losses |= self.speech_losses(condition, patches, speech_states)
        return FlowOmniOutputWithPast(
            loss=weighted_sum(losses, self.config),
            **losses,
            state_logits=state_logits,
            log_rates=log_rates,
            condition=condition,
            last_hidden_state=hidden_states,
        )

    def speech_losses(
        self, condition: torch.Tensor, patches: torch.Tensor, speech_states: torch.LongTensor
    ) -> dict[str, torch.Tensor]:
        """The losses of the speech head at generating positions, as means over the patches."""
        is_generating = (speech_states == self.config.generating_state_id).to(condition.device)
        losses = self.speech_head(condition[is_generating], patches.to(condition.device)[is_generating])
        # a batch without speech has no patches
        num_patches = max(len(losses[0]), 1)
        return {name: loss.sum() / num_patches for name, loss in zip(("speech_loss", "auxiliary_loss"), losses)}

    def prepare_patches(self, mel_labels: torch.Tensor, speech_states: torch.LongTensor | None) -> torch.Tensor:
        """The normalised target patch of every position: (batch_size, num_positions, patch_size)"""
        if speech_states is None:
            raise ValueError("`mel_labels` need `speech_states`, whose `generating` positions place the patches.")
        expected = (self.config.speech_config.frames_per_step, self.config.speech_config.num_mel_bins)
        if mel_labels.dim() != 4 or mel_labels.shape[2:] != expected:
            raise ValueError(
                f"`mel_labels` has the shape {tuple(mel_labels.shape)}: it must be (batch_size, max_patches, "
                f"frames_per_step={expected[0]}, num_mel_bins={expected[1]})."
            )
        normalized = self.mel_normalizer.normalize(mel_labels).flatten(2)
        return lay_out_patches(normalized, speech_states == self.config.generating_state_id)

    @torch.no_grad()
    def predict_patches(self, condition: torch.Tensor, speech_states: torch.LongTensor) -> torch.Tensor:
        """
        The most typical patch of each position given its `condition`, in one solver step: (batch_size, num_positions,
        patch_size), zeros at positions without speech. For scheduled sampling, as
        `previous_patches=shift_patches(...)`.
        """
        is_generating = (speech_states == self.config.generating_state_id).to(condition.device)
        # at temperature 0 only the shape of the noise matters
        noise = self.speech_head.draw_noise(None, condition.device).expand(int(is_generating.sum()), -1)
        predicted = self.speech_head(condition[is_generating], noise=noise, num_steps=1, temperature=0.0)
        patches = predicted.new_zeros(*is_generating.shape, self.config.speech_config.patch_size)
        patches[is_generating] = predicted
        return patches

    def prepare_masks(
        self,
        attention_mask: torch.Tensor | dict | None,
        cache: Cache | None,
        position_ids: torch.LongTensor,
        shape: tuple[int, int],
    ) -> tuple[torch.Tensor | dict | None, torch.Tensor | None]:
        """The mask of the language model, and that of the speech transformer, whose layers all have full attention."""
        if isinstance(attention_mask, dict):
            # made by `create_masks_for_generate` for a static cache
            masks = dict(attention_mask)
            speech_mask = masks.pop("speech_transformer")
            return masks.get("language_model", masks), speech_mask
        speech_mask = create_causal_mask(
            config=self.config.text_config,
            inputs_embeds=torch.empty(*shape, 0, dtype=self.dtype, device=position_ids.device),
            attention_mask=attention_mask,
            cache=cache,
            position_ids=position_ids,
        )
        return attention_mask, speech_mask


__all__ = ["FlowOmniForSpeechGeneration", "FlowOmniModel", "FlowOmniPreTrainedModel"]
