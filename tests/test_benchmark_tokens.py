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
"""The benchmark of tokens: what a residual quantiser loses, in its domain and out of it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from flow_omni.processing.audio_io import load_audio, write_audio
from flow_omni.untrained import BUNDLED_CHECKPOINT


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import tokens


QUESTION = BUNDLED_CHECKPOINT.parents[1] / "assets" / "question.wav"
RATE = 24000


class Listener:
    """Hears what it is told to."""

    def __init__(self, text: str):
        self.text = text

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        assert len(waveform) > sampling_rate / 2
        return self.text


@pytest.fixture(scope="module")
def codec() -> tokens.Codec:
    return tokens.load_codec(str(BUNDLED_CHECKPOINT))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(QUESTION, RATE)


def error_of(codec, known, sound, num_codebooks: int) -> float:
    quantizer = tokens.fitted_quantizer(codec, [known], num_codebooks, num_codes=16)
    row = tokens.measure([tokens.Said(sound, "so")], codec, quantizer, Listener("so"))
    return float(row["log-mel error, discrete"])


def test_more_codebooks_lose_less_and_other_sounds_lose_more(codec, speech):
    errors = [error_of(codec, speech, speech, num_codebooks) for num_codebooks in (1, 3)]
    assert 0 < errors[1] < errors[0]
    noise = np.random.default_rng(0).normal(0.0, 0.1, RATE).astype(np.float32)
    assert error_of(codec, speech, noise, 3) > 2 * errors[1]


def test_continuous_tokens_give_the_mel_back_as_it_was(codec, speech):
    patches = codec.patches(speech)
    mel = codec.processor.feature_extractor.extract_mel(speech, RATE).flatten(0, 1)
    floor = codec.model.config.speech_config.mel_floor
    np.testing.assert_allclose(codec.log_mel(patches), mel.clamp(min=floor), atol=1e-4)


def test_errors_are_counted_against_what_was_said(codec, speech):
    quantizer = tokens.fitted_quantizer(codec, [speech], 1, num_codes=4)
    row = tokens.measure([tokens.Said(speech, "abcd")], codec, quantizer, Listener("abcx"))
    assert row["CER, original"].startswith("25.0 %") and row["CER, discrete"].startswith("25.0 %")


def test_command_measures_a_corpus_and_says_what_is_wrong_with_a_folder(tmp_path, speech, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        tokens.main([str(tmp_path), "--recogniser", "own"])
    assert "has no test.jsonl" in capsys.readouterr().err
    rows = []
    for number, speaker in enumerate(["flite:awb", "espeak:en-us+max"]):
        write_audio(tmp_path / f"{number}.wav", speech, RATE)
        sides = {
            f"{side}_{name}": value
            for side in ("question", "answer")
            for name, value in (("audio", f"{number}.wav"), ("text", f"So {number}."))
        }
        rows.append({"id": f"row-{number}", "speaker": speaker, **sides})
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(tokens, "recogniser_of", lambda *arguments: Listener("so"))
    monkeypatch.setattr(
        tokens, "EFFECTS", {name: tokens.EFFECTS[name] for name in ("as they are", "white noise, 15 dB")}
    )
    markdown = tmp_path / "table.md"
    arguments = [
        "--recogniser",
        "own",
        "--sounds",
        "1",
        "--codebooks",
        "1",
        "--codes",
        "8",
        "--markdown",
        str(markdown),
    ]
    tokens.main([str(tmp_path), *arguments])
    table = markdown.read_text()
    assert all(
        f"| {name} |" in table for name in ("answers as they are", "other voices: espeak", "other voices: flite")
    )
