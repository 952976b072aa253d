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
What trains in each stage: in those of the paper first what is new around frozen pretrained parts, then everything. Three more
train parts of a finished model: all but its voice (`understand`), and with its language model left as it is its ears alone
(`listen`) or its voice alone (`speak`).
"""

from torch import nn

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration


# The beginnings of the names of the frozen parameters. No stage trains the vocoder: no loss of the model reaches it, and
# it has a stage, `vocoder`, of its own. Whisper's positions are sinusoids, fixed by design.
ALWAYS_FROZEN = ("vocoder.", "model.audio_encoder.embed_positions.")
EARS = ("model.audio_encoder.", "model.audio_adapter.")
# The text head is the language model's own, whether its weights are tied to the embeddings or not.
LANGUAGE_MODEL = ("model.language_model.", "lm_head.")
READING_OF_SPEECH = ("model.state_embedding.", "model.patch_proj.")
VOICE = ("speech_transformer.", "speech_head.", "state_head.")
FROZEN_IN_STAGE = {
    "align": ("model.audio_encoder.", *LANGUAGE_MODEL),
    "finetune": (),
    "understand": VOICE,
    "listen": (*LANGUAGE_MODEL, *READING_OF_SPEECH, *VOICE),
    # nothing that trains lies below the language model, which therefore runs forwards only
    "speak": (*EARS, *LANGUAGE_MODEL, *READING_OF_SPEECH),
}
STAGES = tuple(FROZEN_IN_STAGE)
PAPER_STAGES = ("align", "finetune")
# These train a part by itself.
PART_STAGES = ("recognise", "language", "vocoder")

# Only dropped conditions reach it: without them no gradient does, which DDP takes for a mistake.
EMPTY_CONDITION = "speech_head.empty_condition"


def freeze_for(model: FlowOmniForSpeechGeneration, stage: str) -> None:
    """Sets `requires_grad` of every parameter as the stage has it, whatever it was before."""
    frozen = frozen_prefixes(model, stage)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))


def frozen_prefixes(model: FlowOmniForSpeechGeneration, stage: str) -> tuple[str, ...]:
    """The beginnings of the names of the parameters that a stage leaves as they are."""
    if stage not in FROZEN_IN_STAGE:
        raise ValueError(f"The stage is {stage!r}: it must be one of {', '.join(map(repr, STAGES))}.")
    frozen = ALWAYS_FROZEN + FROZEN_IN_STAGE[stage]
    if model.config.speech_config.condition_dropout == 0:
        frozen += (EMPTY_CONDITION,)
    return frozen


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Numbers of trained and of frozen parameters."""
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return trained, sum(parameter.numel() for parameter in module.parameters()) - trained
