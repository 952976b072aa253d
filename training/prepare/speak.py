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
"""Spoken rows of written dialogues: questions in many voices and answers in one, by several processes, resumable."""

import hashlib
import json
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...processing.audio_io import write_audio
from ..augmentation import generator_of
from ..manifest import raw_rows, write_rows
from ..row_checks import check_row
from ..rows import RowError, has
from .espeak import EspeakSynthesizer
from .flite import FliteSynthesizer
from .piper import PiperSynthesizer
from .synthesis import Speech, SynthesisError, Synthesizer


SYNTHESIZERS = {"espeak": EspeakSynthesizer, "flite": FliteSynthesizer, "piper": PiperSynthesizer}
# Rows that are finished together: an interruption loses at most this many per process.
ROWS_PER_CHUNK = 64
MIN_PEAK = 0.01  # engines answer characters that they do not know with silence
MAX_ERRORS = 5

Chunk = tuple[int, list[dict]]


@dataclass
class SpokenReport:
    """The number of spoken rows, seconds of speech in them, the manifest, and the rows skipped with the first errors."""

    manifest: Path
    num_rows: int = 0
    seconds: float = 0.0
    num_skipped: int = 0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        skipped = f"; skipped {self.num_skipped}, the first: {self.errors[0]}" if self.errors else ""
        return f"{self.manifest}: {self.num_rows} rows, {self.seconds / 3600:.2f} h of speech{skipped}"


def load_synthesizer(name: str) -> Synthesizer:
    if name not in SYNTHESIZERS:
        raise ValueError(f"There is no synthesizer {name!r}: choose one of {', '.join(SYNTHESIZERS)}.")
    return SYNTHESIZERS[name]()


def list_voices(synthesizer: str, language: str | None = None) -> list[str]:
    """The voices of a synthesizer for one language (such as `en`), or all of them."""
    return load_synthesizer(synthesizer).voices(language)


