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
"""The mean of several models."""

import pytest
import torch
import typer
from test_training_stages import snapshot
from tiny import tiny_model, tiny_processor
from typer.testing import CliRunner

from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.training.averaging import average, main


def run(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("shares", [(1, 1, 1), (1, 0, 3)])
def test_each_weight_is_the_mean_by_the_shares(shares):
    models = [tiny_model(seed) for seed in range(3)]
    before = [{name: weight.clone() for name, weight in model.state_dict().items()} for model in models]
    for name, weight in average(models, shares).state_dict().items():
        expected = sum(share * one[name].double() for share, one in zip(shares, before)) / sum(shares)
        torch.testing.assert_close(weight, expected.to(weight.dtype))
    assert not torch.equal(before[0]["lm_head.weight"], before[1]["lm_head.weight"])


def test_each_model_has_a_share():
    with pytest.raises(ValueError, match="shorter"):
        average([tiny_model(), tiny_model()], (1,))


def test_the_mean_is_written_with_all_that_belongs_to_it(tmp_path):
    for seed in range(2):
        tiny_model(seed).save_pretrained(tmp_path / f"{seed}")
        tiny_processor().save_pretrained(tmp_path / f"{seed}")
    assert run(tmp_path / "0", tmp_path / "1", tmp_path / "mean", "--share", 1, "--share", 3).exit_code == 0
    first, second, mean = (
        snapshot(FlowOmniForSpeechGeneration.from_pretrained(tmp_path / name)) for name in ("0", "1", "mean")
    )
    for name, weight in mean.items():
        torch.testing.assert_close(weight, first[name].lerp(second[name], 0.75))
    assert {path.name for path in (tmp_path / "1").iterdir()} == {path.name for path in (tmp_path / "mean").iterdir()}


def test_models_of_another_form_or_scale_have_no_mean():
    with pytest.raises(
        ValueError, match=r"is missing in one model and \(.*\) in another: a mean is of models of the same"
    ):
        average([tiny_model(), tiny_model(speech={"num_hidden_layers": 2})], (1, 1))
    louder = tiny_model()
    louder.mel_normalizer.std.add_(0.001)
    scale = louder.mel_normalizer.std.clone()
    assert torch.equal(average([tiny_model(), louder], (1, 1)).mel_normalizer.std, scale)
    louder.mel_normalizer.std.add_(0.02)
    with pytest.raises(ValueError, match="`mel_normalizer.std` is not the same in all models"):
        average([tiny_model(), louder], (1, 1))


def test_a_model_is_not_written_over_by_one_that_forgets_the_output(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    for name in ("a", "b", "c"):
        tmp_path.joinpath(name).mkdir()
        tmp_path.joinpath(name, "model.safetensors").write_text("mine")
    result = run(*(tmp_path / name for name in ("a", "b", "c")))
    assert result.exit_code == 2
    assert "c' is there already, and not empty: name last a folder to create" in result.output
    assert tmp_path.joinpath("c", "model.safetensors").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "mean"), "1 models with the shares 1 cannot be averaged"),
        (("a", "b", "mean", "--share", 1), "2 models with the shares 1 cannot"),
        (("a", "b", "mean", "--share", 0, "--share", 0), "not all 0"),
        (("a", "b", "mean", "--share", 2, "--share", -1), "none below 0"),
        (("a", "b", "mean", "--share", 1, "--share", "nan"), "the shares 1, nan cannot"),
        (("nowhere", "b", "mean"), "There is no folder 'nowhere': name folders of models"),
    ],
)
def test_wrong_arguments_are_told(arguments, message, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
