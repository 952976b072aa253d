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
"""CTC over cached encoder outputs and over text alone, and distillation from the language model itself."""

import json
import shutil

import numpy as np
import pytest
import torch
import training_tools as tools
from tiny import tiny_model, tiny_processor

from flow_omni.modeling_flow_omni.modeling_flow_omni import MODULE_GROUPS, FlowOmniForSpeechGeneration
from flow_omni.processing.audio_io import write_audio
from flow_omni.training.ctc import CTCCollator, CTCModel, EncodedRows, misspell
from flow_omni.training.examples import Draw, ExampleBuilder
from flow_omni.training.train import train_recipe
from flow_omni.training.trainer import freeze


CTC = {"adapter_compression": "ctc", "adapter_hidden_size": 16, "adapter_num_attention_heads": 2}
ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
TEXTS = ["a cat", "so far", "why not", "the end"]


@pytest.fixture
def model():
    return tiny_model(**CTC)


@pytest.fixture
def processor(model):
    return tiny_processor(model.config)


def rows(folder, num_spoken: int = 3) -> list[dict]:
    """Spoken rows, and as many of text alone."""
    spoken = []
    for index, text in enumerate(TEXTS[:num_spoken]):
        path = folder / f"{index}.wav"
        write_audio(path, tools.tone(0.5 + 0.2 * index, frequency=300 + 200 * index), 16000)
        spoken.append({"id": f"spoken-{index}", "question_text": text, "question_audio": str(path)})
    return spoken + [{"id": f"text-{index}", "question_text": text} for index, text in enumerate(TEXTS)]


def write(folder, name, content) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(folder / name)


def overrides(folder, **changes) -> list[str]:
    settings = {
        "model": folder / "model",
        "train_data": folder / "train.jsonl",
        "eval_data": folder / "eval.jsonl",
        "output_dir": folder / "run",
        "cached_encoder_layers": 1,
        "max_positions_per_batch": 200,
        "max_steps": 4,
        "bf16": "false",
        "report_to": "none",
        "disable_tqdm": "true",
        "logging_steps": 1,
    }
    return [f"{key}={value}" for key, value in (settings | changes).items()]


@pytest.fixture
def material(tmp_path, model, processor):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    content = rows(tmp_path)
    write(tmp_path, "train.jsonl", content)
    write(tmp_path, "eval.jsonl", content[:2])
    return tmp_path


def encoded(tmp_path, model, processor, content) -> EncodedRows:
    return EncodedRows(content, tmp_path / "encoded", model, processor, num_layers=1)


def test_upper_layers_on_cached_outputs_equal_the_whole_encoder(tmp_path, model, processor):
    content = rows(tmp_path)
    dataset = encoded(tmp_path, model, processor, content)
    hidden_states = dataset[Draw(1, 0, "ctc")]["hidden_states"]
    mask = torch.ones(1, len(hidden_states), dtype=torch.bool)
    features = processor.feature_extractor(content[1]["question_audio"], return_tensors="pt")
    expected = model.model.audio_encoder(features["input_features"]).last_hidden_state
    with torch.no_grad():
        found = model.model.audio_encoder.run_layers(hidden_states[None], mask, first=1)
    # kept in half precision, computed in bf16
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_audio_is_encoded_once_and_anew_where_a_row_has_changed(tmp_path, model, processor, monkeypatch):
    calls, encode = [], EncodedRows._encode
    monkeypatch.setattr(
        EncodedRows, "_encode", lambda self, index, *args: calls.append(index) or encode(self, index, *args)
    )
    content = rows(tmp_path)
    encoded(tmp_path, model, processor, content)
    encoded(tmp_path, model, processor, content)
    assert calls == [0, 1, 2]
    write_audio(content[1]["question_audio"], tools.tone(0.9), 16000)
    encoded(tmp_path, model, processor, content)
    assert calls == [0, 1, 2] * 2
    model.model.audio_encoder.layers[0].fc1.weight.data += 0.1
    encoded(tmp_path, model, processor, content)
    assert calls == [0, 1, 2] * 3


