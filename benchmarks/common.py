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
"""What the benchmarks share: models with random weights, timers, memory, and tables in Markdown."""

import argparse
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import initialization as init

from flow_omni.evaluation import evaluate
from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.modeling_flow_omni.modeling_flow_omni_vocoder import VocoderStream


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Fields that a size does not name have the package's defaults; the default vocoder is the published Vocos.
SIZES = {
    "tiny": {"vocoder_config": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "causal": True}},
    "qwen2-0.5b": {
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        "audio_config": {
            "model_type": "whisper",
            "d_model": 768,
            "encoder_layers": 12,
            "encoder_attention_heads": 12,
            "encoder_ffn_dim": 3072,
        },
        "vocoder_config": {"causal": True},
    },
}


def parse_arguments(description: str, arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), help="models to measure (default: all)")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES), help="types of the weights")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--quick", action="store_true", help="one repetition; without --sizes, the tiny model only")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables to a file")
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads is {options.threads}: it must be at least 1.")
    options.sizes = options.sizes or (["tiny"] if options.quick else list(SIZES))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return options


def build_model(config: FlowOmniConfig, dtype: torch.dtype) -> FlowOmniForSpeechGeneration:
    """A model with random weights, also where layers start at zero. Its own initialisation would take most of a minute."""
    with init.no_init_weights():
        model = FlowOmniForSpeechGeneration._from_config(config, dtype=dtype)
    model.tie_weights()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return model.eval()


def question_prompt(config: FlowOmniConfig, num_frames: int, num_text_tokens: int = 26) -> dict[str, torch.Tensor]:
    """A prompt of text around the placeholders of one audio of `num_frames` feature frames (of 10 ms), and its features."""
    num_placeholders = math.ceil(math.ceil(num_frames / 2) / config.adapter_stack_size)
    before, after = torch.arange(2, 2 + num_text_tokens).tensor_split(2)
    input_ids = torch.cat([before, torch.full((num_placeholders,), config.audio_token_id), after])[None]
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "input_features": torch.randn(1, config.audio_config.num_mel_bins, num_frames),
        "input_features_mask": torch.ones(1, num_frames, dtype=torch.long),
    }


class ModuleTimer:
    """
    The seconds that each module takes inside the real loop. Alone in a loop of its own, a small module would stay in the
    processor's cache.
    """

    def __init__(self, model: FlowOmniForSpeechGeneration):
        self.methods = {
            "audio encoder and adapter": (model.model, "get_audio_features"),
            "language model": (model.model.language_model, "forward"),
            "text head": (model.lm_head, "forward"),
            "speech transformer": (model.speech_transformer or model.speech_decoder, "forward"),
            "speech head": (model.speech_head, "forward"),
            "vocoder": (VocoderStream, "push"),
        }
        self.seconds = dict.fromkeys(self.methods, 0.0)

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        seconds, self.seconds = self.seconds, dict.fromkeys(self.methods, 0.0)
        return seconds

    def _timed(self, name: str, function: Callable) -> Callable:
        def timed(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - start
            return result

        return timed

    def __enter__(self) -> "ModuleTimer":
        self.stack = ExitStack()
        for name, (owner, method) in self.methods.items():
            self.stack.enter_context(mock.patch.object(owner, method, self._timed(name, getattr(owner, method))))
        return self

    def __exit__(self, *exception) -> None:
        self.stack.close()


def in_new_process(function: Callable, *arguments) -> Any:
    """The result of a function in a process of its own, whose peak memory is that of the function."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes() -> int:
    """The peak resident size of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rounded(value: float) -> str:
    """Three significant digits without an exponent, and at most three decimals."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(2 - magnitude, 0), 3)}f}"


def summary(samples: list[float], factor: float = 1.0) -> str:
    """The median, with the minimum and maximum: other load on the machine only makes some samples larger."""
    text = rounded(statistics.median(samples) * factor)
    return text if len(samples) == 1 else f"{text} ({rounded(min(samples) * factor)}-{rounded(max(samples) * factor)})"


def describe_machine() -> dict[str, str]:
    machine = evaluate.describe_machine(torch.device("cpu"))
    return machine | {"cores": str(os.cpu_count()), "load before the run": f"{os.getloadavg()[0]:.2f}"}


def show(tables: dict[str, dict[str, dict[str, Any]]], markdown: Path | None) -> None:
    """Prints tables (title -> column -> row -> value) as Markdown, and writes them to a file if asked to."""
    texts = []
    for title, columns in tables.items():
        rows = dict.fromkeys(row for values in columns.values() for row in values)
        lines = [["", *columns], *([row, *(str(values.get(row, "-")) for values in columns.values())] for row in rows)]
        head, *body = ["| " + " | ".join(line) + " |" for line in lines]
        texts.append("\n".join([f"## {title}", "", head, "|-" * (len(columns) + 1) + "|", *body]))
    text = "\n\n".join(texts) + "\n"
    print(text, end="")
    if markdown is not None:
        markdown.write_text(text, encoding="utf-8")
