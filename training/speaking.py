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
"""Written dialogues become spoken pairs: questions in many voices, answers in one, in as many processes as there are."""

import hashlib
import itertools
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..processing.audio_io import write_audio
from .examples import uniform
from .manifest import write_rows
from .rows import has
from .synthesis import LoadsVoices, Speech, SynthesisError, Synthesizer


# Rows that are finished together: what a run that is stopped does again, at most, in each process.
ROWS_PER_PART = 64
# A loudest sample below this is silence, whoever speaks.
AUDIBLE = 0.01
CAN_FORK = sys.platform == "linux"


# What becomes of a sound before it is written, such as trimming or noise. It is told the index of the row, must survive
# pickling, and its `repr` tells its settings.
SoundChange = Callable[[Speech, int], Speech]


class VoicePlan(Protocol):
    """Who says what: a dataclass, by whose fields settings that changed are told. No voice of answers leaves them written."""

    answer: str | None

    def of_question(self, index: int) -> tuple[str, float, float]:
        """The voice, rate and pitch of a row's question."""


@dataclass(frozen=True)
class Voices:
    """
    Who says what, and how.

    Attributes:
        answer: the one voice of the assistant; with `None` its answers stay written.
        questions: voices of users, one of which is drawn for each row.
        question_rates: from the slowest to the fastest, relative to the voice's own.
        question_pitches: from the lowest to the highest.
        seed: decides the draw.
    """

    answer: str | None
    questions: Sequence[str]
    question_rates: tuple[float, float] = (0.85, 1.2)
    question_pitches: tuple[float, float] = (0.8, 1.3)
    seed: int = 0

    def __post_init__(self):
        if len(self.questions) == 0:
            raise ValueError("`questions` names no voice: give at least one. More of them make a better listener.")
        for name in ("question_rates", "question_pitches"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"`{name}` is {(low, high)}: it must be two numbers above 0, the smaller one first.")

    def of_question(self, index: int) -> tuple[str, float, float]:
        """The voice, rate and pitch of a row's question."""
        voice = self.questions[int(uniform(self.seed, index, "voice") * len(self.questions))]
        rate, pitch = (
            low + (high - low) * uniform(self.seed, index, name)
            for name, (low, high) in (("rate", self.question_rates), ("pitch", self.question_pitches))
        )
        return voice, round(rate, 3), round(pitch, 3)


@dataclass
class SpokenReport:
    """What was spoken: rows, hours, and the rows that could not be."""

    num_rows: int = 0
    seconds: float = 0.0
    skipped: Counter = field(default_factory=Counter)
    manifest: Path | None = None

    def __str__(self) -> str:
        text = f"{self.num_rows} rows, {self.seconds / 3600:.2f} h of speech"
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        return text + (f"; skipped: {reasons}" if reasons else "")


