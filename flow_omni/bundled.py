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
"""The model that comes with the package, and a question to ask it."""

from pathlib import Path

import torch

from .auto_classes import FlowOmniForSpeechGeneration, FlowOmniProcessor


BUNDLED_CHECKPOINT = Path(__file__).parent / "checkpoints" / "base"
EXAMPLE_QUESTION = Path(__file__).parent / "assets" / "question.wav"


def load_bundled() -> tuple[FlowOmniForSpeechGeneration, FlowOmniProcessor]:
    """The bundled adapter, joined with its language model, which is in a package of its own, and its processor."""
    # saved in half precision to keep the package small; most CPUs are faster in fp32
    model = FlowOmniForSpeechGeneration.from_pretrained(BUNDLED_CHECKPOINT, dtype=torch.float32)
    return model.eval(), FlowOmniProcessor.from_pretrained(BUNDLED_CHECKPOINT)
