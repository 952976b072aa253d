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
"""Records on disk as they come, so that an evaluation that was stopped goes on where it was."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .judging import AnswerRecord, OriginalRecord


UNFINISHED, FINISHED = "unfinished.jsonl", "answers.jsonl"


class Journal:
    """
    Every answer and original that has been judged, one a line. What another evaluation left unfinished is taken over only
    if the same model was asked in the same way.

    Args:
        folder (`str`): Where results go.
        conditions (`Mapping`): All that an answer depends on beside its question.
    """

    def __init__(self, folder: str | os.PathLike, conditions: Mapping[str, Any]):
        self.path = Path(folder) / UNFINISHED
        self.answers: dict[tuple, AnswerRecord] = {}
        self.originals: dict[tuple, OriginalRecord] = {}
        self.num_found = 0
        self._header = json.dumps({"conditions": dict(conditions)}, ensure_ascii=False, sort_keys=True)
        self._take_over()
        self._file = open(self.path, "a", encoding="utf-8")

    def add(self, *records: AnswerRecord | OriginalRecord) -> None:
        """Writes records down at once."""
        for record in records:
            self._remember(record)
            kind = "answer" if isinstance(record, AnswerRecord) else "original"
            self._file.write(json.dumps({kind: asdict(record)}, ensure_ascii=False) + "\n")
        self._file.flush()

    def finish(self) -> Path:
        """Closes the journal; what it holds stays as `answers.jsonl`, and the next evaluation begins anew."""
        self._file.close()
        finished = self.path.with_name(FINISHED)
        os.replace(self.path, finished)
        return finished

    def close(self) -> None:
        self._file.close()

    def _take_over(self) -> None:
        # not `splitlines`, which also divides at signs that a text may hold
        lines = self.path.read_text(encoding="utf-8").split("\n") if self.path.is_file() else []
        if lines and lines[0] == self._header:
            for line in lines[1:]:
                record = _record_of(line)
                if record is not None:
                    self._remember(record)
        self.num_found = len(self.answers)
        # written anew: the last line may be half of one
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [{"original": asdict(one)} for one in self.originals.values()]
        kept += [{"answer": asdict(one)} for one in self.answers.values()]
        text = "\n".join([self._header, *(json.dumps(one, ensure_ascii=False) for one in kept)]) + "\n"
        new = self.path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, self.path)

    def _remember(self, record: AnswerRecord | OriginalRecord) -> None:
        known = self.answers if isinstance(record, AnswerRecord) else self.originals
        known[record.key] = record


def _record_of(line: str) -> AnswerRecord | OriginalRecord | None:
    """The record of a line, if it is a whole one of this version."""
    try:
        ((kind, fields),) = json.loads(line).items()
        return {"answer": AnswerRecord, "original": OriginalRecord}[kind](**fields)
    except (ValueError, TypeError, KeyError):
        return None
