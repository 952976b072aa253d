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
"""What holds for every test: no network, one thread, tiny models that are built once."""

import gc
import logging
import os


# before anything of Hugging Face is imported, which reads them then
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tiny import tiny_model


torch.set_num_threads(1)


class _FailOnDeprecation(logging.Handler):
    """Raises where transformers logs that something we use is deprecated, as it does beside `warnings`."""

    def emit(self, record):
        if "deprecated" in record.getMessage():
            raise AssertionError(record.getMessage())


logging.getLogger("transformers").addHandler(_FailOnDeprecation())


def pytest_collection_finish():
    """Takes all that was imported out of garbage collection, which `Trainer.train` does in full: half a second each time."""
    gc.freeze()


@pytest.fixture(scope="session")
def model():
    """A tiny model with a causal vocoder; tests must not change it."""
    return tiny_model()


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """A checkpoint and manifests for short training runs, which tests must not change."""
    from training_tools import write_material

    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
