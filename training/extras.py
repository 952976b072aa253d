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
"""The libraries that only training needs: imported when they are used, with a word on how to get them."""

from importlib import import_module
from types import ModuleType


def needs(library: str, package: str = "flow-omni[train]") -> ModuleType:
    """The library, or an error that says what to install: our extra, or for what is not in it the library itself."""
    try:
        return import_module(library)
    except ImportError as error:
        raise ImportError(
            f"`{library.partition('.')[0]}` could not be imported ({error}): install it with `pip install {package}`."
        ) from error
