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
"""The benchmark command runs, and measures what its tables say. No figure is asserted: machines differ."""

import json
import mmap
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import (
    AUDIO_FIELDS,
    AUDIO_TOKEN_ID,
    SPEECH_FIELDS,
    TEXT_FIELDS,
    spoken_prompt,
    tiny_config,
    tiny_model,
    training_batch,
)


sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import decoding
import shapes
import speed
import stopwatch
import training_cases
import training_data
import training_memory
import training_step
from tabulation import Table

import training


def test_command_prints_its_tables_and_writes_them_as_markdown_and_json(tmp_path, capsys):
    markdown, samples = tmp_path / "table.md", tmp_path / "table.json"
    speed.main(
        ["--quick", "--dtypes", "fp32", "--threads", "1", "--no-training"]
        + ["--markdown", str(markdown), "--json", str(samples)]
    )
    printed = capsys.readouterr().out
    tables = json.loads(samples.read_text())
    assert len(tables) == 5
    for table in tables:
        assert table["title"] in printed and f"### {table['title']}" in markdown.read_text()
    times = tables[2]["columns"]["tiny fp32"]
    assert all(value > 0 for samples in times.values() if isinstance(samples, list) for value in samples)
    assert times["first sound, causal vocoder: steps"] == "5"


@pytest.mark.slow
def test_command_measures_training_in_processes_of_their_own(capsys):
    speed.main(["--quick", "--dtypes", "bf16", "--threads", "1"])
    printed = capsys.readouterr().out
    assert "Training step" in printed and "peak memory" in printed


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--sizes", "huge"], ["--dtypes", "int3"]])
def test_command_refuses_what_it_cannot_measure(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        speed.main(arguments)
    assert exit_info.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_naive_loss_is_the_same_number_from_more_rows_of_the_vocabulary_head():
    model = tiny_model()
    batch = training_batch(model.config)
    num_rows = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: num_rows.append(output[..., 0].numel()))
    ours = model(**batch)
    with training_step.vocabulary_head_everywhere():
        naive = model(**batch)
    torch.testing.assert_close(naive.text_loss, ours.text_loss)
    torch.testing.assert_close(naive.loss, ours.loss)
    assert num_rows == [int((batch["labels"] != -100).sum()), batch["labels"].numel()]


def test_training_batch_of_the_benchmark_trains_every_part():
    config = tiny_config(vocoder=None)
    model = shapes.build_model(config, torch.float32).train()
    batch = training_step.training_batch(config, batch_size=2, num_patches=20)
    output = model(**batch)
    output.loss.backward()
    assert all(part > 0 for part in (output.text_loss, output.state_loss, output.speech_loss))
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.fixture
def tiny_case(monkeypatch):
    fields = {"audio_config": AUDIO_FIELDS, "text_config": TEXT_FIELDS, "speech_config": SPEECH_FIELDS}
    monkeypatch.setitem(shapes.TRAINING_SIZES, "tinytalk", fields | {"audio_token_id": AUDIO_TOKEN_ID})
    return training_cases.Case("tinytalk", batch_size=2)


@pytest.mark.slow
def test_command_measures_whole_training_steps(capsys):
    training.main(["--quick"])
    printed = capsys.readouterr().out
    assert all(
        word in printed for word in ("examples/s", "share of data", "flow head", "memory, Flow-Omni / bare LLM")
    )


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--cases", "huge"]])
def test_training_command_refuses_what_it_cannot_measure(arguments, capsys):
    with pytest.raises(SystemExit):
        training.main(arguments)
    assert arguments[1] in capsys.readouterr().err


@pytest.mark.parametrize("change", [{}, {"precision": "fp32"}, {"precision": "bf16 weights", "has_optimizer": False}])
def test_each_step_of_the_training_benchmark_has_parts_that_add_up(tiny_case, change):
    for model in training_cases.MODELS:
        seconds = training_cases.Step(replace(tiny_case, model=model, **change))()
        whole = seconds.pop("step")
        assert min(seconds.values()) >= 0
        assert sum(seconds.values()) == pytest.approx(whole)


