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
"""Rows whose texts are written as they are said, so that speech has its text."""

from collections.abc import Mapping

from ...modeling_flow_omni.text_normalization import as_said
from ..data import has


def row_as_said(row: Mapping, language: str) -> dict:
    """The row with its texts that are still to be spoken as they are said."""
    sides = [side for side in ("question", "answer") if has(row, f"{side}_text") and not has(row, f"{side}_audio")]
    return dict(row) | {f"{side}_text": as_said(row[f"{side}_text"], language) for side in sides}
