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
"""Recipes: every key is known or refused by name, and overrides reach everywhere."""

from pathlib import Path

import pytest
from transformers import TrainerState

from flow_omni.training.arguments import FlowOmniTrainingArguments
from flow_omni.training.augmentation import Augmentation
from flow_omni.training.recipe import RecipeError, load_recipe


RECIPES = Path(__file__).parents[1] / "training" / "recipes"
NEEDED = ["model=a-model", "data.train=train.jsonl", "training.output_dir=out"]


@pytest.mark.parametrize("name", ["align", "finetune", "vocoder"])
def test_the_recipes_that_come_along_lack_only_what_is_the_users(name):
    recipe = load_recipe(name, NEEDED)
    assert recipe.stage == name
    assert isinstance(recipe.training["learning_rate"], float)


@pytest.mark.parametrize("name", [f"tiny/{path.stem}" for path in sorted((RECIPES / "tiny").glob("*.yaml"))])
def test_the_recipes_of_the_bundled_model_can_be_read_and_every_key_of_their_training_arguments_exists(name, tmp_path):
    has_new = "\nnew:" in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    recipe = load_recipe(name, NEEDED[1:] if has_new else NEEDED)
    fields = recipe.training | {"output_dir": str(tmp_path), "bf16": False, "report_to": "none", "eval_strategy": "no"}
    FlowOmniTrainingArguments(**fields, use_cpu=True)


@pytest.mark.parametrize("name", ["align", "finetune", "vocoder"])
def test_every_key_of_their_training_arguments_exists(name, tmp_path):
    fields = load_recipe(name, NEEDED).training | {"output_dir": str(tmp_path), "bf16": False, "report_to": "none"}
    FlowOmniTrainingArguments(**fields | {"eval_strategy": "no"}, use_cpu=True)


@pytest.mark.parametrize("name", ["align", "finetune"])
@pytest.mark.parametrize("num_steps", [3, 95, 100_000])
def test_the_recipes_for_any_data_warm_up_log_and_evaluate_in_short_runs_and_long_ones(name, num_steps, tmp_path):
    """With 500 steps to warm up two hours of speech were over before the learning rate had risen, and nothing was logged."""
    fields = load_recipe(name, NEEDED).training | {"output_dir": str(tmp_path), "bf16": False, "report_to": "none"}
    args = FlowOmniTrainingArguments(**fields, use_cpu=True)
    state = TrainerState()
    state.compute_steps(args, num_steps)
    assert args.get_warmup_steps(num_steps) <= max(1, 0.05 * num_steps)
    assert args.logging_first_step
    assert 1 <= state.eval_steps == state.save_steps <= max(1, 0.11 * num_steps)


def test_the_schedule_ends_at_the_same_share_of_any_learning_rate():
    """An end of 5e-6 is above where a language model on little data may begin."""
    assert load_recipe("finetune", NEEDED).training["lr_scheduler_kwargs"] == {"min_lr_rate": 0.05}


def test_another_schedule_does_not_get_the_options_of_the_recipes_own():
    def options_with(*overrides):
        return load_recipe("align", [*NEEDED, *overrides]).training.get("lr_scheduler_kwargs")

    assert options_with("training.lr_scheduler_type=linear") is None
    assert options_with("training.lr_scheduler_type=cosine_with_min_lr") == {"min_lr_rate": 0.05}
    changed = ("training.lr_scheduler_type=polynomial", "training.lr_scheduler_kwargs={power: 2.0}")
    assert options_with(*changed) == options_with(*reversed(changed)) == {"power": 2.0}


def test_who_says_epochs_does_not_get_the_steps_of_the_recipe():
    def length_with(*overrides):
        training = load_recipe("tiny/finetune", [*NEEDED, *overrides]).training
        return training.get("num_train_epochs"), training.get("max_steps")

    steps = load_recipe("tiny/finetune", NEEDED).training["max_steps"]
    assert length_with("training.num_train_epochs=7") == (7, None)
    assert length_with(f"training.max_steps={steps}", "training.num_train_epochs=7") == (7, steps)
    assert length_with("training.learning_rate=1e-4") == (None, steps)


@pytest.mark.parametrize("key", ["training.eval_strategy", "training.save_strategy"])
def test_no_is_a_strategy_and_no_truth_value(key, tmp_path):
    training = load_recipe("align", [*NEEDED, f"{key}=no"]).training
    assert training[key.partition(".")[2]] == "no"
    path = tmp_path / "mine.yaml"
    path.write_text(
        "stage: align\nmodel: m\ndata: {train: t}\ntraining: {output_dir: o, eval_strategy: no, bf16: False}\n"
    )
    assert load_recipe(str(path)).training == {"output_dir": "o", "eval_strategy": "no", "bf16": False}


