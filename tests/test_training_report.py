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
"""The report of a run: what its curves show, of whatever was logged."""

import pytest

from flow_omni.training.report import draw_curves, losses_in


def test_every_loss_has_a_curve_the_well_known_first():
    """Those of the vocoder and of hearing were left out."""
    log = [
        {"step": 1, "loss": 3.0, "stft_loss": 1.0, "mel_loss": 1.0, "audio_loss": 2.0, "learning_rate": 1e-3},
        {"step": 2, "loss": 2.0, "text_loss": 1.0, "grad_norm": 0.5},
        {"step": 2, "train_loss": 2.5, "train_runtime": 1.0},
    ]
    assert losses_in(log) == ["loss", "text_loss", "audio_loss", "mel_loss", "stft_loss"]


def test_what_only_evaluation_logged_has_a_curve_too(tmp_path):
    pytest.importorskip("matplotlib")
    log = [{"step": 3, "eval_loss": 3.0, "eval_state_loss": 1.0}]
    assert losses_in(log) == ["loss", "state_loss"]
    assert draw_curves(log, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_more_curves_than_fit_beside_each_other_go_below(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    draw_curves([{"step": 1} | {f"{name}_loss": 1.0 for name in "abcdefg"}], tmp_path / "many.png")
    height, width, _ = pyplot.imread(tmp_path / "many.png").shape
    assert width < 5 * height


def test_where_no_loss_was_logged_there_is_no_picture(tmp_path):
    assert not draw_curves([{"step": 4, "train_loss": 2.5}], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
