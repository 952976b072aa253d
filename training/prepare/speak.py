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
"""Spoken rows of written dialogues: questions in many voices, answers in one, by several processes, resumable."""

import hashlib
import json
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...processing.audio_io import write_audio
from ..augmentation import generator_of
from ..data import RowError, has, load_rows, write_rows
from .espeak import EspeakSynthesizer
from .flite import FliteSynthesizer
from .kokoro import KokoroSynthesizer
from .normalize import row_as_said
from .piper import PiperSynthesizer
from .synthesis import SynthesisError, Synthesizer


SYNTHESIZERS = {
    "espeak": EspeakSynthesizer,
    "flite": FliteSynthesizer,
    "kokoro": KokoroSynthesizer,
    "piper": PiperSynthesizer,
}
# Of questions, relative to the rate and pitch of the voice.
RATES, PITCHES = (0.85, 1.2), (0.8, 1.3)
# Rows that are finished together: an interruption loses at most this many per process.
ROWS_PER_CHUNK = 64
MIN_PEAK = 0.01  # engines answer characters that they do not know with silence

Chunk = list[tuple[int, dict]]  # rows with their indices


@dataclass
class SpokenReport:
    """The manifest, the number of its rows, their seconds of speech, and why the other rows could not be spoken."""

    manifest: Path
    num_rows: int = 0
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        skipped = f"; skipped {len(self.errors)}, the first: {self.errors[0]}" if self.errors else ""
        return f"{self.num_rows} rows, {self.seconds / 3600:.2f} h of speech{skipped}"


def load_synthesizer(name: str) -> Synthesizer:
    if name not in SYNTHESIZERS:
        raise SynthesisError(f"There is no synthesizer {name!r}: choose one of {', '.join(SYNTHESIZERS)}.")
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
    file_format: str = "flac",
    num_processes: int = 1,
    seed: int = 0,
    limit: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> SpokenReport:
    """
    Speaks the questions and answers of rows that have no audio, and writes `manifest.jsonl` and the audio files. Their
    texts are written as they are said (`normalize.py`): numbers and abbreviations as words. An
    interrupted run continues when it is started again. A folder that holds other rows, or rows spoken with other settings,
    is refused; rows appended to the source are added to it.

    Args:
        source (`str` or `Dataset`):
            As for [`load_rows`].
        output (`str`):
            The folder to write to.
        synthesizer (`str` or [`Synthesizer`], *optional*, defaults to `"espeak"`):
            `"espeak"`, `"flite"`, `"kokoro"`, `"piper"`, or an object.
        answer_voice, question_voices (`str` and `list[str]`, *optional*):
            The voice of all answers, and the voices that one is drawn from for each question. Default to the plain voice
            of `language` and to all others of it.
        file_format (`str`, *optional*, defaults to `"flac"`):
            `"flac"` or `"wav"`.
        num_processes, seed, limit (`int`, *optional*):
            How many processes speak, the seed of the draws, and how many rows of the source to speak.
        progress (`Callable`, *optional*):
            Called with the number of rows finished since the last call.
    """
    if file_format not in ("flac", "wav"):
        raise ValueError(f'`file_format` is {file_format!r}: it must be "flac" or "wav".')
    engine = load_synthesizer(synthesizer) if isinstance(synthesizer, str) else synthesizer
    output = Path(output).expanduser().absolute()
    voices = _chosen_voices(engine, language, answer_voice, question_voices)
    speaker = _Speaker(engine, output, *voices, file_format, seed)
    report, journal_path = SpokenReport(output / "manifest.jsonl"), output / ".progress"
    if report.manifest.exists() and not journal_path.exists():
        raise ValueError(f"'{output}' holds another corpus: choose another folder.")
    output.mkdir(parents=True, exist_ok=True)
    rows = enumerate(row_as_said(row, language) for row in islice(rows_with_paths(source), limit))
    chunks = iter(lambda: list(islice(rows, ROWS_PER_CHUNK)), [])
    with open(journal_path, "a+b") as journal:
        journal.seek(0)
        for part in _parts(speaker, chunks, num_processes, journal):
            report.num_rows += len(part["rows"])
            report.seconds += part["seconds"]
            report.errors += part["errors"]
            if progress is not None:
                progress(len(part["keys"]))
        if report.num_rows == 0:
            journal_path.unlink()
            reason = report.errors[0] if report.errors else "there are none"
            raise SynthesisError(f"No row of '{source}' could be spoken: {reason}")
        journal.seek(0)
        write_rows(report.manifest, (row for line in journal for row in json.loads(line)["rows"]))
    return report


def _chosen_voices(
    engine: Synthesizer, language: str, answer_voice: str | None, question_voices: Sequence[str] | None
) -> tuple[str, list[str]]:
    every, known = engine.voices(), engine.voices(language)
    for voice in (answer_voice, *(question_voices or ())):
        # a mixture (`a:2+b:1`) is checked by the engine that can mix
        if voice is not None and voice not in every and "+" not in voice:
            raise SynthesisError(f"There is no voice {voice!r}: choose from {', '.join((known or every)[:8])} ….")
    if not known and not (answer_voice and question_voices):
        raise SynthesisError(f"There is no voice of the language {language!r}: choose another language.")
    answer_voice = answer_voice or next((voice for voice in (language, f"{language}-us") if voice in known), known[0])
    return answer_voice, list(question_voices or [voice for voice in known if voice != answer_voice] or known)


