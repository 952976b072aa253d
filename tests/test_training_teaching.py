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
"""A run changes what of the model's config only training reads."""

from dataclasses import fields

import pytest
from tiny import tiny_config

from flow_omni.training.recipe import load_recipe
from flow_omni.training.teaching import Teaching


NEEDED = ("model=model", "data.train=rows.jsonl", "training.output_dir=runs")


def test_what_is_said_takes_the_place_of_the_config_and_all_else_stays():
    config = tiny_config()
    before = config.to_dict()
    Teaching(own_patches=0.5, audio_loss_weight=2.0).apply(config)
    assert (config.speech_config.own_patches, config.audio_loss_weight) == (0.5, 2.0)
    Teaching(own_patches=before["speech_config"]["own_patches"], audio_loss_weight=before["audio_loss_weight"]).apply(
        config
    )
    assert config.to_dict() == before


def test_whole_numbers_do_where_the_config_has_decimals():
    teaching = Teaching(patch_noise=1, state_class_weights=[1, 5, 1, 5])
    assert [type(teaching.patch_noise)] + [type(weight) for weight in teaching.state_class_weights] == [float] * 5


def test_every_field_is_one_of_the_config():
    config = tiny_config()
    for field in fields(Teaching):
        assert hasattr(config, field.name) != hasattr(config.speech_config, field.name)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"own_patches": 1.5}, "`teaching.own_patches` is 1.5: .*between 0 and 1"),
        ({"num_noise_draws": 0}, "`teaching.num_noise_draws` is 0: .*positive"),
        ({"state_class_weights": [1.0]}, "pass four numbers"),
    ],
)
def test_what_no_config_can_have_is_refused_before_a_model_is_loaded(wrong, message):
    with pytest.raises(ValueError, match=message):
        Teaching(**wrong)


def test_a_recipe_says_it_for_stages_of_whole_models():
    recipe = load_recipe("finetune", [*NEEDED, "teaching.patch_noise=1"])
    assert recipe.teaching == Teaching(patch_noise=1.0)
    with pytest.raises(ValueError, match="`teaching` is .*'patch_noise': 1.0.*not for the stage `vocoder`"):
        load_recipe("vocoder", [*NEEDED, "teaching.patch_noise=1"])
    with pytest.raises(ValueError, match="`teaching.patch_nose`: did you mean `teaching.patch_noise`"):
        load_recipe("finetune", [*NEEDED, "teaching.patch_nose=1"])
