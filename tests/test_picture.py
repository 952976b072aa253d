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
"""Pictures of answers: drawn whatever was said, complete when they appear, and clear about what they need."""

import builtins

import pytest
import torch
from tiny import tiny_config

from flow_omni.picture import draw_answer


PNG = b"\x89PNG"


def spoken_answer(config, num_patches: int):
    pad, start, generating, stop = config.state_ids
    speech = config.speech_config
    patches = list(torch.randn(num_patches, speech.frames_per_step, speech.num_mel_bins))
    return patches, [pad] * 3 + [start] + [generating] * num_patches + [stop]


@pytest.mark.parametrize("num_patches", [1, 40, 2000])
def test_an_answer_of_any_length_is_drawn(tmp_path, num_patches):
    config = tiny_config()
    patches, states = spoken_answer(config, num_patches)
    draw_answer(tmp_path / "a.png", patches, states, ["Par", "is", "."], config)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_answer_without_speech_is_drawn(tmp_path):
    config = tiny_config()
    draw_answer(tmp_path / "a.png", [], [config.pad_state_id] * 3, ["a", "b", ""], config)
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_formulas_foreign_letters_and_whitespace_are_only_text(tmp_path):
    """matplotlib takes text between dollar signs for a formula, and fails on a wrong one."""
    config = tiny_config()
    patches, states = spoken_answer(config, 5)
    draw_answer(tmp_path / "a.svg", patches, states, ["$\\frac{$", "巴黎", "\n", " ", "\ufffd"], config)
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_nothing_is_left_where_drawing_failed(tmp_path):
    config = tiny_config()
    patches, states = spoken_answer(config, 5)
    with pytest.raises(ValueError, match="nonsense"):
        draw_answer(tmp_path / "a.nonsense", patches, states, [], config)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    config = tiny_config()
    with pytest.raises(ImportError, match=r"flow-omni\[train\]"):
        draw_answer(tmp_path / "a.png", *spoken_answer(config, 2), [], config)
    assert list(tmp_path.iterdir()) == []
