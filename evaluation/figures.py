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
"""Records become figures: error rates with their intervals by task, topic and recogniser; stops; spectra; originals."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .intervals import error_interval, share_interval
from .judging import AnswerRecord, OriginalRecord
from .results import HIGH, LOW, group_name
from .stops import FAULTS
from .text_errors import Errors, TextErrors, text_errors


STOPS, SPECTRUM, REFERENCE = "stops", "spectrum", "reference"
DISTANCES = ("mel_distance", "log_spectral_distance", "duration_ratio", "sharpness")
REFERENCE_DISTANCES = ("vocoded_mel_distance", "vocoded_log_spectral_distance", "reference_sharpness")

Figures = dict[str, dict[str, float]]


def figures_of(
    answers: Sequence[AnswerRecord], originals: Sequence[OriginalRecord], language: str, seed: int = 0
) -> Figures:
    """All groups of figures of an evaluation; see [`Results`]."""
    figures: Figures = {}
    for task, records in grouped(answers, lambda record: record.task).items():
        recognisers = dict.fromkeys(name for record in records for name in record.heard)
        topics = grouped([record for record in records if record.topic], lambda record: record.topic)
        for topic, members in [(None, records), *topics.items()]:
            figures[group_name(task, topic)] = written(members, language, seed)
            for name in recognisers:
                figures[group_name(task, topic, name)] = heard(members, name, language, seed)
    spoken = [record for record in answers if record.is_spoken and record.speech_seconds + len(record.faults) > 0]
    by_task = grouped(spoken, lambda record: record.task)
    for task, records in [(None, spoken), *by_task.items()] if spoken else []:
        figures[group_name(STOPS, task)] = stops(records)
        figures[group_name(SPECTRUM, task)] = spectrum(records)
    if originals:
        figures.setdefault(SPECTRUM, {}).update(means([record.measures for record in originals], REFERENCE_DISTANCES))
        for name in dict.fromkeys(name for record in originals for name in record.heard):
            figures[group_name(REFERENCE, None, name)] = reference(originals, name, language, seed)
    return {group: values for group, values in figures.items() if values}


def written(records: Sequence[AnswerRecord], language: str, seed: int = 0) -> dict[str, float]:
    """Errors of what the model wrote."""
    errors = [text_errors(record.expected, record.text, language) for record in records]
    return {"num_rows": len(records)} | rates(errors, seed)


def heard(records: Sequence[AnswerRecord], name: str, language: str, seed: int = 0) -> dict[str, float]:
    """Errors of what a recogniser heard, against what was expected and against what the model wrote."""
    records = [record for record in records if name in record.heard]
    errors = [text_errors(record.expected, record.heard[name], language) for record in records]
    own = [text_errors(record.text, record.heard[name], language).said for record in records]
    values = {"num_rows": len(records)} | rates(errors, seed)
    return values | error_rate("cer_of_own_text", own, seed)


def reference(records: Sequence[OriginalRecord], name: str, language: str, seed: int = 0) -> dict[str, float]:
    """Errors of the same recogniser on the originals, as they are and passed through the vocoder."""
    values: dict[str, float] = {"num_rows": len(records)}
    values |= rates([text_errors(record.text, record.heard[name], language) for record in records], seed)
    vocoded = [
        text_errors(record.text, record.vocoded_heard[name], language).said
        for record in records
        if name in record.vocoded_heard
    ]
    values |= error_rate("vocoded_cer", vocoded, seed) | error_rate("vocoded_wer", vocoded, seed, of_words=True)
    return values | share("vocoded_exact", [one.is_exact for one in vocoded])


def rates(errors: Sequence[TextErrors], seed: int = 0) -> dict[str, float]:
    """Error rates in each way of counting, and the share without an error; with intervals for the headline."""
    said = [one.said for one in errors]
    values = error_rate("cer", said, seed) | error_rate("wer", said, seed, of_words=True)
    values |= share("exact", [one.is_exact for one in said])
    for name, counted in (("whisper", [one.whisper for one in errors]), ("raw", [one.raw for one in errors])):
        values |= error_rate(f"cer_{name}", counted, None) | error_rate(f"wer_{name}", counted, None, of_words=True)
    return values


def error_rate(name: str, errors: Sequence[Errors], seed: int | None, of_words: bool = False) -> dict[str, float]:
    """Errors over what was expected, of all rows together; nothing where nothing was. Without a seed no interval."""
    pairs = [(one.words, one.num_words) if of_words else (one.characters, one.num_characters) for one in errors]
    counts, lengths = zip(*pairs) if pairs else ((), ())
    if sum(lengths) == 0:
        return {}
    values = {name: sum(counts) / sum(lengths)}
    interval = error_interval(counts, lengths, seed) if seed is not None else None
    if interval is not None:
        values[name + LOW], values[name + HIGH] = interval
    return values


def share(name: str, hits: Sequence[bool]) -> dict[str, float]:
    """The share of hits, and its interval."""
    if not hits:
        return {}
    low, high = share_interval(sum(hits), len(hits))
    return {name: sum(hits) / len(hits), name + LOW: low, name + HIGH: high}


def stops(records: Sequence[AnswerRecord]) -> dict[str, float]:
    """How answers ended: the share of clean ones, and of each fault."""
    values = {"num_rows": len(records)} | share("clean", [not record.faults for record in records])
    for fault in FAULTS:
        values |= share(fault, [fault in record.faults for record in records])
    return values


def spectrum(records: Sequence[AnswerRecord]) -> dict[str, float]:
    """Distances of right answers from their originals, and how long and how sharp all are."""
    num_measured = sum("mel_distance" in record.measures for record in records)
    return {"num_rows": num_measured} | means([record.measures for record in records], DISTANCES)


def means(tables: Sequence[dict[str, float]], names: Iterable[str]) -> dict[str, float]:
    """The mean of each measure over the rows that have it."""
    found = {name: [table[name] for table in tables if name in table] for name in names}
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def grouped(records: Sequence, key: Callable) -> dict[str, list]:
    """Records by a key, in the order in which keys first occur."""
    groups: dict[str, list] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups
