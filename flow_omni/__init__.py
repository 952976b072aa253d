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
"""Flow-Omni: speech-to-speech models with continuous speech tokens, from any causal LLM and any Whisper encoder.

`import flow_omni` registers the classes with transformers: `AutoModel`, `AutoProcessor` and `pipeline` find them.
"""

import sys
from pathlib import Path
from typing import Any


__version__ = "0.1.0"

__all__ = [
    "FlowOmniConfig",
    "FlowOmniFeatureExtractor",
    "FlowOmniForSpeechGeneration",
    "FlowOmniGenerateOutput",
    "FlowOmniModel",
    "FlowOmniProcessor",
    "FlowOmniSpeechConfig",
    "FlowOmniStep",
    "FlowOmniVocoder",
    "FlowOmniVocoderConfig",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import auto_classes

    return getattr(auto_classes, name)


# Registering imports torch and transformers, which takes seconds. The program `flow-omni` registers the classes when a
# command runs (cli/common.py), so that its help and its error messages appear at once.
if Path(sys.argv[0]).name != "flow-omni":
    from . import auto_classes  # noqa: F401
