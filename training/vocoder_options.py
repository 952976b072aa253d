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
"""The options of the vocoder's stage."""

from dataclasses import dataclass


@dataclass
class VocoderOptions:
    """
    Args:
        segment_seconds (`float`, *optional*, defaults to 1.0):
            Length of the pieces of recordings that it trains on.
        batch_size (`int`, *optional*, defaults to 16):
            Pieces in a batch.
        mel_weight (`float`, *optional*, defaults to 15.0):
            Weight of the L1 error of the log-mel spectrogram of what it says.
        stft_weight (`float`, *optional*, defaults to 1.0):
            Weight of the multi-resolution STFT loss.
        adversarial_weight (`float`, *optional*, defaults to 0.0):
            Weight of what the discriminators say; 0 trains without them.
        feature_matching_weight (`float`, *optional*, defaults to 2.0):
            Weight of the distance of the discriminators' features, beside the former.
        adversarial_start (`int`, *optional*, defaults to 0):
            Steps of reconstruction alone, before the discriminators come in.
        discriminator_channels (`int`, *optional*, defaults to 32):
            Width of the first layer of each discriminator; the others are multiples of it.
    """

    segment_seconds: float = 1.0
    batch_size: int = 16
    mel_weight: float = 15.0
    stft_weight: float = 1.0
    adversarial_weight: float = 0.0
    feature_matching_weight: float = 2.0
    adversarial_start: int = 0
    discriminator_channels: int = 32
