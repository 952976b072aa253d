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
"""How it is measured: repeated timings, the time of each part where it runs, memory at its peak, and the machine."""

import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from flow_omni.evaluation.machine import describe_machine as describe_idle_machine


@dataclass
class Measure:
    """Samples of one quantity. The median stands for them: a busy machine only ever makes some of them larger."""

    samples: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def scaled(self, factor: float) -> "Measure":
        return Measure([sample * factor for sample in self.samples])

    def __str__(self) -> str:
        text = rounded(self.median)
        if len(self.samples) == 1:
            return text
        return f"{text} ({rounded(min(self.samples))}-{rounded(max(self.samples))})"


def milliseconds(seconds: list[float]) -> Measure:
    return Measure(seconds).scaled(1000)


def rounded(value: float) -> str:
    """Three significant digits without an exponent, and no more than three decimals."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(2 - magnitude, 0), 3)}f}"


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def repeat(function: Callable[[], object], repetitions: int, warm_ups: int = 1) -> list[float]:
    """Seconds of each repetition, after some that do not count."""
    for _ in range(warm_ups):
        function()
    return [seconds_of(function) for _ in range(repetitions)]


class PartTimer:
    """
    Seconds that each part of the model takes inside the real decoding loop, where its weights have to come from memory
    again at every step. Alone in a loop of its own a small part would keep them in the processor's cache.

    ```python
    with PartTimer({"LLM": (model.model.language_model, "forward")}) as timer:
        next(steps)
        timer.take()  # {"LLM": 0.04}
    ```
    """

    def __init__(self, parts: dict[str, tuple[object, str]]):
        self.parts = parts
        self._seconds = dict.fromkeys(parts, 0.0)

    def take(self) -> dict[str, float]:
        """The seconds of each part since they were taken last."""
        taken, self._seconds = self._seconds, dict.fromkeys(self.parts, 0.0)
        return taken

    def _timed(self, name: str, function: Callable) -> Callable:
        def timed(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self._seconds[name] += time.perf_counter() - start
            return result

        return timed

    def __enter__(self) -> "PartTimer":
        for name, (owner, method) in self.parts.items():
            setattr(owner, method, self._timed(name, getattr(owner, method)))
        return self

    def __exit__(self, *exception):
        for owner, method in self.parts.values():
            delattr(owner, method)  # the class's own method is seen again


def read_bandwidth(num_bytes: int = 2**29, repetitions: int = 7) -> Measure:
    """
    Bytes per second at which memory is read: a sum over far more than the caches hold. A step that multiplies one vector
    by every weight can be no faster than reading the weights.
    """
    values = torch.ones(num_bytes // 4)
    return Measure([values.nbytes / seconds for seconds in repeat(values.sum, repetitions)])


def resident_bytes() -> int | None:
    """Memory that this process holds now; None where the system does not tell (outside Linux)."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """
    The most that this process has held so far. Linux counts it per program in `VmHWM`; `ru_maxrss` of a child also
    remembers how large its parent was when it started it.
    """
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(field: str, status: Path = Path("/proc/self/status")) -> int | None:
    """A size that the kernel tells of this process; None of a kernel that does not: sandboxed ones leave `VmHWM` out."""
    if not status.exists():
        return None
    values = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(values[field].split()[0]) * 1024 if field in values else None


def describe_machine() -> dict[str, str]:
    """Processor, memory, versions, threads and how busy it is. No names: tables are shared."""
    return describe_idle_machine() | {"load before the run": f"{os.getloadavg()[0]:.2f}"}
