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
"""Kokoro-82M through onnxruntime: natural voices at 24 kHz, English by the phonemes of espeak-ng."""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np

from .espeak import phonemes_of
from .synthesis import Speech, SynthesisError, check_text


# The folder with `model.onnx`, `vocab.json` and `voices.npz`, as `flow-omni prepare parts` writes it.
FOLDER_VARIABLE, DEFAULT_FOLDER = "KOKORO_FOLDER", "parts/kokoro"
SAMPLING_RATE, MAX_PHONEMES = 24000, 508

# espeak-ng's IPA -> Kokoro's symbols, in this order
SYMBOLS = {
    "eɪ": "A",
    "aɪ": "I",
    "ɔɪ": "Y",
    "oʊ": "O",
    "aʊ": "W",
    "dʒ": "ʤ",
    "tʃ": "ʧ",
    "ː": "",
    "ɐ": "ə",
    "r": "ɹ",
    "ᵻ": "ɪ",
    "ɚ": "əɹ",
}


class KokoroSynthesizer:
    """
    Kokoro's voices, and mixtures of them by weights: `jf_alpha`, `jf_alpha:2+jm_kumo:1`. The voices come from Japanese
    speakers; given English phonemes, they speak English clearly.
    """

    def __init__(self):
        _engine(_folder())

    def voices(self, language: str | None = None) -> list[str]:
        return sorted(_engine(_folder()).styles) if language in (None, "en") else []

    def speak(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> Speech:
        """The pitch is that of the voice, whatever `pitch` says."""
        check_text(text)
        engine = _engine(_folder())
        phonemes = phonemes_of(text, "en-us")
        for ipa, symbol in SYMBOLS.items():
            phonemes = phonemes.replace(ipa, symbol)
        tokens = [engine.vocabulary[symbol] for symbol in phonemes if symbol in engine.vocabulary]
        if len(tokens) > MAX_PHONEMES:
            raise SynthesisError(f"Kokoro speaks at most {MAX_PHONEMES} phonemes at once, not {len(tokens)}: {text!r}")
        return Speech(engine.speak(tokens, engine.style(voice), rate), SAMPLING_RATE)


class _Engine:
    def __init__(self, folder: Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise SynthesisError("Kokoro needs `onnxruntime`: `pip install onnxruntime`.") from error
        if not (folder / "model.onnx").is_file():
            raise SynthesisError(
                f"There is no Kokoro in '{folder}': `flow-omni prepare parts` downloads it to 'parts', and the environment "
                f"variable {FOLDER_VARIABLE} names another folder."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with np.load(folder / "voices.npz", allow_pickle=False) as styles:
            # (number of phonemes, 256)
            self.styles = {name: styles[name].reshape(len(styles[name]), -1) for name in styles.files}

    def style(self, voice: str) -> np.ndarray:
        parts = [part.partition(":") for part in voice.split("+")]
        unknown = [name for name, _, _ in parts if name not in self.styles]
        if unknown:
            raise SynthesisError(f"Kokoro has no voice {unknown[0]!r}: choose from {', '.join(sorted(self.styles))}.")
        weights = np.array([float(weight or 1.0) for _, _, weight in parts])
        return np.einsum("v,vnd->nd", weights / weights.sum(), np.stack([self.styles[name] for name, _, _ in parts]))

    def speak(self, tokens: list[int], style: np.ndarray, rate: float) -> np.ndarray:
        inputs = {
            "tokens": np.array([[0, *tokens, 0]]),
            "style": style[min(len(tokens), len(style)) - 1][None].astype(np.float32),
            "speed": np.array([rate], np.float32),
        }
        return self.session.run(None, inputs)[0].ravel().astype(np.float32)


_engine = cache(_Engine)


def _folder() -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).expanduser().absolute()
