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
"""How sure a figure is: 95 % confidence intervals of error rates and of shares."""

import math
from collections.abc import Sequence

import numpy as np


NUM_RESAMPLES = 1000
MAX_DRAWS = 2**20
# A bootstrap of so few rows claims too much: of ten, its 95 % are five times in six, of five three times in four.
LEAST_ROWS = 10
# Ends that lie no further apart differ by rounding only.
LEAST_WIDTH = 1e-9
Z = 1.959964  # the normal distribution has 95 % of its mass within so many standard deviations


def error_interval(errors: Sequence[float], lengths: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """
    [`bootstrap_interval`], where that tells anything: not of a handful of rows, nor where all are alike, which a bootstrap
    takes for certainty, though no error in the rows at hand does not mean that there is none in others.
    """
    if len(errors) < LEAST_ROWS:
        return None
    low, high = bootstrap_interval(errors, lengths, seed=seed)
    return (low, high) if high - low > LEAST_WIDTH else None


def bootstrap_interval(
    errors: Sequence[float], lengths: Sequence[float], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """
    The interval of `sum(errors) / sum(lengths)` over rows drawn with replacement: the errors of one row come together, so
    that counting characters as if they were independent would claim too much.
    """
    errors, lengths = np.asarray(errors, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    rng = np.random.default_rng(seed)
    # some at a time: all draws of a large set at once would be large
    at_once = max(1, MAX_DRAWS // len(errors))
    rates = []
    for start in range(0, num_resamples, at_once):
        drawn = rng.integers(len(errors), size=(min(at_once, num_resamples - start), len(errors)))
        rates.append(errors[drawn].sum(axis=1) / np.maximum(lengths[drawn].sum(axis=1), 1e-9))
    low, high = np.quantile(np.concatenate(rates), [0.025, 0.975])
    return float(low), float(high)


def share_interval(num_hits: int, num_rows: int) -> tuple[float, float]:
    """
    Wilson's interval of a share. Unlike a bootstrap's it is no point where nothing, or everything, was a hit: none in 500
    may still be seven in a thousand.
    """
    share = num_hits / num_rows
    middle = (share + Z**2 / (2 * num_rows)) / (1 + Z**2 / num_rows)
    half = Z / (1 + Z**2 / num_rows) * math.sqrt(share * (1 - share) / num_rows + Z**2 / (4 * num_rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)
