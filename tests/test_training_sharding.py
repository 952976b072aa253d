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
"""Claims about weights in shards that one process can check; `test_training_processes.py` launches two."""

import json
from types import SimpleNamespace

import pytest
from tiny import tiny_model
from torch.distributed.fsdp import FSDPModule
from training_runs import make_trainer

from flow_omni.training.sharding import shard_by_layers, under_its_own_class


def test_the_layers_to_gather_are_found_in_the_model_unless_the_config_names_some():
    """What transformers says must stay together has a class that is not in this model, on which accelerate stumbles."""
    model = tiny_model()
    classes = {type(module).__name__ for module in model.modules()}
    assert not set(model._no_split_modules) <= classes
    plugin = SimpleNamespace(cpu_ram_efficient_loading=False, transformer_cls_names_to_wrap=None)
    shard_by_layers(plugin, model)
    assert set(plugin.transformer_cls_names_to_wrap) == {"Qwen2DecoderLayer", "WhisperEncoderLayer"} <= classes
    plugin.transformer_cls_names_to_wrap = ["Mine"]
    shard_by_layers(plugin, model)
    assert plugin.transformer_cls_names_to_wrap == ["Mine"]


def test_loading_that_knows_parameters_alone_is_refused():
    plugin = SimpleNamespace(cpu_ram_efficient_loading=True, transformer_cls_names_to_wrap=None)
    with pytest.raises(ValueError, match="`fsdp_cpu_ram_efficient_loading` is true.*Say false"):
        shard_by_layers(plugin, tiny_model())


def test_a_config_for_shards_where_there_are_none_is_refused(tmp_path, monkeypatch):
    """Every process trained on the whole model, and nothing told."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="asks for FSDP, and this run is on the device `cpu`.*`ddp.yaml`"):
        make_trainer(tmp_path)


def test_a_sharded_model_is_saved_as_what_it_was(tmp_path):
    """Else the checkpoint names a class of torch's, and brings its code."""
    model = tiny_model()
    model.__class__ = type("FSDPFlowOmniForSpeechGeneration", (FSDPModule, type(model)), {})
    with under_its_own_class(model):
        model.save_pretrained(tmp_path)
    assert isinstance(model, FSDPModule)
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config["auto_map"].values()) == {
        "configuration_flow_omni.FlowOmniConfig",
        "modeling_flow_omni.FlowOmniForSpeechGeneration",
    }