def test_rows_that_cannot_be_read_or_spelled_are_left_out(tmp_path, model, processor):
    content = [*rows(tmp_path), {"id": "number", "question_text": "Room 5"}]
    shutil.copy(content[0]["question_audio"], tmp_path / "broken.wav")
    (tmp_path / "broken.wav").write_bytes(b"broken")
    content[0]["question_audio"] = str(tmp_path / "broken.wav")
    dataset = EncodedRows(content, tmp_path / "encoded", model, processor, 1, max_skipped_fraction=0.2)
    assert sorted(draw.index for draw, _ in dataset.draw(0)) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="1 of 8 rows could not be read"):
        EncodedRows(content, tmp_path / "encoded", model, processor, 1, max_skipped_fraction=0.1)


def test_misspelled_texts_stay_texts_and_repeat_with_their_key():
    letters = [
        (ALPHABET.index(letter), place if letter in "rl" else -1) for place, letter in enumerate("beautiful weather")
    ]
    spelled = [misspell(letters, ALPHABET, np.random.default_rng(seed)) for seed in range(200)]
    assert sum(one == letters for one in spelled) in range(80, 140)  # about half of them have no error
    assert all(0 <= letter < len(ALPHABET) for one in spelled for letter, _ in one)
    # no token is lost with its letter
    assert all([token for _, token in one if token >= 0] == [8, 16] for one in spelled)
    assert misspell(letters, ALPHABET, np.random.default_rng(3)) == spelled[3]


