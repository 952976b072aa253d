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
"""
What `--dry-run` estimates for models of published sizes, on a machine that need not hold them: the table of `docs/training.md`.

    python benchmarks/training_memory.py                   # all sizes and stages, for which the largest wants about 8 GB
    python benchmarks/training_memory.py --llm qwen2-0.5b  # one language model

Every part of the estimate grows evenly with the layers of the language model, with those of Whisper, and with the vocabulary. So
it is taken of models that have one layer and one more of each kind, at full width, and reckoned up. Weights are not
initialised: what is kept of them does not depend on their values.
"""

import argparse
import gc
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import torch

from flow_omni.modeling_flow_omni.configuration_flow_omni import FlowOmniConfig
from flow_omni.modeling_flow_omni.modeling_flow_omni import FlowOmniForSpeechGeneration
from flow_omni.processing.byte_level_tokenizer import byte_level_tokenizer
from flow_omni.processing.processing_flow_omni import FlowOmniProcessor
from flow_omni.training.dry_run import GIB, estimate_memory
from flow_omni.training.stages import freeze_for


# Width, width of the MLP, layers, heads, heads of keys, size of the vocabulary, whether the head is tied to the embeddings.
LLMS = {
    "qwen2-0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "qwen2-1.5b": (1536, 8960, 28, 12, 2, 151936, True),
    "qwen2-7b": (3584, 18944, 28, 28, 4, 152064, False),
}
WHISPERS = {"whisper-small": (768, 12, 12, 80), "whisper-large": (1280, 32, 20, 128)}
PAIRS = (
    ("qwen2-0.5b", "whisper-small"),
    ("qwen2-1.5b", "whisper-small"),
    ("qwen2-1.5b", "whisper-large"),
    ("qwen2-7b", "whisper-large"),
)
# The average that the recipe `finetune` keeps, which shards exclude.
EMA = {"align": None, "finetune": 0.999}
SMALL_VOCABULARY, STEP_OF_VOCABULARY = 1000, 4000
MAX_STEPS_PER_BATCH = 4096


def config_of(llm: str, whisper: str, layers: int, encoder_layers: int, vocabulary: int) -> FlowOmniConfig:
    width, mlp, _, heads, key_heads, _, is_tied = LLMS[llm]
    d_model, _, encoder_heads, num_mel_bins = WHISPERS[whisper]
    text = {"model_type": "qwen2", "hidden_size": width, "intermediate_size": mlp, "num_attention_heads": heads}
    text |= {"num_key_value_heads": key_heads, "tie_word_embeddings": is_tied}
    audio = {"d_model": d_model, "encoder_ffn_dim": 4 * d_model, "encoder_attention_heads": encoder_heads}
    return FlowOmniConfig(
        text_config=text | {"num_hidden_layers": layers, "vocab_size": vocabulary},
        audio_config=audio | {"num_mel_bins": num_mel_bins, "encoder_layers": encoder_layers},
        audio_token_id=259,
        vocoder_config=None,
    )


def batch_of(config: FlowOmniConfig) -> Mapping[str, torch.Tensor]:
    """A spoken question of three seconds, and a spoken answer of five."""
    processor = FlowOmniProcessor.from_parts(byte_level_tokenizer(), config)
    noise = 0.1 * np.random.default_rng(0).standard_normal(5 * 16000).astype(np.float32)
    question, answer = ({"array": sound, "sampling_rate": 16000} for sound in (noise[: 3 * 16000], noise))
    content = [{"type": "text", "text": "It is fifteen."}, {"type": "audio", "audio": answer}]
    prompt = processor.make_conversation("ask", audio=question)
    return processor.prepare_training_inputs([prompt + [{"role": "assistant", "content": content}]])


def estimate(config: FlowOmniConfig, stage: str, is_checkpointed: bool, num_shards: int) -> dict[str, float]:
    """What `--dry-run` says of this model in a stage by its recipe."""
    with torch.device("meta"):
        model = FlowOmniForSpeechGeneration(config)
    model.to_empty(device="cpu").tie_weights()
    freeze_for(model, stage)
    args = SimpleNamespace(
        bf16=True,
        optim="adamw_torch_fused",
        activation_checkpointing=is_checkpointed,
        activation_checkpointing_kwargs=None,
        ema_decay=EMA[stage] if num_shards == 1 else None,
    )
    memory = estimate_memory(model, args, batch_of(config), MAX_STEPS_PER_BATCH, num_shards)
    # its parts know each other, and would wait for the collector while the next model is made
    del model
    gc.collect()
    return memory


def reckon_up(llm: str, whisper: str, stage: str, is_checkpointed: bool, num_shards: int = 1) -> float:
    """The estimate for the whole model in bytes."""
    real = (LLMS[llm][2], WHISPERS[whisper][1], LLMS[llm][5])
    base, steps = (1, 1, SMALL_VOCABULARY), (1, 1, STEP_OF_VOCABULARY)

    def total(sizes: tuple[int, int, int]) -> float:
        return sum(estimate(config_of(llm, whisper, *sizes), stage, is_checkpointed, num_shards).values())

    start = total(base)
    memory = start
    for index, step in enumerate(steps):
        larger = tuple(size + step * (place == index) for place, size in enumerate(base))
        memory += (total(larger) - start) / step * (real[index] - base[index])
    return memory


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", choices=LLMS, help="measure with this one alone")
    llm = parser.parse_args(arguments).llm
    print(
        "| LLM, Whisper | stage | one process | with checkpointing | each of 8 shards, with checkpointing |\n|-|-|-|-|-|"
    )
    for pair in PAIRS:
        if llm not in (None, pair[0]):
            continue
        for stage in EMA:
            ways = ((False, 1), (True, 1), (True, 8))
            cells = [f"{reckon_up(*pair, stage, *way) / GIB:.0f} GiB" for way in ways]
            print(f"| {', '.join(pair)} | `{stage}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
