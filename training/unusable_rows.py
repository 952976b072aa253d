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
"""Why none of the rows can be used, and what would help: said before a run that cannot be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from .examples import Skipped
from .rows import COLUMNS, TASKS, WRONG, has, tasks_of


# Rows that are looked at to say what all of them offer.
MAX_LOOKED_AT = 1000

REMEDIES = {
    "too long": "Raise `data.max_steps_per_batch` (and `data.max_steps`, where it is set), or cut the recordings",
    "wrong row": "`flow-omni prepare validate` lists what is wrong",
    "corrupt audio": "`flow-omni prepare validate` lists what is wrong",
}


def why_none_is_used(rows: Sequence[Mapping], skipped: Sequence[Skipped], tasks: Mapping[str, float]) -> str:
    """
    What to tell of rows none of which can be used.

    Args:
        rows (`Sequence[Mapping]`):
            The rows.
        skipped (`Sequence[Skipped]`):
            Why each of them is left out, one or more of them.
        tasks (`dict[str, float]`):
            The tasks that are trained.
    """
    reasons = Counter(row.reason for row in skipped)
    shown = [f"None of {len(rows)} rows can be used. The first of them, {skipped[0].id}: {skipped[0].message}."]
    for reason, _ in reasons.most_common():
        shown.append(_what_is_missing(rows, tasks) if reason == "no task" else f"{REMEDIES[reason]}.")
    return " ".join(dict.fromkeys(shown))


def _what_is_missing(rows: Sequence[Mapping], tasks: Mapping[str, float]) -> str:
    """What the tasks that are trained need, what the rows have, and which tasks they offer."""
    looked_at = list(islice(rows, MAX_LOOKED_AT))
    filled = Counter(name for row in looked_at for name in row if name not in ("id", WRONG) and has(row, name))
    offered = Counter(task for row in looked_at for task in tasks_of(row))
    needs = "; ".join(f"{task} {_quoted(TASKS[task].needs)}" for task in tasks)
    among = f"the first {len(looked_at)} rows" if len(looked_at) < len(rows) else "the rows"
    ours = ", ".join(f"{count} have `{name}`" for name, count in filled.items() if name in COLUMNS)
    theirs = [name for name in filled if name not in COLUMNS]
    others = f", and {_quoted(theirs)}, which training does not read" if theirs else ""
    trainable = f", or train what they offer: `data.tasks={_mapping_of(offered)}`" if offered else ""
    return (
        f"Of the tasks that are trained, each needs its columns: {needs}. Of {among}, {ours or 'none has any of these'}{others}. "
        f"Give the rows what a task needs, say with `data.columns` which column of yours it is{trainable}."
    )


def _quoted(names: Sequence[str]) -> str:
    return " + ".join(f"`{name}`" for name in names)


def _mapping_of(tasks: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{task}: 1" for task in tasks) + "}"
