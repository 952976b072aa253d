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
"""What is measured on waveforms: silences where they are, and distances that do not mind the tempo."""

import numpy as np
import pytest
from sounds import noise, tone

from flow_omni.evaluation.sound_measures import sharpness, silences, spectral_distance
from flow_omni.evaluation.time_alignment import aligned_distance, frame_distances, warping_path
from flow_omni.processing.feature_extraction_flow_omni import MelSpectrogram


RATE = 24000


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), dtype=np.float32)


def speech(seconds: float = 0.5) -> np.ndarray:
    return tone(seconds, RATE, 300.0)


def test_silences_are_measured_before_inside_and_after():
    found = silences(np.concatenate([silence(0.3), speech(), silence(1.2), speech(), silence(0.6)]), RATE)
    assert found.before == pytest.approx(0.3, abs=0.03)
    assert found.longest_inside == pytest.approx(1.2, abs=0.03)
    assert found.after == pytest.approx(0.6, abs=0.03)
    assert found.voiced == pytest.approx(2.2, abs=0.03)


def test_a_quiet_hiss_is_silence_and_a_click_does_not_end_it():
    pause = silence(1.5) + 0.002 * noise(1.5, RATE)
    pause[RATE // 2 : RATE // 2 + 100] = 0.5
    found = silences(np.concatenate([speech(), pause, speech()]), RATE)
    assert found.longest_inside == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("waveform", [silence(0.0), silence(1.0), 1e-5 * noise(1.0, RATE)])
def test_nothing_is_voiced_in_silence(waveform):
    assert silences(waveform, RATE).voiced == 0.0


def test_quiet_speech_is_no_silence():
    assert silences(0.02 * speech(1.0), RATE).voiced == pytest.approx(1.0, abs=0.03)


def test_frame_distances_are_root_mean_squares():
    first, second = np.random.default_rng(0).standard_normal((2, 6, 5))
    expected = np.sqrt(((first[:, None] - second[None]) ** 2).mean(axis=-1))
    np.testing.assert_allclose(frame_distances(first, second), expected, atol=1e-7)


def test_a_stretched_copy_is_at_no_distance():
    mel = np.random.default_rng(0).standard_normal((40, 8))
    stretched = np.repeat(mel, np.random.default_rng(1).integers(1, 4, size=40), axis=0)
    distance, _ = aligned_distance(mel, stretched)
    assert distance == pytest.approx(0.0, abs=1e-6)
    assert aligned_distance(mel, stretched[::-1])[0] > 0.5


def test_a_warping_path_goes_from_the_first_pair_to_the_last_in_single_steps():
    rows, columns = warping_path(np.random.default_rng(0).random((7, 11)))
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, 6, 10)
    steps = np.stack([np.diff(rows), np.diff(columns)], axis=1)
    assert {tuple(step) for step in steps} <= {(0, 1), (1, 0), (1, 1)}


def test_a_warping_path_costs_the_least():
    """Against all paths of a small case, found by trying."""

    def best(row: int, column: int) -> float:
        if (row, column) == (0, 0):
            return distances[0, 0]
        before = [(row - 1, column - 1), (row - 1, column), (row, column - 1)]
        return distances[row, column] + min(best(*cell) for cell in before if min(cell) >= 0)

    distances = np.random.default_rng(3).random((5, 4))
    rows, columns = warping_path(distances)
    assert distances[rows, columns].sum() == pytest.approx(best(4, 3))


def test_spectral_distances_grow_with_what_is_added():
    mel_spectrogram = MelSpectrogram()
    clean = np.concatenate([tone(0.2, RATE, frequency) for frequency in (300.0, 900.0, 500.0)])
    zero, little, much = (
        spectral_distance(clean, clean + scale * noise(0.6, RATE), mel_spectrogram, -7.0) for scale in (0.0, 0.01, 0.5)
    )
    assert zero.mel == pytest.approx(0.0, abs=1e-5) and zero.decibels == pytest.approx(0.0, abs=1e-4)
    assert 0.0 < little.mel < much.mel
    assert 0.0 < little.decibels < much.decibels


def test_half_the_level_is_six_decibels():
    clean = noise(0.5, RATE)
    distance = spectral_distance(clean, 0.5 * clean, MelSpectrogram(), -7.0)
    assert distance.decibels == pytest.approx(6.02, abs=0.3)
    assert distance.mel == pytest.approx(np.log(2), abs=0.03)


def test_a_distance_to_hardly_any_sound_is_measured():
    assert spectral_distance(speech(), silence(0.001), MelSpectrogram(), -7.0).mel > 0


def test_a_blurred_spectrogram_is_less_sharp():
    mel = np.random.default_rng(0).standard_normal((50, 20))
    blurred = (mel[1:] + mel[:-1]) / 2
    assert sharpness(blurred, -7.0) < 0.8 * sharpness(mel, -7.0)
    assert sharpness(np.full((9, 20), -7.0), -7.0) == 0.0
    assert sharpness(np.zeros((0, 20)), -7.0) == 0.0


def test_silence_does_not_make_speech_blurred():
    mel = np.random.default_rng(0).standard_normal((50, 20))
    padded = np.concatenate([np.full((50, 20), -7.0), mel, np.full((50, 20), -7.0)])
    assert sharpness(padded, -7.0) == pytest.approx(sharpness(mel, -7.0))
