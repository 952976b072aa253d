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
"""The server on Ray Serve, on a cluster of this machine."""

import asyncio
import importlib.util
import json
import re
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import websockets
import yaml
from openai import OpenAI
from tiny import tiny_model, tiny_processor


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs Ray: pip install "flow-omni[ray]"'),
]
GUIDE = Path(__file__).parents[1] / "docs" / "serving.md"


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of two CPUs, and the port of its proxy."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("FLOW_OMNI_TOKEN", "secret")
    # on a machine that is busy with other work, processes of Ray start slowly, all the more with their niceness of 15
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "600")
    import ray
    from ray import serve
    from ray.serve._private import api

    monkeypatch.setattr(api, "HTTP_PROXY_TIMEOUT", 600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()


def test_replicas_come_with_the_sessions_and_let_them_end(tmp_path, cluster):
    from ray import serve

    from flow_omni.serving.ray_app import Arguments, build

    model = tiny_model()
    # long answers, to be interrupted
    model.generation_config.min_speech_steps, model.generation_config.max_speech_extra_seconds = 150, 60.0
    model.save_pretrained(tmp_path)
    tiny_processor(model.config).save_pretrained(tmp_path)
    serve.run(build(Arguments(model=str(tmp_path), max_sessions=2)))
    url, headers = f"http://127.0.0.1:{cluster}", {"authorization": "Bearer secret"}
    assert httpx.get(url + "/health").json() == {"status": "ok", "sessions": 0}
    assert httpx.get(url + "/v1/models").status_code == 401
    client = OpenAI(api_key="secret", base_url=url + "/v1", max_retries=0)
    messages = [{"role": "user", "content": "Hello."}]
    text = client.chat.completions.create(model="flow-omni", messages=messages, max_tokens=8)
    stream = client.chat.completions.create(model="flow-omni", messages=messages, max_tokens=8, stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == text.choices[0].message.content != ""

    def num_replicas() -> int:
        application = serve.status().applications.get("default")
        deployment = application and application.deployments.get("FlowOmni")
        return deployment.replica_states.get("RUNNING", 0) if deployment else 0

    async def talk():
        def connect():
            return websockets.connect(f"ws://127.0.0.1:{cluster}/v1/realtime", additional_headers=headers)

        async with connect() as first, connect() as second:
            for one in (first, second):
                assert (await until(one, "session.created"))["session"]["model"] == "flow-omni"
                await one.send(json.dumps({"type": "conversation.item.create", "item": message(one is first)}))
                await until(one, "conversation.item.done")
            await wait(lambda: num_replicas() == 2)
            # the sockets are still at the replica that has their conversation
            for one in (first, second):
                await one.send(json.dumps({"type": "conversation.item.retrieve", "item_id": "mine"}))
                item = (await until(one, "conversation.item.retrieved"))["item"]
                assert item["content"][0]["text"] == message(one is first)["content"][0]["text"]
            await first.send(json.dumps({"type": "response.create"}))
            await until(first, "response.output_audio.delta")
            deletion = threading.Thread(target=serve.delete, args=["default"])
            deletion.start()
            await wait(lambda: num_replicas() == 0)
            done = await until(first, "response.done")
            assert done["response"]["status"] in ("completed", "incomplete")
        await asyncio.to_thread(deletion.join)

    asyncio.run(talk())
    assert httpx.get(url + "/health").status_code == 404


def message(is_first: bool) -> dict:
    content = [{"type": "input_text", "text": "Hello." if is_first else "Good morning."}]
    return {"id": "mine", "type": "message", "role": "user", "content": content}


async def until(connection, kind: str) -> dict:
    while (event := json.loads(await asyncio.wait_for(connection.recv(), 120)))["type"] != kind:
        assert event["type"] != "error", event
    return event


async def wait(condition, seconds: float = 300.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.5)


def test_the_config_file_of_the_guide_is_one_that_ray_reads():
    from ray.serve.schema import ServeDeploySchema

    from flow_omni.serving.ray_app import Arguments

    (text,) = re.findall(r"^```yaml\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    assert application.import_path == "flow_omni.serving.ray_app:build"
    assert Arguments(**application.args).max_sessions == 16
    assert [deployment.name for deployment in application.deployments] == ["FlowOmni"]
