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
"""The vocoder turns mel frames into a waveform: Vocos, ConvNeXt blocks before an inverse Fourier transform."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_flow_omni_vocoder import FlowOmniVocoderConfig
from .inverse_stft import frames_from_spectrum, hann_window, num_trimmed_samples, overlap_add
from .streaming_flow_omni_vocoder import PastFrames, VocoderStream


# Vocos's own, which its configuration does not name
LAYER_NORM_EPS = 1e-6


class WholeUtterance:
    """
    What stands around the frames of a convolution when the whole utterance is there: zeros, at its very start and end.
    (In a stream it is the past instead: `PastFrames`.)

    With `frame_mask` `(batch_size, num_frames)`, what lies behind the end of a shorter row is zeros too.
    """

    def __init__(self, frame_mask: torch.BoolTensor | None = None):
        self.frame_mask = frame_mask

    def surround(self, convolution: "FlowOmniVocoderConvolution", frames: torch.Tensor) -> torch.Tensor:
        if self.frame_mask is not None:
            frames = frames.masked_fill(~self.frame_mask.unsqueeze(-1), 0.0)
        return nn.functional.pad(frames, (0, 0, convolution.num_past_frames, convolution.num_future_frames))


class FlowOmniVocoderConvolution(nn.Conv1d):
    """
    A convolution over frames, channels last, that leaves it to its caller what stands around them:
    `(batch_size, num_past_frames + num_frames + num_future_frames, in_channels)` to
    `(batch_size, num_frames, out_channels)`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, num_future_frames: int, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, groups=groups)
        self.num_future_frames = num_future_frames
        self.num_past_frames = kernel_size - 1 - num_future_frames

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        if frames.shape[1] < self.kernel_size[0]:  # a stream whose future has not come yet
            return frames.new_zeros(frames.shape[0], 0, self.out_channels)
        return super().forward(frames.transpose(1, 2)).transpose(1, 2)


