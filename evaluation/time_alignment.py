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
"""Two spectrograms of the same words brought to the same time, by dynamic time warping."""

import numpy as np


def frame_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    Root mean square differences `(num_first, num_second)` between every two frames of `(num_frames, num_bins)`. Written
    as a product of matrices: all differences at once would be as many times larger as there are bins.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None] - 2 * first @ second.T
    return np.sqrt(np.maximum(squares, 0.0) / first.shape[1])


def warping_path(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    The frames of both that belong together: of all ways from the first pair to the last, in steps of one frame of either
    or both, that of the least sum of `distances` `(num_first, num_second)`.
    """
    num_first, num_second = distances.shape
    costs = np.full((num_first + 1, num_second + 1), np.inf)
    costs[0, 0] = 0.0
    # along the diagonals, whose cells depend on earlier ones only: a Python loop over every cell takes seconds
    for diagonal in range(2, num_first + num_second + 1):
        rows = np.arange(max(1, diagonal - num_second), min(num_first, diagonal - 1) + 1)
        columns = diagonal - rows
        before = np.minimum(
            costs[rows - 1, columns - 1], np.minimum(costs[rows - 1, columns], costs[rows, columns - 1])
        )
        costs[rows, columns] = distances[rows - 1, columns - 1] + before
    path = [(num_first, num_second)]
    while path[-1] != (1, 1):
        row, column = path[-1]
        before = ((row - 1, column - 1), (row - 1, column), (row, column - 1))
        path.append(min(before, key=lambda cell: costs[cell]))
    rows, columns = np.array(path[::-1]).T - 1
    return rows, columns


def aligned_distance(first: np.ndarray, second: np.ndarray) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """The mean difference of two spectrograms `(num_frames, num_bins)` along their warping path, and the path."""
    distances = frame_distances(first, second)
    rows, columns = warping_path(distances)
    return float(distances[rows, columns].mean()), (rows, columns)
