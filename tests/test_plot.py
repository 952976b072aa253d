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
"""Plots of answers: of any length, with any text, complete when they appear."""

import pytest
import torch
from tiny import tiny_config

from flow_omni.plot import plot_answer


def spoken_answer(config, num_patches: int):
    pad, start, generating, stop = config.state_ids
    speech = config.speech_config
    patches = list(torch.randn(num_patches, speech.frames_per_step, speech.num_mel_bins))
    return patches, [pad] * 3 + [start] + [generating] * num_patches + [stop]


def test_answers_of_any_length_are_plotted(tmp_path):
    config = tiny_config()
    answers = [spoken_answer(config, num_patches) for num_patches in (1, 2000)]
    for patches, states in [*answers, ([], [config.pad_state_id] * 3), ([], [])]:
        plot_answer(tmp_path / "a.png", patches, states, ["Par", "is", ".", ""], config)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_formulas_and_characters_without_a_glyph_are_only_text(tmp_path):
    """matplotlib takes text between dollar signs for a formula, and fails on a wrong one."""
    config = tiny_config()
    plot_answer(tmp_path / "a.svg", *spoken_answer(config, 5), ["$\\frac{$", "巴黎", "\n", " ", "\ufffd"], config)
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_nothing_is_left_where_plotting_failed(tmp_path):
    config = tiny_config()
    with pytest.raises(ValueError, match="nonsense"):
        plot_answer(tmp_path / "a.nonsense", *spoken_answer(config, 5), [], config)
    assert list(tmp_path.iterdir()) == []
