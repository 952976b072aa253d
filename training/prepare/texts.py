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
"""Texts to be spoken: the example sentences of WordNet, and questions that a language model writes itself."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..data import uniform


# What a text-to-speech engine reads as it is written, with the punctuation of sentences.
SPEAKABLE = re.compile(r"[A-Za-z][A-Za-z' ,.?!;:-]+")
QUOTED = re.compile(r'"([^"]+)"')
MAX_WORDS = 25
ROLES = (("system", "system"), ("user", "question_text"))


def wordnet_rows(folder: str | Path, definitions: bool = False) -> Iterator[dict]:
    """
    The examples in the glosses of WordNet's `data.*` files, phrases and sentences with 30,000 different words; or its
    `definitions` with the words they define, which are 100,000.
    """
    files = sorted(Path(folder).glob("data.*"))
    if not files:
        raise FileNotFoundError(f"There is no WordNet in '{folder}': `flow-omni prepare parts` downloads it.")
    seen = set()
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):  # the licence
                continue
            entry, _, gloss = line.partition(" | ")
            if definitions:
                # the first word of an entry is its fifth field
                word = entry.split()[4].partition("(")[0].replace("_", " ")
                texts = [word + ": " + gloss.partition('; "')[0]]
            else:
                texts = QUOTED.findall(gloss)
            for text in map(as_sentence, texts):
                if is_speakable(text, min_words=2) and text not in seen:
                    seen.add(text)
                    yield {"id": f"wordnet-{len(seen)}", "question_text": text}


def as_sentence(text: str) -> str:
    """A phrase with a capital letter and a full stop."""
    text = " ".join(text.split()).strip(" ,:;-")
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def llm_rows(
    model: Any, tokenizer: Any, num_rows: int, batch_size: int = 64, seed: int = 0, max_new_tokens: int = 40
) -> Iterator[dict]:
    """
    Questions and requests that a chat model writes when it continues an empty user turn: the texts that it knows how to
    answer. Each batch has a seed of its own, so that any number of rows begins with the same ones.
    """
    head = tokenizer.apply_chat_template([{"role": "user", "content": "QUESTION"}], tokenize=False)
    head = tokenizer(head.partition("QUESTION")[0], add_special_tokens=False, return_tensors="pt").to(model.device)
    options = {"do_sample": True, "temperature": 0.75, "top_k": 30, "max_new_tokens": max_new_tokens}
    ends = model.generation_config.eos_token_id
    ends = [tokenizer.decode(end) for end in (ends if isinstance(ends, list) else [ends])]
    seen, batch, num_before = set(), 0, -1
    while len(seen) < num_rows:
        if batch % 20 == 0 and len(seen) == num_before:
            raise ValueError(f"The model has written no new question in 20 batches, after {len(seen)}: ask for fewer.")
        num_before = len(seen) if batch % 20 == 0 else num_before
        with torch.random.fork_rng():
            torch.manual_seed(int(uniform(seed, "questions", batch) * 2**31))
            ids = model.generate(**{name: ids.expand(batch_size, -1) for name, ids in head.items()}, **options)
        batch += 1
        for row in ids[:, head["input_ids"].shape[1] :]:
            text = tokenizer.decode(row)
            end = min((place for place in map(text.find, ends) if place >= 0), default=-1)
            text = " ".join(text[:end].split()) if end >= 0 else ""
            if is_speakable(text, min_words=3) and text not in seen and len(seen) < num_rows:
                seen.add(text)
                yield {"id": f"question-{len(seen)}", "question_text": text}


def answered_rows(
    model: Any, tokenizer: Any, rows: Iterable[dict], batch_size: int = 64, max_new_tokens: int = 48
) -> Iterator[dict]:
    """
    The rows with a chat model's greedy answers to their `question_text`, each after the row's `system` prompt, if any. An
    answer may end early, after `max_new_tokens`: for distillation its first tokens serve as well as all.
    """
    rows = iter(rows)
    while batch := list(islice(rows, batch_size)):
        conversations = [
            [{"role": role, "content": row[name]} for role, name in ROLES if row.get(name)] for row in batch
        ]
        options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt", "padding": True}
        options["tokenizer_kwargs"] = {"padding_side": "left"}
        inputs = tokenizer.apply_chat_template(conversations, tokenize=True, **options).to(model.device)
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        for row, answer in zip(batch, ids[:, inputs["input_ids"].shape[1] :]):
            text = tokenizer.decode(answer, skip_special_tokens=True).strip()
            if text:
                yield row | {"answer_text": text}


def is_speakable(text: str, min_words: int) -> bool:
    return min_words <= len(text.split()) <= MAX_WORDS and SPEAKABLE.fullmatch(text) is not None