def test_an_optimizer_step_of_the_training_benchmark_moves_what_the_stage_trains(tiny_case):
    step = training_cases.Step(replace(tiny_case, stage="align"))
    before = {name: parameter.detach().clone() for name, parameter in step.model.named_parameters()}
    step()
    moved = {name for name, parameter in step.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert "speech_head.input_proj.weight" in moved
    assert not any(name.startswith(("model.language_model", "model.audio_encoder")) for name in moved)


def test_bare_language_models_compute_one_loss_in_two_ways(tiny_case):
    _, *bare = (
        training_cases.Step(replace(tiny_case, model=model, precision="fp32")) for model in training_cases.MODELS
    )
    torch.testing.assert_close(bare[0].loss(), bare[1].loss())


def test_parts_of_the_training_benchmark_reach_every_weight_but_the_small_ones(tiny_case):
    step = training_cases.Step(replace(tiny_case, precision="fp32"))
    for run in training_cases._parts_of(step).values():
        run().sum().backward()
    left = {name.partition(".")[2] for name, tensor in step.model.named_parameters() if tensor.grad is None}
    assert left == {
        "audio_encoder.embed_positions.weight",
        "state_embedding.weight",
        "patch_proj.weight",
        "weight",
        "bias",
    }


def test_data_of_the_training_benchmark_is_built_from_sounds(tiny_case):
    assert all(seconds > 0 for seconds in training_data.measure_data("tinytalk", batch_size=2, num_batches=2))


@pytest.mark.parametrize(("stage", "is_checkpointed"), [("align", True), ("finetune", False)])
def test_memory_reckoned_up_from_few_layers_is_that_of_the_whole_model(monkeypatch, stage, is_checkpointed):
    monkeypatch.setitem(training_memory.LLMS, "llm", (64, 128, 3, 4, 2, 3000, True))
    monkeypatch.setitem(training_memory.WHISPERS, "whisper", (64, 4, 4, 80))
    whole = training_memory.config_of("llm", "whisper", 3, 4, 3000)
    expected = sum(training_memory.estimate(whole, stage, is_checkpointed, num_shards=1).values())
    assert training_memory.reckon_up("llm", "whisper", stage, is_checkpointed) == pytest.approx(expected)


def test_streamed_answer_writes_and_speaks_as_much_as_asked(model):
    times = decoding.stream_answer(model, spoken_prompt([24], [3]), num_text_tokens=6, num_patches=10)
    assert sum(step.writes for step in times) == 6
    assert sum(step.speaks for step in times) == 10
    assert all(0 < sum(step.parts.values()) < step.seconds for step in times)


@pytest.mark.parametrize("causal", [True, False])
def test_first_sound_comes_at_the_step_that_the_table_names(causal):
    model = tiny_model()
    if not causal:
        model.vocoder = decoding.with_both_directions(model.vocoder)
    times = decoding.stream_answer(model, spoken_prompt([24], [3]), num_text_tokens=2, num_patches=16)
    first = [step.has_sound for step in times].index(True)
    assert first + 1 == decoding.steps_before_speech(model.config) + decoding.steps_to_sound(model)


def test_part_timer_counts_each_call_once_and_leaves_the_model_as_it_was():
    layer = torch.nn.Linear(2, 2)
    with stopwatch.PartTimer({"layer": (layer, "forward")}) as timer:
        layer(torch.zeros(1, 2))
        assert timer.take()["layer"] > 0
        assert timer.take()["layer"] == 0
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_of_the_parts_add_up_to_the_whole(tied):
    model = shapes.build_model(tiny_config(text={"tie_word_embeddings": tied}), torch.float32)
    counts = shapes.parameter_counts(model)
    assert counts.pop("total") == sum(counts.values())
    assert (counts["text head"] == 0) == tied


def test_fast_building_leaves_no_weight_unset():
    model = shapes.build_model(tiny_config(), torch.bfloat16)
    assert model.dtype == torch.bfloat16 and not model.training
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.dim() == 1 or 0.01 < parameter.float().std() < 0.03, name


def test_floor_counts_the_token_embeddings_only_as_the_text_head():
    model = tiny_model()
    embeddings = model.lm_head.weight.nbytes
    layers = sum(parameter.nbytes for parameter in model.model.language_model.parameters()) - embeddings
    num_bytes = shapes.step_bytes(model)
    assert num_bytes["LLM alone, without text head"] == layers
    assert num_bytes["LLM alone, with text head"] == layers + embeddings
    assert num_bytes["whole step, speaking and writing"] - num_bytes["whole step, speaking"] == embeddings
    assert num_bytes["whole step, speaking"] > layers


def test_peak_memory_sees_what_was_freed_again():
    before = stopwatch.resident_bytes() or 0
    # from the system itself: an allocator that keeps what it once had would not ask for more
    with mmap.mmap(-1, 2**26) as memory:
        memory[:] = b"\1" * len(memory)
    assert stopwatch.peak_resident_bytes() >= before + 2**26 * 0.9


def test_sizes_that_a_kernel_does_not_tell_are_unknown(tmp_path):
    status = tmp_path / "status"
    assert stopwatch._status_bytes("VmRSS", status) is None
    status.write_text("Name:\tpython\nVmRSS:\t     512 kB\n")
    assert stopwatch._status_bytes("VmRSS", status) == 512 * 1024
    assert stopwatch._status_bytes("VmHWM", status) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (0.01234, "0.012"), (0.1239, "0.124"), (1.257, "1.26"), (45.67, "45.7"), (1234.6, "1235")],
)
def test_numbers_are_rounded_to_what_can_be_trusted(value, text):
    assert stopwatch.rounded(value) == text


def test_measure_shows_its_median_and_spread():
    assert str(stopwatch.Measure([3.0, 1.0, 2.0])) == "2.00 (1.00-3.00)"
    assert str(stopwatch.Measure([2.0])) == "2.00"


def test_table_fills_rows_that_a_column_lacks():
    table = Table("Title", {"a": {"x": 1, "y": 2}, "b": {"y": 3}}, note="Note.")
    assert table.lines() == [["", "a", "b"], ["x", "1", "-"], ["y", "2", "3"]]
    assert table.markdown().splitlines()[2:6] == ["|  | a | b |", "|-|-|-|", "| x | 1 | - |", "| y | 2 | 3 |"]
    assert table.aligned().splitlines()[2:] == ["   a  b", "x  1  -", "y  2  3", "Note."]
