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
"""Which of train, validation and test a thing belongs to: by a hash of what it is, so that no seed can move it."""

from collections.abc import Hashable, Iterable
from typing import Literal, TypeVar, get_args

from ..examples import uniform


Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
VALIDATION_SHARE, TEST_SHARE = 0.04, 0.10
T = TypeVar("T", bound=Hashable)


def split_of(*key: Hashable) -> Split:
    """The split of what is named by the key."""
    return split_at(uniform("tinytalk", *key), VALIDATION_SHARE, TEST_SHARE)


def split_at(place: float, validation_share: float, test_share: float) -> Split:
    """The split at a place in [0, 1), of which validation and test have the end."""
    if place >= 1 - test_share:
        return "test"
    return "validation" if place >= 1 - test_share - validation_share else "train"


def split_of_phrasings(fact: Hashable, phrasings: Iterable[T]) -> dict[T, Split]:
    """The splits of the ways to ask for one fact, of which train has at least one: a fact nobody told cannot be known."""
    phrasings = list(phrasings)
    told = min(phrasings, key=lambda phrasing: uniform("tinytalk", "told", fact, phrasing))
    return {phrasing: "train" if phrasing == told else split_of(fact, phrasing) for phrasing in phrasings}
