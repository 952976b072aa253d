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
"""What is seen: answers on stdout, everything else on stderr, and progress only where somebody is watching."""

import sys
import unicodedata
import warnings
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console


def is_watched() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()


def note(message: str) -> None:
    """Tells the user something that is no answer."""
    print(message, file=sys.stderr, flush=True)


def progress(message: str) -> AbstractContextManager:
    """Shows a spinner with `message` for as long as the work inside takes."""
    return Console(stderr=True).status(message) if is_watched() else nullcontext()


def write(text: str) -> None:
    """A piece of an answer to stdout, at once. Control characters are left out: a model may write a terminal's commands."""
    visible = (c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    sys.stdout.write("".join(visible))
    sys.stdout.flush()


def quiet_libraries() -> None:
    """Silences what transformers, the Hub and others would say between the lines."""
    import huggingface_hub.utils
    import transformers.utils.logging

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
    if not is_watched():
        huggingface_hub.utils.disable_progress_bars()
    warnings.filterwarnings("ignore")
    if hasattr(sys.stdout, "reconfigure"):
        # a terminal that cannot show a letter shows a question mark
        sys.stdout.reconfigure(errors="replace")


class TextPrinter:
    """Prints a text token by token, as soon as whole characters are there; after a prefix, on one line."""

    def __init__(self, tokenizer, prefix: str = ""):
        self.tokenizer = tokenizer
        self.prefix = prefix
        self.newline = " " if prefix else "\n"
        self.token_ids: list[int] = []
        self.num_printed = 0

    def put(self, token_id: int) -> None:
        self.token_ids.append(token_id)
        # the replacement character at the end is a letter of which some bytes are still to come
        if not self.text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._print_rest()

    def end(self) -> None:
        self._print_rest()
        write("\n")

    @property
    def text(self) -> str:
        return self.tokenizer.decode(self.token_ids, skip_special_tokens=True)

    def _print_rest(self) -> None:
        text = self.text
        write(self.prefix + text[self.num_printed :].replace("\n", self.newline))
        self.prefix, self.num_printed = "", max(self.num_printed, len(text))
