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
"""Flow matching against equations whose answer is known."""

import math

import pytest
import torch

from flow_omni.modeling_flow_omni.flow_matching import (
    draw_normal,
    draw_times,
    flow_matching_loss,
    guided,
    integrate,
    interpolate,
    velocity_from_data,
    velocity_of_path,
)


def test_path_runs_from_noise_to_data():
    noise, data = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(interpolate(noise, data, torch.zeros(5, 1)), noise)
    torch.testing.assert_close(interpolate(noise, data, torch.ones(5, 1)), data)


def test_velocity_is_the_derivative_of_the_path():
    noise, data, times = torch.randn(5, 3).double(), torch.randn(5, 3).double(), torch.rand(5, 1).double()
    step = 1e-6
    difference = interpolate(noise, data, times + step) - interpolate(noise, data, times - step)
    torch.testing.assert_close(difference / (2 * step), velocity_of_path(noise, data), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_constant_velocity_integrates_exactly(num_steps):
    noise, data = torch.randn(4, 6), torch.randn(4, 6)
    arrived = integrate(lambda point, times, end_times: data - noise, noise, num_steps)
    torch.testing.assert_close(arrived, data)


def test_halving_the_step_halves_the_error_of_the_solver():
    start = torch.ones(1, 1, dtype=torch.float64)

    def error(num_steps):
        # dx/dt = x, so that x(1) = e
        return abs(integrate(lambda point, times, end_times: point, start, num_steps).item() - math.e)

    assert error(64) / error(128) == pytest.approx(2, rel=0.05)


def test_a_solver_step_sees_the_times_of_its_start_and_end():
    seen = []

    def velocity(point, times, end_times):
        seen.append((times.flatten().tolist(), end_times.flatten().tolist()))
        return torch.zeros_like(point)

    integrate(velocity, torch.zeros(2, 3), 4)
    starts = [[0.0, 0.0], [0.25, 0.25], [0.5, 0.5], [0.75, 0.75], [1.0, 1.0]]
    assert seen == list(zip(starts, starts[1:]))


def test_mean_velocity_of_a_curved_flow_arrives_in_one_step():
    start = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    # of dx/dt = x, whose paths are x exp(t)
    arrived = integrate(lambda point, times, ends: point * (torch.exp(ends - times) - 1) / (ends - times), start, 1)
    torch.testing.assert_close(arrived, math.e * start)


def test_perfect_data_prediction_gives_the_velocity_of_the_path_and_arrives_in_one_step():
    noise, data, times = torch.randn(5, 3), torch.randn(5, 3), torch.rand(5, 1) * 0.9
    point = interpolate(noise, data, times)
    velocity = velocity_from_data(data, point, times, min_time_to_data=0.05)
    torch.testing.assert_close(velocity, velocity_of_path(noise, data), rtol=1e-4, atol=1e-4)
    arrived = integrate(
        lambda point, times, end_times: velocity_from_data(data, point, times, 0.05), noise, num_steps=1
    )
    torch.testing.assert_close(arrived, data)


def test_loss_is_zero_for_the_true_velocity_and_its_square_error_otherwise():
    noise, data, times = torch.randn(5, 3), torch.randn(5, 3), torch.rand(5, 1)
    true = flow_matching_loss(lambda point, times: data - noise, data, noise, times)
    torch.testing.assert_close(true, torch.zeros(5))
    off_by_two = flow_matching_loss(lambda point, times: data - noise + 2, data, noise, times)
    torch.testing.assert_close(off_by_two, torch.full((5,), 4.0))


def test_loss_never_asks_beyond_its_latest_time():
    seen = []

    def velocity(point, times):
        seen.append(times)
        return point

    data = torch.randn(100, 3)
    flow_matching_loss(velocity, data, torch.randn(100, 3), torch.linspace(0, 1, 100)[:, None], latest_time=0.95)
    assert seen[0].max() == pytest.approx(0.95)


def test_times_are_logit_normal_and_repeat_with_their_generator():
    times = draw_times((20000, 1), logit_mean=-0.4, logit_std=1.0, generator=torch.Generator().manual_seed(0))
    logits = torch.logit(times)
    assert logits.mean().item() == pytest.approx(-0.4, abs=0.03)
    assert logits.std().item() == pytest.approx(1.0, abs=0.03)
    again = draw_times((20000, 1), logit_mean=-0.4, logit_std=1.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(times, again)


def test_normal_numbers_of_any_shape_can_be_compiled():
    """With `generator=None` passed on, a second shape made `torch.compile` fail."""
    compiled = torch.compile(lambda data: draw_normal(data.shape, data.device), backend="eager", fullgraph=True)
    for num_rows in (3, 5, 7):
        torch.manual_seed(num_rows)
        drawn = compiled(torch.zeros(num_rows, 4))
        torch.manual_seed(num_rows)
        assert torch.equal(drawn, torch.randn(num_rows, 4))


def test_guidance_of_one_is_the_conditional_and_more_goes_beyond():
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert guided(conditional, unconditional, 1.0).item() == 3.0
    assert guided(conditional, unconditional, 0.0).item() == 1.0
    assert guided(conditional, unconditional, 2.0).item() == 5.0


def test_integrating_takes_at_least_one_step():
    with pytest.raises(ValueError, match="at least 1 step"):
        integrate(lambda point, times, end_times: point, torch.zeros(1, 1), 0)
