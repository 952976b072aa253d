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
The attention to train with on a CPU in bf16. The backward pass of PyTorch's own kernel there takes three to four times as
long as plain products of matrices do, at the lengths of spoken exchanges: a seventh of a tiny model's whole step.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


NAME = "sdpa_with_plain_backward"
# Plain products keep their weights for the backward pass: up to this length no more than a quarter of what else a layer
# keeps. Longer rows are left to the kernel, which keeps none.
MAX_LENGTH = 512


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """As `sdpa_attention_forward` of transformers, from which it differs where gradients of short rows are wanted."""
    if not torch.is_grad_enabled() or key.shape[2] > MAX_LENGTH or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    num_groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, num_groups), repeat_kv(value, num_groups)
    is_causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if attention_mask is None and is_causal and query.shape[2] > 1:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    scaling = scaling if scaling is not None else query.shape[-1] ** -0.5
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores += _added(attention_mask, scores.dtype)
    # computed in fp32 inside, whatever the type: only the result is rounded
    weights = nn.functional.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _added(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask as something to add to scores. Not minus infinity: a row that may look nowhere would become NaN."""
    if attention_mask.dtype != torch.bool:
        return attention_mask.to(dtype)
    return torch.zeros_like(attention_mask, dtype=dtype).masked_fill_(~attention_mask, torch.finfo(dtype).min)


ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


@contextmanager
def plain_backward(model: nn.Module) -> Iterator[None]:
    """Within it, attention that is PyTorch's `sdpa` becomes the one of this file; any other stays as it is."""
    # from the outermost inwards: setting a config sets those inside it, which are then set right themselves
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    chosen = [config._attn_implementation for config in configs]
    _choose(configs, [NAME if name == "sdpa" else name for name in chosen])
    try:
        yield
    finally:
        _choose(configs, chosen)


def _choose(configs: Sequence[PreTrainedConfig], names: Sequence[str | None]) -> None:
    # not through `set_attn_implementation`, which warns of configs that have no attention
    for config, name in zip(configs, names):
        config._attn_implementation = name


def fastest_attention(model: nn.Module, device: torch.device, is_bf16: bool):
    """The context to train a model in."""
    return plain_backward(model) if device.type == "cpu" and is_bf16 else nullcontext()
