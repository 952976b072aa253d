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
"""The model card: it tells what is in the folder, nothing of the machine it was written on, and never a figure made up."""

import json
import re
import shutil

import pytest
from huggingface_hub import EvalResult, ModelCard
from tiny import tiny_model, tiny_processor

from flow_omni.hub_card import name_model_card, write_model_card
from flow_omni.hub_card.card_metadata import base_model_of, without_folders
from flow_omni.hub_card.checkpoint_facts import read_checkpoint
from flow_omni.hub_card.model_card import in_words


FIGURE = {
    "task_type": "automatic-speech-recognition",
    "dataset_type": "me/recordings",
    "dataset_name": "Recordings",
    "dataset_split": "test",
    "metric_type": "cer",
    "metric_value": 0.031,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model()
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


def card_of(folder, **facts) -> ModelCard:
    return ModelCard.load(write_model_card(folder, **facts))


# --- what it says


def test_metadata_says_how_to_load_the_model_and_what_it_does(folder):
    data = card_of(folder).data
    assert tuple(data.to_dict()[name] for name in ("pipeline_tag", "library_name")) == ("any-to-any", "transformers")
    assert {"custom_code", "speech-to-speech", "text-to-speech"} <= set(data.tags)


def test_metadata_holds_what_was_given(folder):
    data = card_of(
        folder,
        model_id="me/talker",
        base_models=["openai/whisper-small", "Qwen/Qwen2-0.5B-Instruct", "charactr/vocos-mel-24khz"],
        datasets=["me/recordings", "AISHELL-1"],
        languages=["zh", "en"],
        license="apache-2.0",
        figures=[FIGURE],
        is_trained=True,
    ).data
    assert data.base_model == ["openai/whisper-small", "Qwen/Qwen2-0.5B-Instruct", "charactr/vocos-mel-24khz"]
    assert data.datasets == ["me/recordings"]  # the Hub knows nothing called AISHELL-1
    assert (data.language, data.license, data.metrics) == (["zh", "en"], "apache-2.0", ["cer"])
    assert data.eval_results == [EvalResult(**FIGURE)] and data.model_name == "talker"


def test_metadata_leaves_out_what_was_not_given(folder):
    fields = card_of(folder).data.to_dict()
    assert not {"base_model", "datasets", "language", "license", "metrics", "model-index"} & set(fields)


def test_fresh_model_is_called_untrained_at_the_top_and_a_trained_one_is_not(folder):
    assert "**Not trained.**" in card_of(folder).text[:200]
    trained = card_of(folder, is_trained=True).text
    assert "Not trained" not in trained and "It was trained; its author has not said on what." in trained


def test_parts_and_parameters_are_those_of_the_weights(folder):
    facts = read_checkpoint(folder)
    model = tiny_model()
    expected = {
        "encoder": model.model.audio_encoder,
        "language model": model.model.language_model,
        "speech transformer": model.speech_transformer,
        "speech head": model.speech_head,
        "vocoder": model.vocoder,
    }
    counts = {part.name: part.num_parameters for part in facts.parts}
    for name, module in expected.items():
        assert counts[name] == sum(parameter.numel() for parameter in module.parameters())
    assert facts.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    text = card_of(folder).text
    assert "| speech head | flow matching, 2 blocks of width 32 |" in text
    assert "8000 Hz, from 20 mel bands" in text


def test_card_of_a_folder_without_weights_leaves_their_number_open(folder):
    (folder / "model.safetensors").unlink()
    assert "| **all** | | **–** |" in card_of(folder).text


def test_model_without_a_vocoder_is_not_said_to_write_sound(tmp_path):
    tiny_model(vocoder=None).save_pretrained(tmp_path)
    text = card_of(tmp_path).text
    assert "carries no vocoder" in text
    assert not re.search(r"soundfile\.(write|SoundFile)", text)
    assert "| vocoder |" not in text


def test_discrete_baseline_is_not_said_to_have_continuous_tokens(tmp_path):
    tiny_model(speech={"head_type": "residual_vq"}).save_pretrained(tmp_path)
    text = card_of(tmp_path).text
    assert "with continuous speech tokens" not in text and "3 codebooks of 16 codes" in text


def test_figures_are_tabled(folder):
    assert "Nothing was measured." in card_of(folder).text
    text = card_of(folder, figures=[EvalResult(**FIGURE)]).text
    assert "| automatic-speech-recognition | Recordings (test) | cer | 0.031 |" in text


# --- what it must not say


def test_paths_of_the_machine_do_not_get_into_the_card(folder, tmp_path):
    whisper = tmp_path / "whisper"
    whisper.mkdir()
    card = card_of(
        folder,
        base_models={"whisper": whisper, "llm": "Qwen/Qwen2-0.5B-Instruct", "vocoder": str(tmp_path / "gone")},
        datasets=[str(tmp_path), "~/recordings", "me/recordings"],
        command=f"flow-omni init --whisper {whisper} --llm Qwen/Qwen2-0.5B-Instruct --output '{tmp_path}/my model'",
    )
    assert card.data.base_model == ["Qwen/Qwen2-0.5B-Instruct"]
    assert card.data.datasets == ["me/recordings"]
    assert str(tmp_path) not in str(card) and "~" not in str(card)
    assert "- whisper: a checkpoint that is not on the Hub" in card.text
    assert "$ flow-omni init --whisper whisper --llm Qwen/Qwen2-0.5B-Instruct --output 'my model'" in card.text


def test_relative_folder_that_looks_like_an_id_is_no_id(folder, tmp_path, monkeypatch):
    (tmp_path / "openai" / "whisper-small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_model_of("openai/whisper-small") is None


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("small", "openai/whisper-small"),
        ("tiny.en", "openai/whisper-tiny.en"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("small-talk", None),
        ("model.pt", None),
        ("owner/name/more", None),
    ],
)
def test_names_of_openai_whisper_stand_for_their_ids(name, hub_id):
    assert base_model_of(name) == hub_id


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("train /data/me/a.yaml", "train a.yaml"),
        ("train recipes/a.yaml", "train recipes/a.yaml"),
        ("train ../a.yaml out=~/runs/1/", "train a.yaml out=1/"),
        (r"train C:\Users\me\a.yaml", "train a.yaml"),
        ("train '/data/John Doe/a.yaml'", "train a.yaml"),
        ("push folder me/talker", "push folder me/talker"),
        ("ask https://example.org/a/b.wav", "ask https://example.org/a/b.wav"),
        ("say it's /data/me/a", "say 'it'\"'\"'s' a"),
    ],
)
def test_command_keeps_names_and_loses_folders(command, shown):
    assert without_folders(command) == shown


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"languages": "English"}, "ISO 639"),
        ({"license": "Apache 2.0"}, "'apache-2.0'"),
        ({"model_id": "talker"}, "`owner/name`"),
        ({"figures": [{"metric_type": "cer"}]}, "must hold `task_type`"),
        ({"figures": [FIGURE | {"metric_value": float("nan")}]}, "leave it out"),
        ({"figures": [FIGURE | {"dataset_name": "/data/me"}]}, "which is a path"),
    ],
)
def test_wrong_fact_is_refused_and_nothing_is_written(folder, facts, message):
    with pytest.raises(ValueError, match=message):
        write_model_card(folder, **facts)
    assert not (folder / "README.md").exists()


