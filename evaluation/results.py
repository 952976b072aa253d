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
"""What an evaluation writes: every answer as a line of `answers.jsonl`, and all metrics in `results.json`."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any

from ..processing.files import atomic_write
from .questions import ANSWERING_TASKS, SPEAKING_TASKS, UNDERSTANDING_TASKS
from .stop_errors import stop_metrics
from .text_errors import text_metrics
from .understanding import Agreement, agreement_metrics, knowledge_metrics


FORMAT = 2
ANSWERS_FILE, RESULTS_FILE = "answers.jsonl", "results.json"
SPEECH, REFERENCE, VOCODED, SPEED = "speech", "reference", "vocoded", "speed"
TASK_TYPES = {"transcribe": "automatic-speech-recognition", "transcribe_ctc": "automatic-speech-recognition"}
TASK_TYPES |= {"text_to_text": "text-generation"}
TASK_TYPES |= dict.fromkeys(("say", REFERENCE, VOCODED), "text-to-speech")

HEADINGS = {"num_rows": "rows", "cer": "CER", "wer": "WER", "cer_of_own_text": "CER of own text"}
HEADINGS |= {"first_text_ms": "first text (ms)", "first_audio_ms": "first audio (ms)"}
HEADINGS |= {"kl": "KL", "over_written": "correct, spoken over written"}
HEADINGS |= {"batch_real_time_factor": "real-time factor in batches"}
GROUPS = {SPEECH: "all spoken answers", REFERENCE: "reference audio", VOCODED: "reference audio after the vocoder"}
Groups = dict[str, dict[str, float]]


class ResultsError(ValueError):
    """Results that cannot be read, or answers that belong to another evaluation."""


@dataclass
class AnswerRecord:
    """One answer, or the audio of a reference with its transcripts."""

    part: str  # empty: the evaluation itself; a point of a sweep (`noise/white=10`); `reference`; `vocoded`
    task: str
    number: int
    id: str
    question_text: str | None
    reference: str
    text: str
    seconds: float = 0.0  # of computing: the answer's share of its batch
    speech_seconds: float = 0.0
    transcripts: dict[str, str] = field(default_factory=dict)  # by ASR model
    stop_errors: list[str] | None = None  # `None`: the model did not speak
    accepted_answers: list[str] | None = None  # of `knowledge`
    agreement: dict[str, float] | None = None  # an `Agreement`
    files: dict[str, str] = field(default_factory=dict)  # audio of a sample: `question`, `reference`, `answer`

    @property
    def key(self) -> tuple[str, str, int]:
        return self.part, self.task, self.number


class AnswerLog:
    """`answers.jsonl`: a line of settings, which is everything that answers depend on, then one [`AnswerRecord`] each."""

    def __init__(self, folder: str | os.PathLike, settings: Mapping[str, Any]):
        self.path = Path(folder) / ANSWERS_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.records: dict[tuple, AnswerRecord] = {}
        settings = json.loads(json.dumps({"format": FORMAT, **settings}))
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        text = text[: text.rfind("\n") + 1]  # an interruption may leave half of a line
        if text:
            # not splitlines(), which also divides at separators that a text may contain
            head, *lines = (json.loads(line) for line in text.split("\n")[:-1])
            if changed := [name for name in {**settings, **head} if head.get(name) != settings.get(name)]:
                values = f"`{changed[0]}` was {head.get(changed[0])!r}, now it is {settings.get(changed[0])!r}"
                remedy = "choose another output folder, or delete the file"
                raise ResultsError(f"'{self.path}' holds answers of another evaluation ({values}): {remedy}.")
            self.records = {record.key: record for record in (AnswerRecord(**line) for line in lines)}
        self.file = open(self.path, "r+" if self.path.is_file() else "w", encoding="utf-8")
        self.file.truncate(len(text.encode()))
        self.file.seek(0, os.SEEK_END)
        if not text:
            self._write(settings)

    def add(self, record: AnswerRecord) -> AnswerRecord:
        self.records[record.key] = record
        self._write(asdict(record))
        return record

    def _write(self, values: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(values, ensure_ascii=False) + "\n")
        self.file.flush()


@dataclass
class Results:
    """The results of an evaluation; see docs/evaluation.md."""

    checkpoint: str
    data: str
    command: str
    created: str
    machine: dict[str, str]
    settings: dict[str, Any]
    # group to metrics. Groups are `say` (a task, by its text), `say@ASR` (its speech, by the transcripts of an ASR model),
    # `reference@ASR`, `vocoded@ASR`, `speech` and `speech/say` (stop errors and durations)
    metrics: Groups
    sweeps: dict[str, dict[str, Any]] = field(default_factory=dict)  # `axis`, and `points` of `value` and `metrics`
    speed: dict[str, float] = field(default_factory=dict)
    headlines: list[dict[str, Any]] = field(default_factory=list)  # see [`headline_metrics`]
    samples: list[AnswerRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def save(self, folder: str | os.PathLike) -> Path:
        path = Path(folder) / RESULTS_FILE
        text = json.dumps({"format": FORMAT} | asdict(self), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_write(path) as file:
            file.write_text(text + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Results":
        """Reads `results.json`, given by its path or its folder."""
        path = Path(path).expanduser()
        path = path if path.suffix == ".json" else path / RESULTS_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT or set(values) != {one.name for one in fields(cls)}:
                raise ValueError(f"its format is not {FORMAT}")
            return cls(**values | {"samples": [AnswerRecord(**one) for one in values["samples"]]})
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            remedy = "pass the output folder of `flow-omni evaluate`, or evaluate again"
            raise ResultsError(f"'{path}' cannot be read as results ({error}): {remedy}.") from error


def compute_metrics(records: Sequence[AnswerRecord], language: str, seed: int = 0, speech: bool = True) -> Groups:
    """The metrics of all groups; see [`Results`]. Without speech only those of the model's text."""
    groups: dict[str, list[AnswerRecord]] = {}
    for record in records:
        groups.setdefault(record.part if record.part in (REFERENCE, VOCODED) else record.task, []).append(record)
    metrics = {}
    for name, group in groups.items():
        is_reference = name in (REFERENCE, VOCODED)
        if name in UNDERSTANDING_TASKS:
            metrics[name] = _understanding_metrics(name, groups, language, seed)
        elif not is_reference:
            metrics[name] = text_metrics([(one.reference, one.text) for one in group], language, seed)
        for asr in dict.fromkeys(asr for one in group for asr in one.transcripts if speech):
            spoken = [(one.reference, one.text, one.transcripts[asr]) for one in group if asr in one.transcripts]
            own = {} if is_reference else text_metrics([(text, found) for _, text, found in spoken], language, seed)
            own = {key.replace("cer", "cer_of_own_text"): own[key] for key in own if key.startswith("cer")}
            metrics[f"{name}@{asr}"] = text_metrics([(one, found) for one, _, found in spoken], language, seed) | own
    spoken = [record for record in records if record.stop_errors is not None and speech]
    for task in (None, *dict.fromkeys(record.task for record in spoken)) if spoken else ():
        group = [record for record in spoken if task in (None, record.task)]
        table = stop_metrics([record.stop_errors for record in group])
        seconds = sum(record.speech_seconds for record in group)
        table |= {"batch_real_time_factor": sum(one.seconds for one in group) / seconds} if seconds else {}
        metrics[f"{SPEECH}/{task}" if task else SPEECH] = table
    return metrics


