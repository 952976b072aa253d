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
"""The moving average of the weights: what it averages, and that it comes and goes without a trace."""

import pytest
import torch
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from tiny import tiny_model
from torch import nn
from training_runs import assert_same_weights, encoded_examples, make_trainer, weights_of

from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.training.ema import EMA_FILE, ExponentialMovingAverage
from flow_omni.training.recipe import RecipeError, load_recipe


def test_it_is_the_average_by_its_formula():
    layer = nn.Linear(2, 2)
    ema = ExponentialMovingAverage(0.5)
    ema.start(layer)
    expected = layer.weight.detach().clone()
    for step in range(1, 5):
        with torch.no_grad():
            layer.weight.normal_()
        ema.update(layer)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    torch.testing.assert_close(ema.averages["weight"], expected)


def test_it_moves_where_bf16_would_not():
    """A change of one part in ten thousand is rounded away in bf16: the average would stand still for ever."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(layer.weight)
    ema = ExponentialMovingAverage(0.9999)
    ema.start(layer)
    ema.num_updates = 1_000_000
    nn.init.constant_(layer.weight, 2.0)
    ema.update(layer)
    assert ema.averages["weight"].item() == pytest.approx(1.0001, abs=1e-6)


def test_the_models_own_weights_come_back_to_the_bit():
    model = tiny_model()
    ema = ExponentialMovingAverage(0.9)
    ema.start(model)
    with torch.no_grad():
        model.state_head.weight.add_(1.0)
    before = weights_of(model)
    with ema.applied_to(model):
        assert not torch.equal(model.state_head.weight, before["state_head.weight"])
    assert_same_weights(weights_of(model), before)


def test_what_is_frozen_is_not_kept_twice():
    model = tiny_model().requires_grad_(False)
    model.state_head.requires_grad_(True)
    ema = ExponentialMovingAverage(0.9)
    ema.start(model)
    assert set(ema.averages) == {"state_head.weight", "state_head.bias"}


def test_the_final_model_and_the_evaluation_are_the_average(tmp_path):
    trainer = make_trainer(tmp_path, ema_decay=0.9, eval_dataset=encoded_examples(1), learning_rate=1e-2)
    trainer.train()
    averaged = trainer.evaluate()["eval_loss"]
    assert trainer.predict(encoded_examples(1)).metrics["test_loss"] == pytest.approx(averaged)
    trainer.save_final()
    loaded = FlowOmniForSpeechGeneration.from_pretrained(tmp_path)
    for name, average in trainer.ema.averages.items():
        assert torch.equal(loaded.get_parameter(name), average), name
    assert not torch.equal(loaded.state_head.weight, trainer.model.state_head.weight)
    trainer.ema = None
    assert trainer.evaluate()["eval_loss"] != averaged


def test_what_goes_to_the_hub_is_the_average_with_our_card(tmp_path, monkeypatch):
    """It was the weights of the last step, with a card of the Trainer's in the place of ours."""
    pushed = []
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo_id, **kwargs: RepoUrl(f"https://huggingface.co/{repo_id}")
    )
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **kwargs: pushed.append(kwargs["folder_path"]))
    trainer = make_trainer(tmp_path, ema_decay=0.9, learning_rate=1e-2, hub_model_id="me/mine")
    trainer.train()
    trainer.push_to_hub()
    assert pushed == [str(tmp_path)]
    averages, raw = trainer.ema.averages, weights_of(trainer.model)
    loaded = load_file(tmp_path / "model.safetensors")
    assert torch.equal(loaded["state_head.weight"], averages["state_head.weight"])
    assert not torch.equal(loaded["state_head.weight"], raw["state_head.weight"])
    card = (tmp_path / "README.md").read_text()
    assert "me/mine" in card and "generated automatically" not in card
    (tmp_path / "README.md").write_text("mine")
    trainer.push_to_hub()
    assert (tmp_path / "README.md").read_text() == "mine"


def test_what_training_left_behind_does_not_go_to_the_hub(tmp_path, monkeypatch):
    """The checkpoints of earlier runs went along, the logs with the texts of rows, and a batch that had stopped a run."""
    pushed = {}
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo_id, **kwargs: RepoUrl(f"https://huggingface.co/{repo_id}")
    )
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **kwargs: pushed.update(kwargs))
    trainer = make_trainer(tmp_path / "run", max_steps=1, hub_model_id="me/mine")
    trainer.save_final(tmp_path / "wanted")
    left = ["checkpoint-1/model.safetensors", "earlier-1/checkpoint-4/model.safetensors", ".finished.json"]
    left += ["runs/events.out.tfevents.1", "diverged-step-3-process-0/batch.pt", "diverged-step-3-process-0/rows.json"]
    for name in left:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    trainer.push_to_hub("It says numbers", token="hf_token", revision="next")
    told = (pushed["repo_id"], pushed["commit_message"], pushed["token"], pushed["revision"], pushed["run_as_future"])
    assert told == ("me/mine", "It says numbers", "hf_token", "next", False)
    saved, files = files_in(tmp_path / "wanted"), files_in(tmp_path / "run")
    assert set(left) < files and "training_args.bin" in saved
    uploaded = set(filter_repo_objects(files, ignore_patterns=pushed["ignore_patterns"]))
    assert uploaded == saved - {"training_args.bin"} | {"README.md"}


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_checkpoints_are_not_pushed_as_the_model(tmp_path):
    with pytest.raises(ValueError, match="hub_strategy='every_save'` would show unfinished .* `flow-omni push"):
        make_trainer(tmp_path, push_to_hub=True)
    settings = ["model=x", "data.train=x", "training.output_dir=x", "training.push_to_hub=true"]
    with pytest.raises(RecipeError, match="`training.push_to_hub` is True.* `flow-omni push` uploads the model with"):
        load_recipe("align", settings)


def test_the_best_model_has_its_average_though_only_models_are_saved(tmp_path):
    """The average went with the optimizer, and the run stopped after its last step for want of it."""
    trainer = make_trainer(
        tmp_path,
        ema_decay=0.9,
        max_steps=2,
        save_only_model=True,
        eval_dataset=encoded_examples(1)[:1],
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    trainer.train()
    saved = load_file(f"{trainer.state.best_model_checkpoint}/{EMA_FILE}")
    assert_same_weights(saved, trainer.ema.averages)


def test_resuming_without_its_file_is_refused(tmp_path):
    make_trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    with pytest.raises(FileNotFoundError, match="kept no moving average"):
        make_trainer(tmp_path, ema_decay=0.9).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_a_decay_out_of_range_is_refused(tmp_path, decay):
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_trainer(tmp_path, ema_decay=decay)