def speak_dialogues(
    rows: Iterable[Mapping],
    folder: str | os.PathLike,
    synthesizer: Synthesizer,
    voices: VoicePlan,
    question_synthesizer: Synthesizer | None = None,
    file_format: Literal["flac", "wav"] = "flac",
    num_processes: int = 1,
    on_error: Literal["stop", "skip"] = "skip",
    progress: Callable[[int], Any] | None = None,
    change_question: SoundChange | None = None,
    change_answer: SoundChange | None = None,
    name: str | None = None,
) -> SpokenReport:
    """
    Says the questions and the answers of rows that have none in sound yet, and writes `manifest.jsonl` and the sounds into
    a folder. A run that was stopped, started again, goes on where it was; rows and settings that changed are done anew.
    Relative paths of sounds that rows have already are relative to this folder.

    Args:
        rows (`Iterable[dict]`):
            Rows with `question_text` and `answer_text`.
        folder (`str`):
            Where to write.
        synthesizer ([`Synthesizer`]):
            Speaks.
        voices ([`Voices`] or another [`VoicePlan`]):
            Who says what.
        question_synthesizer ([`Synthesizer`], *optional*):
            Says the questions, if another is to.
        file_format (`str`, *optional*, defaults to `"flac"`):
            `"flac"` or `"wav"`.
        num_processes (`int`, *optional*, defaults to 1):
            How many processes speak at a time.
        on_error (`str`, *optional*, defaults to `"skip"`):
            Whether a text that cannot be said is skipped and counted, or raised (`"stop"`).
        progress (`Callable`, *optional*):
            Is told how many rows were finished, again and again.
        change_question, change_answer (`SoundChange`, *optional*):
            What becomes of the questions and answers that were said, before they are written.
        name (`str`, *optional*):
            Of several manifests that share the folder, which: it is then `NAME.jsonl`, its sounds in `audio/NAME`.
    """
    if file_format not in ("flac", "wav"):
        raise ValueError(f'`file_format` is {file_format!r}: it must be "flac" or "wav".')
    if on_error not in ("stop", "skip"):
        raise ValueError(f'`on_error` is {on_error!r}: it must be "stop" or "skip".')
    folder = Path(folder).expanduser()
    speaker = _Speaker(
        folder,
        parts=folder / "parts" / (name or ""),
        sounds=folder / "audio" / (name or ""),
        synthesizers={"question": question_synthesizer or synthesizer, "answer": synthesizer},
        changes={"question": change_question, "answer": change_answer},
        voices=voices,
        file_format=file_format,
        on_error=on_error,
    )
    speaker.parts.mkdir(parents=True, exist_ok=True)
    report, names = SpokenReport(), []
    for part in _in_processes(speaker, _parts(rows), num_processes):
        names.append(part["name"])
        report.num_rows += part["num_rows"]
        report.seconds += part["seconds"]
        report.skipped.update(part["skipped"])
        if progress is not None:
            progress(part["num_rows"] + sum(part["skipped"].values()))
    report.manifest = folder / f"{name or 'manifest'}.jsonl"
    write_rows(report.manifest, _joined(folder, [speaker.parts / name for name in sorted(names)]))
    return report


