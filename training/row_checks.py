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
"""Is this a row? Every field of one exchange checked, and brought into the form that the rest of training reads."""

import difflib
import json
import math
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .rows import COLUMNS, TASKS, WRONG, RowError, has, tasks_of


HISTORY_ROLES = ("user", "assistant")
REMOTE = ("http://", "https://", "data:", "hf://", "s3://", "zip://")
# A column that resembles one of ours this much is a slip of the pen; anything else is the user's own and is ignored.
TYPO_LIKENESS = 0.85
RENAMING = (
    "`--columns question_text=…` of `evaluate` and `prepare validate`, `data.columns={question_text: …}` in training"
)


@lru_cache
def _columns_like(name: str) -> list[str]:
    return difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=TYPO_LIKENESS)


def check_columns(names: list[str], where: str) -> None:
    """Refuses columns that look like ours and are not: nobody would notice that they are never read."""
    for name in names:
        # it is every row that is checked: known names, the usual case, must cost nothing
        likely = [] if name in COLUMNS else _columns_like(name)
        if likely:
            raise RowError(
                where,
                name,
                f"the field `{name}` is unknown: did you mean `{likely[0]}`? The fields are {', '.join(COLUMNS)}.",
            )
    if not any(name in COLUMNS for name in names):
        raise RowError(
            where,
            names[0] if names else "",
            f"none of its fields ({', '.join(names) or 'there are none'}) is one that training reads: name them "
            f"{', '.join(COLUMNS)}, or say which is which: {RENAMING}.",
        )


def check_row(raw: Any, where: str, folder: str | os.PathLike | None = None) -> dict[str, Any]:
    """
    The row with every known field in its final form and the unknown ones dropped.

    Args:
        raw (`Mapping`):
            The row as it was read; fields of a CSV file are strings.
        where (`str`):
            Where it stands, for messages and for its `id` if it has none.
        folder (`str`, *optional*):
            What relative paths of audio are relative to.
    """
    if not isinstance(raw, Mapping):
        raise RowError(where, "", f"the row is {_shown(raw)}: it must be an object of fields, such as {_example()}.")
    check_columns(list(raw), where)
    row = {}
    for name, column in COLUMNS.items():
        value = raw.get(name)
        if (
            value is None
            or (isinstance(value, str) and value == "")
            or (column.kind == "audio" and not has(raw, name))
        ):
            continue
        row[name] = CHECKS[column.kind](value, name, where)
    for name in ("question_audio", "answer_audio"):
        if name in row and folder is not None:
            row[name] = _resolved(row[name], Path(folder))
    row.setdefault("id", where)
    _check_together(row, where)
    return row


def check_read_row(row: Mapping, where: str) -> dict[str, Any]:
    """A row as [`load_rows`] gives it, checked: one that only says what is wrong with it is raised."""
    if row.get(WRONG):
        raise RowError("", "", row[WRONG])
    return check_row({name: row[name] for name in COLUMNS if name in row}, where)


def _check_together(row: Mapping, where: str) -> None:
    """Rules across fields."""
    start, end = row.get("question_start", 0.0), row.get("question_end", math.inf)
    if start >= end:
        raise RowError(
            where,
            "question_end",
            f"`question_end` is {end:g} and `question_start` {start:g}: a question ends after it begins.",
        )
    if not tasks_of(row):
        given = ", ".join(f"`{name}`" for name in row if name != "id") or "nothing"
        needs = "; ".join(f"{task}: {' + '.join(spec.needs)}" for task, spec in TASKS.items())
        raise RowError(
            where,
            "",
            f"the row has {given}, from which nothing can be learnt. What each task needs: {needs}. Columns that are called "
            f"otherwise: {RENAMING}.",
        )


def _text(value: Any, name: str, where: str) -> str:
    if name == "id" and isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise RowError(where, name, f"`{name}` is {_shown(value)}: it must be a string. Quote it.")
    if not value.strip():
        raise RowError(
            where, name, f"`{name}` is {value!r}: it must hold more than spaces. Leave out what there is not."
        )
    return value


def _audio(value: Any, name: str, where: str) -> Any:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if isinstance(value, bytes | bytearray) or hasattr(value, "get_all_samples"):
        return value
    if isinstance(value, Mapping) and has({name: value}, name):
        return {key: value[key] for key in ("array", "sampling_rate", "bytes", "path") if value.get(key) is not None}
    raise RowError(
        where,
        name,
        f"`{name}` is {_shown(value)}: it must be the path of an audio file, or an object with `path` or `bytes`.",
    )


def _seconds(value: Any, name: str, where: str) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise RowError(where, name, f"`{name}` is {_shown(value)}: it must be a number of seconds, 0 or more.")
    return seconds


def _times(value: Any, name: str, where: str) -> list[float]:
    times = [_seconds(time, name, where) for time in _parsed_list(value, name, where)]
    for earlier, later in zip(times, times[1:]):
        if later < earlier:
            raise RowError(
                where, name, f"`{name}` falls from {earlier:g} to {later:g}: the words begin one after another."
            )
    return times


def _messages(value: Any, name: str, where: str) -> list[dict[str, str]]:
    turns = _parsed_list(value, name, where)
    for turn in turns:
        is_turn = isinstance(turn, Mapping) and isinstance(turn.get("text"), str) and turn.get("role") in HISTORY_ROLES
        if not is_turn:
            raise RowError(
                where,
                name,
                f"`{name}` has the turn {_shown(turn)}: each must have a `role`, user or assistant, and its `text`.",
            )
    return [{"role": turn["role"], "text": turn["text"]} for turn in turns]


def _parsed_list(value: Any, name: str, where: str) -> list:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise RowError(
                where, name, f"`{name}` is {_shown(value)}: it must be a list, in a CSV file written as JSON."
            ) from None
    if not isinstance(value, list | tuple):
        raise RowError(where, name, f"`{name}` is {_shown(value)}: it must be a list.")
    return list(value)


CHECKS: dict[str, Callable[[Any, str, str], Any]] = {
    "text": _text,
    "audio": _audio,
    "seconds": _seconds,
    "times": _times,
    "messages": _messages,
}


def _resolved(audio: Any, folder: Path) -> Any:
    """The audio with its path, if it has one, made independent of the manifest's place."""
    if isinstance(audio, Mapping):
        # of an embedded file, the path is only its name
        return audio if audio.get("bytes") is not None else audio | {"path": _resolved(audio["path"], folder)}
    if not isinstance(audio, str) or audio.startswith(REMOTE):
        return audio
    path = Path(audio).expanduser()
    return str(path if path.is_absolute() else folder / path)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _example() -> str:
    return json.dumps({"question_text": "Where are you?", "answer_text": "Here.", "answer_audio": "here.wav"})
