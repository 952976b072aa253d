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
"""The flow map: that one step is as good as many, its gradients, its sampling options, and its checkpoints."""

from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from tiny import spoken_prompt, tiny_model

from flow_omni import FlowOmniConfig, FlowOmniForSpeechGeneration, FlowOmniSpeechConfig
from flow_omni.modeling_flow_omni.flow_matching import guided
from flow_omni.modeling_flow_omni.speech_heads import FlowOmniFlowHead, FlowOmniZeroLinear


CONDITIONS = torch.eye(4)[:2]
CENTRES = torch.tensor([[1.0, 0.3], [-0.3, 1.0]])


def flow_head(flow_objective: str, is_random: bool = False) -> FlowOmniFlowHead:
    """A head of patches of two numbers, untrained or with random weights."""
    torch.manual_seed(0)
    sizes = {"frames_per_step": 2, "num_mel_bins": 1, "head_hidden_size": 64, "head_num_layers": 2}
    speech_config = FlowOmniSpeechConfig(flow_objective=flow_objective, time_embedding_size=32, **sizes)
    head = FlowOmniFlowHead(SimpleNamespace(speech_config=speech_config, condition_size=4))
    for module in head.modules():
        if isinstance(module, FlowOmniZeroLinear):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.2 if is_random else 0.0)
    return head


def draw(num_rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Conditions, points of one of the two clusters of each, and the numbers of the conditions."""
    index = torch.randint(2, (num_rows,), generator=generator)
    sign = 2.0 * torch.randint(2, (num_rows, 1), generator=generator) - 1
    return CONDITIONS[index], sign * CENTRES[index] + 0.1 * torch.randn(num_rows, 2, generator=generator), index


def energy_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """0 if two samples are of one distribution."""
    distances = [torch.cdist(*pair).mean() for pair in ((first, second), (first, first), (second, second))]
    return float(2 * distances[0] - distances[1] - distances[2])


def error_of_one_step(flow_objective: str) -> float:
    """The distance of samples of a head that was trained for a few seconds from data of the same condition."""
    head, generator = flow_head(flow_objective).train(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(head.parameters(), 5e-3)
    # enough for both to converge: after 200, how far they are differs between kinds of processors
    for _ in range(300):
        condition, points, _ = draw(64, generator)
        head(condition, points)[0].mean().backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    condition, points, index = draw(1000, generator)
    with torch.no_grad():
        samples = head.eval()(condition, noise=torch.randn(1000, 2, generator=generator), num_steps=1)
    return max(energy_distance(samples[index == number], points[index == number]) for number in (0, 1))


def test_one_step_of_the_flow_map_reaches_the_data_and_one_euler_step_their_mean():
    torch.manual_seed(0)
    assert error_of_one_step("lsd") < 0.3 * error_of_one_step("flow_matching")


def test_gradients_of_the_jumps_are_those_of_the_written_out_derivative():
    """Through torch's own layer norm, forward derivatives have wrong gradients."""
    head = flow_head("lsd", is_random=True).double()
    generator = torch.Generator().manual_seed(2)
    condition, patches, noise = (torch.randn(5, size, generator=generator).double() for size in (4, 2, 2))
    head.jump_loss(condition, patches, noise, torch.Generator().manual_seed(3)).sum().backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in head.named_parameters() if parameter.grad is not None
    }
    head.zero_grad()

    times = torch.rand((5, 2), generator=torch.Generator().manual_seed(3)).sort(dim=-1).values
    start, end = (times * head.latest_time).double().chunk(2, dim=-1)
    end.requires_grad_()
    point = (1 - start) * noise + start * patches
    jumped = point + (end - start) * head.velocity(point, start, condition, end)
    slope = [torch.autograd.grad(jumped[:, axis].sum(), end, create_graph=True)[0] for axis in range(2)]
    error = torch.cat(slope, dim=-1) - head.velocity(jumped, end, condition, end).detach()
    (error.square().sum() / 2).backward()
    assert {"duration_embedding.fc1.weight", "blocks.0.fc1.weight", "input_proj.weight"} <= gradients.keys()
    for name, gradient in gradients.items():
        # the sum of a flow time's float32 sines
        torch.testing.assert_close(gradient, head.get_parameter(name).grad, rtol=1e-3, atol=1e-5)


def test_guidance_and_temperature_of_a_jump_mean_what_they_mean_along_the_flow():
    head = flow_head("lsd", is_random=True).eval()
    torch.nn.init.normal_(head.empty_condition)
    condition, noise = CONDITIONS, torch.randn(1, 2).expand(2, -1)
    with torch.no_grad():
        plain, empty, beyond = (head.sample(condition, noise, 1, guidance_scale=scale) for scale in (1.0, 0.0, 3.0))
        torch.testing.assert_close(empty[0], empty[1])  # without guidance the condition counts for nothing
        torch.testing.assert_close(beyond, guided(plain, empty, 3.0))
        assert not torch.allclose(plain[0], plain[1])
        silent = head.sample(condition, noise, 1, temperature=0.0)
        torch.testing.assert_close(silent, head.sample(condition, -noise, 1, temperature=0.0))
        assert not torch.allclose(silent, plain)


def test_head_trained_by_flow_matching_becomes_a_flow_map_that_starts_as_it_was(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    config = FlowOmniConfig.from_pretrained(tmp_path)
    config.speech_config.flow_objective = "lsd"
    flow_map = FlowOmniForSpeechGeneration.from_pretrained(tmp_path, config=config).eval()
    patches, times = torch.randn(3, config.speech_config.patch_size), torch.rand(3, 1)
    condition = torch.randn(3, config.condition_size)
    with torch.no_grad():
        expected = model.eval().speech_head.velocity(patches, times, condition)
        for end_times in (times, torch.ones(3, 1)):
            torch.testing.assert_close(flow_map.speech_head.velocity(patches, times, condition, end_times), expected)


def test_saved_flow_map_speaks_in_one_step_unless_told_otherwise(tmp_path, monkeypatch):
    tiny_model(speech={"flow_objective": "lsd"}).save_pretrained(tmp_path)
    model = FlowOmniForSpeechGeneration.from_pretrained(tmp_path).eval()
    velocity, calls = model.speech_head.velocity, []
    monkeypatch.setattr(model.speech_head, "velocity", lambda *inputs: calls.append(1) or velocity(*inputs))
    for options, steps_per_patch in (({}, 1), ({"num_flow_steps": 3}, 3)):
        calls.clear()
        output = model.generate(**spoken_prompt([40], [5]), max_new_tokens=12, seed=0, **options)
        assert len(calls) == steps_per_patch * int((output.speech_states == 2).sum()) > 0


def test_a_single_noise_draw_cannot_teach_both_velocities_and_jumps():
    with pytest.raises(StrictDataclassClassValidationError, match="needs at least 2"):
        FlowOmniSpeechConfig(flow_objective="lsd", num_noise_draws=1)
