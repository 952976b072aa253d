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
"""Flow matching as functions of tensors: the path from noise to data, the loss along it, and the way back along it.

Throughout, `data` are clean vectors, `noise` is standard Gaussian, and time runs from 0 (noise) to 1 (data) on the
straight path `x_t = (1 - t) noise + t data`, whose velocity is `data - noise`. Times have the shape of the data with a
last dimension of 1.
"""

from collections.abc import Callable

import torch


Predictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
MeanVelocity = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def interpolate(noise: torch.Tensor, data: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """The point of the straight path from `noise` to `data` at `times`."""
    return (1 - times) * noise + times * data


def velocity_of_path(noise: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """The constant velocity of that path."""
    return data - noise


def velocity_from_data(
    predicted_data: torch.Tensor, point: torch.Tensor, times: torch.Tensor, min_time_to_data: float
) -> torch.Tensor:
    """
    The velocity that leads from `point` to `predicted_data` in the remaining time, which is held above
    `min_time_to_data`: close to the data a small error of the prediction would be an unbounded one of the velocity.
    """
    return (predicted_data - point) / (1 - times).clamp(min=min_time_to_data)


def draw_normal(
    shape: tuple[int, ...], device: torch.device | None = None, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Gaussian numbers. Without a generator none is passed: `torch.compile` could not trace varying shapes."""
    if generator is None:
        return torch.randn(shape, device=device)
    return torch.randn(shape, device=device, generator=generator)


def draw_times(
    shape: tuple[int, ...],
    logit_mean: float,
    logit_std: float,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Times with normal logits: most training happens in the middle of the path, where the prediction is hard."""
    logits = draw_normal(shape, device, generator)
    return torch.sigmoid(logit_mean + logit_std * logits)


def flow_matching_loss(
    velocity: Predictor, data: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, latest_time: float = 1.0
) -> torch.Tensor:
    """
    Squared error of `velocity(point, times)` against the path's own velocity, averaged over the last dimension. No
    point is later than `latest_time`: where the velocity is derived from predicted data, whose time-to-data is held
    above a minimum, a later point would need a velocity that no data gives.
    """
    times = times.clamp(max=latest_time)
    point = interpolate(noise, data, times)
    error = velocity(point, times) - velocity_of_path(noise, data)
    return error.square().mean(dim=-1)


def guided(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance: at a `scale` of 1 the conditional prediction, above 1 beyond it."""
    return unconditional + scale * (conditional - unconditional)


def integrate(velocity: MeanVelocity, noise: torch.Tensor, num_steps: int) -> torch.Tensor:
    """
    Follows a flow from `noise` at time 0 to time 1 in `num_steps` steps, each along `velocity(point, times, end_times)`:
    that at the start of the step makes Euler's method, the mean over the step a flow map, which is exact in one step.
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps` is {num_steps}: integrating the flow takes at least 1 step.")
    step_size = 1 / num_steps
    start_of_time = torch.zeros_like(noise[..., :1])
    point = noise
    for step in range(num_steps):
        times = start_of_time + step * step_size
        point = point + velocity(point, times, times + step_size) * step_size
    return point
