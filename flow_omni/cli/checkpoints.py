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
"""Checkpoints by name: a folder here, or an id on the Hub; what is neither gets an answer before anything is loaded."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


# What a checkpoint needs to be loaded by this package: no code, and no pickles.
CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]

PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint, downloaded if `name` is an id on the Hub."""
    folder = local_checkpoint(name)
    if folder is not None:
        return folder
    # the configuration first: another model's weights are not worth a download
    download(name, ["config.json"])
    return download(name, CHECKPOINT_FILES)


def local_checkpoint(name: str) -> Path | None:
    """The folder of that name, if it holds a checkpoint; `None` if `name` can only be an id on the Hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not is_checkpoint(folder):
            raise UserError(
                f"'{name}' holds no Flow-Omni checkpoint (a `config.json` with the model type `flow_omni`): pass a folder "
                "that `flow-omni init` or `save_pretrained` wrote."
            )
        return folder
    if folder.exists():
        raise UserError(f"'{name}' is a file: pass the folder of a checkpoint, or its id on the Hub.")
    if name.startswith((".", "~", os.sep)) or name.count("/") != 1:
        raise UserError(f"There is no folder '{name}': check the path, or pass an id on the Hub, `owner/name`.")
    return None


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a Flow-Omni checkpoint."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "flow_omni"


def check_processor(folder: Path) -> None:
    """Raises unless a processor was saved beside the model."""
    missing = [name for name in PROCESSOR_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"'{folder}' lacks {' and '.join(missing)}: without its processor nobody can use the model. Save it there with "
            "`processor.save_pretrained`."
        )


def download(repo_id: str, patterns: list[str]) -> Path:
    """The local folder of the files of a checkpoint on the Hub that fit `patterns`."""
    from huggingface_hub import snapshot_download

    with hub_errors(repo_id):
        folder = Path(snapshot_download(repo_id, allow_patterns=patterns))
    if not is_checkpoint(folder):
        raise UserError(f"'{repo_id}' on the Hub is no Flow-Omni checkpoint: pass the id of one.")
    return folder


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Says what to do about a repository that the Hub does not give."""
    from huggingface_hub.errors import HFValidationError, NotASafetensorsRepoError

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"'{repo_id}' is neither a folder nor an id on the Hub, `owner/name`: check it.") from error
    except NotASafetensorsRepoError as error:
        raise UserError(f"'{repo_id}' on the Hub holds no `model.safetensors`: its weights are missing.") from error
    except OSError as error:
        raise UserError(
            f"'{repo_id}' is no folder here, and the Hub does not give it ({type(error).__name__}): check the id and your "
            "connection, and log in with `hf auth login` if it is private."
        ) from error
