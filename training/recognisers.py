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
"""Who listens to spoken answers in evaluation: another recogniser, or the model itself."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..processing.transcript_limit import transcript_limit
from .extras import needs


class Recogniser(Protocol):
    """Writes down what is said."""

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str: ...


class OwnEars:
    """The model that is being trained. Costs nothing to install, and flatters: it may understand what nobody else does."""

    def __init__(self, model: Any, processor: Any, max_new_tokens: int | None = None):
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        sound = {"array": waveform, "sampling_rate": sampling_rate}
        inputs = self.processor.apply_chat_template(
            self.processor.make_conversation("transcribe", audio=sound),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device)
        # of shards, all processes listen to the same, and none waits for another that has more to hear
        options = {"max_new_tokens": self.max_new_tokens, "do_sample": False, "synced_gpus": False}
        options["stopping_criteria"] = transcript_limit(self.processor, inputs["input_ids"])
        output = self.model.generate(**inputs, generation_mode="text", **options)
        return self.processor.post_process_generation(output)[0]["text"]


class OpenAIWhisper:
    """
    openai-whisper, by the name of a model or the path of a `.pt` file. Always the likeliest words, each half minute by itself:
    where it is unsure, it would draw others at every call, and go on with mistakes of the half minute before.
    """

    def __init__(self, name: str, language: str | None = None):
        self.model, self.language = needs("whisper").load_model(name), language

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        from soxr import resample

        waveform = resample(waveform, sampling_rate, 16000).astype(np.float32)
        options = {"temperature": 0.0, "condition_on_previous_text": False, "fp16": False}
        return self.model.transcribe(waveform, language=self.language, **options)["text"]


class HubRecogniser:
    """
    Any model for `automatic-speech-recognition`, by its folder or its id on the Hub. One of Whisper's that knows many
    languages is told which it hears.
    """

    def __init__(self, name: str, device: Any = None, language: str | None = None):
        from transformers import pipeline

        self.pipeline = pipeline("automatic-speech-recognition", name, device=device)
        generation_config = getattr(self.pipeline.model, "generation_config", None)
        is_multilingual = getattr(generation_config, "is_multilingual", False)
        options = {"language": language, "task": "transcribe"} if language and is_multilingual else {}
        self.options = {"generate_kwargs": options} if options else {}

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        return self.pipeline({"raw": waveform, "sampling_rate": sampling_rate}, **self.options)["text"]


class CtcRecogniser:
    """A recogniser of ours, by the folder that a run of the stage `recognise` has left."""

    def __init__(self, folder: str):
        from .recognition.modeling import CtcRecogniser as Model

        path = Path(folder).expanduser()
        if not path.is_dir():
            # else it would be looked for on the Hub
            raise FileNotFoundError(f"there is no folder '{folder}'")
        self.model = Model.from_pretrained(path, dtype="float32")

    def transcribe(self, waveform: np.ndarray, sampling_rate: int) -> str:
        return self.model.transcribe(waveform, sampling_rate)


def recogniser_of(
    name: str | None, model: Any, processor: Any, language: str | None = None, device: Any = None
) -> Recogniser | None:
    """
    The recogniser of a name: `own` is the model itself, `whisper:NAME` one of openai-whisper's, `ctc:FOLDER` one of ours, `sphinx`
    PocketSphinx, and `sphinx:FILE` the same with the words or sentences of a text file; all else is a folder or an id on
    the Hub, which runs on `device`, by default the model's. `None` listens to nothing.
    """
    if name is None:
        return None
    if name == "own":
        return OwnEars(model, processor)
    if name.startswith("whisper:"):
        return OpenAIWhisper(name.removeprefix("whisper:"), language)
    if name.startswith("ctc:"):
        return CtcRecogniser(name.removeprefix("ctc:"))
    if name == "sphinx" or name.startswith("sphinx:"):
        from .sphinx import Sphinx

        return Sphinx(name.partition(":")[2] or None)
    return HubRecogniser(name, device if model is None else model.device, language)
