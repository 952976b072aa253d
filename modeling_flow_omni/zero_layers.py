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
Layers that start at zero, so that what they add is silent until it has been learnt.

They are classes of their own because transformers initialises the weights of code from outside its package leaf by leaf:
`_init_weights` is never called on a module that only holds other modules.
"""

from torch import nn


class FlowOmniZeroLinear(nn.Linear):
    """A linear layer whose weight and bias start at zero."""


class FlowOmniZeroEmbedding(nn.Embedding):
    """An embedding that starts at zero."""
