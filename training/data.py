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
"""Training rows: the columns of a row, the tasks it offers, and where rows are read from."""

import csv
import difflib
import glob
import gzip
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np

from ..processing.audio_io import load_audio
from ..processing.files import atomic_write


# Every column and the kind of its values.
COLUMNS: dict[str, Literal["text", "texts", "audio", "seconds", "times", "messages"]] = {
    "id": "text",  # names the row in messages; `file:line` if it is missing
    "question_text": "text",  # what the user writes, or the transcript of `question_audio`
    "question_audio": "audio",  # what the user says: a path (relative to the manifest) or the bytes of a file
    "question_start": "seconds",  # where the question begins in a long recording
    "question_end": "seconds",  # where it ends
    "question_seconds": "seconds",  # duration of the question: saves reading the header of the file
    "answer_text": "text",  # what the assistant writes, or the transcript of `answer_audio`
    "question_word_times": "times",  # the second at which each word of `question_text` begins in `question_audio`
    "question_character_times": "times",  # the second at which each character of `question_text` is said
    "answer_audio": "audio",  # what the assistant says
    "answer_seconds": "seconds",  # duration of the spoken answer
    "voice": "text",  # who says what the task `say` takes from the row: one of the voices of a speech decoder
    "answer_word_times": "times",  # the second at which each word of `answer_text` begins in `answer_audio`
    "answer_character_times": "times",  # the second at which each character of `answer_text` is said
    "accepted_answers": "texts",  # a correct answer contains one of them; of evaluations
    "history": "messages",  # earlier turns, each with `role` (user or assistant) and `text`
    "system": "text",  # the system prompt
    "language": "text",
    "speaker": "text",
}
MANIFEST_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
REMOTE = ("http://", "https://", "data:", "hf://", "s3://", "zip://")
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{CJK}][^\s\w]*|[^\s{CJK}]+")


class RowError(ValueError):
    """An invalid row: where it is, which field is wrong, and what the field should be."""

    def __init__(self, where: str, field: str, problem: str):
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where, self.field, self.problem = where, field, problem


@dataclass(frozen=True)
class TaskSpec:
    """The columns of a task: the user's message, the written answer, and the spoken answer if the task has one."""

    prompt: Literal["ask", "say", "transcribe"]  # the task of the processor's `make_conversation`
    question: str
    answer_text: str
    answer_audio: str | None = None

    @cached_property
    def needs(self) -> tuple[str, ...]:
        names = (self.question, self.answer_text, self.answer_audio)
        return tuple(dict.fromkeys(name for name in names if name is not None))


TASKS: dict[str, TaskSpec] = {
    "transcribe": TaskSpec("transcribe", "question_audio", "question_text"),
    "say": TaskSpec("say", "answer_text", "answer_text", "answer_audio"),
    "speech_to_speech": TaskSpec("ask", "question_audio", "answer_text", "answer_audio"),
    "speech_to_text": TaskSpec("ask", "question_audio", "answer_text"),
    "text_to_speech": TaskSpec("ask", "question_text", "answer_text", "answer_audio"),
    "text_to_text": TaskSpec("ask", "question_text", "answer_text"),
}
# A recording with its transcript and no answer, as in ASR corpora, also serves the task `say`.
SAY_RECORDING = TaskSpec("say", "question_text", "question_text", "question_audio")


def has(row: Mapping, name: str) -> bool:
    """Whether a column of the row holds a value."""
    value = row.get(name)
    if value is None or isinstance(value, str | list | tuple):
        return bool(value)
    return not isinstance(value, Mapping) or any(value.get(key) is not None for key in ("array", "bytes", "path"))


def spec_of(row: Mapping, task: str) -> TaskSpec:
    """The columns that the task takes from this row."""
    if task not in TASKS:
        raise ValueError(f"The task is {task!r}: it must be one of {', '.join(TASKS)}.")
    is_recording = not has(row, "answer_text") and not has(row, "answer_audio")
    return SAY_RECORDING if task == "say" and is_recording else TASKS[task]


