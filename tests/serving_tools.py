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
"""What the tests of serving share: a VAD by loudness, questions of noise, and short answers of a tiny model."""

import numpy as np
from tiny import tiny_model, tiny_processor

from flow_omni.serving.session import FlowOmniSession, SessionSettings
from flow_omni.serving.turns import SAMPLING_RATE, TurnDetection, TurnDetector


GENERATION = {"seed": 0, "max_new_tokens": 30, "flow_temperature": 0.5}


def loudness(frame: np.ndarray) -> float:
    """Speech is what is loud."""
    return float(np.abs(frame).max() > 0.05)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.uniform(-0.5, 0.5, int(seconds * SAMPLING_RATE)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SAMPLING_RATE), dtype=np.float32)


def loud_detector(settings: TurnDetection) -> TurnDetector:
    return TurnDetector(settings, loudness)


def make_session(model=None, processor=None, step_loop=None, **settings) -> FlowOmniSession:
    """A session on a tiny model, with the VAD by loudness."""
    settings = SessionSettings(**{"generation": GENERATION} | settings)
    return FlowOmniSession(model or tiny_model(), processor or tiny_processor(), settings, step_loop, loud_detector)


def detect(samples: np.ndarray, chunk: int = 777, smart_turn=None, **settings) -> list:
    detector = TurnDetector(TurnDetection(**settings), loudness, smart_turn)
    chunks = [samples[start : start + chunk] for start in range(0, len(samples), chunk)]
    return [signal for one in chunks for signal in detector.push(one)]