@dataclass(frozen=True)
class _Speaker:
    """Speaks a part of the rows, in whichever process it is called."""

    folder: Path
    parts: Path
    sounds: Path
    synthesizers: Mapping[str, Synthesizer]
    changes: Mapping[str, SoundChange | None]
    voices: VoicePlan
    file_format: str
    on_error: str

    def __call__(self, first: int, rows: list[dict]) -> dict[str, Any]:
        """The part's summary. Its last act is to write the part, whole, under a name that tells what it is made of."""
        path = self.parts / self._name_of(first, rows)
        spoken, skipped, seconds = [], Counter(), 0.0
        for index, row in enumerate(rows, start=first):
            try:
                row = self._spoken(row, index)
            except SynthesisError as error:
                if self.on_error == "stop":
                    error.add_note(f"The row is {row.get('id', index)}.")
                    raise
                skipped["cannot be said"] += 1
                continue
            seconds += row.get("question_seconds", 0.0) + row.get("answer_seconds", 0.0)
            spoken.append(row)
        part = {"num_rows": len(spoken), "seconds": seconds, "skipped": skipped, "rows": spoken}
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        unfinished.write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")
        for outdated in path.parent.glob(f"{first:012d}-*.json"):
            outdated.unlink()
        os.replace(unfinished, path)
        return part | {"name": path.name}

    def load_voices(self, first: int, rows: list[dict]) -> None:
        """Loads the voices of the rows, so that a process that is forked now need not."""
        asking = {self.voices.of_question(index)[0] for index, _ in enumerate(rows, start=first)}
        for side, names in (("question", asking), ("answer", {self.voices.answer} - {None})):
            synthesizer = self.synthesizers[side]
            for name in names if isinstance(synthesizer, LoadsVoices) else ():
                # what is wrong with a voice is told of each of its rows
                with suppress(SynthesisError):
                    synthesizer.load(name)

    def finished(self, first: int, rows: list[dict]) -> dict[str, Any] | None:
        """The part's summary if it was spoken before."""
        path = self.parts / self._name_of(first, rows)
        return json.loads(path.read_text(encoding="utf-8")) | {"name": path.name} if path.is_file() else None

    def _name_of(self, first: int, rows: list[dict]) -> str:
        return f"{first:012d}-{self._digest(rows)}.json"

    def _spoken(self, row: Mapping, index: int) -> dict:
        row = {name: value for name, value in row.items() if has(row, name)}
        if has(row, "question_text") and not has(row, "question_audio"):
            voice, rate, pitch = self.voices.of_question(index)
            speech = self._said("question", row["question_text"], index, voice, rate, pitch)
            row |= self._written(speech, index, "question") | {"speaker": voice}
        if self.voices.answer is not None and has(row, "answer_text") and not has(row, "answer_audio"):
            speech = self._said("answer", row["answer_text"], index, self.voices.answer)
            row |= self._written(speech, index, "answer")
            if speech.word_times is not None:
                row["answer_word_times"] = [round(time, 3) for time in speech.word_times]
        return row

    def _said(self, side: str, text: str, index: int, *voice: Any) -> Speech:
        speech, change = self.synthesizers[side].speak(text, *voice), self.changes[side]
        # which is what voices make of letters that they do not know
        if np.abs(speech.waveform).max(initial=0.0) < AUDIBLE:
            raise SynthesisError(f"The voice {voice[0]!r} says nothing for {text!r}: name one of the text's language.")
        return speech if change is None else change(speech, index)

    def _written(self, speech: Speech, index: int, side: str) -> dict[str, Any]:
        """Writes the sound of a question or an answer, and says where it is and how long."""
        path = self.sounds / f"{index // 1000:06d}" / f"{index:09d}_{side}.{self.file_format}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, speech.waveform, speech.sampling_rate)
        relative = path.relative_to(self.folder)
        return {f"{side}_audio": relative.as_posix(), f"{side}_seconds": round(speech.seconds, 4)}

    def _digest(self, rows: list[dict]) -> str:
        """Tells parts of other rows, voices or forms apart."""
        kinds = [type(synthesizer).__name__ for synthesizer in self.synthesizers.values()]
        changes = [repr(change) for change in self.changes.values() if change is not None]
        settings = [rows, asdict(self.voices), kinds, self.file_format, *changes]
        made_of = json.dumps(settings, default=repr, ensure_ascii=False)
        return hashlib.blake2b(made_of.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _parts(rows: Iterable[Mapping]) -> Iterator[tuple[int, list[dict]]]:
    iterator, first = iter(rows), 0
    while part := [dict(row) for row in itertools.islice(iterator, ROWS_PER_PART)]:
        yield first, part
        first += len(part)


def _in_processes(
    speaker: _Speaker, parts: Iterator[tuple[int, list[dict]]], num_processes: int
) -> Iterator[dict[str, Any]]:
    """The summaries of all parts, as they are finished; never more parts are under way than keep the processes busy."""
    if num_processes <= 1:
        yield from (_in_fresh_process(speaker, *part) for part in parts)
        return
    with ProcessPoolExecutor(num_processes, mp_context=_context()) as pool:
        try:
            running = {
                pool.submit(_in_fresh_process, speaker, *part) for part in itertools.islice(parts, 2 * num_processes)
            }
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    running |= {pool.submit(_in_fresh_process, speaker, *part) for part in itertools.islice(parts, 1)}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_fresh_process(speaker: _Speaker, first: int, rows: list[dict]) -> dict[str, Any]:
    """
    The summary of a part that is spoken by a process which never spoke before: espeak-ng goes on from where its generator of
    waves was, and its sounds would depend on what was said by whom in which order.
    """
    finished = speaker.finished(first, rows)
    if finished is not None:
        return finished
    if not CAN_FORK:
        return speaker(first, rows)
    speaker.load_voices(first, rows)
    with ProcessPoolExecutor(1, mp_context=_context()) as pool:
        return pool.submit(speaker, first, rows).result()


def _context() -> multiprocessing.context.BaseContext:
    """Forked where that is usual: a spawned process would first import all of torch, for nothing."""
    return multiprocessing.get_context("fork" if CAN_FORK else "spawn")


def _joined(folder: Path, parts: Sequence[Path]) -> Iterator[dict]:
    for part in parts:
        for row in json.loads(part.read_text(encoding="utf-8"))["rows"]:
            sounds = {
                side: str(folder / row[side]) for side in ("question_audio", "answer_audio") if _is_ours(row, side)
            }
            yield row | sounds


def _is_ours(row: Mapping, side: str) -> bool:
    """Whether we wrote this sound: it is relative to the folder, while those of the source were resolved."""
    return isinstance(row.get(side), str) and not os.path.isabs(row[side]) and "://" not in row[side]