def rows_with_paths(source: Any) -> Iterator[dict]:
    """The rows of a source, each with the columns that it has, and with the paths of its audio files."""
    for row in load_rows(source, streaming=True):
        row = {name: value for name, value in row.items() if has(row, name)}
        for name in ("question_audio", "answer_audio"):
            if name in row:
                row[name] = None if row[name].get("bytes") is not None else row[name].get("path")
                if row[name] is None:
                    raise RowError(row.get("id", ""), name, f"`{name}` is not a path: only audio files can be kept.")
        yield row


@dataclass(frozen=True)
class _Speaker:
    """Speaks the rows of a chunk, in any process."""

    synthesizer: Synthesizer
    output: Path
    answer_voice: str
    question_voices: list[str]
    file_format: str
    seed: int

    def speak(self, chunk: Chunk) -> dict[str, Any]:
        spoken, errors = [], []
        for index, row in chunk:
            try:
                spoken.append(self._spoken(row, index))
            except SynthesisError as error:
                errors.append(f"{row.get('id', index)}: {error}")
        seconds = sum(row.get(f"{side}_seconds", 0.0) for row in spoken for side in ("question", "answer"))
        return {"keys": self.keys(chunk), "rows": spoken, "errors": errors, "seconds": seconds}

    def keys(self, chunk: Chunk) -> list[str]:
        """Identify each row together with the settings that it is spoken with."""
        settings = [type(self.synthesizer).__name__, *map(str, list(vars(self).values())[1:])]
        contents = [json.dumps([settings, {name: row[name] for name in row if name != "id"}]) for _, row in chunk]
        return [hashlib.blake2b(content.encode(), digest_size=8).hexdigest() for content in contents]

    def _spoken(self, row: dict, index: int) -> dict:
        generator = generator_of(self.seed, index)
        voice = self.question_voices[generator.integers(len(self.question_voices))]
        rate, pitch = (round(generator.uniform(*bounds), 3) for bounds in (RATES, PITCHES))
        if has(row, "question_text") and not has(row, "question_audio"):
            row = row | {"speaker": voice} | self._written("question", index, row, voice, rate, pitch)
        if has(row, "answer_text") and not has(row, "answer_audio"):
            row = row | self._written("answer", index, row, self.answer_voice)
        return row

    def _written(self, side: str, index: int, row: dict, voice: str, *style: float) -> dict[str, Any]:
        """Speaks the question or the answer of a row into a file, and returns its columns."""
        text = row[f"{side}_text"]
        speech = self.synthesizer.speak(text, voice, *style)
        if np.abs(speech.waveform).max(initial=0.0) < MIN_PEAK:
            raise SynthesisError(f"The voice {voice!r} is silent for {text!r}: choose one of the text's language.")
        path = self.output / "audio" / f"{index // 1000:06d}" / f"{index:09d}_{side}.{self.file_format}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, speech.waveform, speech.sampling_rate)
        columns = {f"{side}_audio": str(path), f"{side}_seconds": round(speech.seconds, 4)}
        if side == "answer" and speech.word_times is not None:
            columns["answer_word_times"] = [round(time, 3) for time in speech.word_times]
        return columns


def _parts(
    speaker: _Speaker, chunks: Iterator[Chunk], num_processes: int, journal: BinaryIO
) -> Iterator[dict[str, Any]]:
    """The spoken chunks: first those of earlier runs, from the journal; then new ones, which are appended to it."""
    end = 0
    for chunk in chunks:
        line, keys = journal.readline(), speaker.keys(chunk)
        part = json.loads(line) if line.endswith(b"\n") else {"keys": []}
        if part["keys"] == keys:
            end = journal.tell()
            yield part
        elif part["keys"] == keys[: len(part["keys"])] and not journal.readline():
            # nothing, a line cut off, or the last chunk of a source that has grown
            chunks = chain([chunk], chunks)
            break
        else:
            raise ValueError(
                f"'{speaker.output}' holds other rows, or rows spoken with other settings: choose another folder."
            )
    else:
        if journal.readline().endswith(b"\n"):
            raise ValueError(f"'{speaker.output}' holds more rows than the source: choose another folder.")
    journal.truncate(end)
    for part in _spoken(speaker, chunks, num_processes):
        journal.write(json.dumps(part, ensure_ascii=False).encode() + b"\n")
        journal.flush()
        yield part


def _spoken(speaker: _Speaker, chunks: Iterator[Chunk], num_processes: int) -> Iterator[dict[str, Any]]:
    """
    Speaks each chunk in a new process: espeak-ng keeps state from text to text, and the audio would otherwise depend on
    the order of the chunks.
    """
    # a new interpreter would import torch for each chunk
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "forkserver")
    context.set_forkserver_preload([__name__])
    running: deque = deque()
    try:
        while True:
            for chunk in islice(chunks, num_processes - len(running)):
                pool = ProcessPoolExecutor(1, context)
                running.append((pool, pool.submit(speaker.speak, chunk)))
            if not running:
                return
            pool, future = running.popleft()
            with pool:
                yield future.result()
    finally:
        for pool, _ in running:
            pool.shutdown(wait=False, cancel_futures=True)