def tasks_of(row: Mapping) -> list[str]:
    """The tasks that the row has all columns for."""
    return [task for task in TASKS if all(has(row, name) for name in spec_of(row, task).needs)]


def conversation_of(row: Mapping, task: str, processor: Any) -> list[dict]:
    """
    The messages of a training example for `processor.encode_training_example`; the last one is the answer. The user's
    message is made by the processor, so that training and inference share their prompts.
    """
    spec = spec_of(row, task)
    for name in spec.needs:
        if not has(row, name):
            offered = ", ".join(tasks_of(row)) or "no task"
            problem = f"the task {task!r} needs `{name}`; the row offers {offered}."
            raise RowError(str(row.get("id") or ""), name, problem)
    is_spoken = spec.question == "question_audio"
    question = {"audio": audio_of(row, spec.question)} if is_spoken else {"text": row[spec.question]}
    answer = [{"type": "text", "text": row[spec.answer_text]}]
    if spec.answer_audio is not None:
        answer.append({"type": "audio", "audio": audio_of(row, spec.answer_audio)})
    messages = [{"role": "system", "content": row["system"]}] if has(row, "system") else []
    if spec.prompt == "ask" and has(row, "history"):
        messages += [{"role": turn["role"], "content": turn["text"]} for turn in row["history"]]
    messages += processor.make_conversation(spec.prompt, **question)
    return [*messages, {"role": "assistant", "content": answer}]


def words_of(text: str) -> list[str]:
    """The words of a text with the punctuation after them; in Chinese and Japanese, its characters."""
    return WORD.findall(text)


def word_times_of(row: Mapping, task: str) -> list[tuple[str, float]] | None:
    """The words of a spoken answer and their onsets, for the timed layout; `None` if the row has no times."""
    spec = spec_of(row, task)
    onsets = times_of(row, spec, "word")
    if onsets is None:
        return None
    words = words_of(row[spec.answer_text])
    if len(words) != len(onsets):
        name = f"{spec.answer_audio.removesuffix('_audio')}_word_times"
        problem = f"{len(onsets)} times for {len(words)} words (between spaces; in Chinese and Japanese, characters)"
        raise RowError(str(row.get("id") or ""), name, f"`{name}` has {problem}.")
    return list(zip(words, onsets))


def times_of(row: Mapping, spec: TaskSpec, unit: Literal["word", "character"]) -> list[float] | None:
    """The seconds at which each unit of a spoken answer is said; `None` if the row has no times."""
    name = f"{(spec.answer_audio or '').removesuffix('_audio')}_{unit}_times"
    return row[name] if spec.answer_audio is not None and has(row, name) else None


def uniform(*key: Any) -> float:
    """A number in [0, 1) that depends on the key alone, in any process and any order."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def audio_of(row: Mapping, name: str) -> Any:
    """An audio column as [`load_audio`] reads it; for a segment of a long recording, its samples."""
    if name != "question_audio" or not (has(row, "question_start") or has(row, "question_end")):
        return row[name]
    with _open_sound(row[name]) as file:
        rate, first = file.samplerate, round((row.get("question_start") or 0.0) * file.samplerate)
        last = min(round(row["question_end"] * rate), file.frames) if has(row, "question_end") else file.frames
        if first >= last:
            raise ValueError(
                f"The recording is {file.frames / rate:.2f} s long; its segment begins at {first / rate:g} s."
            )
        file.seek(first)
        samples = file.read(last - first, dtype="float32", always_2d=True)
    return {"array": samples.mean(axis=1), "sampling_rate": rate}


def audio_seconds(row: Mapping, side: str, trust_columns: bool = True) -> float:
    """The duration of the `question` or `answer` audio: from the row if it has it, otherwise from the file's header."""
    if trust_columns and row.get(f"{side}_seconds") is not None:
        return row[f"{side}_seconds"]
    start, end = row.get(f"{side}_start") or 0.0, row.get(f"{side}_end")
    if trust_columns and end is not None:
        return end - start
    with _open_sound(row[f"{side}_audio"]) as file:
        total = file.frames / file.samplerate
    if total == 0 or (end or 0.0) > total + 0.1:
        raise ValueError(
            f"The recording is {total:.2f} s long" + (f"; its segment ends at {end:g} s." if end else ".")
        )
    return (total if end is None else min(end, total)) - start


