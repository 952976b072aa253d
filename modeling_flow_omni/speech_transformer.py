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
"""The speech transformer: a few more layers of the language model's own kind, which read the previous patch once more."""

import copy
import inspect

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, StaticCache, StaticLayer

from .configuration_flow_omni import FlowOmniConfig


class FlowOmniSpeechTransformer(nn.Module):
    """
    Extracts what the next patch depends on: causal layers over the language model's hidden states plus the previous
    patch. That patch has no noise and no gaps, also where the language model read a noised one (`clean_context`): heads
    without it lose the thread of the voice.

    The layers are instances of the language model's own layer class, share its rotary embedding, and keep their keys and
    values in the same cache, as the layers after its last.
    """

    def __init__(self, config: FlowOmniConfig, language_model: PreTrainedModel):
        super().__init__()
        missing = [name for name in ("layers", "norm", "rotary_emb") if not hasattr(language_model, name)]
        if missing:
            raise ValueError(
                f"{type(language_model).__name__} has no {', '.join(f'`{name}`' for name in missing)}: the language model "
                "must be built like Llama, Qwen2 or Qwen3."
            )
        text_config = config.text_config
        self.first_layer_index = text_config.num_hidden_layers
        layer_config = self._config_of_further_layers(config)
        layer_class = type(language_model.layers[0])
        self.patch_proj = nn.Linear(config.speech_config.patch_size, text_config.hidden_size, bias=False)
        self.layers = nn.ModuleList(
            [
                layer_class(layer_config, self.first_layer_index + index)
                for index in range(config.speech_config.num_hidden_layers)
            ]
        )
        self.norm = copy.deepcopy(language_model.norm)
        rotary_arguments = inspect.signature(language_model.rotary_emb.forward).parameters
        self.rotary_options = {}
        if "layer_type" in rotary_arguments:
            # families with several kinds of layers have an embedding for each kind they use
            kinds = text_config.layer_types
            self.rotary_options["layer_type"] = "full_attention" if "full_attention" in kinds else kinds[-1]
        # attention reads its implementation from the config at every call: these layers must follow the model's
        for module in self.layers.modules():
            if getattr(module, "config", None) is layer_config:
                module.config = text_config

    @staticmethod
    def _config_of_further_layers(config: FlowOmniConfig):
        """The language model's config as if it had the speech transformer's layers on top, all with full attention."""
        layer_config = copy.deepcopy(config.text_config)
        num_layers, num_more = layer_config.num_hidden_layers, config.speech_config.num_hidden_layers
        for name, values in vars(config.text_config).items():
            if isinstance(values, list) and len(values) == num_layers:
                further = "full_attention" if name == "layer_types" else values[-1]
                setattr(layer_config, name, [*values, *[further] * num_more])
        layer_config.num_hidden_layers += num_more
        if config.speech_config.intermediate_size is not None:
            layer_config.intermediate_size = config.speech_config.intermediate_size
        return layer_config

    def extend_cache(self, cache: Cache, max_length: int | None = None) -> None:
        """
        Appends the layers that a cache made for the language model alone lacks. `max_length` is the number of steps that
        a static cache must hold; its longest layer may hold more.
        """
        if cache.layer_class_to_replicate is not None:
            return  # it grows by itself
        while len(cache.layers) < self.first_layer_index + len(self.layers):
            if not isinstance(cache, StaticCache):
                cache.layers.append(DynamicLayer())
            else:
                # `generate` makes a cache as long as the longest so far, which may be longer than this call needs
                longest = max(getattr(layer, "max_cache_len", 0) for layer in cache.layers)
                cache.layers.append(StaticLayer(max(max_length or 0, longest)))

    def forward(
        self,
        hidden_states: torch.Tensor,
        previous_patches: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        cache: Cache | None = None,
        use_cache: bool = False,
    ) -> torch.Tensor:
        """
        `hidden_states` (batch_size, num_steps, hidden_size) of the language model and the patch before each step,
        `previous_patches` (batch_size, num_steps, patch_size) -> the condition of the patch *of* each step, in the shape
        of `hidden_states`.
        """
        patch_embeddings = self.patch_proj(previous_patches.to(self.patch_proj.weight.dtype))
        hidden_states = hidden_states + patch_embeddings.to(hidden_states.device)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                cache=cache,
                use_cache=use_cache,
            )
        return self.norm(hidden_states)
