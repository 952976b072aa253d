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
"""What the topics of which there is a finite number of questions are made of: tables of facts with ways to ask for them."""

import random
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from .splits import Split, split_of_phrasings


FOLDER = Path(__file__).parent
T = TypeVar("T")


@dataclass(frozen=True)
class Exchange:
    """
    A question and its answer.

    Attributes:
        fact: what is asked for, however it is asked.
    """

    fact: Hashable
    question: str
    answer: str

    def row(self, row_id: str, language: str) -> dict[str, str]:
        return {"id": row_id, "question_text": self.question, "answer_text": self.answer, "language": language}


@dataclass(frozen=True)
class Table:
    """Facts of one kind, with the ways to ask for each, and the answer, in which `{0}`, `{1}` … are the fact's parts."""

    name: str
    questions: tuple[str, ...]
    answer: str
    facts: tuple[tuple[str, ...], ...]

    def exchanges(self) -> list[Exchange]:
        return [
            Exchange((self.name, *fact), sentence(question.format(*fact)), sentence(self.answer.format(*fact)))
            for fact in self.facts
            for question in self.questions
        ]

    def reversed(self) -> "Table":
        """The same facts the other way round, which makes others of them."""
        return replace(self, name=f"reversed {self.name}", facts=tuple(fact[::-1] for fact in self.facts))


def sentence(text: str) -> str:
    """With a capital at the beginning."""
    return text[:1].upper() + text[1:]


@cache
def read_tables(name: str) -> tuple[Table, ...]:
    """The tables of one of the text files beside this one."""
    tables: list[Table] = []
    for block in ("\n" + _uncommented(FOLDER / f"{name}.txt")).split("\n[")[1:]:
        title, *lines = block.strip().split("\n")
        told = {mark: tuple(line[2:] for line in lines if line.startswith(f"{mark} ")) for mark in "?!"}
        facts = [tuple(part.strip() for part in line.split("|")) for line in lines if line and line[0] not in "?!"]
        tables.append(Table(title.rstrip("]"), told["?"], told["!"][0], tuple(facts) or ((),)))
    return tuple(tables)


def _uncommented(path: Path) -> str:
    return "\n".join(line for line in path.read_text(encoding="utf-8").split("\n") if not line.startswith("#"))


def of_split(exchanges: Iterable[Exchange], split: Split) -> list[Exchange]:
    """Those that a split may ask: a way to ask for a fact belongs to one split."""
    by_fact: dict[Hashable, list[Exchange]] = {}
    for exchange in exchanges:
        by_fact.setdefault(exchange.fact, []).append(exchange)
    chosen = []
    for fact, asked in by_fact.items():
        splits = split_of_phrasings(fact, [exchange.question for exchange in asked])
        chosen += [exchange for exchange in asked if splits[exchange.question] == split]
    return chosen


def in_turn(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    """All the items in a random order, then in another, for ever: none is left out and none comes much more often."""
    while True:
        yield from rng.sample(items, len(items))
