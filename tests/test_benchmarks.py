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
"""The benchmarks: they measure what they say, and print it."""

import sys
from pathlib import Path

import pytest
import torch
from tiny import spoken_prompt, tiny_config, tiny_model


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import common
import speed

import training


def test_a_streamed_answer_has_the_length_asked_for_and_its_modules_add_up(model):
    steps = speed.stream_answer(model, spoken_prompt([24], [3]), num_text_tokens=6, num_patches=10)
    assert sum(step.has_text for step in steps) == 6
    assert sum(step.has_patch for step in steps) == 10
    assert all(0 < sum(step.modules.values()) < step.seconds for step in steps)
    assert {name for step in steps for name, seconds in step.modules.items() if seconds} == set(steps[0].modules)


def test_first_audio_comes_when_the_vocoder_has_its_lookahead():
    model = tiny_model()
    for vocoder in (model.vocoder, speed.with_non_causal_vocoder(model)):
        model.vocoder = vocoder
        steps = speed.stream_answer(model, spoken_prompt([24], [3]), num_text_tokens=2, num_patches=16)
        patches = vocoder.streaming_latency_frames // model.config.speech_config.frames_per_step + 1
        first = [step.has_audio for step in steps].index(True) + 1
        assert first == speed.num_positions_before_speech(model.config) + patches


def test_module_timer_leaves_the_model_as_it_was(model):
    before = model.lm_head.forward
    with common.ModuleTimer(model) as timer:
        model.lm_head(torch.zeros(1, model.lm_head.in_features))
        assert timer.take()["text head"] > 0
        assert timer.take()["text head"] == 0
    assert model.lm_head.forward == before and "forward" not in vars(model.lm_head)


def test_models_of_the_benchmarks_have_no_weight_unset_and_no_layer_of_zeros():
    model = common.build_model(tiny_config(), torch.bfloat16)
    assert model.dtype == torch.bfloat16 and not model.training
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.dim() == 1 or 0.01 < parameter.float().std() < 0.03, name


def test_a_training_step_trains_every_part_and_its_times_add_up():
    step = training.TrainingStep(tiny_config(vocoder=None), torch.float32, batch_size=2)
    output = step.model(**training.training_batch(step.model.config, 2, num_patches=20))
    assert all(loss > 0 for loss in (output.text_loss, output.state_loss, output.speech_loss))
    before = {name: value.detach().clone() for name, value in step.model.named_parameters()}
    seconds = step()
    assert seconds.pop("step") == pytest.approx(sum(seconds.values()))
    after = dict(step.model.named_parameters())
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name.split(".")[0] for name in before if after[name].requires_grad}


def test_the_bare_language_model_trains_alone():
    step = training.TrainingStep(tiny_config(vocoder=None), torch.float32, is_bare=True, batch_size=2)
    speech = step.model.speech_transformer.state_dict()
    before = {name: value.clone() for name, value in speech.items()}
    assert step()["step"] > 0
    assert all(torch.equal(value, before[name]) for name, value in speech.items())


def test_commands_refuse_what_they_cannot_measure(capsys):
    for main in (speed.main, training.main):
        for arguments in (["--threads", "0"], ["--sizes", "huge"], ["--dtypes", "int3"]):
            with pytest.raises(SystemExit, match="2"):
                main(arguments)
            assert arguments[1] in capsys.readouterr().err


@pytest.mark.slow
def test_commands_print_their_tables_and_write_them(tmp_path, capsys):
    for main, words in (
        (speed.main, ("first audio, causal vocoder", "real-time factor", "8 solver steps")),
        (training.main, ("examples per second", "memory / bare language model", "speech head")),
    ):
        main(["--quick", "--dtypes", "bf16", "--threads", "1", "--markdown", str(tmp_path / "table.md")])
        printed = capsys.readouterr().out
        assert all(word in printed for word in words)
        assert (tmp_path / "table.md").read_text() == printed


def test_numbers_are_rounded_to_what_can_be_trusted():
    for value, text in ((0, "0.00"), (0.01234, "0.012"), (1.257, "1.26"), (45.67, "45.7"), (1234.6, "1235")):
        assert common.rounded(value) == text
    assert common.summary([3.0, 1.0, 2.0]) == "2.00 (1.00-3.00)"
    assert common.summary([2.0], 1000) == "2000"