def speak_dialogues(
    source: Any,
    output: str | os.PathLike,
    synthesizer: str | Synthesizer = "espeak",
    answer_voice: str | None = None,
    question_voices: Sequence[str] | None = None,
    language: str = "en",
    question_rates: tuple[float, float] = (0.85, 1.2),
    question_pitches: tuple[float, float] = (0.8, 1.3),
    file_format: str = "flac",
    num_processes: int = 1,
    seed: int = 0,
    limit: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> SpokenReport:
    """
    Speaks the questions and answers of rows that have no audio, and writes `manifest.jsonl` and the audio files. An
    interrupted run continues when it is started again. A folder of other rows or settings is refused; only rows appended
    to the source are added to it.

    Args:
        source:
            A manifest, as for [`load_rows`], or an iterable of rows.
        output (`str`):
            The folder to write to.
        synthesizer (`str` or [`Synthesizer`], *optional*, defaults to `"espeak"`):
            `"espeak"`, `"flite"`, `"piper"`, or an object.
        answer_voice (`str`, *optional*):
            The voice of all answers. Defaults to the plain voice of the language.
        question_voices (`list[str]`, *optional*):
            The voices of the questions, drawn for each row. Defaults to all others of the language.
        language (`str`, *optional*, defaults to `"en"`):
            Language of the default voices.
        question_rates, question_pitches (`tuple[float, float]`, *optional*):
            Ranges of the rates and pitches of questions, relative to those of the voice.
        file_format (`str`, *optional*, defaults to `"flac"`):
            `"flac"` or `"wav"`.
        num_processes (`int`, *optional*, defaults to 1):
            How many processes speak.
        seed (`int`, *optional*, defaults to 0):
            Decides the draws.
        limit (`int`, *optional*):
            How many rows of the source to speak.
        progress (`Callable`, *optional*):
            Called with the number of rows finished since the last call.
    """
    if file_format not in ("flac", "wav"):
        raise ValueError(f'`file_format` is {file_format!r}: it must be "flac" or "wav".')
    engine = load_synthesizer(synthesizer) if isinstance(synthesizer, str) else synthesizer
    answer_voice, question_voices = _chosen_voices(engine, language, answer_voice, question_voices)
    output = Path(output).expanduser().absolute()
    speaker = _Speaker(
        engine, output, answer_voice, question_voices, question_rates, question_pitches, file_format, seed
    )
    report, journal_path = SpokenReport(output / "manifest.jsonl"), output / ".progress"
    if report.manifest.exists() and not journal_path.exists():
        raise ValueError(f"'{output}' holds another corpus: choose another folder.")
    output.mkdir(parents=True, exist_ok=True)
    with open(journal_path, "a+b") as journal:
        journal.seek(0)
        for part in _parts(speaker, _chunks(islice(_rows_of(source), limit)), num_processes, journal):
            report.num_rows += len(part["rows"])
            report.seconds += sum(
                row.get(f"{side}_seconds", 0.0) for row in part["rows"] for side in ("question", "answer")
            )
            report.num_skipped += len(part["errors"])
            report.errors += part["errors"][: MAX_ERRORS - len(report.errors)]
            if progress is not None:
                progress(len(part["keys"]))
        if report.num_rows == 0:
            journal_path.unlink()
            raise SynthesisError(f"No row of the source could be spoken: {'; '.join(report.errors) or 'it is empty'}.")
        journal.seek(0)
        rows = (row for line in journal for row in json.loads(line)["rows"])
        write_rows(report.manifest, (row | _absolute(row, output) for row in rows))
    return report


def _chosen_voices(
    engine: Synthesizer, language: str, answer_voice: str | None, question_voices: Sequence[str] | None
) -> tuple[str, list[str]]:
    every, known = engine.voices(), engine.voices(language)
    for voice in (answer_voice, *(question_voices or ())):
        if voice is not None and voice not in every:
            raise SynthesisError(f"There is no voice {voice!r}: choose from {', '.join((known or every)[:8])} ….")
    if not known and not (answer_voice and question_voices):
        raise SynthesisError(f"There is no voice of the language {language!r}: choose another language.")
    answer_voice = answer_voice or next((voice for voice in (language, f"{language}-us") if voice in known), known[0])
    return answer_voice, list(question_voices or [voice for voice in known if voice != answer_voice] or known)


def _rows_of(source: Any) -> Iterator[dict]:
    """Checked rows with absolute paths of audio."""
    if isinstance(source, str | os.PathLike):
        rows = raw_rows(source)
    else:
        rows = ((f"row {number}", os.getcwd(), row) for number, row in enumerate(source, start=1))
    for where, folder, raw in rows:
        if isinstance(raw, RowError):
            raise raw
        row = check_row(raw, where, folder)
        for name in ("question_audio", "answer_audio"):
            row |= {name: row[name]["path"]} if isinstance(row.get(name), Mapping) and row[name].get("path") else {}
            if not isinstance(row.get(name, ""), str):
                raise RowError(where, name, f"`{name}` holds an audio file: only rows with paths can be spoken.")
        yield row


def _chunks(rows: Iterator[dict]) -> Iterator[Chunk]:
    first = 0
    while chunk := list(islice(rows, ROWS_PER_CHUNK)):
        yield first, chunk
        first += len(chunk)


@dataclass(frozen=True)
class _Speaker:
    """Speaks the rows of a chunk, in any process."""

    synthesizer: Synthesizer
    output: Path
    answer_voice: str
    question_voices: Sequence[str]
    question_rates: tuple[float, float]
    question_pitches: tuple[float, float]
    file_format: str
    seed: int

    def __call__(self, first: int, rows: list[dict]) -> dict[str, Any]:
        part = {"keys": self.keys(rows), "rows": [], "errors": []}
        for index, row in enumerate(rows, start=first):
            try:
                part["rows"].append(self._spoken(row, index))
            except SynthesisError as error:
                part["errors"].append(f"{row['id']}: {error}")
        return part

    def keys(self, rows: list[dict]) -> list[str]:
        """Identify each row with the settings it is spoken with."""
        settings = [type(self.synthesizer).__name__, *list(vars(self).values())[2:]]
        contents = [settings + [{name: row[name] for name in row if name != "id"}] for row in rows]
        return [hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest() for content in contents]

    def _spoken(self, row: dict, index: int) -> dict:
        generator = generator_of(self.seed, index)
        voice = self.question_voices[generator.integers(len(self.question_voices))]
        rate, pitch = (round(generator.uniform(*bounds), 3) for bounds in (self.question_rates, self.question_pitches))
        if has(row, "question_text") and not has(row, "question_audio"):
            speech = self._speak(row["question_text"], voice, rate, pitch)
            row = row | self._written(speech, index, "question") | {"speaker": voice}
        if has(row, "answer_text") and not has(row, "answer_audio"):
            speech = self._speak(row["answer_text"], self.answer_voice)
            row = row | self._written(speech, index, "answer")
            if speech.word_times is not None:
                row["answer_word_times"] = [round(time, 3) for time in speech.word_times]
        return row

    def _speak(self, text: str, voice: str, *style: float) -> Speech:
        speech = self.synthesizer.speak(text, voice, *style)
        if np.abs(speech.waveform).max(initial=0.0) < MIN_PEAK:
            raise SynthesisError(f"The voice {voice!r} is silent for {text!r}: choose one of the text's language.")
        return speech

    def _written(self, speech: Speech, index: int, side: str) -> dict[str, Any]:
        """Writes the audio of a question or an answer, and returns its columns."""
        path = Path("audio", f"{index // 1000:06d}", f"{index:09d}_{side}.{self.file_format}")
        (self.output / path).parent.mkdir(parents=True, exist_ok=True)
        write_audio(self.output / path, speech.waveform, speech.sampling_rate)
        return {f"{side}_audio": path.as_posix(), f"{side}_seconds": round(speech.seconds, 4)}


def _absolute(row: dict, output: Path) -> dict[str, str]:
    """The columns of audio that we wrote, whose paths are relative to the folder."""
    names = [name for name in ("question_audio", "answer_audio") if has(row, name) and row[name].startswith("audio/")]
    return {name: str(output / row[name]) for name in names}


def _parts(
    speaker: _Speaker, chunks: Iterator[Chunk], num_processes: int, journal: BinaryIO
) -> Iterator[dict[str, Any]]:
    """The finished chunks: first those of earlier runs, from the journal; then new ones, which are appended to it."""
    end = 0
    for chunk in chunks:
        line, keys = journal.readline(), speaker.keys(chunk[1])
        part = json.loads(line) if line.endswith(b"\n") else {"keys": []}
        if part["keys"] != keys:
            # a line cut off, or the last chunk of a source that has grown
            if part["keys"] == keys[: len(part["keys"])] and not journal.readline().endswith(b"\n"):
                chunks = chain([chunk], chunks)
                break
            raise ValueError(
                f"'{speaker.output}' holds other rows, or rows spoken with other settings: choose another folder."
            )
        end = journal.tell()
        yield part
    else:
        if journal.readline():
            raise ValueError(f"'{speaker.output}' holds more rows than the source: choose another folder.")
    journal.truncate(end)
    for part in _spoken_chunks(speaker, chunks, num_processes):
        journal.write(json.dumps(part, ensure_ascii=False).encode() + b"\n")
        journal.flush()
        yield part


def _spoken_chunks(speaker: _Speaker, chunks: Iterator[Chunk], num_processes: int) -> Iterator[dict[str, Any]]:
    """Speaks chunks in several processes. The results come in order, and few chunks are read ahead."""
    with ProcessPoolExecutor(num_processes, _context()) as pool:
        running: deque = deque()
        try:
            for chunk in chunks:
                running.append(pool.submit(_in_new_process, speaker, *chunk))
                if len(running) >= 2 * num_processes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _in_new_process(speaker: _Speaker, first: int, rows: list[dict]) -> dict[str, Any]:
    """
    Speaks a chunk in a process that has not spoken before: espeak-ng keeps state from text to text, and audio would
    otherwise depend on the order of chunks and the number of processes.
    """
    if sys.platform != "linux":
        return speaker(first, rows)
    with ProcessPoolExecutor(1, _context()) as pool:
        return pool.submit(speaker, first, rows).result()


def _context() -> multiprocessing.context.BaseContext:
    """Forked on Linux: a spawned process would import all of torch first."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