class FlowOmniVocoderBlock(nn.Module):
    """A ConvNeXt block: a convolution within each channel, then an MLP across them, scaled and added to its input."""

    def __init__(self, config: FlowOmniVocoderConfig):
        super().__init__()
        num_future_frames = 0 if config.causal else config.kernel_size // 2
        self.dwconv = FlowOmniVocoderConvolution(
            config.hidden_size, config.hidden_size, config.kernel_size, num_future_frames, groups=config.hidden_size
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.pwconv1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.gamma = nn.Parameter(torch.full((config.hidden_size,), 1.0 / config.num_hidden_layers))

    def forward(self, hidden_states: torch.Tensor, context: WholeUtterance | PastFrames) -> torch.Tensor:
        surrounded = context.surround(self.dwconv, hidden_states)
        update = self.dwconv(surrounded)
        # the frames that the update belongs to: in a stream they are older than the ones that just came
        residual = surrounded.narrow(1, self.dwconv.num_past_frames, update.shape[1])
        update = self.pwconv2(self.act(self.pwconv1(self.norm(update))))
        return residual + self.gamma * update


class FlowOmniVocoderBackbone(nn.Module):
    """Mel frames to hidden states, at the same frame rate."""

    def __init__(self, config: FlowOmniVocoderConfig):
        super().__init__()
        num_future_frames = config.num_lookahead_frames if config.causal else config.kernel_size // 2
        self.embed = FlowOmniVocoderConvolution(
            config.num_mel_bins, config.hidden_size, config.kernel_size, num_future_frames
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.convnext = nn.ModuleList([FlowOmniVocoderBlock(config) for _ in range(config.num_hidden_layers)])
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, mel: torch.Tensor, context: WholeUtterance | PastFrames) -> torch.Tensor:
        hidden_states = self.norm(self.embed(context.surround(self.embed, mel)))
        for block in self.convnext:
            hidden_states = block(hidden_states, context)
        return self.final_layer_norm(hidden_states)

    @property
    def num_future_frames(self) -> int:
        """Frames that must follow a frame before its hidden state is final."""
        return self.embed.num_future_frames + sum(block.dwconv.num_future_frames for block in self.convnext)


class FlowOmniVocoderInverseSTFT(nn.Module):
    """Overlaps frames of windowed samples, and divides by what the windows themselves sum to."""

    def __init__(self, config: FlowOmniVocoderConfig):
        super().__init__()
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        self.num_trimmed_samples = num_trimmed_samples(config.n_fft, config.hop_length, config.padding)
        self.register_buffer("window", hann_window(config.n_fft))

    def num_samples(self, num_frames):
        """Samples that so many frames make, an `int` or a tensor of them."""
        num_samples = (num_frames - 1) * self.hop_length + self.n_fft - 2 * self.num_trimmed_samples
        return num_samples * (num_frames > 0)

    def exact_window(self) -> torch.Tensor:
        """The window in fp32. One that was cast to bf16 with the model would add noise at -61 dB."""
        if self.window.dtype in (torch.float32, torch.float64):
            return self.window
        return hann_window(self.n_fft, device=self.window.device)

    def forward(self, frames: torch.Tensor, frame_mask: torch.BoolTensor | None = None) -> torch.Tensor:
        """Maps `(batch_size, num_frames, n_fft)` to `(batch_size, num_samples)`, zeros behind a shorter row's end."""
        num_samples = self.num_samples(frames.shape[1])
        envelope = self.exact_window().square().expand(1, frames.shape[1], -1)
        if frame_mask is not None:
            frames = frames.masked_fill(~frame_mask.unsqueeze(-1), 0.0)
            envelope = envelope * frame_mask.unsqueeze(-1)
        waveform = overlap_add(frames, self.hop_length).narrow(1, self.num_trimmed_samples, num_samples)
        envelope = overlap_add(envelope, self.hop_length).narrow(1, self.num_trimmed_samples, num_samples)
        if frame_mask is None:
            return waveform / envelope
        is_valid = torch.arange(num_samples, device=frames.device) < self.num_samples(frame_mask.sum(1, keepdim=True))
        # the envelope is 0 behind the end, and the gradient of 0 / 0 would reach the samples before it
        return torch.where(is_valid, waveform, 0.0) / torch.where(is_valid, envelope, 1.0)


class FlowOmniVocoderHead(nn.Module):
    """
    Predicts each frame's spectrum, as log-magnitudes and phases, and transforms it to samples. It computes in fp32
    whatever the weights are: rounding the magnitudes and phases to bf16 would add noise at -52 dB.
    """

    def __init__(self, config: FlowOmniVocoderConfig):
        super().__init__()
        self.out = nn.Linear(config.hidden_size, config.n_fft + 2)
        self.istft = FlowOmniVocoderInverseSTFT(config)

    def frames(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Windowed samples of each frame: `(batch_size, num_frames, hidden_size)` to `(..., n_fft)`."""
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        with torch.autocast(hidden_states.device.type, enabled=False):
            spectrum = nn.functional.linear(
                hidden_states.to(dtype), self.out.weight.to(dtype), self.out.bias.to(dtype)
            )
            return frames_from_spectrum(*spectrum.chunk(2, dim=-1), self.istft.exact_window())

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.BoolTensor | None = None) -> torch.Tensor:
        return self.istft(self.frames(hidden_states), frame_mask)


class FlowOmniVocoder(PreTrainedModel):
    """
    Vocos: the natural-log magnitude mel-spectrogram to a waveform. Its parameters are named as in published Vocos
    checkpoints, which `importing_vocos.load_vocos` reads; for the same mel it gives the same samples.

    Either the whole utterance at once (`forward`, which training uses), or frame by frame as they come (`stream`).
    """

    config: FlowOmniVocoderConfig
    config_class = FlowOmniVocoderConfig
    base_model_prefix = "vocoder"
    main_input_name = "mel"
    input_modalities = ("audio",)
    # it has no attention, so any implementation of it that is asked of the whole model will do
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    # a stream goes around `forward`, where the hooks that move tensors between devices are
    _no_split_modules = ["FlowOmniVocoder"]

    def __init__(self, config: FlowOmniVocoderConfig):
        super().__init__(config)
        self.backbone = FlowOmniVocoderBackbone(config)
        self.head = FlowOmniVocoderHead(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, FlowOmniVocoderBlock):
            init.constant_(module.gamma, 1.0 / self.config.num_hidden_layers)
        elif isinstance(module, FlowOmniVocoderInverseSTFT):
            init.copy_(module.window, hann_window(self.config.n_fft))

    def forward(self, mel: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        r"""
        Args:
            mel (`torch.Tensor` of shape `(batch_size, num_frames, num_mel_bins)`):
                Natural logarithm of the magnitude mel-spectrogram, as `MelSpectrogram` computes it.
            lengths (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Frames of each row; what lies behind them is not read. A row gets the samples that it would get alone,
                then zeros: `num_samples(lengths)` tells how many are its own.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_samples)`: the waveform, in fp32 whatever the weights are.
        """
        mel = self.check_mel(mel)
        frame_mask = None
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device=mel.device)
            if lengths.shape != mel.shape[:1]:
                raise ValueError(
                    f"Got `lengths` of shape {tuple(lengths.shape)} for a mel of shape {tuple(mel.shape)}: pass one "
                    "number of frames for each row."
                )
            frame_mask = torch.arange(mel.shape[1], device=mel.device) < lengths.unsqueeze(1)
        hidden_states = self.backbone(mel, WholeUtterance(frame_mask))
        return self.head(hidden_states, frame_mask)

    def check_mel(self, mel: torch.Tensor) -> torch.Tensor:
        """The mel on the device and in the type of the weights, or an error that says what is wrong with it."""
        num_mel_bins = self.config.num_mel_bins
        if mel.ndim != 3 or mel.shape[-1] != num_mel_bins or not mel.is_floating_point():
            raise ValueError(
                f"Got a mel of shape {tuple(mel.shape)} and type {mel.dtype}: the vocoder takes floating-point "
                f"numbers of shape (batch_size, num_frames, num_mel_bins={num_mel_bins}), mel bands last."
            )
        return mel.to(device=self.backbone.embed.weight.device, dtype=self.backbone.embed.weight.dtype)

    def num_samples(self, num_frames: int | torch.Tensor) -> int | torch.Tensor:
        """Samples in the waveform of so many frames."""
        return self.head.istft.num_samples(num_frames)

    def stream(self, batch_size: int = 1) -> VocoderStream:
        """
        A stream for mel frames as they come, whose chunks join to what `forward` makes of the whole:

        ```python
        with vocoder.stream() as stream:
            for mel in patches:  # (1, any number of frames, num_mel_bins)
                play(stream.push(mel))
            play(stream.finish())
        ```
        """
        return VocoderStream(self, batch_size)

    @property
    def streaming_latency_frames(self) -> int:
        """
        How many frames a stream lags behind: after `n` frames it has given the first `n - latency` hops of samples, at
        least. A sample is given once no later frame can change it.
        """
        istft = self.head.istft
        return self.backbone.num_future_frames + -(-istft.num_trimmed_samples // istft.hop_length)


__all__ = ["FlowOmniVocoder"]
