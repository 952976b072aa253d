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
"""Randomness by row: a row of a batch draws the same numbers as the row alone, whatever the others do."""

from collections.abc import Sequence

import torch
from torch import nn


def row_generators(
    seed: int | Sequence[int] | None, generator: torch.Generator | list[torch.Generator] | None, batch_size: int
) -> list[torch.Generator] | None:
    """
    The source of randomness of each row: from `seed` (row `i` takes `seed + i`, or the `i`-th seed), or as given. `None`
    stands for torch's global one.
    """
    if generator is not None:
        generators = generator if isinstance(generator, list) else [generator] * batch_size
        _check_count("generators", len(generators), batch_size)
        return generators
    if seed is None:
        return None
    seeds = (
        [int(seed) + row for row in range(batch_size)] if hasattr(seed, "__index__") else [int(one) for one in seed]
    )
    _check_count("seeds", len(seeds), batch_size)
    # on the CPU whatever the model's device, so that a seed means the same everywhere
    return [torch.Generator("cpu").manual_seed(row_seed) for row_seed in seeds]


def _check_count(name: str, count: int, batch_size: int) -> None:
    if count != batch_size:
        raise ValueError(f"Got {count} {name} for {batch_size} rows: pass one, or as many as there are rows.")


def choose_tokens(
    scores: torch.FloatTensor, is_text: torch.BoolTensor, do_sample: bool, generators: list[torch.Generator] | None
) -> torch.LongTensor:
    """
    The best token of each row of `scores` (batch_size, vocab_size), or a sampled one. Rows that write no text draw
    nothing: alone, they would not be asked.
    """
    tokens = scores.argmax(dim=-1)
    if not do_sample:
        return tokens
    probabilities = scores.softmax(dim=-1)
    if generators is None:
        return torch.multinomial(probabilities, num_samples=1).squeeze(-1)
    for row in is_text.nonzero().squeeze(-1).tolist():
        generator = generators[row]
        tokens[row] = torch.multinomial(probabilities[row].to(generator.device), num_samples=1, generator=generator)
    return tokens


def draw_noise(
    speech_head: nn.Module, rows: list[int], generators: list[torch.Generator] | None, device: torch.device
) -> torch.FloatTensor:
    """The speech head's randomness for one patch of each of `rows`."""
    if generators is None:
        return torch.stack([speech_head.draw_noise(None, device) for _ in rows])
    drawn = [speech_head.draw_noise(generators[row], generators[row].device) for row in rows]
    return torch.stack(drawn).to(device)
