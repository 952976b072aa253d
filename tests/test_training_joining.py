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
"""The ears of one run and the voice of another become one model."""

import pytest
import torch
from test_training_stages import snapshot, train
from tiny import tiny_model

from flow_omni.training.joining import join_sides
from flow_omni.training.stages import EARS, VOICE, freeze_for


def trained(stage: str):
    """The same model each time, after some steps of a stage."""
    model = tiny_model(speech={"condition_dropout": 0.5})
    freeze_for(model, stage)
    return train(model)


def test_each_side_is_as_its_own_run_left_it():
    start, listener, speaker = (
        snapshot(model)
        for model in (tiny_model(speech={"condition_dropout": 0.5}), trained("listen"), trained("speak"))
    )
    voice = trained("speak")
    voice.mel_normalizer.mean.fill_(0.25)
    model = join_sides(trained("listen"), voice)
    assert (model.mel_normalizer.mean == 0.25).all()
    joined = snapshot(model)
    for name, weight in joined.items():
        source = listener if name.startswith(EARS) else speaker if name.startswith(VOICE) else start
        assert torch.equal(weight, source[name])
    assert any(not torch.equal(weight, start[name]) for name, weight in joined.items() if name.startswith(EARS))
    assert any(not torch.equal(weight, start[name]) for name, weight in joined.items() if name.startswith(VOICE))


def test_what_comes_of_different_checkpoints_is_not_joined():
    with pytest.raises(ValueError, match="`lm_head.weight` is not the same in both models, nor are"):
        join_sides(trained("listen"), trained("finetune"))
