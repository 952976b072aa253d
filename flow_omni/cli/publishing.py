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
"""The command `push`: a checkpoint goes to the Hub, with its model card."""

from pathlib import Path
from typing import Annotated

import typer

from .checkpoints import check_processor, local_checkpoint
from .console import note, progress, write
from .errors import UserError, one_line, users_mistakes
from .parts import saved_weights


REFUSED = (401, 403, 404)


def push(
    folder: Annotated[Path, typer.Argument(help="The folder of a checkpoint.", show_default=False)],
    repo_id: Annotated[str, typer.Argument(help="Where to, `owner/name`.", show_default=False)],
    private: Annotated[
        bool, typer.Option("--private", help="If it is new, show the repository to nobody else.")
    ] = False,
    message: Annotated[
        str, typer.Option("--message", "-m", help="What this version is, for the repository's history.")
    ] = "Upload a Flow-Omni model",
):
    """
    Upload a checkpoint to the Hugging Face Hub.

    The repository is created if need be. A folder without a model card (README.md) gets one first: read it, and push
    again. Pickles and what training left behind stay here. Needs a token: `hf auth login`, or the variable HF_TOKEN.

    Examples:

        flow-omni push ./my-model me/my-model
        flow-omni push ./my-model me/my-model --private --message "Trained for 10k steps"
    """
    check_complete(folder)
    check_destination(repo_id)
    prepare_card(folder, repo_id)
    with progress(f"Uploading {folder} …"):
        url = upload(folder, repo_id, private, message)
    note(f"{folder}: uploaded.")
    write(f"{url}\n")


def check_complete(folder: Path) -> None:
    """Raises unless the folder holds a whole checkpoint: configuration, all weights, processor."""
    if not folder.is_dir():
        raise UserError(f"There is no folder '{folder}': pass the folder of a checkpoint.")
    local_checkpoint(str(folder))
    check_processor(folder)
    saved_weights(folder)


def check_destination(repo_id: str) -> None:
    """Raises for what is no id of a repository, or without a token to write there."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"'{repo_id}' is no id of a repository ({one_line(error)}): write `owner/name`.") from error
    if get_token() is None:
        raise UserError("There is no token for the Hub: log in with `hf auth login`, or set the variable HF_TOKEN.")


def prepare_card(folder: Path, repo_id: str) -> None:
    """Writes a model card where there is none, and puts the repository's id where one does not know it yet."""
    from ..hub_card import name_model_card, write_model_card

    with users_mistakes():
        if (folder / "README.md").exists():
            name_model_card(folder, repo_id)
        else:
            write_model_card(folder, model_id=repo_id)
            note(
                f"{folder / 'README.md'}: a model card was written. It calls the model untrained: if it is not, say so."
            )


def upload(folder: Path, repo_id: str, private: bool, message: str) -> str:
    """Creates the repository if need be, uploads the folder, and returns the address of the repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from ..training.checkpoints import NOT_UPLOADED

    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message, ignore_patterns=NOT_UPLOADED)
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code not in REFUSED:
            raise
        raise UserError(
            f"The Hub refused '{repo_id}' ({error.response.status_code}): check the owner's name, and that your token may "
            "write there (`hf auth whoami`)."
        ) from error
    return str(url)
