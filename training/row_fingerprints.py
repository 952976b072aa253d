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
"""Whether rows are those that a run was begun with: its checkpoints hold their number and a hash of what they say."""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any


logger = logging.getLogger(__name__)

# What is read of a row anyway, before it is trained on. Not its paths: the folder may move.
TOLD_BY = ("id", "question_text", "answer_text", "question_seconds", "answer_seconds")


def digest_of(rows: Iterable[Mapping]) -> str:
    """A hash of rows, in their order, by what they are called and what is written in them."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(repr([row.get(name) for name in TOLD_BY]).encode())
    return digest.hexdigest()


def fingerprint_of(num_rows: int, digests: Iterable[str], mix: Any = None) -> dict[str, Any]:
    """What a checkpoint says of the rows: how many, and a hash of the digests of their parts and of how they are mixed."""
    told = repr((list(digests), getattr(mix, "sizes", None), getattr(mix, "times", None)))
    return {"count": num_rows, "hash": hashlib.blake2b(told.encode(), digest_size=16).hexdigest()}


def warn_of_other_rows(saved: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Says so where the rows are not those of the checkpoint. Checkpoints of earlier versions say nothing of them."""
    if saved is None or saved == now:
        return
    number = f"{saved['count']:,} then, {now['count']:,} now"
    if saved["count"] == now["count"]:
        number = f"{now['count']:,} as before, but with other ids, texts or weights, or in another order"
    logger.warning(
        "The rows are not those that the checkpoint was written with (%s). The run goes on at the same place of the epoch, "
        "where some rows may come again and others not at all, and it will not end with the weights that it would have had. If "
        "that is not wanted, put the rows back and resume once more, or begin anew (`--fresh`).",
        number,
    )