def test_what_only_begins_like_a_number_is_a_word():
    assert load_recipe("align", ["model=1e4-steps", *NEEDED[1:]]).model == "1e4-steps"


@pytest.mark.parametrize("missing", ["model", "data.train", "training.output_dir"])
def test_what_is_missing_is_named(missing):
    given = [override for override in NEEDED if not override.startswith(f"{missing}=")]
    with pytest.raises(RecipeError, match=f"`{missing}` is missing"):
        load_recipe("align", given)


def test_overrides_set_nested_keys_and_their_types():
    recipe = load_recipe(
        "align",
        [*NEEDED, "training.learning_rate=3e-4", "data.tasks.say=2", "lora.rank=4", "data.columns={question_text: s}"],
    )
    assert recipe.training["learning_rate"] == 3e-4
    assert recipe.data.tasks == {"transcribe": 1, "say": 2}
    assert recipe.lora.rank == 4
    assert recipe.data.columns == {"question_text": "s"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stgae=align", "unknown key `stgae`: did you mean `stage`?"),
        ("data.tain=x", "unknown key `data.tain`: did you mean `data.train`?"),
        ("lora.rnak=4", "unknown key `lora.rnak`: did you mean `lora.rank`?"),
        ("training.lerning_rate=1", "unknown key `training.lerning_rate`: did you mean `training.learning_rate`?"),
        ("data.zzz=1", "unknown key `data.zzz`: the keys here are augmentation, columns, eval"),
        ("data.max_steps_per_batch=many", "`data.max_steps_per_batch` is 'many': it must be int"),
        ("data.streaming=3", "`data.streaming` is 3: it must be bool"),
        (
            "stage=aline",
            "`stage` is 'aline': it must be one of align, finetune, understand, listen, speak, recognise, language, vocoder",
        ),
        ("model.x=3", "`model` holds a value and no keys"),
        ("model", "`model` is no override: write `key=value`"),
        ("lora=3", "`lora` is 3: it must hold keys and values"),
        ("data.tasks=[1,", "`data.tasks=[1,`: the value is no YAML"),
        ("data.tasks={say: 1, say: 2}", "the key `say` stands twice"),
        ("training.learning_rate=fast", "`training.learning_rate` is 'fast': it must be float"),
        ("training.max_steps=4.5", "`training.max_steps` is 4.5: it must be int"),
        ("training.bf16=1", "`training.bf16` is 1: it must be bool"),
        ("training.bf16=yes", "`training.bf16` is 'yes': it must be bool (true or false)"),
        ("training.max_steps=null", "`training.max_steps` is None: it must be int"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(override, message):
    import re

    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe("align", [*NEEDED, override])


def test_whole_numbers_may_be_written_with_an_exponent():
    recipe = load_recipe("align", [*NEEDED, "training.max_steps=1e4", "data.max_steps_per_batch=2e3"])
    assert (recipe.training["max_steps"], recipe.data.max_steps_per_batch) == (10_000, 2_000)
    assert isinstance(recipe.training["max_steps"], int)


def test_a_recipe_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("stage: align\nmodel: m\ndata: {train: t.jsonl}\ntraining: {output_dir: o, learning_rate: 2e-4}\n")
    assert load_recipe(str(path)).training["learning_rate"] == 2e-4


def test_what_is_no_recipe_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no recipe 'nothing'.*align, finetune, vocoder.*tiny/vocoder.$"):
        load_recipe("nothing")
    with pytest.raises(RecipeError, match=r"no recipe 'aling'.* Did you mean 'align'\?"):
        load_recipe("aling")
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1,\n")
    with pytest.raises(RecipeError, match="is no YAML"):
        load_recipe(str(path))
    path.write_text("- a list\n")
    with pytest.raises(RecipeError, match="holds list"):
        load_recipe(str(path))


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(RecipeError, match="`training.output_dir` is '.*rows.jsonl', which is a file: name a folder"):
        load_recipe("align", [*NEEDED[:2], f"training.output_dir={tmp_path / 'rows.jsonl'}"])


def test_lora_is_not_for_the_vocoder():
    with pytest.raises(RecipeError, match="`lora` is for the language model"):
        load_recipe("vocoder", [*NEEDED, "lora.rank=4"])


def test_sources_may_have_weights():
    recipe = load_recipe("align", ["model=m", "data.train={a.jsonl: 2, b.jsonl: 0.5}", "training.output_dir=o"])
    assert recipe.data.train == {"a.jsonl": 2, "b.jsonl": 0.5}


def test_augmentation_is_off_unless_its_fields_are_set_and_only_where_questions_are_heard():
    assert load_recipe("align", NEEDED).data.augmentation is None
    augmentation = load_recipe(
        "align", [*NEEDED, "data.augmentation={share: 0.5, speeds: [0.9, 1.1]}"]
    ).data.augmentation
    assert augmentation == Augmentation(share=0.5, speeds=(0.9, 1.1))
    with pytest.raises(
        RecipeError, match="unknown key `data.augmentation.shares`: did you mean `data.augmentation.share`"
    ):
        load_recipe("align", [*NEEDED, "data.augmentation.shares=1"])
    with pytest.raises(RecipeError, match="not for the stage `recognise`: set `recognise.augmentation`"):
        load_recipe("tiny/recognise", [*NEEDED[1:], "data.augmentation.share=1"])


@pytest.mark.parametrize(
    ("recipe", "option", "message"),
    [
        (
            "tiny/language",
            "training.ema_decay=0.9",
            "0.9, and it is not for the stage `language`: leave it out; of use",
        ),
        (
            "tiny/recognise",
            "training.ema_decay=0.9",
            "is not for the stage `recognise`: leave it out; of use it is to `a",
        ),
        ("tiny/vocoder", "training.ema_decay=0.9", "it is not for the stage `vocoder`"),
        ("tiny/vocoder", "training.activation_checkpointing=true", "it is not for the stage `vocoder`"),
        ("tiny/recognise", "data.streaming=true", "`data.streaming` is True, and it is not for the stage `recognise`"),
        ("tiny/language", "data.tasks={say: 1}", "`data.tasks` is {'say': 1}, and it is not for the stage `language`"),
        ("tiny/vocoder", "data.max_steps_per_batch=100", "`vocoder.batch_size` and `vocoder.segment_seconds` say"),
        ("tiny/vocoder", "data.augmentation.share=1", "`data.augmentation` is {'share': 1.0}, and it is not for"),
        (
            "align",
            "vocoder.batch_size=4",
            "`vocoder` is {'batch_size': 4}, and it is not for the stage `align`: leave it",
        ),
        (
            "align",
            "training.per_device_train_batch_size=4",
            "`data.max_steps_per_batch` and `data.max_rows_per_batch`",
        ),
        ("align", "training.label_smoothing_factor=0.1", "leave it out; no stage reads it"),
        ("align", "training.train_sampling_strategy=group_by_length", "rows of like length come together anyway"),
        ("vocoder", "training.length_column_name=seconds", "leave it out; no stage reads it"),
        ("finetune", "training.resume_from_checkpoint=runs/a/checkpoint-7", "name it as `model`"),
        ("vocoder", "training.resume_from_checkpoint=runs/a/checkpoint-7", "goes on from the last checkpoint in its"),
        (
            "align",
            "training.dataloader_drop_last=true",
            "not for the stage `align`: leave it out; of use it is to `vocoder`",
        ),
        ("align", "training.dataloader_persistent_workers=true", "of use it is to `vocoder`"),
        ("tiny/language", "training.dataloader_multiprocessing_context=spawn", "of use it is to `vocoder`"),
        ("align", "training.ignore_data_skip=true", "goes on where it was among the data"),
        ("align", "training.do_predict=true", "leave it out; no stage reads it"),
        ("align", "training.accelerator_config={split_batches: true}", "of use it is to `vocoder`"),
        (
            "tiny/language",
            "card.license=mit",
            "`card` is {'license': 'mit'}, and it is not for the stage `language`: leave",
        ),
        ("tiny/recognise", "card.model_id=me/ears", "only a whole model gets a card"),
        ("vocoder", "training.per_device_train_batch_size=3", "`vocoder.batch_size` says how large a batch is"),
        ("vocoder", "training.per_device_eval_batch_size=3", "`vocoder.batch_size` says how large a batch is"),
        ("vocoder", "training.auto_find_batch_size=true", "`vocoder.batch_size` says how large a batch is"),
        ("vocoder", "training.num_train_epochs=7", "`training.max_steps` says how long it trains"),
        ("align", "training.average_tokens_across_devices=false", "a mean over the targets of all processes"),
        (
            "align",
            "training.stage=finetune",
            "`training.stage` is 'finetune', and it is not for the stage `align`: the",
        ),
    ],
)
def test_an_option_that_the_stage_would_ignore_is_refused(recipe, option, message):
    import re

    needed = NEEDED[1:] if recipe.startswith("tiny/") else NEEDED
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(recipe, [*needed, option])


def test_an_option_that_says_the_default_is_no_harm():
    assert load_recipe("tiny/language", [*NEEDED[1:], "training.ema_decay=null", "data.text_layout=leading"])
