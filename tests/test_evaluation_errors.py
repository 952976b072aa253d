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
"""Error rates, confidence intervals and stop errors."""

import numpy as np
import pytest
from evaluation_tools import RATE, audio_of_text
from sounds import noise, tone

from flow_omni.evaluation.results import AnswerRecord, compute_metrics
from flow_omni.evaluation.stop_errors import Silences, find_silences, find_stop_errors, stop_metrics
from flow_omni.evaluation.text_errors import (
    bootstrap_interval,
    error_rate,
    fraction,
    lacks_last_word,
    text_metrics,
    wilson_interval,
)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), dtype=np.float32)


def speech(seconds: float = 0.5) -> np.ndarray:
    return tone(seconds, RATE, 300.0)


def test_an_end_that_is_missing_is_not_an_end_that_was_misheard():
    for text, transcript, lacks in [
        ("Cats and dogs drink water.", "cats and dogs drink", True),
        ("Cats and dogs drink water.", "cats and dogs drink wa", True),
        ("Cats and dogs drink water.", "cats and dogs drink wate", False),
        ("Cats and dogs drink water.", "cats and dogs drink whisky", False),
        ("Cats and dogs drink water.", "and dogs drink water", False),
        ("Good morning.", "", True),
        ("Twenty-one.", "21", False),
        ("...", "", False),
    ]:
        assert lacks_last_word(text, transcript) == lacks, (text, transcript)


def test_intervals_hold_the_rate_and_shrink_with_rows():
    errors, lengths = [0, 1, 0, 3] * 10, [10] * 40
    low, high = bootstrap_interval(errors, lengths)
    assert low < 0.1 < high
    wider = bootstrap_interval(errors[:12], lengths[:12])
    assert high - low < wider[1] - wider[0]
    assert bootstrap_interval(errors, lengths) == (low, high)
    low, high = wilson_interval(0, 500)
    assert low == 0.0 and 0.005 < high < 0.01, "none of many is not certain"
    assert wilson_interval(500, 500)[1] == 1.0
    assert wilson_interval(5, 10)[0] == pytest.approx(1 - wilson_interval(5, 10)[1])


def test_few_rows_and_rows_that_are_alike_have_no_bootstrap_interval():
    """They had one without a width, and one row against one other was clearly better."""
    for errors, length in [([23], 24), ([1, 0, 3, 2], 20), ([0] * 50, 20), ([1] * 50, 3)]:
        assert bootstrap_interval(errors, [length] * len(errors)) is None
        assert set(error_rate("cer", errors, [length] * len(errors))) == {"cer"}
    low, high = bootstrap_interval([0] * 49 + [1], [20] * 50)
    assert low == 0.0 < high


def test_rates_of_nothing_are_left_out():
    assert fraction("exact", []) == error_rate("cer", [], []) == {}
    assert compute_metrics([], "en") == {}
    assert text_metrics([("!", "red")]) == {"num_rows": 1} | fraction("exact", [False])


def test_speech_has_metrics_of_its_own_for_each_asr_model():
    def record(text: str, transcript: str) -> AnswerRecord:
        return AnswerRecord("", "say", 0, "r", None, "Paris.", text, transcripts={"asr": transcript}, stop_errors=[])

    metrics = compute_metrics([record("Paris.", "parrots"), record("Rome.", "Rome")], "en")
    assert metrics["say"]["exact"] == 0.5
    assert metrics["say@asr"]["exact"] == 0.0
    assert metrics["say@asr"]["cer_of_own_text"] == pytest.approx(3 / 9)
    assert metrics["speech"]["clean"] == metrics["speech/say"]["clean"] == 1.0


def test_silences_are_measured_at_start_inside_and_end():
    found = find_silences(np.concatenate([silence(0.3), speech(), silence(1.2), speech(), silence(0.6)]), RATE)
    for value, expected in zip((found.start, found.inside, found.end, found.speech), (0.3, 1.2, 0.6, 2.2)):
        assert value == pytest.approx(expected, abs=0.03)
    # a quiet hiss is silence, and a click does not end it
    pause = silence(1.5) + 0.002 * noise(1.5, RATE)
    pause[RATE // 2 : RATE // 2 + 100] = 0.5
    assert find_silences(np.concatenate([speech(), pause, speech()]), RATE).inside == pytest.approx(1.5, abs=0.05)
    for waveform in (silence(0.0), silence(1.0), 1e-5 * noise(1.0, RATE)):
        assert find_silences(waveform, RATE).speech == 0.0
    assert find_silences(0.02 * speech(1.0), RATE).speech == pytest.approx(1.0, abs=0.03), "quiet speech is speech"


def test_each_stop_error_is_found():
    first, second = np.split(audio_of_text("Paris."), 2)
    silences = find_silences(np.concatenate([first, silence(1.5), second]), RATE)
    assert find_stop_errors("Paris.", silences, False, "Paris.", silences.speech) == ["silence_inside"]
    text = "red green blue grey"
    usual = {"text": text, "silences": Silences(0, 0, 0, 2.0), "is_truncated": False, "reference": text}
    usual |= {"reference_seconds": 2.0, "transcript": text}
    short, brief = Silences(0, 0, 0, 1.7), Silences(0, 0, 0, 0.5)
    without_end = {"transcript": "red green blue"}
    filler = {"text": "Yes.", "reference": "Hmm.", "transcript": "Yes"}
    for change, error in [
        ({}, None),
        ({"text": " "}, "empty"),
        ({"silences": Silences(1.5, 0, 0, 0)}, "no_start"),
        ({"is_truncated": True}, "length_limit"),
        ({"silences": Silences(0, 1.2, 0, 3.0)}, "silence_inside"),
        ({"silences": Silences(1.2, 0, 0, 2.0)}, "silence_start"),
        ({"silences": Silences(0, 0, 1.2, 2.0)}, "silence_end"),
        ({"silences": Silences(0, 0, 0, 1.0)}, "cut_short"),
        ({"silences": short} | without_end, "cut_short"),
        # an ASR model that misses the end of a whole answer, and one that misses it in the reference too
        (without_end, None),
        ({"silences": short, "reference_transcript": "red green blue"} | without_end, None),
        # a shorter text takes less time
        ({"text": "red green", "silences": Silences(0, 0, 0, 0.9), "transcript": "red green"}, None),
        ({"text": "Nineteen eighty-four.", "reference": "1984.", "transcript": "1984"}, None),
        # of what the normaliser drops, the letters count
        (filler, None),
        (filler | {"silences": brief}, "cut_short"),
        ({"text": "Hmm.", "reference": "Yes.", "transcript": "", "silences": brief}, "cut_short"),
    ]:
        assert find_stop_errors(**usual | change) == ([] if error is None else [error]), change


def test_stop_errors_are_fractions_of_the_answers():
    metrics = stop_metrics([[], ["cut_short", "length_limit"], ["cut_short"], []])
    assert [metrics[name] for name in ("clean", "cut_short", "length_limit", "empty")] == [0.5, 0.5, 0.25, 0.0]
    assert metrics["clean_low"] < 0.5 < metrics["clean_high"]