# --- whom it belongs to


def test_own_card_is_replaced_and_an_edited_one_is_not(folder):
    path = write_model_card(folder)
    write_model_card(folder, languages="en")
    path.write_text(path.read_text() + "\nAsk me before you use it.\n")
    edited = path.read_text()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_model_card(folder)
    assert path.read_text() == edited
    write_model_card(folder, overwrite=True)
    assert "Ask me" not in path.read_text()


@pytest.mark.parametrize("edit", [lambda text: text.replace("Not trained", "Trained"), lambda text: "# Mine\n"])
def test_edit_anywhere_makes_the_card_its_authors(folder, edit):
    path = write_model_card(folder)
    path.write_text(edit(path.read_text()))
    with pytest.raises(FileExistsError):
        write_model_card(folder)


def test_line_endings_are_no_edit(folder):
    path = write_model_card(folder)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    write_model_card(folder)


def test_model_is_named_later_and_nothing_else_changes(folder):
    path = write_model_card(folder, languages="en")
    before = path.read_text()
    assert name_model_card(folder, "me/talker")
    assert 'from_pretrained("me/talker")' in path.read_text()
    assert path.read_text().splitlines()[:-1] == before.replace("your-name/flow-omni", "me/talker").splitlines()[:-1]
    assert not name_model_card(folder, "me/talker")
    write_model_card(folder)  # still nobody's edit


def test_naming_an_edited_card_leaves_it_edited(folder):
    path = write_model_card(folder)
    path.write_text(path.read_text().replace("# Flow-Omni", "# Mine"))
    assert name_model_card(folder, "me/talker")
    assert "# Mine" in path.read_text()
    with pytest.raises(FileExistsError):
        write_model_card(folder)


# --- bad folders


def test_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        write_model_card(tmp_path)
    with pytest.raises(FileNotFoundError, match="write_model_card"):
        name_model_card(tmp_path, "me/talker")


def test_checkpoint_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="'qwen2'"):
        write_model_card(tmp_path)


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        write_model_card(folder)


@pytest.mark.parametrize(
    ("number", "words"), [(None, "–"), (12, "12"), (1234, "1.2 k"), (1_234_567, "1.2 M"), (7_000_000_000, "7.0 B")]
)
def test_numbers_of_parameters_in_words(number, words):
    assert in_words(number) == words