def _open_sound(source: Any) -> Any:
    """An audio cell as a `soundfile.SoundFile`. Sources other than a local file or the bytes of a file are read whole."""
    import soundfile

    file = file_of(source)
    if file is None:
        rate = source.get("sampling_rate") or 48000 if isinstance(source, Mapping) else 48000
        file = io.BytesIO()
        soundfile.write(file, load_audio(source, rate), rate, format="WAV", subtype="FLOAT")
        file.seek(0)
    elif isinstance(file, str) and not os.path.isfile(file):
        raise FileNotFoundError(f"There is no audio file '{file}'.")
    try:
        return soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"Cannot decode {source!r:.200} ({error}): convert it to wav or flac.") from error


def file_of(source: Any) -> str | io.BytesIO | None:
    """What soundfile opens of an audio cell that is a local file or the bytes of one; otherwise `None`."""
    if isinstance(source, Mapping):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(bytes(source))
    if isinstance(source, str | os.PathLike) and not str(source).startswith(REMOTE):
        return os.path.expanduser(source)
    return None


def check_row(raw: Any, where: str, folder: str | os.PathLike | None = None) -> dict[str, Any]:
    """
    The known fields of a row, each with its checked value; values of CSV files are strings and are parsed here. `where`
    is its place (`file.jsonl:12`), and its `id` if it has none; relative paths of audio start at `folder`.
    """
    if not isinstance(raw, Mapping):
        raise RowError(where, "", f"the row is {raw!r:.80}: it must be an object of fields ({', '.join(COLUMNS)}).")
    check_columns(list(raw), where)
    row = {"id": where} | {name: _checked(raw[name], name, where) for name in COLUMNS if has(raw, name)}
    for name in ("question_audio", "answer_audio"):
        audio = row.get(name)
        path = audio.get("path") if isinstance(audio, Mapping) else audio
        # the path of an embedded file is only its name
        if folder is not None and isinstance(path, str) and file_of(audio) == os.path.expanduser(path):
            path = str(Path(folder) / Path(path).expanduser())
            row[name] = audio | {"path": path} if isinstance(audio, Mapping) else path
    if row.get("question_start", 0.0) >= row.get("question_end", math.inf):
        raise RowError(where, "question_end", "`question_end` must be after `question_start`.")
    # a text alone can be spoken (`prepare speak`)
    if not tasks_of(row) and not has(row, "question_text") and not has(row, "answer_text"):
        given = ", ".join(f"`{name}`" for name in row if name != "id") or "no known field"
        needs = "; ".join(f"{task}: {' + '.join(spec.needs)}" for task, spec in TASKS.items())
        raise RowError(where, "", f"the row has {given}, which serves no task. Each task needs: {needs}.")
    return row


def check_columns(names: Sequence[str], where: str) -> None:
    """Refuses misspelt columns, which would be ignored silently, and rows without any known column."""
    for name in names:
        close = [] if name in COLUMNS else difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.85)
        if close:
            raise RowError(where, name, f"the field `{name}` is unknown: did you mean `{close[0]}`?")
    if not any(name in COLUMNS for name in names):
        problem = f"none of its fields ({', '.join(names)}) is known. The fields are {', '.join(COLUMNS)}"
        raise RowError(
            where, "", f"{problem}; map other names with `columns` (`columns={{question_text: sentence}}`)."
        )