def test_text_alone_teaches_the_layers_between_letters_and_tokens(tmp_path, model, processor, monkeypatch):
    monkeypatch.setattr("flow_omni.training.ctc.MAX_SPELLING_ERRORS", 0.0)
    content = rows(tmp_path)[3:]
    dataset, collate = encoded(tmp_path, model, processor, content), CTCCollator(ALPHABET)
    batch = collate([dataset[draw] for draw, _ in dataset.draw(0)])
    batch.pop("ids")
    torch.manual_seed(0)
    trained = CTCModel(model, 1).train()
    optimizer = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=0.01)
    for _ in range(60):
        loss = trained(**batch)["spelling_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        adapter, letters = trained.adapter.eval(), batch["letters"]
        one_hot = torch.nn.functional.one_hot(letters.clamp(min=0), len(ALPHABET)).float()
        states = adapter.read_letters(one_hot, letters >= 0)
        table = model.get_input_embeddings().weight
        _, ids = adapter.mix_tokens(states, letters, table, torch.full((len(letters),), 99))
    texts = [processor.tokenizer.decode([token for token in row if token >= 0]) for row in ids.tolist()]
    assert sorted(texts) == sorted(TEXTS)


def test_empty_batch_of_a_last_round_has_a_finite_loss(model):
    batch = CTCCollator(ALPHABET)([])
    assert batch.pop("ids") == [""]
    assert torch.isfinite(CTCModel(model, 1).train()(**batch)["spelling_loss"])


def test_recipe_trains_upper_layers_and_adapter_and_nothing_else(material):
    trainer = train_recipe("ctc", overrides(material))
    before = tools.weights_of(FlowOmniForSpeechGeneration.from_pretrained(material / "model"))
    after = tools.weights_of(FlowOmniForSpeechGeneration.from_pretrained(material / "run"))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert {name.split(".")[1] for name in changed} == {"audio_encoder", "audio_adapter"}
    assert any(name.startswith("model.audio_encoder.layers.1.") for name in changed)
    frozen = ("model.audio_encoder.layers.0.", "model.audio_encoder.conv")
    assert not any(name.startswith(frozen) for name in changed)
    metrics = trainer.state.log_history[-1]
    assert {"eval_loss", "eval_cer_letters", "eval_cer_tokens"} <= set(metrics)
    logged = set().union(*trainer.state.log_history)
    assert {"letter_loss", "ctc_loss", "spelling_loss"} <= logged


def test_letters_alone_are_trained_without_tokens(material):
    trainer = train_recipe("ctc", overrides(material, config_overrides="{ctc_loss_weight: 0.0}"))
    after = tools.weights_of(FlowOmniForSpeechGeneration.from_pretrained(material / "run"))
    before = tools.weights_of(FlowOmniForSpeechGeneration.from_pretrained(material / "model"))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert "model.audio_adapter.letter_head.weight" in changed
    assert "ctc_loss" not in set().union(*(entry for entry in trainer.state.log_history if "loss" in entry))


def test_run_that_was_stopped_continues_to_the_same_weights(material):
    stopped = overrides(material, save_steps=2)
    train_recipe("ctc", [*stopped, "max_steps=2", "lr_scheduler_type=constant"])
    (material / "run" / "trainer_state.json").unlink()
    train_recipe("ctc", [*stopped, "lr_scheduler_type=constant"])
    train_recipe("ctc", overrides(material, output_dir=material / "constant", lr_scheduler_type="constant"))
    runs = [FlowOmniForSpeechGeneration.from_pretrained(material / name) for name in ("run", "constant")]
    tools.assert_same_weights(*map(tools.weights_of, runs))


def test_adapter_of_linear_layers_is_refused(material):
    tiny_model().save_pretrained(material / "model")
    with pytest.raises(ValueError, match="assemble it with `adapter_compression=ctc`"):
        train_recipe("ctc", overrides(material))


# --- distillation


def distilled_examples(processor) -> list[dict]:
    builder = ExampleBuilder(processor, {"speech_to_text": 1}, ctc_labels=True, distillation=True)
    content = [
        {
            "id": text,
            "question_text": text,
            "question_audio": tools.sound(0.6, 300 + 100 * index),
            "answer_text": "yes",
        }
        for index, text in enumerate(TEXTS)
    ]
    return [builder.build(row, "speech_to_text", index) for index, row in enumerate(content)]


def test_distillation_is_zero_where_the_audio_is_read_as_its_transcript(tmp_path, model, processor, monkeypatch):
    examples = distilled_examples(processor)
    trainer = tools.make_trainer(tmp_path, model, examples, trainable_modules=["audio_adapter"], max_steps=1)
    batch = trainer.data_collator(examples[:2])
    outputs = trainer.compute_loss(model.eval(), dict(batch), return_outputs=True)[1]
    assert outputs.distillation_loss > 1e-3
    # audio whose embeddings are those of the transcript; random weights have a state of text, which is zero in training
    model.model.state_embedding.weight.data[model.config.pad_state_id] = 0.0
    table = model.get_input_embeddings().weight
    get_audio_features = model.model.get_audio_features

    def as_text(*args, **kwargs):
        audio = get_audio_features(*args, **kwargs)
        tokens = [processor.tokenizer(text)["input_ids"] for text in TEXTS[:2]]
        audio.pooler_output = table[torch.tensor([token for ids in tokens for token in ids])]
        audio.audio_lengths = torch.tensor([len(ids) for ids in tokens])
        return audio

    monkeypatch.setattr(model.model, "get_audio_features", as_text)
    outputs = trainer.compute_loss(model.eval(), dict(batch), return_outputs=True)[1]
    assert outputs.distillation_loss < 1e-5


def test_distillation_trains_the_adapter_through_the_frozen_language_model(tmp_path, model, processor):
    model.config.text_loss_weight = model.config.ctc_loss_weight = model.config.letter_loss_weight = 0.0
    freeze(model, ["audio_adapter"])
    before = tools.weights_of(model)
    trainer = tools.make_trainer(
        tmp_path,
        model,
        distilled_examples(processor),
        trainable_modules=["audio_adapter"],
        max_steps=4,
        learning_rate=1e-2,
    )
    trainer.train()
    after = tools.weights_of(model)
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and all(name.startswith(MODULE_GROUPS["audio_adapter"]) for name in changed)
    losses = [entry["distillation_loss"] for entry in trainer.state.log_history if "distillation_loss" in entry]
    assert len(losses) == 4 and all(loss > 0 for loss in losses)
