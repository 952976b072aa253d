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
A base for our configurations that knows its fields, and validators for them.

`PreTrainedConfig` would store a mistyped field and never read it.
"""

import difflib
from contextvars import ContextVar
from typing import Any

from huggingface_hub.dataclasses import as_validated_field
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Names that are no fields of ours but that transformers itself passes to, or writes into, any configuration.
_LIBRARY_KEYS = {
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "pad_token_id",
    "per_layer_config",
    "quantization_config",
    "tie_last_hidden_states",
    "torch_dtype",
    "transformers_weights",
}
_reads_checkpoint = ContextVar("reads_checkpoint", default=False)


# transformers' own `interval(min=0)` checks nothing in version 5.17, where a bound of zero counts as none.
@as_validated_field
def non_negative_field(value: float | int | None = None):
    if value is not None and not value >= 0:
        raise ValueError(f"The value must be at least 0, got {value}.")


@as_validated_field
def positive_field(value: float | int | None = None):
    if value is not None and not value > 0:
        raise ValueError(f"The value must be above 0, got {value}.")


@as_validated_field
def share_field(value: float | int | None = None):
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"The value must lie between 0 and 1, got {value}.")


class FlowOmniBaseConfig(PreTrainedConfig):
    """
    Raises for a field that nobody declared. A checkpoint may carry fields that this version does not know: they are
    kept, with a warning, unless they look like a slip of the pen.
    """

    def __post_init__(self, **kwargs):
        self._check_fields(kwargs)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"This is a checkpoint of the type `{model_type}`, not `{cls.model_type}`: load it with the class that it is for "
                "(`AutoModel` finds it), or assemble a model from it with `from_pretrained_parts`."
            )
        token = _reads_checkpoint.set(True)
        try:
            return super().from_dict(config_dict, **kwargs)
        finally:
            _reads_checkpoint.reset(token)

    def _check_fields(self, fields: dict[str, Any]) -> None:
        declared = set(type(self).__dataclass_fields__)
        known = declared | _LIBRARY_KEYS | set(GenerationConfig._get_default_generation_params())
        for name, value in fields.items():
            if name in known or name.startswith("_"):
                continue
            similar = difflib.get_close_matches(name, declared, n=1, cutoff=0.8)
            message = f"`{name}={value!r}` is no field of {type(self).__name__}: "
            if similar or not _reads_checkpoint.get():
                raise ValueError(message + (f"did you mean `{similar[0]}`?" if similar else "remove it."))
            logger.warning(message + "it is kept, but nothing reads it.")