def _understanding_metrics(
    name: str, groups: Mapping[str, list[AnswerRecord]], language: str, seed: int
) -> dict[str, float]:
    if name == "transcribe_ctc":
        return text_metrics([(record.reference, record.text) for record in groups[name]], language, seed)
    if name == "agreement":
        return agreement_metrics([Agreement(**record.agreement) for record in groups[name]], seed)
    answers, written = (
        [(record.question_text, record.text, record.accepted_answers) for record in groups.get(task, ())]
        for task in (name, "knowledge" if name == "spoken_knowledge" else None)
    )
    return knowledge_metrics(answers, written, language, seed)


def headline_metrics(metrics: Groups, speed: dict[str, float], data: str, machine: dict[str, str]) -> list[dict]:
    """The metrics by which a checkpoint is judged first, as a model card needs them."""
    asr = next((group.partition("@")[2] for group in metrics if "@" in group), None)
    answering = next((task for task in ANSWERING_TASKS if task in metrics), "")
    speaking = next((task for task in SPEAKING_TASKS if f"{task}@{asr}" in metrics), "")
    pairs = [("transcribe", "cer"), ("transcribe", "wer"), (answering, "exact"), (f"{answering}@{asr}", "exact")]
    pairs += [(f"{group}@{asr}", "cer") for group in (speaking, REFERENCE, VOCODED)]
    pairs += [("transcribe_ctc", "cer"), ("agreement", "agreement"), ("agreement", "kl"), ("knowledge", "correct")]
    pairs += [("spoken_knowledge", "correct"), ("spoken_knowledge", "over_written")]
    pairs += [(SPEECH, "clean"), (SPEED, "first_audio_ms"), (SPEED, "real_time_factor")]
    path, tables = PurePath(data), {**metrics, SPEED: speed}
    is_manifest = path.suffix == ".jsonl" and path.parent.name
    name, split = (path.parent.name, path.stem) if is_manifest else (path.name or "unnamed data", None)
    hardware = f"single questions on {machine['device']} ({machine['processor']}, {machine['threads']} threads)"
    headlines = []
    for group, metric in pairs:
        table = tables.get(group, {})
        if metric in table:
            title = f"{heading(metric)}: {hardware if group == SPEED else group_name(group)}"
            headline = {"name": title, "metric": metric, "value": table[metric], "num_rows": table.get("num_rows")}
            headline |= {end: table.get(f"{metric}_{end}") for end in ("low", "high")}
            headline |= {
                "unit": "ms" if metric.endswith("_ms") else "",
                "task_type": TASK_TYPES.get(group.partition("@")[0], "any-to-any"),
            }
            headlines.append(headline | {"dataset_name": name, "dataset_split": split})
    return headlines


def heading(name: str) -> str:
    return HEADINGS.get(name, name.replace("_", " "))


def group_name(group: str) -> str:
    name, _, asr = group.partition("@")
    name = GROUPS.get(name, name.removeprefix(f"{SPEECH}/").replace("_", " "))
    return f"{name}, {asr}" if asr else name
