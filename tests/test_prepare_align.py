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
"""The times of words by forced alignment: where they lie, which rows are left out, and that a run continues."""

import json

import pytest
import soundfile
import torch
from sounds import noise
from tiny import tiny_model, tiny_processor
from typer.testing import CliRunner

from flow_omni.cli.app import app
from flow_omni.training.data import load_rows, word_times_of
from flow_omni.training.prepare import align_rows, validate_rows


CTC = {"adapter_compression": "ctc", "adapter_hidden_size": 16, "adapter_num_attention_heads": 2}
BLANK = 28


@pytest.fixture(scope="module")
def parts():
    model = tiny_model(**CTC)
    return model, tiny_processor(model.config)


@pytest.fixture
def rows(tmp_path):
    """A spoken answer, a recording that is a segment, a row with times, and five that cannot be aligned."""
    soundfile.write(tmp_path / "a.wav", noise(2.0), 16000)
    rows = [
        {"id": "answer", "question_text": "what", "answer_text": "A cat - sat.", "answer_audio": "a.wav"},
        {"id": "recording", "question_text": "so so", "question_audio": "a.wav", "question_start": 1.0},
        {"id": "timed", "answer_text": "so", "answer_audio": "a.wav", "answer_word_times": [1.5]},
        {"id": "digits", "answer_text": "It is 5.", "answer_audio": "a.wav"},
        {"id": "dots", "answer_text": "it is 6", "answer_audio": "a.wav"},
        {"id": "long", "answer_text": "a" * 200, "answer_audio": "a.wav"},
        {"id": "missing", "answer_text": "so", "answer_audio": "b.wav"},
        {"id": "written", "question_text": "a", "question_audio": "a.wav", "answer_text": "so"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows.jsonl"


def hears(monkeypatch, model, frames: str):
    """Makes the adapter hear these letters, one for each frame of 20 ms; `_` is the blank."""
    letters = [BLANK if letter == "_" else model.config.ctc_alphabet.index(letter) for letter in frames]
    logits = 10 * torch.eye(BLANK + 1)[letters][None]
    monkeypatch.setattr(model, "get_letter_logits", lambda **inputs: logits)


def test_words_begin_where_their_first_letter_is_heard_and_dashes_with_the_next_word(rows, parts, monkeypatch):
    hears(monkeypatch, parts[0], "__aa_ _cc__aatt__ __ss_aaatt____")
    align_rows(*parts, str(rows), rows.parent / "out.jsonl")
    row = load_rows(str(rows.parent / "out.jsonl"))[0]
    assert word_times_of(row, "say") == [("A", 0.04), ("cat", 0.14), ("-", 0.4), ("sat.", 0.4)]
    # what is not heard lies between its neighbours, and the full stop before the end
    times = row["answer_character_times"]
    heard = {0: 0.04, 2: 0.14, 3: 0.22, 4: 0.26, 8: 0.4, 9: 0.46, 10: 0.52}
    assert {place: times[place] for place in heard} == heard
    assert times == sorted(times) and times[11] > 0.52


def test_rows_get_the_times_of_what_they_say_and_others_are_left_out_with_their_reasons(rows, parts):
    path, finished = rows.parent / "out" / "aligned.jsonl", []
    report = align_rows(*parts, str(rows), path, progress=finished.append, voice="alpha")
    aligned = {row["id"]: row for row in load_rows(str(path))}
    assert list(aligned) == ["answer", "recording", "timed"] and len(finished) == 8
    assert aligned["answer"]["question_word_times"] is None and len(aligned["answer"]["answer_word_times"]) == 4
    assert {row["voice"] for row in aligned.values()} == {"alpha"}
    # times of a segment count from its beginning
    assert [word for word, _ in word_times_of(aligned["recording"], "say")] == ["so", "so"]
    assert max(aligned["recording"]["question_word_times"]) <= 1.04
    assert aligned["timed"]["answer_word_times"] == [1.5]
    assert report.num_rows == 3 and report.left_out == {
        "a text that is not spelled as it is said": 2,
        "an audio too short for its text": 1,
        "an audio that cannot be read": 1,
        "no speech and its text": 1,
    }
    assert str(report).startswith("3 rows. Left out: 2 with a text that is not spelled as it is said, 1 with")
    assert "The first: digits: The text 'It is 5.'" in str(report)
    assert validate_rows(path).num_invalid == 0


def test_interrupted_run_continues_and_leaves_nothing_behind(rows, parts, monkeypatch):
    model, processor = parts
    out, encode, calls = rows.parent / "out.jsonl", model.get_letter_logits, []
    expected = align_rows(model, processor, str(rows), rows.parent / "whole.jsonl", name="a")
    monkeypatch.setattr(model, "get_letter_logits", lambda **inputs: calls.append(1) or encode(**inputs))

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align_rows(model, processor, str(rows), out, name="a", progress=interrupt)
    assert len(calls) == 1 and not out.exists()
    # as if it had been killed while it wrote its progress
    with open(rows.parent / ".out.jsonl.progress", "a") as journal:
        journal.write('["abc", {"ans')
    assert align_rows(model, processor, str(rows), out, name="a") == expected
    # the recording, the row with times of words alone, and the text that is too long for its audio
    assert len(calls) == 1 + 3 and out.read_bytes() == (rows.parent / "whole.jsonl").read_bytes()
    assert not (rows.parent / ".out.jsonl.progress").exists()


def test_times_of_another_model_are_not_reused(rows, parts, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align_rows(*parts, str(rows), rows.parent / "out.jsonl", name="a", progress=interrupt)
    hears(monkeypatch, parts[0], "_____aa_ _cc__aatt__ __ss_aaatt____")
    align_rows(*parts, str(rows), rows.parent / "out.jsonl", name="b")
    assert load_rows(str(rows.parent / "out.jsonl"))[0]["answer_word_times"][0] == 0.1


def test_models_that_do_not_spell_and_sources_without_speech_are_refused(rows, parts):
    model = tiny_model()
    with pytest.raises(ValueError, match="does not spell"):
        align_rows(model, tiny_processor(model.config), str(rows), rows.parent / "out.jsonl")
    rows.write_text('{"question_text": "a"}\n')
    with pytest.raises(ValueError, match="could be aligned. 0 rows. Left out: 1 with no speech and its text"):
        align_rows(*parts, str(rows), rows.parent / "out.jsonl")
    assert not (rows.parent / "out.jsonl").exists()


def test_command_aligns_with_a_checkpoint(rows, parts, monkeypatch):
    for part in parts:
        part.save_pretrained(rows.parent / "model")
    monkeypatch.chdir(rows.parent)
    result = CliRunner().invoke(app, ["prepare", "align", "--model", "model", "rows.jsonl", "out.jsonl"])
    assert result.exit_code == 0 and "out.jsonl: 3 rows. Left out: 2 with" in result.stderr
    assert len(load_rows("out.jsonl")) == 3
