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
"""The machine that figures were measured on, without its name: figures are shared."""

import os
import platform
from pathlib import Path

import torch
import transformers


def describe_machine(device: torch.device | None = None) -> dict[str, str]:
    """Processor, threads, memory, versions, and the graphics card if the model is on one."""
    machine = {
        "processor": f"{processor_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
    }
    if hasattr(os, "sysconf"):  # Windows has none
        machine["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    if device is not None and device.type == "cuda":
        machine["device"] = torch.cuda.get_device_name(device)
    return machine


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
