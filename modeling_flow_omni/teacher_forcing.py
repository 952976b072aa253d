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
"""Teacher forcing: the patches of a batch's targets, and the previous patches that training reads, some of them its own."""

from functools import partial

import torch

from .parallel_patches import corrupt, lay_out_patches, patches_before, replace_some


class FlowOmniTeacherForcingMixin:
    """What `FlowOmniForSpeechGeneration` does with `mel_labels` before it runs."""

    def prepare_targets(
        self,
        mel_labels: torch.Tensor,
        speech_states: torch.LongTensor | None,
        previous_patches: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The normalised patch of every step and of the step before it, each (batch_size, num_steps, patch_size), from the
        target frames.
        """
        if speech_states is None:
            raise ValueError(
                "`mel_labels` need `speech_states`, whose `generating` steps say where the patches belong."
            )
        if previous_patches is not None:
            raise ValueError(
                "Pass either `mel_labels` (training: the model reads the targets as previous patches) or "
                "`previous_patches` (inference), not both."
            )
        speech_config = self.config.speech_config
        expected = (speech_config.frames_per_step, speech_config.num_mel_bins)
        if mel_labels.dim() != 4 or tuple(mel_labels.shape[2:]) != expected:
            raise ValueError(
                f"`mel_labels` has the shape {tuple(mel_labels.shape)}: it must be (batch_size, max_patches, "
                f"{expected[0]}, {expected[1]}), with `frames_per_step` and `num_mel_bins` of this model's config."
            )
        normalized = self.mel_normalizer.normalize(mel_labels).flatten(2)
        patches = lay_out_patches(normalized, speech_states == self.config.generating_state_id)
        return patches, patches_before(patches)

    def prepare_patches_to_learn_from(
        self, run: partial, previous_patches: torch.Tensor, speech_states: torch.LongTensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The previous patches as training has them, with some of the model's own among them, and these with noise and gaps.
        `run` is [`run_transformers`] on the batch.
        """
        config = self.config.speech_config
        if config.own_patches > 0:
            with torch.no_grad():
                # nothing of this pass may stay in a cache: the one that learns reads the same steps
                _, condition = run(
                    previous_patches=previous_patches,
                    fed_back_patches=corrupt(previous_patches, config),
                    cache=None,
                    use_cache=False,
                )
                own_patches = patches_before(self.draw_typical_patches(condition, speech_states))
            if torch.is_autocast_enabled(condition.device.type):
                # before 2.11, torch would give the weights that were cast without a graph to the pass that learns
                torch.clear_autocast_cache()
            previous_patches = replace_some(previous_patches, own_patches.to(previous_patches), config.own_patches)
        return previous_patches, corrupt(previous_patches, config)

    def draw_typical_patches(self, condition: torch.Tensor, speech_states: torch.LongTensor) -> torch.Tensor:
        """
        The patch of every step that its condition (batch_size, num_steps, hidden_size) makes most typical, in one step of the
        solver: (batch_size, num_steps, patch_size), zeros on steps that say nothing.
        """
        is_generating = (speech_states == self.config.generating_state_id).to(condition.device)
        # at temperature 0 only the shape of the noise matters
        noise = self.speech_head.draw_noise(None, condition.device).expand(int(is_generating.sum()), -1)
        drawn = self.speech_head(condition[is_generating], noise=noise, num_steps=1, temperature=0.0)
        patches = drawn.new_zeros(*is_generating.shape, self.config.speech_config.patch_size)
        patches[is_generating] = drawn
        return patches
