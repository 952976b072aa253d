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
"""Memory that a training on a CPU keeps for its next step."""

import os
import platform
import subprocess
import sys

import pytest

from flow_omni.training import allocator


# In a process of its own: the switches cannot be turned back. What the C library says it holds is asked, rather than how many
# pages were faulted in: a sandboxed kernel does not count them, and huge pages make them few.
FREED_MEMORY_THAT_IS_HELD = """
import ctypes
from flow_omni.training.allocator import keep_freed_memory

NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
mallinfo = ctypes.CDLL(None).mallinfo


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in NAMES]


mallinfo.restype = Mallinfo


def held_after_use():
    bytearray(2**26)  # 64 MiB, more than the C library ever takes from the heap by itself
    return mallinfo().fordblks // 2**20


left = [held_after_use() for _ in range(3)]
assert keep_freed_memory()
print(*left, *[held_after_use() for _ in range(3)])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these switches")
def test_freed_blocks_stay_for_those_that_are_asked_for_next():
    # what the shell may have said of the allocator would hold before the switches, too
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FREED_MEMORY_THAT_IS_HELD]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    held = [int(mebibytes) for mebibytes in printed.split()]
    assert max(held[:3]) < 32
    assert 64 <= min(held[3:]) <= max(held[3:]) < 96  # one block serves every time


def test_without_glibc_nothing_is_switched(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory()
