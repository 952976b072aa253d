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
"""What the commands share: errors, output to the terminal, checks of files, and loading a model."""

import functools
import os
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import typer
from rich.console import Console
from typer.core import TyperGroup


FAILURE, USER_ERROR, INTERRUPTED = 1, 2, 130
DEBUG_VARIABLE = "FLOW_OMNI_DEBUG"
# typer brings click along or uses the installed one, depending on its version
UsageError = typer.BadParameter.__base__

INPUT_SAMPLING_RATE = 16000


class UserError(Exception):
    """A mistake of the user. The message is all that is shown: the value, the rule, the remedy."""


@contextmanager
def user_errors(before: str = "", after: str = "", also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around code that works on files, names and values of the user: what it raises is a mistake of the user."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, StrictDataclassError, SafetensorError, *also) as error:
        raise UserError(f"{before}{one_line(error)}{after}") from error


def one_line(error: BaseException) -> str:
    """The message of an error and its notes, without line breaks."""
    if type(error).__name__ == "StrictDataclassClassValidationError":
        # the message of a config's own validator
        error = error.__cause__ or error
    return " ".join(" ".join([str(error), *getattr(error, "__notes__", [])]).split()) or type(error).__name__


def report(error: Exception, message: str | None = None) -> None:
    """Writes an error to stderr on one line; with `--debug`, after its traceback."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    note(f"Error: {message or one_line(error)}")


class CommandGroup(TyperGroup):
    """Ends with an exit code and one line on stderr, whatever happens in a command."""

    def main(self, *args, standalone_mode: bool = True, **kwargs):
        try:
            code = super().main(*args, standalone_mode=False, **kwargs) or 0
        except UserError as error:
            report(error)
            code = USER_ERROR
        except UsageError as error:
            code = USER_ERROR
            # raised by a command without arguments, whose help has been printed
            if type(error).__name__ != "NoArgsIsHelpError":
                path = error.ctx.command_path if error.ctx is not None else "flow-omni"
                report(error, f"{error.format_message().rstrip('.')}. See `{path} --help`.")
        except typer.Abort:
            code = INTERRUPTED
        except Exception as error:
            remedy = "`flow-omni --debug COMMAND …` shows where it happened."
            if type(error).__name__ == "OutOfMemoryError":
                remedy = "Try `--dtype bfloat16`, `--device cpu`, or a smaller model."
            report(error, f"{type(error).__name__}: {one_line(error)} {remedy}")
            code = FAILURE
        if not standalone_mode:
            return code
        sys.exit(code)


def command(function: Callable) -> Callable:
    """Registers the model and silences the libraries when a command runs: its `--help` does not wait for them."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        from .. import auto_classes  # noqa: F401

        if not os.environ.get(DEBUG_VARIABLE):
            _quiet_libraries()
        return function(*args, **kwargs)

    return run


def _quiet_libraries() -> None:
    import huggingface_hub.utils
    import transformers.utils.logging

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    warnings.filterwarnings("ignore")
    if hasattr(sys.stdout, "reconfigure"):
        # a character that the terminal cannot show becomes a question mark
        sys.stdout.reconfigure(errors="replace")


def note(message: str) -> None:
    """Writes a line to stderr: stdout is for results only."""
    print(message, file=sys.stderr, flush=True)


def progress(message: str) -> AbstractContextManager:
    """Shows a spinner on stderr, if that is a terminal."""
    return Console(stderr=True).status(message) if sys.stderr.isatty() else nullcontext()


def write(text: str) -> None:
    """Writes text to stdout at once, without control characters: a model may generate a terminal's commands."""
    print("".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc"), end="", flush=True)


def write_table(rows: list[tuple[str, Any]]) -> None:
    """Writes rows of a name and a value, the values below each other."""
    width = max(len(name) for name, _ in rows)
    write("".join(f"{name:<{width}}  {value}".rstrip() + "\n" for name, value in rows))


def check_output(path: Path | None, suffixes: tuple[str, ...]) -> Path | None:
    """`path`, if a file with one of the suffixes can be written there."""
    if path is None:
        return None
    path = path.expanduser()
    if path.is_dir():
        raise UserError(f"Cannot write '{path}': it is a folder. Name a file.")
    if path.suffix.lower() not in suffixes:
        raise UserError(f"Cannot write '{path}': its name must end in one of {', '.join(suffixes)}.")
    check_parent(path)
    return path


def check_parent(path: Path) -> None:
    """Raises unless a file or folder can be created at `path`."""
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UserError(f"Cannot write '{path}': the folder '{parent}' does not exist. Create it, or choose another.")
    if not os.access(parent, os.W_OK):
        raise UserError(f"Cannot write '{path}': the folder '{parent}' is read-only. Choose another.")


def read_audio(source: str, hint: str = "") -> dict[str, Any]:
    """The waveform of a file or URL, decoded before a model is loaded so that a bad file is reported at once."""
    from ..processing.audio_io import load_audio

    path = Path(source).expanduser()
    if path.is_dir():
        raise UserError(f"'{source}' is a folder: pass an audio file.")
    if not path.exists() and not source.startswith(("http://", "https://")):
        raise UserError(f"There is no audio file '{source}': check the path{hint}.")
    try:
        waveform = load_audio(source, INPUT_SAMPLING_RATE)
    except (ValueError, TypeError, OSError) as error:
        message = one_line(error)
        raise UserError(message if source in message else f"Cannot read '{source}': {message}") from error
    return {"array": waveform, "sampling_rate": INPUT_SAMPLING_RATE}


class LoadedModel(NamedTuple):
    """A model, its processor, and the name that the user gave it."""

    model: Any
    processor: Any
    name: str


def load_model(
    name: str | None,
    device: str | None = None,
    dtype: str = "auto",
    language_model: str | None = None,
) -> LoadedModel:
    """The model of a folder or Hub id, or without a name the bundled one. `language_model` is for adapters."""
    import torch

    from ..bundled import FlowOmniForSpeechGeneration, FlowOmniProcessor, load_bundled

    device = _device(device)
    with progress(f"Loading {name or 'the bundled model'} …"):
        if name is None:
            with user_errors():
                model, processor = load_bundled()
            if device.type == "cpu":
                # for models so small a second thread gains little, and on a busy machine costs most of the time
                torch.set_num_threads(1)
        else:
            name = os.path.expanduser(name)
            read_config(name)
            remedy = " Copy, download or assemble it again."
            with user_errors(f"Cannot load '{name}': ", remedy, also=(KeyError, RuntimeError)):
                processor = FlowOmniProcessor.from_pretrained(name)
                model, info = FlowOmniForSpeechGeneration.from_pretrained(
                    name,
                    dtype="auto",
                    use_safetensors=True,
                    output_loading_info=True,
                    language_model=language_model,
                )
                if info["missing_keys"]:
                    missing = sorted(info["missing_keys"])
                    raise ValueError(f"{len(missing)} weights are missing ({', '.join(missing[:3])}, …).")
        if dtype != "auto":
            model = model.to(getattr(torch, dtype))
        return LoadedModel(model.to(device).eval(), processor, name or "the bundled model")


def _device(name: str | None) -> Any:
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # reading a value back shows that the device computes; `meta` does not
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"`--device {name}` cannot be used here: choose cpu, or a GPU of this machine.") from error
    return torch.device(name)


def read_config(name: str) -> dict[str, Any]:
    """The fields of a checkpoint's `config.json`, in a folder or on the Hub."""
    from transformers import PreTrainedConfig

    path = Path(name)
    if not path.is_dir() and (path.exists() or name.startswith((".", "~", os.sep)) or name.count("/") != 1):
        found = "is a file" if path.exists() else "is not a folder"
        raise UserError(f"'{name}' {found}: pass the folder of a checkpoint, or a Hub id, `owner/name`.")
    with user_errors(f"Cannot read the checkpoint '{name}': "):
        fields, _ = PreTrainedConfig.get_config_dict(name)
    if fields.get("model_type") != "flow_omni":
        raise UserError(
            f"'{name}' is not a Flow-Omni checkpoint (`model_type` is {fields.get('model_type')!r}): pass one that "
            "`flow-omni init`, training or `save_pretrained` wrote."
        )
    return fields