def _checked(value: Any, name: str, where: str) -> Any:
    """The value of a field in its final form."""
    kind = COLUMNS[name]

    def check(is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise RowError(where, name, f"`{name}` is {value!r:.80}: it must be {expected}.")

    def seconds(number: Any) -> float:
        text = "" if isinstance(number, bool) else str(number).strip()
        check(re.fullmatch(r"\+?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text) is not None, "a number of seconds, 0 or more")
        return float(text)

    if kind == "text":
        text = str(value) if name == "id" and isinstance(value, int) else value
        check(isinstance(text, str) and text.strip(), "a string that is not blank")
        return text
    if kind == "audio":
        is_audio = isinstance(value, str | os.PathLike | bytes | Mapping) or hasattr(value, "get_all_samples")
        check(is_audio, "the path of an audio file, or an object with `path` or `bytes`")
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value
    if kind == "seconds":
        return seconds(value)
    try:
        items = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        items = None
    check(isinstance(items, list | tuple), "a list (in a CSV file, written as JSON)")
    if kind == "texts":
        check(all(isinstance(item, str) and item.strip() for item in items), "a list of strings that are not blank")
        return list(items)
    if kind == "times":
        times = [seconds(time) for time in items]
        check(times == sorted(times), "onsets in ascending order")
        return times
    turns = [dict(turn) if isinstance(turn, Mapping) else {} for turn in items]
    is_valid = all(turn.get("role") in ("user", "assistant") and isinstance(turn.get("text"), str) for turn in turns)
    check(is_valid, "a list of turns, each with `role` (user or assistant) and `text`")
    return [{"role": turn["role"], "text": turn["text"]} for turn in turns]


def load_rows(
    source: Any, columns: Mapping[str, str] | None = None, split: str | None = None, streaming: bool = False
) -> Any:
    """
    Rows as a `datasets.Dataset`, with `streaming` an `IterableDataset`, of several sources [`MixedRows`]. Audio is not
    decoded. Rows of manifests are checked here, each once.

    A source is a manifest (`.jsonl`, `.csv`, `.tsv`, gzipped or not), parquet files, a pattern such as `shards/*.parquet`,
    a folder of these or one written by `save_to_disk`, the id of a dataset on the Hub, or a dataset. A list joins several; a
    `dict` maps sources to how many times their rows come per epoch (of streams: to their proportion). `columns` maps our
    names to the dataset's names of columns; `split` is `"train"` by default.
    """
    columns, files = dict(columns or {}), _files_of(source)
    if unknown := [ours for ours in columns if ours not in COLUMNS]:
        raise ValueError(f"`columns` maps the unknown column {unknown[0]!r}: the columns are {', '.join(COLUMNS)}.")
    if isinstance(source, list | tuple) and not files:
        source = dict.fromkeys(source, 1.0)
    if isinstance(source, Mapping) and not isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        return _mixed(source, columns, split, streaming)
    if files and not files[0].endswith(".parquet"):
        if streaming:
            kwargs = {"files": files, "columns": columns}
            return datasets.IterableDataset.from_generator(checked_rows, row_features(), gen_kwargs=kwargs)
        rows = list(checked_rows(files, columns))
        if not rows:
            raise ValueError(f"There are no rows in {', '.join(files)}.")
        return datasets.Dataset.from_list(rows, features=row_features())
    rows = _open_dataset(source, files, split, streaming)
    names = rows.column_names or list(next(iter(rows)))
    if missing := [theirs for ours, theirs in columns.items() if theirs not in names and ours not in names]:
        raise ValueError(f"{source} lacks the column {missing[0]!r} of `columns`: it has {', '.join(names)}.")
    for name in [name for name, feature in (rows.features or {}).items() if isinstance(feature, datasets.Audio)]:
        rows = rows.cast_column(name, datasets.Audio(decode=False))
    renamed = {theirs: ours for ours, theirs in columns.items() if theirs in names and theirs != ours}
    check_columns([renamed.get(name, name) for name in names], str(source))
    return rows.rename_columns(renamed)


def raw_rows(
    source: Any, columns: Mapping[str, str] | None = None, split: str | None = None
) -> Iterator[tuple[str, str | None, Any]]:
    """Every row as it was read (a [`RowError`] in place of one that cannot be), with its place and its folder."""
    files, ours = _files_of(source), {theirs: name for name, theirs in (columns or {}).items()}
    if not files or files[0].endswith(".parquet"):
        for number, row in enumerate(load_rows(source, columns, split, streaming=True), start=1):
            yield f"row {number} of {source}", None, row
        return
    for file in files:
        for where, row in _lines_of(file):
            if ours and isinstance(row, Mapping):
                row = {ours.get(name, name): value for name, value in row.items()}
            yield where, os.path.dirname(os.path.abspath(file)), row


def write_rows(path: str | os.PathLike, rows: Iterable[Mapping]) -> int:
    """Writes a JSONL manifest, atomically, with paths relative to it as far as possible. Returns the number of rows."""
    path, num_rows = Path(path), 0
    folder = path.parent.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        for row in rows:
            row = dict(row)
            for name in ("question_audio", "answer_audio"):
                if isinstance(row.get(name), str | os.PathLike) and not str(row[name]).startswith(REMOTE):
                    audio = Path(os.path.abspath(row[name]))
                    row[name] = str(audio.relative_to(folder) if audio.is_relative_to(folder) else audio)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            num_rows += 1
    return num_rows


def _files_of(source: Any) -> list[str]:
    """The manifests or the parquet files that `source` names; empty if it is something else."""
    if isinstance(source, list | tuple):
        found = [_files_of(item) for item in source]
        files = [file for item in found for file in item] if all(found) else []
        return files if len({file.endswith(".parquet") for file in files}) == 1 else []
    if not isinstance(source, str | os.PathLike):
        return []
    path = os.path.expanduser(os.fspath(source))
    if os.path.isdir(path):
        if any(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json")):
            return []
        found = sorted(str(file) for file in Path(path).iterdir() if _is_rows(file.name))
        if len({file.endswith(".parquet") for file in found}) != 1:
            raise ValueError(f"The folder '{path}' must hold manifests, or parquet files, or a saved dataset.")
        return found
    found = [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True))
    # an id on the Hub is `name` or `owner/name`, without a suffix
    if not found and (path.count("/") > 1 or path.startswith(("/", ".", "~")) or "*" in path or _is_rows(path)):
        raise FileNotFoundError(f"There is no file '{path}': check the path of the manifest.")
    for file in found:
        if not _is_rows(file):
            raise ValueError(f"'{file}' must end in {', '.join(MANIFEST_SUFFIXES)} (perhaps with .gz), or .parquet.")
    return found


def _is_rows(name: str) -> bool:
    return name.removesuffix(".gz").lower().endswith((*MANIFEST_SUFFIXES, ".parquet"))


def open_text(path: str | os.PathLike, errors: str = "strict") -> Any:
    """A UTF-8 text file, gzipped or not, opened for reading. A byte order mark is skipped."""
    opener = gzip.open if os.fspath(path).endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig", errors=errors, newline="")


def _lines_of(file: str) -> Iterator[tuple[str, Any]]:
    """The rows of a manifest with their places; a [`RowError`] in place of a line that cannot be parsed."""
    name = file.removesuffix(".gz").lower()
    is_table = name.endswith((".csv", ".tsv"))
    with open_text(file, errors="surrogateescape") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if name.endswith(".tsv") else ",") if is_table else lines
        for number, row in enumerate(reader, start=1):
            text = " ".join(map(str, row.values())) if is_table else row
            if not text.strip():
                continue
            where = f"{file}:{reader.line_num if is_table else number}"
            try:
                text.encode()  # bytes that are not UTF-8 were read as surrogates
                row = row if is_table else json.loads(row)
            except ValueError as error:
                expected = "UTF-8" if isinstance(error, UnicodeError) else "JSON, one object per line"
                row = RowError(where, "", f"the line is not {expected} ({error}).")
            if is_table and isinstance(row, dict) and None in row:
                row = RowError(where, "", "the line has more values than columns: quote those with a separator.")
            yield where, row


def row_features() -> datasets.Features:
    """The columns as `datasets` declares them; audio as `Audio(decode=False)` stores it."""
    kinds = {
        "text": datasets.Value("string"),
        "texts": datasets.List(datasets.Value("string")),
        "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "seconds": datasets.Value("float64"),
        "times": datasets.List(datasets.Value("float64")),
        "messages": datasets.List({"role": datasets.Value("string"), "text": datasets.Value("string")}),
    }
    return datasets.Features({name: kinds[kind] for name, kind in COLUMNS.items()})


def checked_rows(files: Sequence[str], columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of manifests, checked, with every column."""
    for where, folder, raw in raw_rows(files, columns):
        if isinstance(raw, RowError):
            raise raw
        row = dict.fromkeys(COLUMNS) | check_row(raw, where, folder)
        for name in ("question_audio", "answer_audio"):
            if row[name] is not None and not isinstance(row[name], Mapping):
                row[name] = {"bytes": None, "path": os.fspath(row[name])}
        yield row


def _open_dataset(source: Any, files: list[str], split: str | None, streaming: bool) -> Any:
    """Parquet files, a saved dataset, a dataset on the Hub, or one that is loaded already."""
    if files:
        loaded = datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming)
    elif isinstance(source, str | os.PathLike) and os.path.isdir(source):
        loaded = datasets.load_from_disk(os.fspath(source))
    elif isinstance(source, str):
        loaded = datasets.load_dataset(source, split=split, streaming=streaming)
    else:
        loaded = source
    if isinstance(loaded, Mapping):
        chosen = split or ("train" if "train" in loaded or len(loaded) > 1 else next(iter(loaded)))
        if chosen not in loaded:
            raise ValueError(f"{source} has no split {chosen!r}: choose one of {', '.join(loaded)}.")
        loaded = loaded[chosen]
    if not isinstance(loaded, datasets.Dataset | datasets.IterableDataset):
        raise TypeError(f"Cannot read rows from a `{type(source).__name__}`: pass a file, a folder or a dataset.")
    if streaming and isinstance(loaded, datasets.Dataset):
        loaded = loaded.to_iterable_dataset(num_shards=min(64, max(1, len(loaded))))
    return loaded


class MixedRows(Sequence):
    """Several sources, one after another. `times` each comes per epoch; 0.5: half of its rows now, the others next."""

    def __init__(self, sources: Sequence[Any], times: Sequence[float]):
        self.sources, self.times = list(sources), list(times)
        self.ends = np.cumsum([len(source) for source in self.sources]).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"There is no row {index} among {len(self)}.")
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.sources[number][index - self.ends[number] + len(self.sources[number])]


def draws_of_epoch(sizes: Sequence[int], times: Sequence[float], seed: int, epoch: int) -> list[tuple[int, int]]:
    """
    The rows of an epoch as `(round, index)`, over sources of `sizes` rows. Each source is gone through round by round in
    an order of its own, and an epoch continues where the last one stopped: no row comes again before all others did.
    """
    draws, first = [], 0
    for number, (size, share) in enumerate(zip(sizes, times)):
        order = np.random.default_rng((seed, number)).permutation(size).tolist()
        start, end = (round(passed * share * size) for passed in (epoch, epoch + 1))
        draws += [(place // size, first + order[place % size]) for place in range(start, end)]
        first += size
    return draws


def _mixed(sources: Mapping[Any, Any], columns: Mapping[str, str], split: str | None, streaming: bool) -> Any:
    """[`MixedRows`], or one stream with the rows of several in proportion, until all have been read once."""
    sources = checked_weights(sources, "source")
    parts = [load_rows(source, columns, split, streaming) for source in sources]
    if not streaming:
        return MixedRows(parts, [*sources.values()])
    features, alike = row_features(), []
    for stream in parts:
        names = [name for name in stream.column_names or next(iter(stream)) if name in features]
        missing = {name: None for name in features if name not in names}
        stream = stream.select_columns(names)
        alike.append(stream.map(lambda row, missing=missing: row | missing, features=features))
    shares = np.array([*sources.values()]) / sum(sources.values())
    return datasets.interleave_datasets(alike, shares.tolist(), seed=0, stopping_strategy="all_exhausted")


def checked_weights(weights: Mapping[Any, float], kind: str) -> dict[Any, float]:
    """The weights of sources or tasks, without those of 0."""
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0.0 <= weight < math.inf:
            raise ValueError(f"The weight of the {kind} {str(name)!r} is {weight!r}: it must be a number, 0 or more.")
    if not any(weights.values()):
        raise ValueError(f"Give at least one {kind} a weight above 0.")
    return {name: float(weight) for name, weight in weights.items() if weight > 0}
