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
"""Augmentation: effects in decibels, hertz and seconds; draws that depend on the key alone."""

import pickle

import numpy as np
import pytest
from sounds import frequency_of, tone

from flow_omni.training.augmentation import (
    NOISES,
    Augmentation,
    add_noise,
    add_room,
    change_speed,
    change_tempo,
    clip,
    generator_of,
    mean_power,
    shift_pitch,
    speech_power,
    telephone_band,
)


RATE = 16000
EFFECTS = ("speed_share", "room_share", "noise_share", "telephone_share", "clip_share", "gain_share")


def speechlike(seconds=1.0, seed=0):
    """Bursts of a vowel with silence between."""
    time = np.arange(round(seconds * RATE)) / RATE
    vowel = sum(np.sin(2 * np.pi * 120 * n * time) / n for n in range(1, 30))
    return (0.15 * vowel * (np.sin(2 * np.pi * 2 * time + seed) > -0.2)).astype(np.float32)


OTHERS = (speechlike(0.7, 1), speechlike(1.3, 2), speechlike(0.9, 3))


def only(effect, **options):
    return Augmentation(share=1.0, **(dict.fromkeys(EFFECTS, 0.0) | {effect: 1.0} | options))


def decibels(power):
    return 10 * np.log10(power)


def power_within(waveform, low, high):
    frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)
    return (np.abs(np.fft.rfft(waveform)) ** 2)[(frequencies >= low) & (frequencies < high)].mean()


def test_noise_has_the_signal_to_noise_ratio_asked_for_without_pauses():
    speech = 0.2 * speechlike()
    for kind in NOISES:
        for snr_db in (0.0, 20.0):
            noise = add_noise(speech, RATE, snr_db, kind, generator_of(1), OTHERS) - speech
            assert decibels(speech_power(speech) / mean_power(noise)) == pytest.approx(snr_db, abs=0.01)
    with_pause = np.concatenate([np.zeros(3 * RATE, np.float32), speech])
    assert speech_power(with_pause) == pytest.approx(speech_power(speech), rel=0.05)
    assert mean_power(with_pause) < 0.3 * mean_power(speech)


def test_noise_falls_with_frequency_as_its_colour_says():
    click = np.zeros(2**17, np.float32)
    click[0] = 1e-3
    for kind, decibels_per_octave in (("white", 0.0), ("pink", -3.01)):
        noise = add_noise(click, RATE, 0.0, kind, generator_of(0)) - click
        octaves = [decibels(power_within(noise, 200 * 2**n, 400 * 2**n)) for n in range(5)]
        assert np.polyfit(range(5), octaves, 1)[0] == pytest.approx(decibels_per_octave, abs=0.2)


def test_a_room_decays_by_60_decibels_in_its_time_delays_nothing_and_keeps_the_power():
    click = np.zeros(RATE, np.float32)
    click[1000] = 0.5
    for rt60 in (0.15, 0.4, 0.7):
        wet = add_room(click, RATE, rt60, generator_of(3), direct_to_reverberant_db=0.0)
        assert np.abs(wet[:999]).max() < 1e-4
        assert np.abs(wet).argmax() == 1000
        # backward sums of energy (Schroeder), read between -10 and -40 dB, where the tail is dense
        decay = decibels(np.cumsum(wet[:1000:-1].astype(np.float64) ** 2)[::-1] + 1e-20)
        decay -= decay[0]
        first, last = np.argmax(decay < -10), np.argmax(decay < -40)
        assert 2 * (last - first) / RATE == pytest.approx(rt60, rel=0.15)
    speech = 0.3 * speechlike()
    near, far = (add_room(speech, RATE, 0.5, generator_of(0), level) for level in (30.0, 0.0))
    assert mean_power(near) == pytest.approx(mean_power(speech), rel=1e-3)
    assert np.abs(near - speech).max() < 0.01 < 0.05 < np.abs(far - speech).max()


def test_a_telephone_passes_the_middle_of_the_spectrum():
    noise = (0.1 * generator_of(0).standard_normal(4 * RATE)).astype(np.float32)
    narrow = telephone_band(noise, RATE)
    assert narrow.shape == noise.shape
    level = decibels(power_within(noise, 500, 3000))
    assert decibels(power_within(narrow, 500, 3000)) == pytest.approx(level, abs=0.5)
    assert decibels(power_within(narrow, 50, 200)) < level - 25
    assert decibels(power_within(narrow, 4200, 8000)) < level - 25


