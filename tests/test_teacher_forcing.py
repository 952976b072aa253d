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
"""The previous patches that training reads: noised, with gaps, and some of the model's own among them."""

import pytest
import torch
from tiny import tiny_model, training_batch

from flow_omni.modeling_flow_omni.modeling_flow_omni import corrupt_patches, shift_patches


@pytest.mark.parametrize("clean_context", [True, False])
def test_patches_are_noised_in_training_only_and_for_the_speech_transformer_only_without_clean_context(clean_context):
    model = tiny_model(speech={"patch_noise": 1.0, "patch_dropout": 0.5, "clean_context": clean_context})
    batch, seen = training_batch(model.config), {}

    def spy(name, module):
        module.register_forward_pre_hook(lambda module, args: seen.__setitem__(name, args[0].clone()))

    spy("language_model", model.model.patch_proj)
    spy("speech_transformer", model.speech_transformer.patch_proj)
    model.eval()(**batch)
    assert torch.equal(seen["language_model"], seen["speech_transformer"])
    clean = seen["speech_transformer"]
    model.train()(**batch)
    assert not torch.equal(seen["language_model"], clean)
    assert torch.equal(seen["speech_transformer"], clean if clean_context else seen["language_model"])


@pytest.mark.parametrize("head_type", ["flow", "residual_vq"])
@pytest.mark.parametrize("clean_context", [True, False])
def test_a_share_of_the_patches_in_training_are_what_the_model_finds_typical(head_type, clean_context):
    quiet = {"patch_noise": 0.0, "patch_dropout": 0.0, "head_type": head_type, "clean_context": clean_context}
    model = tiny_model(speech=quiet | {"own_patches": 1.0})
    batch, seen = training_batch(model.config), []
    for reader in (model.model.patch_proj, model.speech_transformer.patch_proj):
        reader.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    condition = model.eval()(**batch).condition
    clean = seen[0]
    expected = patches_before(model.draw_typical_patches(condition, batch["speech_states"]))
    says = batch["speech_states"] == model.config.generating_state_id
    assert (expected[:, 1:] != 0).any(dim=-1).equal(says[:, :-1])
    seen.clear()
    torch.manual_seed(0)
    for _ in range(10):
        model.train()(**batch)
    drawing, fed_back, read_again = torch.stack(seen[::4]), torch.stack(seen[2::4]), torch.stack(seen[3::4])
    assert (drawing == clean).all() and torch.equal(fed_back, read_again)
    is_own = (fed_back != clean).any(dim=-1)
    torch.testing.assert_close(fed_back, torch.where(is_own[..., None], expected, clean))
    assert 0.2 < is_own[:, (clean != 0).any(dim=-1)].float().mean() < 0.8


def test_what_the_model_draws_for_itself_is_nothing_to_learn_from_and_stays_in_no_cache():
    speech = {"patch_noise": 0.0, "patch_dropout": 0.0, "condition_dropout": 0.0, "own_patches": 1.0}
    model = tiny_model(speech=speech).train()
    batch = training_batch(model.config)
    with_cache, without = ({"use_cache": used} for used in (True, False))
    conditions = []
    for options in (with_cache, without):
        torch.manual_seed(0)
        conditions.append(model(**batch, **options).condition)
    torch.testing.assert_close(*conditions)
    drawn = []
    draw = model.draw_typical_patches
    model.draw_typical_patches = lambda *args: drawn.append(draw(*args)) or drawn[-1]
    model(**batch).loss.backward()
    assert not drawn[0].requires_grad


def test_with_patches_of_its_own_every_weight_learns_under_autocast_and_autocast_ends(monkeypatch):
    """
    A forward within a forward would leave the Trainer's autocast on; and casts made without a graph would serve the pass
    that learns.
    """
    model = tiny_model(speech={"own_patches": 1.0, "condition_dropout": 0.5}).train()
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    # once after the pass without a graph, which newer versions of torch would not need, and once where autocast ends
    cleared, clear = [], torch.clear_autocast_cache
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: cleared.append(clear()))
    model(**training_batch(model.config)).loss.backward()
    assert len(cleared) == 2
    assert not torch.is_autocast_enabled("cpu")
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_each_row_in_training_lacks_a_share_of_its_patches_of_its_own():
    config = tiny_model(speech={"patch_noise": 0.0, "patch_dropout": 0.8}).config.speech_config
    torch.manual_seed(0)
    patches = torch.randn(200, 500, config.patch_size)
    kept = corrupt(patches, config)
    is_kept = kept.abs().sum(dim=-1) > 0
    assert torch.equal(kept[is_kept], patches[is_kept])
    shares = 1.0 - is_kept.float().mean(dim=-1)
    assert shares.min() < 0.1 and shares.max() > 0.7
    assert shares.mean().item() == pytest.approx(0.4, abs=0.04)
