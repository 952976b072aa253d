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
"""
How fast Flow-Omni trains on this machine's processor: examples and speech a second, what the parts of a step cost, a step
against one of the bare language model in time and memory, the share of loading data. Weights are random.

    python benchmarks/training.py                              # all cases, one thread: about ten minutes on an idle core
    python benchmarks/training.py --quick                      # the tiny model, few repetitions: a minute
    python benchmarks/training.py --threads 2 --compile --markdown table.md --json table.json

Times of one thread are seconds of the processor, so that a busy machine spoils them little; of more threads they are
seconds by the clock, and want an idle machine.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from stopwatch import Measure, describe_machine, rounded
from tabulation import Table, show
from training_cases import MODELS, Case, measure_case, measure_parts
from training_data import measure_data, measure_waiting
from training_step import in_fresh_process


# The large one has bf16 weights and no optimizer: AdamW's moments would need more memory than the machine may have.
BASES = {
    "tinytalk bf16": Case("tinytalk"),
    "tinytalk fp32": Case("tinytalk", "fp32"),
    "qwen2-0.5b bf16": Case("qwen2-0.5b", "bf16 weights", batch_size=4, has_optimizer=False),
}
AIMS = {"time": 1.15, "memory": 1.2, "data": 0.05}
GIB = 2**30


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(BASES), help="what to measure (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile, which takes minutes")
    parser.add_argument("--quick", action="store_true", help="one repetition, and without --cases the tiny model only")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample as JSON")
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads is {options.threads}: it must be at least 1.")
    options.cases = options.cases or (["tinytalk bf16"] if options.quick else list(BASES))
    return options


def run(function, *arguments):
    """In a process of its own, with a word about it to stderr, so that the tables can be piped."""
    print(f"{function.__name__} {arguments[0]}", file=sys.stderr, flush=True)
    return in_fresh_process(function, *arguments)


def step_seconds(result: dict) -> Measure:
    return Measure(result["seconds"]["step"])


def speed_cells(case: Case, result: dict) -> dict[str, object]:
    step = step_seconds(result)
    cells = {
        "rows in a batch": str(case.batch_size),
        "step (s)": step,
        "examples/s": rounded(case.batch_size / step.median),
        "seconds of speech/s": rounded(case.seconds_of_speech() / step.median),
    }
    for part in ("forward", "backward", "update"):
        cells[f"of it {part} (s)"] = Measure(result["seconds"][part])
    if not case.has_optimizer:
        del cells["of it update (s)"]
    return cells


def part_cells(parts: dict[str, list[float]]) -> dict[str, str]:
    """Each part with its share of their sum."""
    medians = {name: Measure(seconds).median for name, seconds in parts.items()}
    total = sum(medians.values())
    return {name: f"{rounded(seconds)} ({seconds / total:.0%})" for name, seconds in medians.items()}


def comparison_cells(results: dict[str, dict]) -> dict[str, object]:
    """Of Flow-Omni and the bare language models, by their names."""
    ours, *others = (results[name] for name in MODELS)
    cells = {f"{name}: step (s)": step_seconds(results[name]) for name in MODELS}
    for name, other in zip(MODELS[1:], others):
        cells[f"time, Flow-Omni / {name}"] = rounded(step_seconds(ours).median / step_seconds(other).median)
    cells |= {f"{name}: peak memory (GiB)": rounded(results[name]["bytes"] / GIB) for name in MODELS}
    for name, other in zip(MODELS[1:], others):
        cells[f"memory, Flow-Omni / {name}"] = rounded(ours["bytes"] / other["bytes"])
    return cells


def variants(case: Case, options: argparse.Namespace) -> dict[str, Case]:
    """What the step costs when one thing about it is changed."""
    changes = {f"{draws} noise draws": {"num_noise_draws": draws} for draws in (1, 2, 8)}
    if case.precision != "fp32":
        changes["attention by PyTorch's kernel"] = {"kernel": True}
    changes["align: LLM and encoder frozen"] = {"stage": "align"}
    if options.compile:
        changes["torch.compile"] = {"is_compiled": True}
    return {name: replace(case, **fields) for name, fields in changes.items()}


def measure(options: argparse.Namespace) -> list[Table]:
    repetitions = 1 if options.quick else 3
    speed, parts, comparisons, varied = {}, {}, {}, {}
    for column in options.cases:
        case = replace(BASES[column], num_threads=options.threads)
        results = {name: run(measure_case, replace(case, model=name), repetitions) for name in MODELS}
        base = results["flow-omni"]
        speed[column] = speed_cells(case, base)
        parts[column] = part_cells(run(measure_parts, case, repetitions))
        comparisons[column] = comparison_cells(results)
        if case.size == "tinytalk":
            seconds = Measure(run(measure_data, case.size, case.batch_size, 1 if options.quick else 3))
            speed[column]["building a batch of data (s)"] = seconds
            share = seconds.median / (seconds.median + step_seconds(base).median)
            speed[column]["share of data in the time, without workers"] = f"{share:.1%}"
            waiting = run(measure_waiting, case, 2 if options.quick else 6)
            speed[column]["share of waiting for data, with one worker"] = f"{waiting:.1%}"
        if column == "tinytalk bf16" and not options.quick:
            varied[column] = {"as it is (4 noise draws)": step_seconds(base)}
            for name, variant in variants(case, options).items():
                result = run(measure_case, variant, repetitions)
                varied[column][name] = step_seconds(result)
                if variant.is_compiled:
                    varied[column]["torch.compile: the first step"] = Measure([result["first"]])
    tables = [
        Table("Training", speed, speed_note(options.threads)),
        Table("Parts, forward and backward, each alone (s)", parts),
        Table("Against the bare language model", comparisons, comparison_note()),
    ]
    return tables + ([Table("The same step, one thing changed (s)", varied)] if varied else [])


def speed_note(num_threads: int) -> str:
    clock = "seconds of the processor" if num_threads == 1 else "by the clock"
    return (
        f"{num_threads} thread(s); times {clock}, median (least-most). Rows hold a question of 2.56 s and an answer of 30 text "
        "tokens and 2.5 s. tinytalk: forward, backward, clipping, AdamW; bf16 is autocast over fp32 weights. qwen2-0.5b: bf16 "
        "weights, forward and backward. Speech is what is heard and what is said."
    )


def comparison_note() -> str:
    return (
        f"The same rows and steps as text. Aims: {AIMS['time']} in time, {AIMS['memory']} in memory, for the larger size; "
        f"data {AIMS['data']:.0%}. Peak memory is that of a fresh process for each, less what it held before the model was "
        "built. 'Head everywhere' is the language model as transformers trains it, with logits at every step."
    )


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    machine = describe_machine()
    tables = measure(options)
    machine["load after the run"] = f"{os.getloadavg()[0]:.2f}"
    show([Table("Machine", {"value": machine}), *tables], options.markdown, options.json)


if __name__ == "__main__":
    main()
