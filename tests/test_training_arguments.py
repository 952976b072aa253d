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
"""The arguments of training: who talks to whom, and what is refused."""

import pytest
from transformers import TrainingArguments

from flow_omni.training.arguments import FlowOmniTrainingArguments


@pytest.mark.parametrize("launched, backend", [({}, None), ({"WORLD_SIZE": "1"}, None), ({"WORLD_SIZE": "2"}, "gloo")])
def test_only_one_of_several_processes_is_told_how_to_talk_to_others(tmp_path, monkeypatch, launched, backend):
    """A process by itself that is told so takes itself for one of many, and fails for want of a group."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    # which would look for the others
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    assert FlowOmniTrainingArguments(str(tmp_path), use_cpu=True).ddp_backend == backend


@pytest.mark.parametrize(
    "wrong", [{"ema_decay": 1.0}, {"ema_decay": 0.0}, {"mel_statistics_batches": -1}, {"stage": "aline"}]
)
def test_what_cannot_be_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` is"):
        FlowOmniTrainingArguments(str(tmp_path), **wrong)
