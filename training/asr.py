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
"""ASR models that transcribe spoken answers: openai-whisper, any pipeline of transformers, or the model itself."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..modeling_flow_omni.import_ctranslate2 import MODEL_FILE, load_ctranslate2_whisper
from ..processing.audio_io import resample
from ..processing.transcript_limit import transcript_limit


LOADING_ERRORS = (ImportError, OSError, RuntimeError, ValueError, KeyError)
MAX_TOKENS_PER_SECOND, EXTRA_TOKENS = 20, 10


class ASRModel(Protocol):
    """Transcribes a waveform `(num_samples,)`."""

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str: ...


def load_asr(
    name: str, model: Any = None, processor: Any = None, language: str | None = None, device: Any = None
) -> ASRModel:
    """
    Loads an ASR model: `own` (the Flow-Omni model `model` with its `processor`), `whisper:NAME` (openai-whisper, by the name
    of a model or the path of a `.pt` file), or the Hub id or folder of a model for transformers' pipeline
    `automatic-speech-recognition`. `language` is a code for multilingual models, which otherwise guess; `device` defaults to
    that of `model`.
    """
    if device is None and model is not None:
        device = model.device
    try:
        if name == "own":
            return OwnASR(model, processor)
        if name.startswith("whisper:"):
            return WhisperASR(name.removeprefix("whisper:"), language, device)
        return PipelineASR(name, language, device)
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"The ASR model {name!r} cannot be loaded ({reason}). `asr` is `own` (the model itself), `whisper:NAME`, "
            "`whisper:FILE.pt`, or the folder or Hub id of a model for speech recognition."
        ) from error


def transcribe(asr: ASRModel, waveform: np.ndarray, sampling_rate: int) -> str:
    """The transcript, which is empty for a waveform without samples."""
    return asr.transcribe(waveform, sampling_rate).strip() if len(waveform) > 0 else ""


class OwnASR:
    """The Flow-Omni model as its own ASR model: no further dependency, but biased towards its own speech."""

    def __init__(self, model: Any, processor: Any):
        if model is None or processor is None:
            raise ValueError("`own` needs the arguments `model` and `processor`")
        self.model, self.processor = model, processor

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        audio = {"array": waveform, "sampling_rate": sampling_rate}
        prompt = self.processor.make_conversation("transcribe", audio=audio)
        inputs = self.processor.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device, dtype=self.model.dtype)
        limit = transcript_limit(self.processor, inputs["input_ids"])
        # under FSDP all processes transcribe the same audio: they end together by themselves
        options = {"do_sample": False, "synced_gpus": False, "stopping_criteria": limit}
        output = self.model.generate(**inputs, generation_mode="text", **options)
        return self.processor.post_process_generation(output)[0]["text"]


class WhisperASR:
    """openai-whisper without sampling and without text of the window before, so that transcripts are reproducible."""

    def __init__(self, name: str, language: str | None = None, device: Any = None):
        import whisper

        self.model, self.language = whisper.load_model(name, device=device), language

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        waveform = resample(np.asarray(waveform, dtype=np.float32), sampling_rate, 16000)
        options = {"temperature": 0.0, "condition_on_previous_text": False, "fp16": False}
        return self.model.transcribe(waveform, language=self.language, **options)["text"]


class PipelineASR:
    """
    transformers' pipeline `automatic-speech-recognition`, by the Hub id or folder of a model, or the folder of a Whisper
    in the format of CTranslate2 (faster-whisper).
    """

    def __init__(self, name: str, language: str | None = None, device: Any = None):
        from transformers import WhisperFeatureExtractor, WhisperTokenizer, pipeline

        task, folder = "automatic-speech-recognition", Path(name).expanduser()
        if (folder / MODEL_FILE).is_file():
            parts = {
                "model": load_ctranslate2_whisper(folder),
                "tokenizer": WhisperTokenizer.from_pretrained(folder),
                "feature_extractor": WhisperFeatureExtractor(),
            }
            self.pipeline = pipeline(task, **parts, device=device)
        else:
            self.pipeline = pipeline(task, name, device=device)
        self.is_generative = self.pipeline.model.can_generate()
        config = getattr(self.pipeline.model, "generation_config", None)
        is_multilingual = getattr(config, "is_multilingual", False)
        self.generate_kwargs = {"language": language, "task": "transcribe"} if language and is_multilingual else {}
        self.max_new_tokens = getattr(self.pipeline.model.config, "max_target_positions", 448) - 8

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        options: dict[str, Any] = {}
        if self.is_generative:
            # on noise, a decoder may repeat itself up to its limit: such a transcript would outweigh all others
            num_seconds = len(waveform) / sampling_rate
            max_new_tokens = min(self.max_new_tokens, int(num_seconds * MAX_TOKENS_PER_SECOND) + EXTRA_TOKENS)
            options["generate_kwargs"] = self.generate_kwargs | {"max_new_tokens": max_new_tokens}
            if num_seconds > 30 and self.pipeline.type == "seq2seq_whisper":
                options["return_timestamps"] = True  # needed for more than one window
        return self.pipeline({"raw": waveform, "sampling_rate": sampling_rate}, **options)["text"]
