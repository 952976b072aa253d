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
"""The server as an application of Ray Serve: `serve run flow_omni.serving.ray_app:build model=MODEL`."""

import logging.config
import os

import torch
from pydantic import BaseModel
from ray import serve
from starlette.applications import Starlette

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from ..processing.processing_flow_omni import FlowOmniProcessor
from .app import make_app
from .limits import LOG_CONFIG, Limits, ServerSettings


# Requests beside the sessions that a replica still takes: health, metrics, the page, and sessions to refuse with 429.
NUM_OTHER_REQUESTS = 8


class Arguments(BaseModel):
    """
    Args:
        model: Folder or Hub id, which every machine can read.
        max_sessions: Clients at once, of one replica.
    """

    model: str
    name: str = "flow-omni"
    origins: list[str] = []
    max_sessions: int = Limits.max_sessions


def build(args: Arguments) -> serve.Application:
    """
    The application. Each replica has a model of its own, and a socket stays with the replica that accepted it. Replicas
    come and go with the sessions (in Ray's words, ongoing requests); one that goes takes no new sessions, and ends when
    its last has ended. All this can be set in Ray's config file, for the deployment `FlowOmni`.
    """
    limits = Limits(max_sessions=args.max_sessions)

    def make() -> Starlette:
        logging.config.dictConfig(LOG_CONFIG)
        token = os.environ.get("FLOW_OMNI_TOKEN")
        settings = ServerSettings(args.name, token, tuple(args.origins), limits=limits)
        model = FlowOmniForSpeechGeneration.from_pretrained(args.model, dtype="auto", use_safetensors=True)
        # Ray shows a replica only the GPUs that it was given
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        return make_app(model, FlowOmniProcessor.from_pretrained(args.model), settings)

    deployment = serve.deployment(
        serve.ingress(make)(),
        name="FlowOmni",
        max_ongoing_requests=limits.max_sessions + NUM_OTHER_REQUESTS,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 4,
            "target_ongoing_requests": max(1, limits.max_sessions // 2),
        },
        graceful_shutdown_timeout_s=limits.max_session_seconds,
    )
    return deployment.bind()