def test_clipping_cuts_peaks_and_gain_sets_the_peak_in_decibels():
    speech = speechlike()
    limit = 0.4 * np.abs(speech).max()
    np.testing.assert_allclose(clip(speech, 0.4), np.clip(speech, -limit, limit), rtol=1e-6)
    quiet = only("gain_share", peaks_db=(-20.0, -20.0)).augment(speech, RATE, 0)
    np.testing.assert_allclose(quiet, 0.1 * speech / np.abs(speech).max(), rtol=1e-5)
    loud = only("gain_share", peaks_db=(60.0, 60.0)).augment(speech, RATE, 0)
    assert np.abs(loud).max() == pytest.approx(1.0)


def test_speed_changes_length_and_pitch():
    fast = change_speed(tone(1.0, frequency=300, sampling_rate=RATE), RATE, 1.25)
    assert len(fast) == 12800
    assert frequency_of(fast, RATE) == pytest.approx(375, abs=2)


def test_tempo_changes_length_and_keeps_pitch_and_order():
    sound = np.concatenate([tone(0.5, frequency=frequency, sampling_rate=RATE) for frequency in (300, 500)])
    for factor in (0.7, 1.4):
        changed = change_tempo(sound, RATE, factor)
        assert len(changed) == round(len(sound) / factor)
        middle = len(changed) // 2
        for half, frequency in ((changed[: middle - 1600], 300), (changed[middle + 1600 :], 500)):
            assert frequency_of(half, RATE) == pytest.approx(frequency, abs=4)
    speech, inside = speechlike(), slice(1000, -1000)
    assert decibels(mean_power(change_tempo(speech, RATE, 1.0)[inside] - speech[inside]) / mean_power(speech)) < -60


def test_pitch_shifts_by_semitones_and_keeps_the_length():
    sound = tone(1.0, frequency=400, sampling_rate=RATE)
    for semitones in (-5, 5):
        shifted = shift_pitch(sound, RATE, semitones)
        assert len(shifted) == len(sound)
        assert frequency_of(shifted[2000:-4000], RATE) == pytest.approx(400 * 2 ** (semitones / 12), abs=4)


def test_the_same_key_gives_the_same_result_in_any_order_and_process():
    augmentation, speech = Augmentation(share=1.0), speechlike()
    copy = pickle.loads(pickle.dumps(augmentation))
    first = [augmentation.augment(speech, RATE, key, OTHERS) for key in range(8)]
    again = [copy.augment(speech, RATE, key, OTHERS) for key in reversed(range(8))][::-1]
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one in first}) == 8


def test_augmented_speech_is_finite_float32_in_full_scale():
    augmentation, speech = Augmentation(share=1.0, telephone_share=0.5, clip_share=0.5), speechlike()
    before = speech.copy()
    for key in range(40):
        augmented = augmentation.augment(speech, RATE, key, OTHERS)
        assert augmented.dtype == np.float32
        assert np.isfinite(augmented).all()
        assert 0.01 < np.abs(augmented).max() <= 1.0
    np.testing.assert_array_equal(speech, before)
    for sound in (np.zeros(RATE, np.float32), np.zeros(1, np.float32)):
        assert np.isfinite(augmentation.augment(sound, RATE, 0, OTHERS)).all()


def test_the_share_is_the_fraction_of_waveforms_that_are_changed():
    speech = speechlike(0.1)
    for share in (0.0, 0.6, 1.0):
        augmentation = Augmentation(share=share)
        changed = [augmentation.augment(speech, RATE, key, OTHERS) is not speech for key in range(300)]
        assert np.mean(changed) == pytest.approx(share, abs=0.08)


def test_each_effect_can_be_used_alone():
    speech = speechlike(0.3)
    none = Augmentation(share=1.0, **dict.fromkeys(EFFECTS, 0.0))
    assert none.augment(speech, RATE, 0, OTHERS) is speech
    for effect in EFFECTS:
        assert only(effect).augment(speech, RATE, 0, OTHERS).tobytes() != speech.tobytes()
    # without other speech there is no babble
    assert only("noise_share", noises=("babble",)).augment(speech, RATE, 0) is speech


def test_the_longest_result_follows_from_the_slowest_speed():
    assert Augmentation(speeds=(0.8, 1.2)).longest == 1.25
    assert Augmentation(speed_share=0.0).longest == Augmentation(speeds=(1.1, 1.2)).longest == 1.0


def test_invalid_settings_are_refused():
    for settings, message in (
        ({"share": 1.5}, "`share` is 1.5: it must be between 0 and 1"),
        ({"snrs_db": (30, 5)}, r"`snrs_db` is \(30, 5\): it must be two numbers, the smaller one first"),
        ({"noises": ("green",)}, "`noises` holds 'green': choose from white, pink, babble"),
    ):
        with pytest.raises(ValueError, match=message):
            Augmentation(**settings)
