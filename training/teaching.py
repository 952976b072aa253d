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
"""How a model is taught: the fields of its config that answering does not read, which a run may therefore change."""

from dataclasses import dataclass, fields

from huggingface_hub.errors import StrictDataclassError

from ..modeling_flow_omni.configuration_flow_omni import FlowOmniConfig, FlowOmniSpeechConfig


@dataclass
class Teaching:
    """
    What is said takes the place of what the model's config has, and is saved with the model, so that the next run begins
    with it; `None` leaves it. See [`FlowOmniSpeechConfig`] for the first fields, [`FlowOmniConfig`] for the weights of the
    losses.
    """

    patch_noise: float | None = None
    patch_dropout: float | None = None
    own_patches: float | None = None
    clean_context: bool | None = None
    num_noise_draws: int | None = None
    condition_dropout: float | None = None
    time_logit_mean: float | None = None
    time_logit_std: float | None = None
    text_loss_weight: float | None = None
    state_loss_weight: float | None = None
    speech_loss_weight: float | None = None
    auxiliary_loss_weight: float | None = None
    audio_loss_weight: float | None = None
    state_class_weights: list[float] | None = None

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            # whole numbers where the config has decimals
            if field.type == float | None and type(value) is int:
                setattr(self, field.name, float(value))
        if isinstance(self.state_class_weights, list):
            self.state_class_weights = [float(w) if type(w) is int else w for w in self.state_class_weights]
        # wrong values are to be found before the model is loaded
        self.apply(FlowOmniConfig())

    def apply(self, config: FlowOmniConfig) -> None:
        """Changes the config of a model that is to be trained. What no config can have is refused."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            is_of_speech = field.name in FlowOmniSpeechConfig.__dataclass_fields__
            holder = config.speech_config if is_of_speech else config
            try:
                setattr(holder, field.name, value)
            except StrictDataclassError as error:
                raise ValueError(f"`teaching.{field.name}` is {value!r}: {error.__cause__}") from error
        config.validate_architecture()
