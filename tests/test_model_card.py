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
"""The model card: facts of the folder, metrics of an evaluation, and usage that runs."""

import json
import re
import shutil

import pytest
import soundfile
from huggingface_hub import ModelCard
from sounds import tone
from tiny import tiny_model, tiny_processor

from flow_omni.bundled import BUNDLED_CHECKPOINT
from flow_omni.hub_card import add_results, name_model_card, write_model_card
from flow_omni.hub_card.bundle import with_system_prompt
from flow_omni.hub_card.facts import hub_id_of, read_checkpoint
from flow_omni.hub_card.model_card import count
from flow_omni.training.prepare.parts import PARTS


HEADLINE = {
    "name": "CER: transcribe",
    "metric": "cer",
    "value": 0.031415926,
    "low": 0.02,
    "high": 0.04,
    "num_rows": 100,
}
HEADLINE |= {"task_type": "automatic-speech-recognition", "dataset_name": "recordings", "dataset_split": "test"}
EXACT = {"name": "exact: say", "metric": "exact", "value": 0.5, "low": None, "high": None}
ROW = "| automatic-speech-recognition | recordings (test) | CER: transcribe (95 % interval 0.02 to 0.04, 100 rows) | 0.03142 |"


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


@pytest.fixture
def results(tmp_path):
    """The folder of an evaluation, as far as a card reads it."""
    (tmp_path / "results").mkdir()
    headlines = [HEADLINE, HEADLINE | EXACT | {"task_type": "text-to-speech", "dataset_split": None}]
    values = {"headlines": headlines, "command": "flow-omni evaluate my-model recordings"}
    (tmp_path / "results" / "results.json").write_text(json.dumps(values))
    return tmp_path / "results"


def card_of(folder, **facts) -> ModelCard:
    return ModelCard.load(write_model_card(folder, overwrite=True, **facts))


def test_metadata_holds_what_was_given_and_nothing_else(folder):
    fields = card_of(folder).data.to_dict()
    assert (fields["pipeline_tag"], fields["library_name"]) == ("any-to-any", "transformers")
    assert {"custom_code", "speech-to-speech", "text-to-speech"} <= set(fields["tags"])
    assert not {"base_model", "datasets", "language", "license", "metrics", "model-index"} & set(fields)
    base_models, datasets = ["openai/whisper-small", "Qwen/Qwen2-0.5B-Instruct"], ["me/recordings", "AISHELL-1"]
    given = {"base_models": base_models, "datasets": datasets, "languages": ["zh", "en"], "license": "apache-2.0"}
    data = card_of(folder, **given).data
    assert data.base_model == base_models
    assert data.datasets == ["me/recordings"]  # the Hub has nothing called AISHELL-1
    assert (data.language, data.license) == (["zh", "en"], "apache-2.0")


def test_base_models_are_read_from_the_configuration(folder):
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"]["_name_or_path"] = "openai/whisper-small"
    config["text_config"]["_name_or_path"] = str(folder)
    (folder / "config.json").write_text(json.dumps(config))
    card = card_of(folder, part_licenses={"audio_encoder": "Apache-2.0"})
    assert card.data.base_model == ["openai/whisper-small"]
    expected = "- audio encoder: [openai/whisper-small](https://huggingface.co/openai/whisper-small) (Apache-2.0)"
    assert expected in card.text


def test_an_untrained_model_is_called_so_at_the_top_and_a_trained_one_is_not(folder):
    assert "**Not trained.**" in card_of(folder).text[:200]
    trained = card_of(folder, is_trained=True).text
    assert "Not trained" not in trained and "has not stated the training data" in trained
    assert (
        "Trained on me/recordings, AISHELL-1."
        in card_of(folder, is_trained=True, datasets=["me/recordings", "AISHELL-1"]).text
    )


def test_modules_and_parameters_are_those_of_the_model(folder):
    facts, model = read_checkpoint(folder), tiny_model()
    assert sum(facts.num_parameters.values()) == sum(parameter.numel() for parameter in model.parameters())
    vocoder = sum(parameter.numel() for parameter in model.vocoder.parameters())
    assert facts.num_parameters["vocoder"] == vocoder
    (folder / "model.safetensors").unlink()  # no weight is read
    text = card_of(folder).text
    assert f"| vocoder | causal Vocos, 2 blocks of width 32 | {count(vocoder)} |" in text
    assert "8000 Hz from 20 mel bands" in text
    assert [count(number) for number in (12, 1234, 1_234_567, 7_000_000_000)] == ["12", "1.2 k", "1.2 M", "7.0 B"]


def test_generation_options_are_those_of_the_checkpoint(folder):
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flow_temperature": 0.0, "end_after_repeats": 3}))
    text = card_of(folder).text
    assert "`flow_temperature` (0.0)" in text and "`num_flow_steps` (solver steps, 2)" in text
    assert "Text ends after 3 repetitions" in text


def test_models_without_a_vocoder_or_a_flow_head_are_described_as_they_are(tmp_path):
    tiny_model(vocoder=None, speech={"head_type": "residual_vq"}).save_pretrained(tmp_path)
    text = card_of(tmp_path).text
    assert "this checkpoint has no vocoder" in text
    assert not re.search(r"soundfile\.(write|SoundFile)", text) and "| vocoder |" not in text
    assert "with continuous speech tokens" not in text and "3 codebooks with 16 codes" in text
    assert "num_flow_steps" not in text


