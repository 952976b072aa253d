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
"""Flow-Omni: any causal LLM and any Whisper encoder as one model that listens and speaks, with continuous speech tokens.

Importing the package registers its classes, so that transformers' own doors (`AutoModel`, `AutoProcessor`,
`pipeline`, ...) lead to them.
"""

import sys
from pathlib import Path


__version__ = "0.1.0"


def _is_command() -> bool:
    """
    Whether this process is the command `flow-omni`, or `python -m flow_omni.cli`. Its help and its complaints should not
    wait seconds for torch: it imports the classes when a command runs (`flow_omni/cli/commands.py`).
    """
    interpreter_and_program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    return interpreter_and_program[-2:] == ["-m", "flow_omni.cli"] or Path(
        "".join(interpreter_and_program[-1:])
    ).name in ("flow-omni", "flow-omni.exe")


if not _is_command():
    from .auto_classes import (
        FlowOmniConfig,
        FlowOmniFeatureExtractor,
        FlowOmniForSpeechGeneration,
        FlowOmniGenerateOutput,
        FlowOmniModel,
        FlowOmniProcessor,
        FlowOmniSpeechConfig,
        FlowOmniStep,
        FlowOmniVocoder,
        FlowOmniVocoderConfig,
    )


def __getattr__(name: str):
    """The public names in a process where they were not imported."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import auto_classes

    return getattr(auto_classes, name)


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
