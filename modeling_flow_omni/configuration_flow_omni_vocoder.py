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
"""The configuration of the vocoder: the geometry of its mel, the size of its network, how far ahead it may look."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.utils.type_validators import positive_int_field

from .declared_fields import FlowOmniBaseConfig, share_field


@strict
class FlowOmniVocoderConfig(FlowOmniBaseConfig):
    r"""
    The configuration of a [`FlowOmniVocoder`]. The defaults are those of the published `charactr/vocos-mel-24khz`.

    Args:
        num_mel_bins (`int`, *optional*, defaults to 100):
            Mel bands of a frame.
        hidden_size (`int`, *optional*, defaults to 512):
            Channels of the ConvNeXt blocks.
        intermediate_size (`int`, *optional*, defaults to 1536):
            Channels inside a block, between its two linear layers.
        num_hidden_layers (`int`, *optional*, defaults to 8):
            ConvNeXt blocks.
        kernel_size (`int`, *optional*, defaults to 7):
            Frames that every convolution sees, its own included.
        sampling_rate (`int`, *optional*, defaults to 24000):
            Samples per second of the waveform.
        n_fft (`int`, *optional*, defaults to 1024):
            Size of the inverse Fourier transform and of its Hann window, in samples.
        hop_length (`int`, *optional*, defaults to 256):
            Samples between two frames.
        padding (`str`, *optional*, defaults to `"center"`):
            Where the first frame lies: `"center"` on the first sample, so that `n` frames make `(n - 1) * hop_length`
            samples; `"same"` half a hop later, so that they make `n * hop_length`.
        causal (`bool`, *optional*, defaults to `False`):
            Whether the convolutions see only past frames. Those of published Vocos checkpoints see as many future
            ones, so that their stream lags behind.
        num_lookahead_frames (`int`, *optional*, defaults to 0):
            Future frames that the first convolution of a causal vocoder sees: a few frames of latency for better
            sound.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal that fresh convolutions and linear layers are drawn from.
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
    num_lookahead_frames: int = 0
    initializer_range: float = share_field(default=0.02)

    def validate_architecture(self):
        if self.n_fft % 2:
            raise ValueError(
                f"`n_fft` ({self.n_fft}) must be even: the head predicts `n_fft / 2 + 1` magnitudes and phases."
            )
        if self.hop_length > self.n_fft // 2:
            raise ValueError(
                f"`hop_length` ({self.hop_length}) may be at most half of `n_fft` ({self.n_fft}): the windows must "
                "overlap by half, or the samples at their edges are divided by almost nothing. Lower `hop_length`."
            )
        if self.padding == "same" and self.hop_length % 2:
            raise ValueError(
                f'`hop_length` ({self.hop_length}) must be even with `padding="same"`, which cuts as many samples '
                'from both ends. Change it by one, or use `padding="center"`.'
            )
        if not self.causal and self.kernel_size % 2 == 0:
            raise ValueError(
                f"`kernel_size` ({self.kernel_size}) must be odd, so that a convolution sees as many past frames as "
                "future ones. Change it by one, or set `causal=True`."
            )
        if not self.causal and self.num_lookahead_frames != 0:
            raise ValueError(
                f"`num_lookahead_frames` ({self.num_lookahead_frames}) is for a causal vocoder; the convolutions of "
                "this one see future frames anyway. Leave it at 0, or set `causal=True`."
            )
        if not 0 <= self.num_lookahead_frames < self.kernel_size:
            raise ValueError(
                f"`num_lookahead_frames` ({self.num_lookahead_frames}) must lie between 0 and `kernel_size - 1` "
                f"({self.kernel_size - 1}): the first convolution sees no further."
            )


__all__ = ["FlowOmniVocoderConfig"]
