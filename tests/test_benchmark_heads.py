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
"""The benchmark of heads: the same parts trained to speak in continuous and in discrete tokens."""

import json
import sys
from pathlib import Path

import pytest
import torch
from sounds import noise
from tiny import tiny_model, tiny_processor

from flow_omni import FlowOmniForSpeechGeneration
from flow_omni.processing.audio_io import write_audio


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import heads


@pytest.fixture
def parts(tmp_path) -> Path:
    folder = tmp_path / "parts"
    model = tiny_model()
    model.mel_normalizer.load_state_dict(type(model.mel_normalizer)(model.config.speech_config).state_dict())
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [
        {
            "id": f"{topic}-{number}",
            "question_text": f"What is {number} in {topic}?",
            "question_audio": "nobody-looks.wav",
            "answer_text": f"It is {number}.",
            "answer_audio": f"{number}.wav",
        }
        for topic in ("arithmetic", "facts")
        for number in range(8)
    ]
    for number in range(8):
        write_audio(folder / f"{number}.wav", noise(0.7, 8000, seed=number), 8000)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Listener:
    def transcribe(self, waveform, sampling_rate: int) -> str:
        return "It is 0."


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(heads, "recogniser_of", lambda *arguments: Listener())
    monkeypatch.setattr(heads, "MAX_STEPS", 12)


def run(parts: Path, corpus: Path, output: Path, *options: str) -> None:
    common = f"--recogniser own --output {output} --seeds 0 --steps 2 --questions 4 --temperatures 1"
    heads.main([str(parts), str(corpus), *common.split(), *options])


def test_both_heads_are_trained_on_the_topic_and_listened_to(parts, corpus, tmp_path):
    output, table = tmp_path / "runs", tmp_path / "table.json"
    run(parts, corpus, output, "--json", str(table))
    (found,) = json.loads(table.read_text())
    assert set(found["columns"]) == {
        *("wrong characters of speech", "right as written", "right as heard", "weights of the head")
    }
    # every answer sounds like one of the four
    assert set(found["columns"]["right as heard"].values()) == {"25 %"}
    assert len(found["columns"]["right as heard"]) == len(heads.HEADS)
    rows = [json.loads(line) for line in (output / "corpus-discrete-0" / "said.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"arithmetic-{number}" for number in range(8)]
    for head, options in heads.HEADS.items():
        model = FlowOmniForSpeechGeneration.from_pretrained(output / f"corpus-{head}-0")
        assert model.config.speech_config.head_type == options["head_type"]
    # again: nothing is trained, all is as it was
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    run(parts, corpus, output)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")} == before
    with pytest.raises(SystemExit, match="was trained otherwise .*name another `--output`"):
        run(parts, corpus, output, "--steps", "3")


def test_codebooks_are_fitted_to_the_first_corpus_and_stay(parts, corpus, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in corpus.glob("*.jsonl"):
        (other / file.name).write_text(file.read_text())
    for number in range(8):
        write_audio(other / f"{number}.wav", 5 * noise(0.7, 8000, seed=50 + number), 8000)
    output = tmp_path / "runs"
    for say in (corpus, other):
        run(parts, corpus, output, "--heads", "discrete", "--say", str(say))
    own, others = (
        FlowOmniForSpeechGeneration.from_pretrained(output / f"{name}-discrete-0") for name in ("corpus", "other")
    )
    torch.testing.assert_close(own.speech_head.quantizer.codebooks, others.speech_head.quantizer.codebooks)
    torch.testing.assert_close(own.mel_normalizer.mean, others.mel_normalizer.mean)
    assert not torch.equal(own.speech_head.outputs[0].proj.bias, others.speech_head.outputs[0].proj.bias)
