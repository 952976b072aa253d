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
"""The command `serve`: the model as a server, over WebSockets and HTTP."""

import importlib.util
from typing import Annotated

from .ask import GenerationOptions, ModelOption, option, with_options
from .common import UserError, note, user_errors


@with_options
def serve(
    host: Annotated[str, option(help="Address to listen on. Default: this machine alone.")] = "127.0.0.1",
    port: Annotated[int, option(help="Port. Default: 8000.", min=1, max=65535)] = 8000,
    token: Annotated[
        str | None, option(envvar="FLOW_OMNI_TOKEN", help="Token that clients must pass. Default: none needed.")
    ] = None,
    origin: Annotated[list[str], option(help="Origin of other pages that may use the server; repeatable.")] = [],  # noqa: B006
    name: Annotated[str, option(help="Name of the model for clients. Default: flow-omni.")] = "flow-omni",
    max_sessions: Annotated[int, option(help="Clients at once. Default: 16.", min=1)] = 16,
    model: ModelOption = None,
    *,
    options: GenerationOptions,
):
    """
    Serve the model: OpenAI's Realtime, speech, transcription and chat APIs.

    Needs `pip install "flow-omni[serve]"`, and for turn detection `pip install --no-deps silero-vad`. The addresses are
    `/v1/realtime`, `/v1/audio/speech`, `/v1/audio/transcriptions`, `/v1/chat/completions`, `/v1/models`, `/health` and
    `/metrics`. Logs are JSON lines on stderr.

    Examples:

        flow-omni serve
        FLOW_OMNI_TOKEN=secret flow-omni serve --host 0.0.0.0 --model ./my-model
        curl localhost:8000/v1/audio/speech -d '{"input": "Good morning.", "response_format": "wav"}' > morning.wav
    """
    missing = [package for package in ("starlette", "uvicorn", "websockets") if not importlib.util.find_spec(package)]
    if missing:
        raise UserError(f'`serve` needs {", ".join(missing)}: install them with `pip install "flow-omni[serve]"`.')
    from ..serving.app import make_app, run
    from ..serving.limits import Limits, ServerSettings
    from ..serving.turns import SileroVAD

    with user_errors():
        SileroVAD()
    if host not in ("127.0.0.1", "::1", "localhost") and token is None:
        note(f"Warning: everybody who reaches {host} can use the server. Set `--token`.")
    generation = options.generation_kwargs()
    limits = Limits(max_sessions=max_sessions, max_new_tokens=generation.pop("max_new_tokens", Limits.max_new_tokens))
    settings = ServerSettings(name, token, tuple(origin), generation=generation, limits=limits)
    loaded = options.load(model)
    run(make_app(loaded.model, loaded.processor, settings), host, port)
