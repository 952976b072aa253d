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
"""Turn detection: where speech begins and where a turn ends, by Silero VAD and, on request, Smart-Turn."""

import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from transformers import WhisperFeatureExtractor


SAMPLING_RATE = 16000
# What Silero VAD reads at a time, and how much it sees again of what came before.
FRAME_SAMPLES, CONTEXT_SAMPLES = 512, 64
FRAME_MS = FRAME_SAMPLES * 1000 // SAMPLING_RATE
# Speech goes on until its probability falls this far below the threshold (Silero's own rule).
HYSTERESIS = 0.15
# Two frames of speech start a turn: a click fills one.
MIN_SPEECH_FRAMES = 2
# A pause after which a turn may be over: generation may begin, and Smart-Turn is asked.
CANDIDATE_MS = 192
SMART_TURN_SECONDS = 8
# The longest pause, in milliseconds, within a turn that Smart-Turn takes for unfinished.
EAGERNESS_MS = {"low": 8000, "medium": 4000, "auto": 4000, "high": 2000}


def file_of_distribution(distribution: str, path: str, remedy: str) -> Path:
    """A file that an installed distribution brings. The package itself is not imported."""
    try:
        found = Path(importlib.metadata.distribution(distribution).locate_file(path))
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"`{distribution}` is not installed: {remedy}.") from None
    if not found.exists():
        raise ImportError(f"The installed `{distribution}` lacks the file {path}: {remedy}.")
    return found


