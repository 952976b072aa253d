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
"""Claims about recognition: what a path of CTC says, that a run learns, resumes, and leaves the ears of a speech model."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_config, tiny_processor

from flow_omni.modeling_flow_omni.audio_encoder import FlowOmniAudioEncoder
from flow_omni.modeling_flow_omni.importing_whisper import load_whisper_encoder
from flow_omni.training.augmentation import Augmentation
from flow_omni.training.batches import BatchOptions
from flow_omni.training.examples import Skipped
from flow_omni.training.mixing import MixedRows
from flow_omni.training.recipe import Recipe, RecipeError, load_recipe
from flow_omni.training.recognisers import recogniser_of
from flow_omni.training.recognition.characters import Characters, characters_of, collapse, num_frames_needed, spoken
from flow_omni.training.recognition.configuration import CtcRecogniserConfig
from flow_omni.training.recognition.masking import hide
from flow_omni.training.recognition.modeling import CtcRecogniser, ctc_loss
from flow_omni.training.recognition.options import RecogniseOptions
from flow_omni.training.recognition.recognise_run import make_run
from flow_omni.training.recognition.utterances import UtteranceBatches, UtteranceBuilder, Utterances
from flow_omni.training.rows import WRONG


NEW = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "max_time_mask": 0}
PITCHES = {"a": 300.0, "b": 700.0, "c": 1500.0, "d": 3000.0}
TEXTS = ("a cab", "bad", "dabba", "cd ab", "add a b")


def said(text: str, rate: int = 16000) -> np.ndarray:
    """A tone of its own for each letter, each 80 ms long with a pause after it; a space is a longer pause."""
    time = np.arange(round(0.08 * rate)) / rate
    pause = np.zeros(round(0.04 * rate))
    sounds = [np.sin(2 * np.pi * PITCHES[one] * time) if one in PITCHES else 0 * time for one in text]
    return (0.5 * np.concatenate([part for sound in sounds for part in (sound, pause)])).astype(np.float32)


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for index, text in enumerate(TEXTS):
        soundfile.write(tmp_path / f"{index}.wav", said(text), 16000)
        side = "question" if index % 2 else "answer"
        rows.append({"id": str(index), f"{side}_text": text.upper() + "!", f"{side}_audio": f"{index}.wav"})
        # what the row needs to be one
        rows[-1].setdefault("question_text", "unheard")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_for(manifest, output, max_steps: int, *overrides: str, **changes) -> Recipe:
    settings = {
        "output_dir": str(output),
        "max_steps": max_steps,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "save_steps": 2,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    data = load_recipe(
        "tiny/recognise", [f"data.train={manifest}", f"data.eval={manifest}", "training.output_dir=x", *overrides]
    ).data
    return Recipe(stage="recognise", training=settings, **({"new": NEW} | changes), data=data)


def builder_of(characters: str = "abcd ", **options) -> UtteranceBuilder:
    model = CtcRecogniser(CtcRecogniserConfig(**NEW, characters=list(characters)))
    return UtteranceBuilder(model.feature_extractor, model.characters, **options)


def test_a_text_is_written_as_it_is_heard():
    assert spoken("Don’t “shout”, Twenty-One\tTIMES!") == "don't shout twenty one times"
    assert spoken("你好，世界。") == "你好 世界"
    assert spoken("'tis the dogs' …") == "tis the dogs"


def test_runs_become_one_and_blanks_keep_doubled_characters_apart():
    assert collapse([0, 1, 1, 0, 0, 1, 2, 2, 0, 3]) == [1, 1, 2, 3]
    assert collapse([]) == collapse([0, 0]) == []
    assert num_frames_needed([1, 1, 2, 2, 2]) == 8 and num_frames_needed([]) == 0


@pytest.mark.parametrize("text", ["seven plus eight is fifteen", "don't", "一加一等于二"])
def test_characters_survive_the_way_to_classes_and_back(text):
    characters = Characters(characters_of([text]))
    classes = characters.encode(text)
    assert characters.decode(classes) == text and min(classes) >= 1
    assert characters.unknown([text + "z"]) == ["z"] and characters.encode("z" + text) == classes


def test_decoding_stops_where_a_row_ends():
    model = CtcRecogniser(CtcRecogniserConfig(**NEW, characters=["a", "b"]))
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 1, 2], [2, 0, 1, 1, 1]])).float()
    assert model.decode(logits, torch.tensor([5, 2])) == ["aab", "b"]


def test_the_loss_is_the_likelihood_of_all_paths_per_character():
    logits = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(dim=-1)[0]
    # in two frames `a` is written as a-, -a or aa
    likelihood = probabilities[:, 1].prod() + probabilities[0, 1] * probabilities[1, 0]
    likelihood += probabilities[0, 0] * probabilities[1, 1]
    loss = ctc_loss(logits, torch.tensor([2]), torch.tensor([[1, -100]]))
    torch.testing.assert_close(loss, -likelihood.log())
    # two different ones leave only one path
    two = ctc_loss(logits, torch.tensor([2]), torch.tensor([[1, 2]]))
    torch.testing.assert_close(two, -(probabilities[0, 1] * probabilities[1, 2]).log() / 2)


def test_masks_are_as_long_as_allowed_and_spare_the_padding():
    torch.manual_seed(0)
    features, num_frames = torch.ones(64, 20, 50), torch.tensor([50, 30] * 32)
    hidden = hide(features, num_frames, 0, 0, 1, 8, 1.0) == 0
    widths = hidden[:, 0].sum(dim=1)
    assert set(widths.tolist()) == set(range(9)) and not hidden[1::2, :, 30:].any()
    assert (hide(features, num_frames, 0, 0, 1, 8, 0.1) == 0)[1::2, 0].sum(dim=1).max() == 3
    assert (hide(features, num_frames, 1, 4, 0, 0, 0.0) == 0)[:, :, 0].sum(dim=1).max() == 4
    assert torch.equal(hide(features, num_frames, 0, 0, 0, 0, 0.0), features)


@pytest.mark.parametrize("stack_size", [1, 2])
def test_a_batch_says_what_its_rows_say_alone(stack_size):
    torch.manual_seed(0)
    model = CtcRecogniser(CtcRecogniserConfig(**NEW, characters=list("abcd"), stack_size=stack_size)).eval()
    waveforms = [said(text) for text in TEXTS]
    features = model.feature_extractor(waveforms, return_tensors="pt")
    batch, lengths = model(**features).logits, model.num_judged(features.input_features_mask)
    for row, waveform in enumerate(waveforms):
        alone = model(**model.feature_extractor([waveform], return_tensors="pt")).logits[0]
        assert len(alone) == lengths[row]
        torch.testing.assert_close(batch[row, : lengths[row]], alone, rtol=1e-4, atol=1e-5)
    assert model.transcribe_batch(waveforms) == [model.transcribe(waveform, 16000) for waveform in waveforms]


@pytest.mark.parametrize("stack_size", [1, 2])
def test_a_new_recogniser_learns_to_write_what_it_hears(manifest, tmp_path, stack_size):
    new = NEW | {"stack_size": stack_size, "num_frequency_masks": 0}
    metrics = make_run(recipe_for(manifest, tmp_path / "run", 120, new=new)).train()
    assert metrics["eval_cer"] == metrics["eval_wer"] == 0.0 and metrics["eval_exact"] == 1.0
    recogniser = recogniser_of(f"ctc:{tmp_path / 'run'}", None, None)
    assert [recogniser.transcribe(said(text), 16000) for text in TEXTS] == list(TEXTS)
    # at another rate
    assert recogniser.transcribe(said(TEXTS[0], 24000), 24000) == TEXTS[0]


def test_its_encoder_becomes_that_of_a_speech_model(manifest, tmp_path):
    run = make_run(recipe_for(manifest, tmp_path / "run", 2, new=NEW | {"dropout": 0.1}))
    run.train()
    recogniser = run.trainer.model.eval()
    config, weights = load_whisper_encoder(tmp_path / "run" / "whisper")
    encoder = FlowOmniAudioEncoder(config).eval()
    encoder.load_state_dict(weights)
    processor = tiny_processor(tiny_config(audio={"num_mel_bins": 80}))
    theirs = processor.feature_extractor([said("bad"), said("a cab")], return_tensors="pt")
    ours = recogniser.feature_extractor([said("bad"), said("a cab")], return_tensors="pt")
    assert torch.equal(theirs.input_features, ours.input_features)
    recogniser.encoder.set_attn_implementation("sdpa")
    expected = recogniser.encoder(ours.input_features, ours.input_features_mask).last_hidden_state
    assert torch.equal(encoder(theirs.input_features, theirs.input_features_mask).last_hidden_state, expected)
    assert config.dropout == 0.0


def test_a_step_is_the_same_in_whatever_batches_its_rows_are(manifest, tmp_path):
    """In a mean of means a character would count for more in a batch of few."""
    first_steps = []
    # utterances of like length go together, so that five make two batches
    for rows_per_batch, num_batches in ((5, 2), (1, 5)):
        new = NEW | {"num_frequency_masks": 0, "num_time_masks": 0, "dropout": 0.0}
        recipe = recipe_for(manifest, tmp_path / "run", 1, f"data.max_rows_per_batch={rows_per_batch}", new=new)
        recipe.training |= {"gradient_accumulation_steps": num_batches, "logging_steps": 1, "save_strategy": "no"}
        trainer = make_run(recipe).trainer
        trainer.train()
        first_steps.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
    assert first_steps[0] == pytest.approx(first_steps[1], rel=1e-3)


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(manifest, tmp_path):
    overrides = ["data.max_rows_per_batch=2"]
    make_run(recipe_for(manifest, tmp_path / "whole", 5, *overrides)).train()
    make_run(recipe_for(manifest, tmp_path / "cut", 2, *overrides)).train()
    make_run(recipe_for(manifest, tmp_path / "cut", 5, *overrides)).train()
    whole, cut = (CtcRecogniser.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_trained_recogniser_can_be_taught_further_but_no_new_characters(manifest, tmp_path):
    make_run(recipe_for(manifest, tmp_path / "first", 2)).train()
    further = {"new": None, "model": str(tmp_path / "first")}
    begun = make_run(recipe_for(manifest, tmp_path / "second", 2, **further)).trainer.model.state_dict()
    first = CtcRecogniser.from_pretrained(tmp_path / "first").state_dict()
    assert all(torch.equal(begun[name], first[name]) for name in first)
    manifest.write_text(manifest.read_text().replace("BAD!", "BED!"))
    with pytest.raises(RecipeError, match="1 characters that '.*' does not know, such as 'e': train a new"):
        make_run(recipe_for(manifest, tmp_path / "second", 2, **further))


def test_only_the_named_side_is_heard(manifest, tmp_path):
    recipe = recipe_for(manifest, tmp_path / "run", 2, recognise=RecogniseOptions(sides=["answer_audio"]))
    utterances = make_run(recipe).train_batches.rows
    assert list(utterances.texts()) == ["A CAB!", "DABBA!", "ADD A B!"]
    assert utterances[0]["id"] == "0:answer"


def test_batches_have_utterances_of_like_length_and_no_more_steps_than_allowed():
    rows = [
        {
            "id": str(index),
            "answer_text": "ab",
            "answer_audio": {"array": said("abcdabcdab"[: 2 + index % 9]), "sampling_rate": 16000},
        }
        for index in range(40)
    ]
    batches = UtteranceBatches(Utterances(rows), builder_of(), BatchOptions(max_steps_per_batch=200))
    seen = []
    for batch in batches:
        assert batch["input_features"].shape[2] / 2 * len(batch["texts"]) <= 200 + 4 * len(batch["texts"])
        seen += batches.ids_of(batch)
    assert sorted(seen) == sorted(f"{index}:answer" for index in range(40))
    assert batches.padding_share < 0.15


def test_utterances_of_a_mix_come_as_many_times_as_the_rows_they_are_of():
    sound = {"array": said("ab"), "sampling_rate": 16000}
    spoken = {"answer_text": "ab", "answer_audio": sound, "answer_seconds": 1.0}
    both = spoken | {"question_text": "ab", "question_audio": sound, "question_seconds": 1.0}
    rows = MixedRows([[both | {"id": "a"}, {"id": "no sound", "answer_text": "a"}], [spoken | {"id": "b"}]], [2, 3])
    batches = UtteranceBatches(Utterances(rows), builder_of(), BatchOptions(max_steps_per_batch=200))
    seen = Counter(name for batch in batches for name in batches.ids_of(batch))
    assert seen == {"a:question": 2, "a:answer": 2, "b:answer": 3}


def test_broken_lines_of_a_manifest_are_counted_and_judged_beside_utterances(tmp_path):
    sound = {"array": said("ab"), "sampling_rate": 16000}
    rows = [{"id": "a", "answer_text": "ab", "answer_audio": sound}, {"id": "b.jsonl:2", WRONG: "b.jsonl:2: no JSON"}]
    batches = UtteranceBatches(Utterances(rows), builder_of(), BatchOptions(max_skipped_share=0.5))
    assert [batches.ids_of(batch) for batch in batches] == [["a:answer"]]
    assert batches.report.counts == {"wrong row": 1}
    with pytest.raises(ValueError, match="1 of 2 rows are broken"):
        len(UtteranceBatches(Utterances(rows), builder_of(), BatchOptions()))


def test_an_utterance_that_no_path_can_write_is_skipped_and_says_why():
    sound = {"array": said("ab"), "sampling_rate": 16000}
    build = builder_of(stack_size=2).build
    skipped = build({"id": "x", "side": "answer_audio", "audio": sound, "text": "abbabba"}, 0)
    assert isinstance(skipped, Skipped) and "7 characters in 0.24 s are more than 6 frames" in skipped.message
    skipped = build({"id": "x", "side": "answer_audio", "audio": sound, "text": "Zzz!"}, 0)
    assert isinstance(skipped, Skipped) and "no character of its text 'Zzz!' is known" in skipped.message
    skipped = build({"id": "x", "side": "answer_audio", "audio": "nowhere.wav", "text": "a"}, 0)
    assert isinstance(skipped, Skipped) and skipped.reason == "corrupt audio"


def test_questions_are_augmented_anew_in_every_epoch_and_answers_are_not():
    augmentation = Augmentation(share=1.0, noise_share=1.0, speed_share=0.0)
    build = builder_of(options=RecogniseOptions(augmentation=augmentation)).build
    sound = {"array": said("ab"), "sampling_rate": 16000}
    clean = builder_of().build({"id": "x", "side": "question_audio", "audio": sound, "text": "ab"}, 0)

    def features(side, epoch):
        return build({"id": "x", "side": side, "audio": sound, "text": "ab"}, 0, epoch).inputs["input_features"]

    assert np.array_equal(features("answer_audio", 0), clean.inputs["input_features"])
    assert np.array_equal(features("question_audio", 0), features("question_audio", 0))
    assert not np.array_equal(features("question_audio", 0), features("question_audio", 1))
    assert not np.array_equal(features("question_audio", 0), clean.inputs["input_features"])


def test_the_recipe_of_the_tiny_ears_is_found_and_wrong_ones_are_refused(manifest, tmp_path):
    overrides = [f"data.train={manifest}", f"training.output_dir={tmp_path}"]
    assert load_recipe("tiny/recognise", overrides).new["d_model"] == 192
    with pytest.raises(RecipeError, match="those that come along: .*tiny/recognise"):
        load_recipe("tiny/recognize", overrides)
    with pytest.raises(ValueError, match=r"`sides` is \['audio'\]: name question_audio or answer_audio"):
        load_recipe("tiny/recognise", [*overrides, "recognise.sides=[audio]"])
    with pytest.raises(ValueError, match="`d_modle=3` is no field of CtcRecogniserConfig"):
        make_run(load_recipe("tiny/recognise", [*overrides, "new.d_modle=3"]))
    manifest.write_text(json.dumps({"question_text": "a", "answer_text": "b"}))
    with pytest.raises(ValueError, match="None of 1 rows has a `question_audio` with its `question_text` or"):
        make_run(load_recipe("tiny/recognise", overrides))
