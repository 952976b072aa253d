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
"""Commands that import the libraries once they are sure to run: help, and complaints about how one was called, are instant."""

from typing import Any

import typer
from typer.core import TyperCommand

from .console import quiet_libraries


class Command(TyperCommand):
    """A command that finds the Auto classes registered when it runs, and the libraries silent unless it is debugged."""

    def invoke(self, ctx):
        from .. import auto_classes  # noqa: F401  (registers the classes)

        # only `flow-omni` itself is asked whether it is debugged; other programs keep what they have set
        if not ctx.find_root().params.get("debug", True):
            quiet_libraries()
        return super().invoke(ctx)


class App(typer.Typer):
    """An app, or a group of it, each of whose commands is a `Command`."""

    def command(self, *args: Any, **kwargs: Any):
        return super().command(*args, cls=Command, **kwargs)


__all__ = ["App", "Command"]