def inference_session(path: Path) -> Any:
    """An ONNX model on one thread of the CPU: these models take a millisecond, which more threads only disturb."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class VoiceActivity(Protocol):
    """Gives the probability of speech in each frame of `FRAME_SAMPLES` samples. It may keep a state."""

    def __call__(self, frame: np.ndarray) -> float: ...


class SileroVAD:
    """Silero VAD 5 and later, for one stream. The network is loaded once for all of them."""

    _session: Any = None

    def __init__(self):
        if SileroVAD._session is None:
            remedy = "run `pip install --no-deps silero-vad` (its dependencies are not needed), or turn detection off"
            SileroVAD._session = inference_session(
                file_of_distribution("silero-vad", "silero_vad/data/silero_vad.onnx", remedy)
            )
        self._state = np.zeros((2, 1, 128), dtype=np.float32)
        self._context = np.zeros(CONTEXT_SAMPLES, dtype=np.float32)

    def __call__(self, frame: np.ndarray) -> float:
        samples = np.concatenate([self._context, frame])[None]
        inputs = {"input": samples, "state": self._state, "sr": np.array(SAMPLING_RATE, dtype=np.int64)}
        probability, self._state = SileroVAD._session.run(None, inputs)
        self._context = frame[-CONTEXT_SAMPLES:]
        return float(probability[0, 0])


class SmartTurn:
    """Smart-Turn v3: whether a turn that pauses is complete, by how it sounds."""

    _session: Any = None

    def __init__(self):
        if SmartTurn._session is None:
            remedy = "run `pip install --no-deps pipecat-ai`, which brings Smart-Turn, or use `server_vad`"
            path = "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx"
            SmartTurn._session = inference_session(file_of_distribution("pipecat-ai", path, remedy))
        self._extractor = WhisperFeatureExtractor(chunk_length=SMART_TURN_SECONDS)

    def __call__(self, samples: np.ndarray) -> float:
        """The probability that the turn, of which the last 8 seconds count, is complete."""
        num_samples = SMART_TURN_SECONDS * SAMPLING_RATE
        samples = samples[-num_samples:]
        padded = np.pad(samples, (num_samples - len(samples), 0))
        features = self._extractor(padded, sampling_rate=SAMPLING_RATE, do_normalize=True, return_tensors="np")
        outputs = SmartTurn._session.run(None, {"input_features": features["input_features"]})
        return float(outputs[0].reshape(-1)[0])


@dataclass(frozen=True)
class TurnDetection:
    """
    The settings of turn detection, named as in OpenAI's Realtime API.

    Args:
        type: `"server_vad"` ends a turn after `silence_duration_ms`; `"semantic_vad"` asks Smart-Turn at every pause,
            and waits at most as long as `eagerness` says.
        threshold: Probability from which a frame counts as speech.
        prefix_padding_ms: Audio before the start of speech that belongs to the turn.
        create_response: Whether the end of a turn starts an answer.
        interrupt_response: Whether the start of speech stops an answer.
    """

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True

    def __post_init__(self):
        if self.type not in ("server_vad", "semantic_vad"):
            raise ValueError(f"`turn_detection.type` is {self.type!r}: use server_vad, semantic_vad, or null.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"`threshold` is {self.threshold}: it must lie between 0 and 1.")
        for name, least, most in (("prefix_padding_ms", 0, 5000), ("silence_duration_ms", 64, 10000)):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"`{name}` is {value!r}: it must be an integer from {least} to {most}.")
        if self.eagerness not in EAGERNESS_MS:
            raise ValueError(f"`eagerness` is {self.eagerness!r}: choose one of {', '.join(EAGERNESS_MS)}.")


@dataclass(frozen=True)
class TurnSignal:
    """
    What the detector found at `sample`, counted from the start of the stream: `started` (the first sample of speech),
    `candidate` (the turn may have ended there), `continued` (it had not), `stopped` (it has).
    """

    kind: Literal["started", "candidate", "continued", "stopped"]
    sample: int
    speech_ms: int = 0  # speech in the turn so far


@dataclass
class TurnDetector:
    """Finds the turns in a stream of samples at 16 kHz, in chunks of any size."""

    settings: TurnDetection
    activity: VoiceActivity
    smart_turn: SmartTurn | None = None
    num_samples: int = 0  # of all frames so far
    is_speaking: bool = False
    is_candidate: bool = False
    is_asked: bool = False  # Smart-Turn, about this pause
    num_speech_frames: int = 0
    num_silent_frames: int = 0
    _pending: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    _recent: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    @property
    def silence_ms(self) -> int:
        return self.num_silent_frames * FRAME_MS

    @property
    def speech_ms(self) -> int:
        """Speech in the turn so far."""
        return self.num_speech_frames * FRAME_MS if self.is_speaking else 0

    def push(self, samples: np.ndarray) -> list[TurnSignal]:
        signals = []
        samples = np.concatenate([self._pending, samples])
        num_frames = len(samples) // FRAME_SAMPLES
        for frame in samples[: num_frames * FRAME_SAMPLES].reshape(num_frames, FRAME_SAMPLES):
            self.num_samples += FRAME_SAMPLES
            if self.smart_turn is not None:
                self._recent = np.concatenate([self._recent, frame])[-SMART_TURN_SECONDS * SAMPLING_RATE :]
            signals += self._next_signals(self.activity(frame))
        self._pending = samples[num_frames * FRAME_SAMPLES :]
        return signals

    def _next_signals(self, probability: float) -> list[TurnSignal]:
        if not self.is_speaking:
            self.num_speech_frames = self.num_speech_frames + 1 if probability >= self.settings.threshold else 0
            if self.num_speech_frames < MIN_SPEECH_FRAMES:
                return []
            self.is_speaking, self.num_silent_frames = True, 0
            return [TurnSignal("started", self.num_samples - MIN_SPEECH_FRAMES * FRAME_SAMPLES)]
        if probability >= self.settings.threshold - HYSTERESIS:
            had_candidate, self.is_candidate, self.is_asked = self.is_candidate, False, False
            self.num_speech_frames += 1
            self.num_silent_frames = 0
            return [self._signal("continued")] if had_candidate else []
        self.num_silent_frames += 1
        return self._signals_of_silence()

    def _signals_of_silence(self) -> list[TurnSignal]:
        signals = []
        if not self.is_candidate and self.silence_ms >= CANDIDATE_MS:
            self.is_candidate = True
            signals.append(self._signal("candidate"))
        if self._is_over():
            signals.append(self._signal("stopped"))
            self.reset()
        return signals

    def _is_over(self) -> bool:
        if self.smart_turn is None:
            return self.silence_ms >= self.settings.silence_duration_ms
        if self.is_candidate and not self.is_asked:
            self.is_asked = True
            if self.smart_turn(self._recent) > 0.5:
                return True
        return self.silence_ms >= EAGERNESS_MS[self.settings.eagerness]

    def _signal(self, kind: str) -> TurnSignal:
        return TurnSignal(kind, self.num_samples, self.speech_ms)

    def reset(self) -> None:
        """Begins to listen for the next turn."""
        self.is_speaking = self.is_candidate = self.is_asked = False
        self.num_speech_frames = self.num_silent_frames = 0


def make_detector(settings: TurnDetection) -> TurnDetector:
    """The detector for settings, with the networks that they need."""
    return TurnDetector(settings, SileroVAD(), SmartTurn() if settings.type == "semantic_vad" else None)
