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
"""The vocoder, Vocos: a mel-spectrogram to a waveform, of a whole utterance at once or frame by frame as a stream."""

import math

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_flow_omni import FlowOmniVocoderConfig


# Vocos's own, which its configuration does not name
LAYER_NORM_EPS = 1e-6
MAX_LOG_MAGNITUDE = math.log(100.0)


def hann_window(n_fft: int, device: torch.device | None = None) -> torch.Tensor:
    """The periodic Hann window in fp32: `(n_fft,)`."""
    return torch.hann_window(n_fft, dtype=torch.float32, device=device)


def overlap_add(frames: torch.Tensor, hop_length: int) -> torch.Tensor:
    """
    Sums frames laid `hop_length` samples apart: `(batch_size, num_frames, n_fft)` to `(batch_size, num_samples)` with
    `num_samples = (num_frames - 1) * hop_length + n_fft`. No frames give `n_fft - hop_length` zeros, which a stream
    carries over before its first frame.
    """
    num_frames, n_fft = frames.shape[1:]
    # (batch_size, num_frames, num_parts, hop_length): part k of a frame lies k hops after its first sample
    parts = nn.functional.pad(frames, (0, -n_fft % hop_length)).unflatten(-1, (-1, hop_length))
    num_parts = parts.shape[2]
    laid_out = [nn.functional.pad(parts[:, :, k], (0, 0, k, num_parts - 1 - k)) for k in range(num_parts)]
    return sum(laid_out).flatten(1)[:, : (num_frames - 1) * hop_length + n_fft]


