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
"""What a model reads beside text while it answers."""

from typing import Any

import torch

from .configuration_flow_omni import FlowOmniConfig


class InputStreams:
    """
    What the model reads beside text: the speech states so far, and the patch before each step. With a cache only the
    newest patch is kept, as the model has read the others; without one, all are read again at every step.
    """

    def __init__(self, config: FlowOmniConfig, model_kwargs: dict[str, Any], condition: torch.Tensor):
        self.use_cache = model_kwargs.get("use_cache", True)
        batch_size, num_steps = condition.shape[:2]
        self.speech_states = model_kwargs.get("speech_states")
        if self.speech_states is None:
            self.speech_states = condition.new_full((batch_size, num_steps), config.pad_state_id, dtype=torch.long)
        self.previous_patches = model_kwargs.get("previous_patches")
        if self.previous_patches is None:
            patch_size = config.speech_config.patch_size
            self.previous_patches = condition.new_zeros(batch_size, num_steps, patch_size, dtype=torch.float32)

    def append(self, states: torch.LongTensor, patches: torch.FloatTensor) -> None:
        """One step more: its states (batch_size,) and the patches (batch_size, patch_size) of the step before it."""
        newest = patches[:, None]
        self.previous_patches = newest if self.use_cache else torch.cat([self.previous_patches, newest], dim=1)
        self.speech_states = torch.cat([self.speech_states, states[:, None].to(self.speech_states.device)], dim=1)

    def inputs(self) -> dict[str, torch.Tensor]:
        return {"speech_states": self.speech_states, "previous_patches": self.previous_patches}
