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
"""What goes into the package of a trained checkpoint: half the weights, the processor, a card, and no code."""

import json

import pytest
import torch
from report_results import made_results
from tiny import tiny_model, tiny_processor, training_batch
from transformers import AutoModel, AutoProcessor

from flow_omni.training.tinytalk import bundle as bundling
from flow_omni.training.tinytalk.bundle import bundle
from flow_omni.training.tinytalk.bundle_card import MANIFESTS, OPTIONAL_MANIFESTS, counts_of, people_of, rewrite


@pytest.fixture
def trained(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "trained")
    tiny_processor(model.config).save_pretrained(tmp_path / "trained")
    (tmp_path / "trained" / "optimizer.pt").write_bytes(b"states")
    return model, tmp_path / "trained"


def test_a_bundle_is_the_model_in_half_the_size_without_code_or_leftovers(trained, tmp_path):
    model, folder = trained
    bundle(folder, tmp_path / "bundle", None, "bfloat16", "make tiny", ["num_flow_steps=3", "end_after_repeats=4"])
    loaded = AutoModel.from_pretrained(tmp_path / "bundle", dtype=torch.float32)
    assert AutoProcessor.from_pretrained(tmp_path / "bundle").frames_per_step == 2
    assert loaded.generation_config.num_flow_steps == 3
    assert loaded.generation_config.end_after_repeats == 4
    batch = training_batch(model.config)
    torch.testing.assert_close(loaded(**batch).text_loss, model(**batch).text_loss, rtol=0.05, atol=0.05)
    weights = "model.safetensors"
    assert (tmp_path / "bundle" / weights).stat().st_size < 0.6 * (folder / weights).stat().st_size
    assert {path.suffix for path in (tmp_path / "bundle").iterdir()} == {".json", ".jinja", ".md", ".safetensors"}
    assert "auto_map" not in "".join(path.read_text() for path in (tmp_path / "bundle").glob("*.json"))
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "make tiny" in card
    assert "phrase stands 4 times in a row" in card
    assert "Not trained" not in card
    assert "`num_flow_steps` (3;" in card
    assert "- encoder: a checkpoint that is not on the Hub" in card


def test_the_card_of_a_bundle_has_the_figures_and_the_command_that_measured_them(trained, tmp_path):
    results = made_results(tmp_path / "results", command="flow-omni evaluate tiny data/tinytalk --limit 7")
    results.save(tmp_path / "results")
    bundle(trained[1], tmp_path / "bundle", tmp_path / "results", "bfloat16", "make tiny  # in pieces")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "$ flow-omni evaluate tiny data/tinytalk --limit 7" in card
    assert "$ make tiny # in pieces" in card
    assert "character errors of transcripts" in card


def test_the_card_of_a_bundle_tells_a_stranger_what_it_is_of_what_and_how_it_is_loaded(trained, tmp_path):
    corpus = tmp_path / "tinytalk"
    corpus.mkdir()
    for number, name in enumerate(MANIFESTS, start=1):
        (corpus / f"{name}.jsonl").write_text("{}\n" * 1000 * number)
    bundle(trained[1], tmp_path / "bundle", None, "bfloat16", "", corpus=corpus, note="Mornings only.")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "**A toy" in card and "eSpeak NG" in card and "`slt`" in card and "`docs/tiny.md`" in card
    assert "1,000 spoken questions to train on (`train`)" in card and "7,000 for the test (`test`)" in card
    assert "load_bundled()" in card
    assert "\n\nMornings only.\n\n" in card and "The command that made" not in card
    assert "your-name/flow-omni" not in card and "trust_remote_code" not in card


def test_only_what_an_option_leaves_out_may_be_missing_of_a_corpus(tmp_path):
    with pytest.raises(ValueError, match="There is no '.*/train.jsonl': `--corpus` is the folder"):
        counts_of(tmp_path)
    for name in MANIFESTS.keys() - OPTIONAL_MANIFESTS:
        (tmp_path / f"{name}.jsonl").write_text("{}\n{}\n")
    counts = counts_of(tmp_path)
    assert counts.startswith(
        " There are 2 spoken questions to train on (`train`), 2 written questions (`text_train`), "
    )
    assert "said_train" not in counts
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(ValueError, match="There is no '.*/test.jsonl'"):
        counts_of(tmp_path)


def test_the_card_of_a_bundle_names_who_else_asked(tmp_path):
    assert people_of(tmp_path) == ""
    settings = {"language": "en", "answer_voice": "flite:slt", "seed": 0, "more_people": ["pico:en-US", "pico:en-GB"]}
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "corpus.json").write_text(json.dumps(settings))
    assert people_of(tmp_path) == " `pico:en-US` and `pico:en-GB` asked as well."


def test_the_card_of_a_bundle_is_written_anew_without_its_weights(trained, tmp_path):
    bundle(trained[1], tmp_path / "bundle", None, "bfloat16", "make tiny")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bundle").iterdir()}
    made_results(
        tmp_path / "results", data="data/tinytalk", command="flow-omni evaluate tiny --recogniser ctc:x"
    ).save(tmp_path / "results")
    rewrite(tmp_path / "bundle", tmp_path / "results", "make tiny", None)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bundle").iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"README.md"}
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "| tinytalk (test) | character errors of transcripts (95 % interval 0.0147 to 0.0273, 500 rows) |" in card
    assert "`runs/tiny/recognise`, which `make tiny` trains on its way" in card.replace("\n", " ")


def test_a_bundle_that_is_too_large_leaves_the_one_before(trained, tmp_path, monkeypatch):
    bundle(trained[1], tmp_path / "bundle", None, "bfloat16", "make tiny")
    before = (tmp_path / "bundle" / "model.safetensors").read_bytes()
    monkeypatch.setattr(bundling, "MAX_MEGABYTES", 0.01)
    with pytest.raises(ValueError, match="no more than 0.01 go into the package"):
        bundle(trained[1], tmp_path / "bundle", None, "float16", "make tiny")
    assert (tmp_path / "bundle" / "model.safetensors").read_bytes() == before


def test_a_bundle_is_told_of_an_option_that_generation_does_not_have(trained, tmp_path):
    with pytest.raises(ValueError, match="`--generation num_steps=…` is no option"):
        bundle(trained[1], tmp_path / "bundle", None, "bfloat16", "make tiny", ["num_steps=3"])
    assert not (tmp_path / "bundle").exists()
