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
"""How the figures of a report came about: data, settings, machine, and what the evaluation itself has to say."""

from collections.abc import Sequence

from .side_by_side import Entry, flat_settings, rows_of


def notes_of(entries: Sequence[Entry]) -> list[str]:
    """What readers should know, each with whose it is where there are several."""
    return each_or_once(entries, [entry.results.notes for entry in entries])


def machines_of(entries: Sequence[Entry]) -> list[str]:
    """Where times were taken."""
    machines = ["; ".join(f"{name}: {value}" for name, value in entry.results.machine.items()) for entry in entries]
    return each_or_once(entries, [[machine] if machine else [] for machine in machines])


def each_or_once(entries: Sequence[Entry], lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of every entry, with whose they are; what all of them say is said once."""
    common = [line for line in lines[0] if all(line in others for others in lines)]
    own = [f"{entry.label}: {line}" for entry, mine in zip(entries, lines) for line in mine if line not in common]
    return common + own


def provenance_of(entries: Sequence[Entry]) -> dict[str, dict[str, list[str]]]:
    """Checkpoint and data, settings, machine; of every name the value in each entry."""
    about = [
        {"checkpoint": one.checkpoint, "data": one.data, "created": one.created}
        for one in (entry.results for entry in entries)
    ]
    tables = {
        "Evaluation": rows_of(about),
        "Settings": rows_of([flat_settings(entry.results.settings) for entry in entries]),
        "Machine": rows_of([entry.results.machine for entry in entries]),
    }
    return {name: rows for name, rows in tables.items() if rows}
