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
"""The page, in a headless Chromium whose microphone plays a file."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import soxr
from test_serving_server import running
from websockets.sync.client import connect

from flow_omni.bundled import EXAMPLE_QUESTION, load_bundled
from flow_omni.serving.app import PAGE
from flow_omni.serving.turns import make_detector


def test_every_file_of_the_page_is_served_and_nothing_comes_from_elsewhere(model):
    with running(model, token="secret") as server:
        for path in PAGE.iterdir():
            answer = httpx.get(f"http://{server.address}/{path.name}")
            assert answer.content == path.read_bytes(), path.name
            assert "default-src 'self'" in answer.headers["content-security-policy"]
            assert "http" not in path.read_text().replace("http://www.w3.org/2000/svg", "").replace(
                'replace("http", "ws")', ""
            ).replace("https:// or localhost", ""), path.name
        assert httpx.get(f"http://{server.address}/").text == (PAGE / "index.html").read_text()
        assert httpx.get(f"http://{server.address}/../app.py").status_code in (401, 404)


class Browser:
    """A page in Chromium, through its debugging protocol."""

    def __init__(self, folder: Path, url: str, *flags: str):
        program = shutil.which("chromium") or shutil.which("google-chrome")
        command = [
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            "--mute-audio",
        ]
        command += [f"--user-data-dir={folder}", "--autoplay-policy=no-user-gesture-required", *flags, url]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = folder / "DevToolsActivePort"
        wait(lambda: port_file.exists() and port_file.read_text().strip(), 60)
        port = port_file.read_text().split()[0]
        pages = wait(
            lambda: [one for one in httpx.get(f"http://127.0.0.1:{port}/json").json() if one["type"] == "page"]
        )
        self.socket = connect(pages[0]["webSocketDebuggerUrl"], max_size=None)
        self.last_id = 0

    def call(self, method: str, **params):
        self.last_id += 1
        self.socket.send(json.dumps({"id": self.last_id, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.last_id:
            pass
        return answer["result"]

    def evaluate(self, expression: str):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True)
        return result["result"].get("value")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait()


def wait(condition, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return value


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="needs Chromium")
def test_a_spoken_question_is_answered_and_an_interruption_stops_the_sound(tmp_path):
    """`FLOW_OMNI_SCREENSHOTS` names a folder for pictures to look at."""
    samples, rate = soundfile.read(EXAMPLE_QUESTION, dtype="float32")
    question = soxr.resample(samples, rate, 48000)
    silent = np.zeros(48000, dtype=np.float32)
    sound = np.concatenate([silent, question, silent, silent[:30000], question, *[silent] * 8])
    soundfile.write(tmp_path / "microphone.wav", sound, 48000, subtype="PCM_16")
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags.append(f"--use-file-for-fake-audio-capture={tmp_path / 'microphone.wav'}%noloop")
    pictures = Path(os.environ.get("FLOW_OMNI_SCREENSHOTS", tmp_path))
    model, processor = load_bundled()
    with running(model, processor=processor, make_detector=make_detector, generation={"seed": 0}) as server:
        browser = Browser(tmp_path / "profile", f"http://{server.address}/", *flags)
        try:
            wait(lambda: browser.evaluate("document.readyState") == "complete")
            browser.evaluate("document.getElementById('talk').click()")
            text = "document.getElementById('log').textContent"
            wait(lambda: "capital of France?" in browser.evaluate(text))
            wait(lambda: browser.evaluate("document.getElementById('out-level').value") > 0)
            # the second question is spoken over the answer to the first
            wait(lambda: browser.evaluate("document.querySelector('#log .cut') !== null"))
            browser.screenshot(pictures / "page.png")
            wait(lambda: browser.evaluate(text).count("Flow-Omni") >= 2)
            assert browser.evaluate("document.getElementById('error').hidden")
            browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
            wait(lambda: "Paris." in browser.evaluate(text))
            browser.screenshot(pictures / "phone.png")
            # nothing is wider than the phone
            assert browser.evaluate("document.documentElement.scrollWidth") <= 360
            assert browser.evaluate(
                "document.getElementById('mel').getContext('2d').getImageData(5, 50, 1, 1).data[3]"
            )
        finally:
            browser.close()


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="needs Chromium")
def test_a_refused_microphone_is_explained_and_writing_still_works(tmp_path, model):
    with running(model) as server:
        # without the flags of a fake microphone, a headless browser refuses it
        browser = Browser(tmp_path / "profile", f"http://{server.address}/", "--deny-permission-prompts")
        try:
            wait(lambda: browser.evaluate("document.readyState") == "complete")
            browser.evaluate("document.getElementById('talk').click()")
            error = "document.getElementById('error').textContent"
            assert "microphone" in wait(lambda: browser.evaluate(error))
            browser.evaluate("document.getElementById('text').value = 'Hello.'")
            browser.evaluate("document.querySelector('#text-form button').click()")
            wait(lambda: browser.evaluate("document.getElementById('log').textContent").count("Flow-Omni"))
        finally:
            browser.close()
