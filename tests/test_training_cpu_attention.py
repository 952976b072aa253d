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
"""The attention that training on a CPU uses: the same numbers as PyTorch's own, and only where it is meant to be."""

from contextlib import nullcontext

import pytest
import torch
from tiny import tiny_model, training_batch
from torch import nn
from training_runs import encoded_examples, make_trainer
from transformers import TrainerCallback
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from flow_omni.training import cpu_attention


BATCH_SIZE, NUM_HEADS, NUM_STEPS, HEAD_SIZE = 2, 4, 9, 8


class Layer(nn.Module):
    def __init__(self, num_groups: int, is_causal: bool):
        super().__init__()
        self.num_key_value_groups, self.is_causal = num_groups, is_causal


def gradients_of(attention, layer: Layer, attention_mask: torch.Tensor | None, **options) -> list[torch.Tensor]:
    """The result for random inputs, and the gradients of all of them."""
    torch.manual_seed(0)
    num_heads = [NUM_HEADS, NUM_HEADS // layer.num_key_value_groups, NUM_HEADS // layer.num_key_value_groups]
    inputs = [torch.randn(BATCH_SIZE, heads, NUM_STEPS, HEAD_SIZE, requires_grad=True) for heads in num_heads]
    result, _ = attention(layer, *inputs, attention_mask, **options)
    result.backward(torch.randn(result.shape))
    return [result, *(tensor.grad for tensor in inputs)]


def padded_mask() -> torch.Tensor:
    """Causal, with the last three steps of the second row padding: (2, 1, 9, 9)"""
    mask = torch.ones(BATCH_SIZE, 1, NUM_STEPS, NUM_STEPS, dtype=torch.bool).tril()
    mask[1, :, :, -3:] = False
    return mask


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("mask", ["none", "boolean", "added"])
def test_results_and_gradients_are_those_of_the_kernel(is_causal, num_groups, mask):
    attention_mask = None if mask == "none" else padded_mask()
    if mask == "added":
        attention_mask = torch.zeros(attention_mask.shape).masked_fill(~attention_mask, torch.finfo(torch.float32).min)
    arguments = (Layer(num_groups, is_causal), attention_mask)
    ours = gradients_of(cpu_attention.attention, *arguments, scaling=0.3)
    kernels = gradients_of(sdpa_attention_forward, *arguments, scaling=0.3)
    for one, other in zip(ours, kernels, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_row_that_may_look_nowhere_has_finite_gradients():
    mask = padded_mask()
    mask[1] = False
    for tensor in gradients_of(cpu_attention.attention, Layer(1, True), mask):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize(("is_short", "needs_gradients"), [(False, True), (True, False)])
def test_long_rows_and_evaluation_are_left_to_the_kernel(monkeypatch, is_short, needs_gradients):
    monkeypatch.setattr(cpu_attention, "MAX_LENGTH", NUM_STEPS if is_short else NUM_STEPS - 1)
    monkeypatch.setattr(cpu_attention, "sdpa_attention_forward", lambda *args, **kwargs: ("the kernel's", None))
    inputs = [torch.randn(BATCH_SIZE, NUM_HEADS, NUM_STEPS, HEAD_SIZE) for _ in range(3)]
    with torch.set_grad_enabled(needs_gradients):
        assert cpu_attention.attention(Layer(1, True), *inputs, None)[0] == "the kernel's"


def losses_and_gradients(model, is_plain: bool) -> tuple:
    with cpu_attention.plain_backward(model) if is_plain else nullcontext():
        loss = model(**training_batch(model.config)).loss
        loss.backward()
    return loss, {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}


def test_a_model_has_the_same_losses_and_gradients_with_it():
    ours, kernels = (losses_and_gradients(tiny_model(), is_plain) for is_plain in (True, False))
    torch.testing.assert_close(ours, kernels, rtol=1e-4, atol=1e-5)


def test_an_attention_that_was_chosen_stays():
    eager = tiny_model()
    eager.set_attn_implementation("eager")
    with cpu_attention.plain_backward(eager):
        assert eager.config.text_config._attn_implementation == "eager"
    assert eager.config.text_config._attn_implementation == "eager"


class Watch(TrainerCallback):
    def __init__(self):
        self.seen = set()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen |= {model.config.text_config._attn_implementation, model.config.audio_config._attn_implementation}


@pytest.mark.parametrize(("is_bf16", "expected"), [(True, cpu_attention.NAME), (False, "sdpa")])
def test_training_in_bf16_uses_it_and_leaves_the_model_as_it_was(tmp_path, is_bf16, expected):
    model, watch = tiny_model(), Watch()
    trainer = make_trainer(tmp_path, model, encoded_examples(copies=1), max_steps=1, bf16=is_bf16, callbacks=[watch])
    trainer.train()
    assert watch.seen == {expected}
    assert model.config._attn_implementation == model.config.text_config._attn_implementation == "sdpa"
    assert model.config.audio_config._attn_implementation == "sdpa"