def test_metrics_of_an_evaluation_are_in_the_table_and_in_the_metadata(folder, results):
    assert "Not evaluated yet." in card_of(folder).text
    card = card_of(folder, model_id="me/talker", results=results)
    assert ROW in card.text and "| text-to-speech | recordings | exact: say (100 rows) | 0.5 |" in card.text
    assert "$ flow-omni evaluate my-model recordings" in card.text
    assert card.data.metrics == ["cer", "exact_match"] and card.data.model_name == "talker"
    assert [one.metric_value for one in card.data.eval_results] == [0.03142, 0.5]
    shutil.copy(results / "results.json", folder)  # those in the folder of the checkpoint are taken by themselves
    assert ROW in card_of(folder).text


def test_metrics_are_added_to_a_card_and_nothing_else_changes(folder, results):
    path = write_model_card(folder, about="Ask me first.")
    before = path.read_text()
    assert add_results(folder, results) == path
    card = ModelCard.load(path)
    assert ROW in card.text and [one.metric_type for one in card.data.eval_results] == ["cer", "exact_match"]
    section = re.compile(r"## Results\n.*?(?=## Limits)", re.DOTALL)
    assert section.sub("", card.text) == section.sub("", ModelCard(before).text)
    once = path.read_text()
    add_results(folder, results)
    assert path.read_text() == once


def test_paths_of_the_machine_do_not_get_into_the_card(folder, tmp_path, monkeypatch):
    (tmp_path / "openai" / "whisper-small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id_of("openai/whisper-small") is None  # a relative folder that looks like an id
    base_models = {"audio_encoder": str(tmp_path), "language_model": "Qwen/Qwen2-0.5B-Instruct"}
    card = card_of(folder, base_models=base_models, datasets=[str(tmp_path), "~/recordings", "me/recordings"])
    assert card.data.base_model == ["Qwen/Qwen2-0.5B-Instruct"]
    assert card.data.datasets == ["me/recordings"]
    assert str(tmp_path) not in str(card) and "~" not in str(card)


def test_an_existing_card_is_not_replaced_unless_asked(folder):
    path = write_model_card(folder)
    path.write_text("# Mine\n")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_model_card(folder)
    assert path.read_text() == "# Mine\n"
    write_model_card(folder, overwrite=True)
    assert path.read_text() != "# Mine\n"


def test_a_card_is_named_later_and_nothing_else_changes(folder):
    path = write_model_card(folder)
    before = path.read_text().replace("# Flow-Omni", "# Mine")
    path.write_text(before)
    assert name_model_card(folder, "me/talker")
    assert path.read_text() == before.replace("your-name/flow-omni", "me/talker")
    assert 'from_pretrained("me/talker")' in path.read_text()
    assert not name_model_card(folder, "me/talker")


def test_wrong_folders_ids_and_results_are_refused(folder, results, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no config.json"):
        write_model_card(tmp_path)
    for function in (lambda: name_model_card(tmp_path, "me/talker"), lambda: add_results(tmp_path, results)):
        with pytest.raises(FileNotFoundError, match="write_model_card"):
            function()
    with pytest.raises(ValueError, match="write `owner/name`"):
        write_model_card(folder, model_id="talker")
    with pytest.raises(FileNotFoundError, match="output folder of `flow-omni evaluate`"):
        write_model_card(folder, results=tmp_path)
    (results / "results.json").write_text('{"headlines": [{}], "command": ""}')
    with pytest.raises(ValueError, match="cannot be read as results"):
        write_model_card(folder, results=results)
    assert not (folder / "README.md").exists()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="'qwen2'"):
        write_model_card(tmp_path)


def test_the_usage_runs(folder, tmp_path, monkeypatch):
    path = write_model_card(folder, model_id="me/talker")
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    with_package, remote_code, *usage = (block.replace("me/talker", str(folder)) for block in blocks)
    assert len(usage) == 3 and "trust_remote_code=True" in remote_code
    soundfile.write(tmp_path / "question.wav", tone(0.5), 16000)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(with_package, scope)
    scope["model"].generation_config.max_new_tokens = 12
    for block in usage:
        exec(block, scope)
    assert {"spoken", "transcript", "reply"} <= set(scope)
    assert soundfile.info("answer.wav").samplerate == 8000


def test_card_of_the_bundled_adapter_names_the_licence_of_every_part():
    text = (BUNDLED_CHECKPOINT / "README.md").read_text(encoding="utf-8")
    for name, part in PARTS.items():
        assert part.licence in text, name
    assert "espeak-ng" in text and "flite" in text and "license: apache-2.0" in text


def test_bundle_replaces_the_system_prompt_of_a_template():
    template = "{% if first %}<|im_start|>system\nYou are somebody.<|im_end|>\n{% endif %}{{ rest }}"
    assert with_system_prompt(template, "Be short.") == template.replace("You are somebody.", "Be short.")
    with pytest.raises(ValueError, match="no system prompt"):
        with_system_prompt("{{ messages }}", "Be short.")
