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
"""Sweeps change one thing only, the same way every time, and ask nothing twice that is not changed."""

import numpy as np
import pytest
from evaluation_data import EarsForTones, oracle, write_data
from sounds import noise, tone

from flow_omni.evaluation import answering
from flow_omni.evaluation.questions import QUESTION_RATE, questions_of, rows_of
from flow_omni.evaluation.robustness import GENERATION_SWEEPS, SWEEPS, check_sweeps, points_of, questions_for
from flow_omni.evaluation.run import Settings, evaluate
from flow_omni.training.augmentation import change_tempo
from flow_omni.untrained import untrained


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return questions_of(rows_of(write_data(tmp_path_factory.mktemp("data"))))


def test_sweeps_are_known_by_name():
    assert check_sweeps(["all"]) == list(SWEEPS)
    assert check_sweeps(["steps", "noise"]) == ["noise", "steps"]
    with pytest.raises(ValueError, match="'wind' is unknown: choose among noise, speed"):
        check_sweeps(["wind"])


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_has_its_unchanged_point_and_changes_the_others(name, questions):
    waveform = tone(0.5, QUESTION_RATE) + noise(0.5, QUESTION_RATE)
    for sweep in {point.sweep for point in points_of(name, questions)}:
        points = [point for point in points_of(name, questions) if point.sweep == sweep]
        assert len({point.axis for point in points}) == 1
        assert len({point.part for point in points}) == len(points)
        if name in GENERATION_SWEEPS:
            assert all(point.options == {point.axis: point.value} and point.change is None for point in points)
            continue
        changed = [point for point in points if point.change is not None]
        assert len(changed) == len(points) - 1
        sounds = [point.change(waveform, QUESTION_RATE, 3) for point in changed]
        again = [point.change(waveform, QUESTION_RATE, 3) for point in changed]
        for sound, same in zip(sounds, again):
            np.testing.assert_array_equal(sound, same)
            assert len(sound) != len(waveform) or not np.allclose(sound, waveform, atol=1e-3)


def test_noise_is_the_same_at_every_strength_and_another_for_every_question(questions):
    waveform = 0.2 * tone(0.5, QUESTION_RATE)
    points = {point.value: point for point in points_of("noise", questions) if point.sweep == "noise/white"}
    loud, soft = (points[value].change(waveform, QUESTION_RATE, 1) - waveform for value in (10, 20))
    np.testing.assert_allclose(loud, soft * 10**0.5, atol=1e-4)
    other = points[10].change(waveform, QUESTION_RATE, 2) - waveform
    assert abs(np.corrcoef(loud, other)[0, 1]) < 0.1


def test_noise_has_the_level_it_says(questions):
    waveform = 0.2 * tone(1.0, QUESTION_RATE)
    points = {point.value: point for point in points_of("noise", questions) if point.sweep == "noise/pink"}
    added = points[10].change(waveform, QUESTION_RATE, 1) - waveform
    assert 10 * np.log10((waveform**2).mean() / (added**2).mean()) == pytest.approx(10.0, abs=0.1)


def test_any_length_has_any_tempo():
    """Rounding once put the last frame of some lengths behind the end."""
    for num_samples in (9776, 16658, 19655, 20543):
        for tempo in (0.7, 1.15):
            changed = change_tempo(np.zeros(num_samples, dtype=np.float32), QUESTION_RATE, tempo)
            assert len(changed) == round(num_samples / tempo)


def test_sweeps_ask_what_shows_their_effect(questions):
    assert {asked.task for asked in questions_for("noise", questions, 2)} == {"transcribe", "speech_to_speech"}
    assert len(questions_for("noise", questions, 2)) == 4
    assert {asked.task for asked in questions_for("steps", questions, None)} == {"say"}
    written = [asked for asked in questions if asked.task == "text_to_text"]
    assert questions_for("noise", written, None) == []


def test_what_is_not_changed_is_not_asked_again(questions, tmp_path, monkeypatch):
    asked_of = []

    def counted(model, processor, asked, is_spoken, **options):
        asked_of.append((len(asked), options.get("num_flow_steps"), options.get("return_audio", True)))
        return oracle(model, processor, asked, is_spoken)

    monkeypatch.setattr(answering, "answer_batch", counted)
    settings = Settings(num_timed=0, sweeps=["telephone", "steps"], sweep_limit=2, batch_size=64)
    results = evaluate(*untrained(), questions, {"ears": EarsForTones()}, tmp_path, settings)
    assert sum(number for number, steps, _ in asked_of if steps is None) == len(questions) + 4
    assert [(number, steps) for number, steps, _ in asked_of if steps] == [(2, steps) for steps in (1, 2, 4, 8, 16)]
    # a changed question is answered in text and patches, which no one listens to
    assert [number for number, _, has_audio in asked_of if not has_audio] == [2, 2]
    assert [row["line"] for row in results.sweeps["telephone"]] == ["as it is", "telephone"]
    assert results.sweeps["telephone"][1]["transcribe_cer"] == 0.0
    assert results.sweeps["telephone"][1]["speech_to_speech_exact"] == 1.0
    assert [row["heard_exact"] for row in results.sweeps["steps"]] == [1.0] * 5
