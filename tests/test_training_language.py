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
"""Claims about the stage `language`: a new model learns to write answers, resumes, and is loaded as any other LLM."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flow_omni.training import language_run
from flow_omni.training.guards import TrainingDivergedError
from flow_omni.training.recipe import Recipe, RecipeError, load_recipe
from flow_omni.training.vocoder_run import make_vocoder


NEW = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
ANSWERS = {"one": "two", "two": "three", "three": "four"}


@pytest.fixture
def manifest(tmp_path):
    rows = [{"id": f"row-{word}", "question_text": word, "answer_text": answer} for word, answer in ANSWERS.items()]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_for(manifest, output, max_steps: int, **changes) -> Recipe:
    settings = {
        "output_dir": str(output),
        "max_steps": max_steps,
        "learning_rate": 2e-2,
        "lr_scheduler_type": "constant",
        "save_steps": 2,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    fields = {"new": {**NEW, "num_key_value_heads": 2, "tie_word_embeddings": True}} | changes
    recipe = Recipe(
        stage="language", training=settings, **fields, data=load_recipe("tiny/language", _data(manifest)).data
    )
    recipe.evaluation.questions = 3
    return recipe


def _data(manifest) -> list[str]:
    return [f"data.train={manifest}", f"data.eval={manifest}", "data.max_steps_per_batch=128", "training.output_dir=x"]


def test_a_new_model_learns_every_answer(manifest, tmp_path):
    metrics = language_run.make_run(recipe_for(manifest, tmp_path / "run", 150)).train()
    assert metrics["eval_exact"] == 1.0
    # which question comes nobody can know: a lower loss would mean that the model looks ahead
    assert 0.038 < metrics["eval_loss"] < 0.3
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert model.config.vocab_size == len(tokenizer) and model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_rows_without_a_written_answer_are_not_asked(manifest, tmp_path):
    spoken = {"id": "spoken", "question_text": "zero", "question_audio": "zero.wav"}
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text(json.dumps(spoken) + "\n" + manifest.read_text())
    recipe = recipe_for(manifest, tmp_path / "run", 1)
    recipe.data.eval = str(held_out)
    run = language_run.make_run(recipe)
    assert [row["id"] for row in run.trainer.questions] == ["row-one", "row-two", "row-three"]
    assert "eval_exact" in run.trainer.evaluate()


def test_a_dry_run_tells_of_memory(manifest, tmp_path):
    lines = language_run.make_run(recipe_for(manifest, tmp_path / "run", 4)).describe().splitlines()
    assert "optimizer steps: 4, each on up to 128 tokens" in lines
    assert lines[-1].startswith("memory of a process: about ")


def test_accumulated_batches_are_one_big_batch(manifest, tmp_path):
    """Of unequal rows too. The Trainer would add batches up: a model with `**kwargs` is expected to have divided."""
    first_steps = []
    for rows_per_batch, num_batches in ((3, 1), (1, 3)):
        recipe = recipe_for(manifest, tmp_path / "run", 1)
        recipe.data.max_rows_per_batch = rows_per_batch
        recipe.training |= {"gradient_accumulation_steps": num_batches, "logging_steps": 1, "save_strategy": "no"}
        trainer = language_run.make_run(recipe).trainer
        trainer.train()
        first_steps.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
    assert first_steps[0] == pytest.approx(first_steps[1], rel=1e-4)


def test_the_loss_of_an_evaluation_does_not_depend_on_its_batches(manifest, tmp_path):
    losses = []
    for rows_per_batch in (3, 1):
        recipe = recipe_for(manifest, tmp_path / "run", 1)
        recipe.data.max_rows_per_batch = rows_per_batch
        losses.append(language_run.make_run(recipe).trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(manifest, tmp_path):
    language_run.make_run(recipe_for(manifest, tmp_path / "whole", 4)).train()
    language_run.make_run(recipe_for(manifest, tmp_path / "cut", 2)).train()
    language_run.make_run(recipe_for(manifest, tmp_path / "cut", 4)).train()
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_rows(manifest, tmp_path):
    run = language_run.make_run(recipe_for(manifest, tmp_path / "run", 2))
    torch.nn.init.constant_(run.trainer.model.get_input_embeddings().weight, torch.nan)
    with pytest.raises(TrainingDivergedError, match="loss at step 1 is nan. The batch of the rows .*row-.*was saved"):
        run.train()
    assert (tmp_path / "run" / "diverged-step-1-process-0" / "batch.pt").is_file()


def test_a_trained_model_can_be_taught_further(manifest, tmp_path):
    language_run.make_run(recipe_for(manifest, tmp_path / "first", 2)).train()
    again = recipe_for(manifest, tmp_path / "second", 2, new=None, model=str(tmp_path / "first"))
    begun = language_run.make_run(again).trainer.model.state_dict()
    first = AutoModelForCausalLM.from_pretrained(tmp_path / "first").state_dict()
    assert all(torch.equal(begun[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage": "language"}, "`model` is missing: .* Or say with `new`"),
        ({"stage": "align"}, "`model` is missing: set it in the recipe"),
        ({"stage": "align", "new": NEW}, "`new` makes a part, and the stage `align` trains a whole model"),
        ({"stage": "language", "new": NEW, "model": "x"}, "begin with one of them"),
    ],
)
def test_there_is_one_thing_to_begin_with(fields, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**fields)


def test_a_new_vocoder_has_no_unknown_field():
    assert make_vocoder({"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}).config.hidden_size == 16
    with pytest.raises(ValueError, match="`new` has the field 'hidden'"):
        make_vocoder({"hidden": 16})