def frames_from_spectrum(log_magnitude: torch.Tensor, phase: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """
    Windowed samples of each frame, `(..., n_fft)`, from its spectrum, `(..., n_fft // 2 + 1)`.

    Vocos bounds magnitudes at 100. Bounding the logarithm gives the same values; bounding the exponential would give
    the gradient `0 * inf` where it overflows.
    """
    if log_magnitude.numel() == 0:  # a stream whose first frame is not complete: the Fourier transform refuses it
        return log_magnitude.new_zeros(*log_magnitude.shape[:-1], window.shape[0])
    magnitude = log_magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp()
    real = magnitude * phase.cos()
    # the lowest and the highest band of a real signal have no imaginary part; devices differ in how they treat one
    imaginary = nn.functional.pad((magnitude * phase.sin())[..., 1:-1], (1, 1))
    return torch.fft.irfft(torch.complex(real, imaginary), n=window.shape[0]) * window


class FlowOmniVocoderContext:
    """
    What surrounds the frames of a convolution. Of a whole utterance (`is_last`): zeros; with `frame_mask`
    `(batch_size, num_frames)`, what lies behind the end of a shorter row is zeros too. In a stream: before them the
    frames that the convolution saw last (zeros at the start), after them nothing, until `is_last`.

    A convolution with lookahead thus returns frames that came earlier, and at the end all that are left. Each frame is
    computed once, in every layer: nothing is computed again for context.
    """

    def __init__(self, frame_mask: torch.BoolTensor | None = None, is_last: bool = True):
        self.frame_mask = frame_mask
        self.is_last = is_last
        self._past: dict[nn.Module, torch.Tensor] = {}

    @classmethod
    def join(cls, contexts: "list[FlowOmniVocoderContext]") -> "FlowOmniVocoderContext":
        """The contexts of several streams, whose shapes agree, as that of a batch."""
        joined = cls(is_last=False)
        joined._past = {
            convolution: torch.cat([context._past[convolution] for context in contexts])
            for convolution in contexts[0]._past
        }
        return joined

    def take_row(self, joined: "FlowOmniVocoderContext", row: int) -> None:
        """Continues after a row of a batch."""
        self._past = {convolution: past[row : row + 1] for convolution, past in joined._past.items()}

    def shapes(self) -> tuple[int, ...]:
        """Frames that each convolution has seen, as far as it remembers."""
        return tuple(past.shape[1] for past in self._past.values())

    def surround(self, convolution: "FlowOmniVocoderConvolution", frames: torch.Tensor) -> torch.Tensor:
        if self.frame_mask is not None:
            frames = frames.masked_fill(~self.frame_mask.unsqueeze(-1), 0.0)
        if convolution in self._past:
            frames = torch.cat([self._past[convolution], frames], dim=1)
        else:
            frames = nn.functional.pad(frames, (0, 0, convolution.num_past_frames, 0))
        if self.is_last:
            return nn.functional.pad(frames, (0, 0, 0, convolution.num_future_frames))
        num_kept = min(convolution.num_past_frames + convolution.num_future_frames, frames.shape[1])
        self._past[convolution] = frames[:, frames.shape[1] - num_kept :]
        return frames


class FlowOmniVocoderConvolution(nn.Conv1d):
    """
    A convolution over frames, channels last, without padding: `(batch_size, num_past_frames + num_frames +
    num_future_frames, in_channels)` to `(batch_size, num_frames, out_channels)`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, num_future_frames: int, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, groups=groups)
        self.num_future_frames = num_future_frames
        self.num_past_frames = kernel_size - 1 - num_future_frames

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        if frames.shape[1] < self.kernel_size[0]:  # a stream before enough future frames have come
            return frames.new_zeros(frames.shape[0], 0, self.out_channels)
        return super().forward(frames.transpose(1, 2)).transpose(1, 2)


class FlowOmniVocoderBlock(nn.Module):
    """A ConvNeXt block: a depthwise convolution, then an MLP across channels, scaled and added to the input."""

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

    def forward(self, hidden_states: torch.Tensor, context: FlowOmniVocoderContext) -> torch.Tensor:
        surrounded = context.surround(self.dwconv, hidden_states)
        update = self.dwconv(surrounded)
        # the frames that the update belongs to: in a stream they are older than the newest ones
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

    def forward(self, mel: torch.Tensor, context: FlowOmniVocoderContext) -> torch.Tensor:
        hidden_states = self.norm(self.embed(context.surround(self.embed, mel)))
        for block in self.convnext:
            hidden_states = block(hidden_states, context)
        return self.final_layer_norm(hidden_states)

    @property
    def num_future_frames(self) -> int:
        """Frames that must follow a frame before its hidden state is final."""
        return self.embed.num_future_frames + sum(block.dwconv.num_future_frames for block in self.convnext)


class FlowOmniVocoderInverseSTFT(nn.Module):
    """Overlap-adds frames of windowed samples, and divides by the sum of the squared windows."""

    def __init__(self, config: FlowOmniVocoderConfig):
        super().__init__()
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        # samples cut from each end: those that `padding` added before the forward transform
        self.num_trimmed_samples = (config.n_fft - (config.hop_length if config.padding == "same" else 0)) // 2
        self.register_buffer("window", hann_window(config.n_fft))

    def num_samples(self, num_frames):
        """Samples of so many frames, an `int` or a tensor of them."""
        num_samples = (num_frames - 1) * self.hop_length + self.n_fft - 2 * self.num_trimmed_samples
        return num_samples * (num_frames > 0)

    def exact_window(self) -> torch.Tensor:
        """The window in fp32: one that was cast to bf16 with the model would add noise at -61 dB."""
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
    whatever the dtype of the weights: rounding the magnitudes and phases to bf16 would add noise at -52 dB.
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
    Vocos: natural-log magnitude mel-spectrogram to waveform. Its parameters are named as in published Vocos
    checkpoints; for the same mel it gives the same samples. `forward` takes whole utterances, `stream` frames as they
    come.
    """

    config: FlowOmniVocoderConfig
    config_class = FlowOmniVocoderConfig
    base_model_prefix = "vocoder"
    main_input_name = "mel"
    input_modalities = ("audio",)
    # it has no attention, so any implementation that is requested for the whole model will do
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["istft"]
    # a stream bypasses `forward`, where the hooks that move tensors between devices are
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
            mel (`torch.Tensor` of shape `(batch_size, num_frames, num_mel_bins)`): Natural logarithm of the magnitude
                mel-spectrogram, as `MelSpectrogram` computes it.
            lengths (`torch.Tensor` of shape `(batch_size,)`, *optional*): Frames of each row. A row gets the samples
                that it would get alone, `num_samples(lengths)` of them, then zeros.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_samples)`: the waveform, in fp32 whatever the dtype of the
            weights.
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
        hidden_states = self.backbone(mel, FlowOmniVocoderContext(frame_mask))
        return self.head(hidden_states, frame_mask)

    def check_mel(self, mel: torch.Tensor) -> torch.Tensor:
        """The mel with the device and dtype of the weights; raises for any other shape or type."""
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

    def stream(self) -> "VocoderStream":
        """
        A stream for mel frames as they come, whose chunks join to what `forward` returns for the whole:

        ```python
        with vocoder.stream() as stream:
            for mel in patches:  # (1, any number of frames, num_mel_bins)
                play(stream.push(mel))
            play(stream.finish())
        ```
        """
        return VocoderStream(self)

    @property
    def streaming_latency_frames(self) -> int:
        """
        Frames that a stream lags behind: after `n` frames it has returned at least the first `n - latency` hops of
        samples. A sample is returned once no later frame can change it.
        """
        istft = self.head.istft
        return self.backbone.num_future_frames + -(-istft.num_trimmed_samples // istft.hop_length)


class VocoderStream:
    """
    One utterance on its way through a [`FlowOmniVocoder`].

    `push` returns the samples that no later frame can change, which may be none; `finish` returns the rest. Together
    they are `vocoder(mel)` of all frames, however these were split. No gradient flows. As a context manager it raises
    if `finish` was forgotten, which would lose the end of the speech.
    """

    def __init__(self, vocoder: FlowOmniVocoder):
        self.vocoder = vocoder
        self.num_frames = 0
        self.is_finished = False
        self._context = FlowOmniVocoderContext(is_last=False)
        # windowed samples and their envelope (a second row), summed so far, where later frames overlap
        self._overlap: torch.Tensor | None = None
        self._num_samples_to_trim = vocoder.head.istft.num_trimmed_samples

    @torch.no_grad()
    def push(self, mel: torch.Tensor) -> torch.Tensor:
        """Takes the next frames, `(1, num_frames, num_mel_bins)`; returns `(1, num_samples)`."""
        if self.is_finished:
            raise RuntimeError(f"This stream was finished after {self.num_frames} frames: start another one.")
        mel = self.vocoder.check_mel(mel)
        if mel.shape[0] != 1:
            raise ValueError(
                f"Got a mel of {mel.shape[0]} rows: a stream carries one utterance. Start one for each row."
            )
        self.num_frames += mel.shape[1]
        ready, self._overlap = self._add(mel)
        return self._normalize(ready)

    @torch.no_grad()
    def finish(self) -> torch.Tensor:
        """Ends the utterance; returns its last samples, `(1, num_samples)`."""
        if self.is_finished:
            raise RuntimeError(f"This stream was finished already, after {self.num_frames} frames.")
        self.is_finished = self._context.is_last = True
        no_frames = self.vocoder.backbone.embed.weight.new_zeros(1, 0, self.vocoder.config.num_mel_bins)
        waveform = torch.cat(self._add(no_frames), dim=1)
        self._context = self._overlap = None
        return self._normalize(waveform[:, : waveform.shape[1] - self.vocoder.head.istft.num_trimmed_samples])

    def batch_key(self) -> tuple:
        """Streams with the same key can be pushed together: they hold back the same number of frames and samples."""
        num_held = None if self._overlap is None else self._overlap.shape[1]
        is_settled = self.num_frames > self.vocoder.streaming_latency_frames + self.vocoder.config.n_fft
        num_frames = None if is_settled else self.num_frames  # the envelope of the first samples is still rising
        return self._context.shapes(), num_held, self._num_samples_to_trim, num_frames

    @staticmethod
    @torch.no_grad()
    def push_together(streams: "list[VocoderStream]", mel: torch.Tensor, num_rows: int) -> list[torch.Tensor]:
        """
        The next frames of several streams with the same `batch_key`, `(len(streams), num_frames, num_mel_bins)`, in
        one pass over `num_rows` rows, of which those beyond the streams are copies. Returns what `push` of each would,
        up to the rounding of another batch size.
        """
        first, padding = streams[0], num_rows - len(streams)
        padded = [*streams, *[first] * padding]
        batch = VocoderStream(first.vocoder)
        batch._context = FlowOmniVocoderContext.join([stream._context for stream in padded])
        batch._num_samples_to_trim = first._num_samples_to_trim
        if first._overlap is not None:
            envelope = first._overlap[-1:]
            batch._overlap = torch.cat([*[stream._overlap[:-1] for stream in padded], envelope])
        mel = first.vocoder.check_mel(torch.cat([mel, mel[:1].expand(padding, -1, -1)]))
        ready, overlap = batch._add(mel)
        samples = batch._normalize(ready)
        for row, stream in enumerate(streams):
            stream.num_frames += mel.shape[1]
            stream._context.take_row(batch._context, row)
            stream._overlap = torch.cat([overlap[row : row + 1], overlap[-1:]])
            stream._num_samples_to_trim = batch._num_samples_to_trim
        return list(samples[: len(streams)].split(1))

    def _add(self, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Overlap-adds the frames that these mel frames complete. Returns the sums that are complete, and those that
        later frames overlap; the envelope is one more row.
        """
        istft = self.vocoder.head.istft
        frames = self.vocoder.head.frames(self.vocoder.backbone(mel, self._context))
        envelope = istft.exact_window().square().expand(1, frames.shape[1], -1).to(frames.dtype)
        sums = overlap_add(torch.cat([frames, envelope]), istft.hop_length)
        if self._overlap is not None:
            sums = sums + nn.functional.pad(self._overlap, (0, sums.shape[1] - self._overlap.shape[1]))
        return sums.tensor_split([frames.shape[1] * istft.hop_length], dim=1)

    def _normalize(self, sums: torch.Tensor) -> torch.Tensor:
        """Cuts what is left to cut at the start, then divides the windowed samples by their envelope."""
        num_trimmed = min(self._num_samples_to_trim, sums.shape[1])
        self._num_samples_to_trim -= num_trimmed
        sums = sums[:, num_trimmed:]
        return sums[:-1] / sums[-1:]

    def __enter__(self) -> "VocoderStream":
        return self

    def __exit__(self, exception_type, exception, traceback):
        if exception_type is None and self.num_frames and not self.is_finished:
            raise RuntimeError(f"A stream was left after {self.num_frames} frames without its end: call `finish()`.")


__all__ = ["FlowOmniVocoder", "VocoderStream"]
