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
"""Training data: rows of the corpora of the paper, spoken rows of written dialogues, and validation."""

from .align import align_rows
from .corpora import aishell1_rows, lccc_rows, wenetspeech_rows
from .speak import list_voices, speak_dialogues
from .synthesis import SynthesisError
from .validate import validate_rows


__all__ = [
    "SynthesisError",
    "aishell1_rows",
    "align_rows",
    "lccc_rows",
    "list_voices",
    "speak_dialogues",
    "validate_rows",
    "wenetspeech_rows",
]
