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
How fast Flow-Omni is on this machine's processor, in one run: parameters, prefill and decode steps of the LLM alone and of
the whole, real-time factor, time to the first sound, and the cost of a training step. Weights are random.

    python benchmarks/speed.py                                    # both sizes, fp32 and bf16: about ten minutes
    python benchmarks/speed.py --quick                            # the tiny model, few repetitions: seconds
    python benchmarks/speed.py --sizes qwen2-0.5b --dtypes bf16 --markdown table.md --json table.json
"""

import argparse
import gc
import itertools
import os
import sys
import time
from pathlib import Path

import torch
from decoding import Effort, measure_decoding
from shapes import DTYPES, SIZES, build_config, build_model, parameter_counts, step_bytes
from stopwatch import Measure, describe_machine, read_bandwidth, rounded
from tabulation import Table, show
from training_step import NUM_TEXT_TOKENS, measure_training


# at half of it the gradients alone decide the peak of memory, whichever way the vocabulary head runs
BATCH_SIZE = 8


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), help="models to measure (default: all)")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), help="types of the weights (default: all)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument(
        "--quick", action="store_true", help="few repetitions, and without --sizes the tiny model only"
    )
    parser.add_argument("--no-training", action="store_true", help="leave out the training step")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample as JSON")
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads is {options.threads}: it must be at least 1.")
    options.sizes = options.sizes or (["tiny"] if options.quick else list(SIZES))
    options.dtypes = options.dtypes or list(DTYPES)
    return options


def say(message: str) -> None:
    """Progress goes to stderr, so that the tables can be piped."""
    print(message, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace) -> tuple[list[Table], Measure]:
    """All tables, one column for each size and type; and the bandwidth of memory, read before and after each of them."""
    effort = Effort.quick() if options.quick else Effort()
    num_patches, repetitions = (20, 1) if options.quick else (effort.num_patches, 2)
    parameters, times, parts, num_bytes, training = {}, {}, {}, {}, {}
    bandwidth = read_bandwidth()
    for size, dtype in itertools.product(options.sizes, options.dtypes):
        column = f"{size} {dtype}"
        say(f"building {column}")
        model = build_model(build_config(size), DTYPES[dtype])
        counts = parameter_counts(model)
        parameters[size] = {part: f"{count / 1e6:.1f}" for part, count in counts.items()}
        num_bytes[column] = step_bytes(model)
        say(f"decoding with {column}")
        times[column], parts[column] = measure_decoding(model, effort)
        # a model still in memory would be one the less for the training step
        del model
        gc.collect()
        bandwidth.samples += read_bandwidth().samples
        if not options.no_training:
            say(f"training {column}")
            training[column] = measure_training(size, dtype, BATCH_SIZE, num_patches, repetitions)
    tables = [
        Table("Parameters (millions)", parameters),
        Table("Times (ms) and real-time factors, batch size 1", times, times_note(effort)),
        Table("Parts of the whole step, speaking (ms)", parts, PARTS_NOTE),
        floor_table(num_bytes, bandwidth),
    ]
    if training:
        tables.append(Table("Training step, forward and backward", training, training_note(num_patches)))
    return tables, bandwidth


def floor_table(num_bytes: dict[str, dict[str, int]], bandwidth: Measure) -> Table:
    """What reading the weights once takes; the fastest reading counts, as a neighbour's traffic would raise the floor."""
    fastest = max(bandwidth.samples)
    columns = {
        column: {step: Measure([count / fastest * 1000]) for step, count in counts.items()}
        for column, counts in num_bytes.items()
    }
    note = f"Weights once, at {fastest / 1e9:.1f} GB/s, the fastest reading of memory in this run."
    return Table("Floor of a step (ms): bytes of its weights / memory bandwidth", columns, note)


def times_note(effort: Effort) -> str:
    return (
        f"Median (least-most) of the run. The question lasts {effort.question_seconds:g} s, the answer has "
        f"{effort.num_text_tokens} text tokens and {effort.num_patches} patches. Real-time factor: seconds of computing "
        "per second of speech. First sound: from the last sample of the question to the first of the answer."
    )


PARTS_NOTE = (
    "Medians, measured inside the decoding loop, with 2 solver steps and the causal vocoder; the text head runs only "
    "until the text has ended."
)


def training_note(num_patches: int) -> str:
    return (
        f"A batch of {BATCH_SIZE} rows: a question of 3 s, an answer of {NUM_TEXT_TOKENS} text tokens and {num_patches} "
        "patches. Peak memory is the largest resident size of a fresh process for each case; no optimiser."
    )


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    start = time.perf_counter()
    machine = describe_machine()
    tables, bandwidth = measure(options)
    machine["memory read bandwidth"] = f"{bandwidth.scaled(1e-9)} GB/s"
    machine["load after the run"] = f"{os.getloadavg()[0]:.2f}"
    machine["the run took"] = f"{rounded(time.perf_counter() - start)} s"

    show([Table("Machine", {"value": machine}), *tables], options.markdown, options.json)


if __name__ == "__main__":
    main()
