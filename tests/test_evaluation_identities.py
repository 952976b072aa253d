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
"""What has the same name is told apart: models, recognisers, recordings, and the rows that are made of them."""

import numpy as np
from evaluation_data import EarsForTones, WeighedEars
from sounds import tone

from flow_omni.evaluation.identities import digest_of, digest_of_questions, digest_of_recogniser, identity_of_sound
from flow_omni.evaluation.judging import original_key
from flow_omni.evaluation.questions import AskedRow
from flow_omni.processing.audio_io import write_audio
from flow_omni.untrained import untrained


def test_a_digest_tells_weights_apart():
    (model, _), (other, _) = untrained(), untrained()
    assert digest_of(model) == digest_of(other)
    other.lm_head.weight.data[3, 3] += 0.01
    assert digest_of(model) != digest_of(other)


def test_a_digest_tells_recognisers_apart_by_kind_weights_and_words():
    ears = EarsForTones()
    before = digest_of_recogniser(ears)
    ears.transcribe(tone(0.1, 16000, 300.0), 16000)
    assert digest_of_recogniser(ears) == digest_of_recogniser(EarsForTones()) == before
    digests = {digest_of_recogniser(one) for one in (ears, WeighedEars(), WeighedEars(2.0))}
    assert len(digests) == 3
    ears.sentences = [["yes"], ["no"]]
    assert digest_of_recogniser(ears) != before


def test_a_digest_tells_recognisers_apart_by_their_options():
    digests = []
    for language in ("german", "german", "french"):
        ears = EarsForTones()
        ears.options = {"generate_kwargs": {"language": language}, "hook": object()}
        digests.append(digest_of_recogniser(ears))
    assert digests[0] == digests[1] != digests[2]


def test_originals_of_two_speakers_are_two_though_their_files_share_a_name(tmp_path):
    for number, speaker in enumerate(("anna", "ben")):
        (tmp_path / speaker).mkdir()
        write_audio(tmp_path / speaker / "yes.wav", tone(0.2, 16000, 300.0 + 100 * number), 16000)
    paths = [str(tmp_path / speaker / "yes.wav") for speaker in ("anna", "ben", "ben")]
    rows = [{"question_text": "Say yes.", "answer_text": "Yes.", "answer_audio": path} for path in paths]
    anna, ben, ben_again = (original_key(AskedRow(row, "say", number)) for number, row in enumerate(rows))
    assert anna != ben
    # rows of an answer share what was heard of it
    assert ben == ben_again


def test_parts_of_a_long_recording_are_originals_of_their_own(tmp_path):
    write_audio(tmp_path / "long.wav", tone(1.0, 16000, 300.0), 16000)
    row = {"question_text": "Yes.", "question_audio": str(tmp_path / "long.wav"), "question_end": 0.5}
    first, second = row | {"question_start": 0.0}, row | {"question_start": 0.2}
    assert original_key(AskedRow(first, "say", 0)) != original_key(AskedRow(second, "say", 1))


def test_a_sound_is_told_by_what_it_is_however_it_is_given(tmp_path):
    waveform = tone(0.1, 16000, 300.0)
    path = tmp_path / "a.wav"
    write_audio(path, waveform, 16000)
    data = path.read_bytes()
    forms = [
        str(path),
        {"bytes": None, "path": str(path)},
        {"bytes": data, "path": "a.wav"},
        data,
        waveform,
        {"array": waveform, "sampling_rate": 16000},
        {"array": waveform, "sampling_rate": 16000, "path": str(path)},
        {"array": waveform * 0.5, "sampling_rate": 16000},
        {"array": waveform, "sampling_rate": 8000},
        "https://example.org/a.wav",
    ]
    found = [identity_of_sound(form) for form in forms]
    assert found[0] == found[1] and found[2] == found[3] and found[5] == found[6]
    # of bare samples nobody knows the rate
    assert len(set(found)) == 7
    write_audio(path, np.concatenate([waveform, waveform]), 16000)
    assert identity_of_sound(str(path)) != found[0]


def test_questions_are_told_by_all_that_is_in_their_rows():
    row = {"id": "1", "question_text": "And then?", "answer_text": "No.", "history": []}
    other = row | {"history": [{"role": "user", "text": "Hello."}]}
    digests = [digest_of_questions([AskedRow(one, "text_to_text", 0)]) for one in (row, dict(row), other)]
    assert digests[0] == digests[1] != digests[2]
