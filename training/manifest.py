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
"""Rows from where they lie: JSONL and CSV manifests, parquet shards, saved datasets and the Hub, in memory or streamed."""

import csv
import glob
import gzip
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from .mixing import MixedRows, checked_times, interleaved
from .row_checks import check_columns, check_row
from .rows import COLUMNS, WRONG, RowError


logger = logging.getLogger(__name__)

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
# Skipped rows of a file that are named; of the others, their number is enough.
MAX_NAMED = 10
# Rows of a manifest that tell which columns it has: a line of JSON need not have all of them.
MAX_LOOKED_AT = 100
# How `errors="surrogateescape"` reads a byte that is no UTF-8.
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
# Manifests up to this size are held in memory; larger ones are written to the cache of `datasets` and mapped.
MAX_BYTES_IN_MEMORY = 64 * 2**20


def load_rows(
    source: Any,
    split: str | None = None,
    streaming: bool = False,
    columns: Mapping[str, str] | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    keep_wrong: bool = False,
):
    """
    Rows as a `datasets.Dataset`, or an `IterableDataset` with `streaming=True`. Audio is never decoded here.

    Args:
        source (`str`, `Path`, `list` of them, `Dataset` or `IterableDataset`, or `dict`):
            A manifest (`.jsonl`, `.csv`, `.tsv`, gzipped or not), parquet files, a pattern such as `shards/*.parquet`, a
            folder with any of these, a folder written by `save_to_disk`, or the id of a dataset on the Hub. A `dict` mixes
            several of them: each with how many times its rows come in an epoch ([`MixedRows`]), or of streams, in which
            proportion.
        split (`str`, *optional*, defaults to `"train"` where there are several):
            Which split of a dataset with splits.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read the rows as they are needed. Several files are needed to read them in parallel.
        columns (`dict[str, str]`, *optional*):
            For a dataset that names its columns otherwise: our name to theirs, such as `{"question_text": "sentence"}`.
        on_error (`str`, *optional*, defaults to `"stop"`):
            What to do with a wrong row of a manifest: `"stop"`, or `"skip"` it and count.
        keep_wrong (`bool`, *optional*, defaults to `False`):
            Whether in the place of a row that is skipped there comes one that tells what is wrong with it (`WRONG`), for
            batches to count: lines that are left out here are named, and then forgotten.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f'`on_error` is {on_error!r}: it must be "stop" or "skip".')
    if isinstance(source, Mapping) and not isinstance(
        source, _datasets().DatasetDict | _datasets().IterableDatasetDict
    ):
        times = checked_times(source)
        parts = [load_rows(part, split, streaming, columns, on_error, keep_wrong) for part in times]
        return interleaved(parts, [*times.values()]) if streaming else MixedRows(parts, [*times.values()])
    files = _files_of(source)
    if files and all(_kind_of(file) != "parquet" for file in files):
        return _from_manifests(files, dict(columns or {}), streaming, on_error, keep_wrong and on_error == "skip")
    return _with_our_columns(_from_datasets(source, files, split, streaming), dict(columns or {}), str(source))


def raw_rows(
    source: Any, split: str | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str | None, Any]]:
    """
    Every row as it was read, but for its `columns`, with where it stands (`file.jsonl:12`, `row 12 of NAME`) and the folder
    its paths are relative to. A line that cannot be read comes as the [`RowError`] that says why.
    """
    files, columns = _files_of(source), dict(columns or {})
    if files and all(_kind_of(file) != "parquet" for file in files):
        _check_renaming(files, columns)
        for file in files:
            for number, raw in _lines_of(file):
                yield f"{file}:{number}", os.path.dirname(file), _renamed(raw, columns)
        return
    rows = _undecoded(_from_datasets(source, files, split, streaming=True))
    name = source if isinstance(source, str | os.PathLike) else "the dataset"
    if columns:
        _check_has(rows.column_names or list(next(iter(rows))), columns, str(name))
    for number, raw in enumerate(rows, start=1):
        yield f"row {number} of {name}", None, _renamed(raw, columns)


def write_rows(path: str | os.PathLike, rows: Any) -> int:
    """
    Writes rows as a JSONL manifest, which appears only when it is complete, and returns how many there were. Paths of
    audio inside the manifest's folder are written relative to it, so that the folder can move.
    """
    path, num_rows = Path(path), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    folder = path.parent.resolve()
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(_relative_to(folder, row), ensure_ascii=False) + "\n")
                num_rows += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return num_rows


def _relative_to(folder: Path, row: Mapping) -> dict:
    row = dict(row)
    for name in ("question_audio", "answer_audio"):
        if isinstance(row.get(name), str | os.PathLike) and "://" not in str(row[name]):
            path = Path(os.path.abspath(row[name]))
            row[name] = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    return row


def _files_of(source: Any) -> list[str]:
    """The manifest or parquet files that `source` names; none if it is something else."""
    if isinstance(source, list | tuple):
        return [file for item in source for file in _files_of(item)]
    if not isinstance(source, str | os.PathLike):
        return []
    path = os.path.expanduser(os.fspath(source))
    if any(character in path for character in "*?["):
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise FileNotFoundError(f"No file matches {path!r}: check the pattern.")
        return found
    if os.path.isfile(path):
        if _kind_of(path) is None:
            raise ValueError(
                f"'{path}' is no manifest: it must end in {', '.join(TEXT_SUFFIXES)} (or that .gz), or .parquet."
            )
        return [path]
    if _is_saved_dataset(path):
        return []
    if os.path.isdir(path):
        found = sorted(str(file) for file in Path(path).iterdir() if file.is_file() and _kind_of(file) is not None)
        kinds = {_kind_of(file) == "parquet" for file in found}
        if not found or len(kinds) == 2:
            what = (
                "manifests beside parquet files"
                if found
                else "neither manifests nor parquet files nor a saved dataset"
            )
            raise ValueError(f"The folder '{path}' holds {what}: name the files to read.")
        return found
    if not _is_perhaps_on_the_hub(path):
        raise FileNotFoundError(f"There is no '{path}': check the path of the manifest.")
    return []


def _is_perhaps_on_the_hub(name: str) -> bool:
    """Whether a name may be a dataset's id. A mistyped path is none, and need not wait until the Hub does not answer."""
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    return not is_path and not {suffix.lower() for suffix in Path(name).suffixes} & {*TEXT_SUFFIXES, ".parquet"}


def _kind_of(path: str | os.PathLike) -> str | None:
    name = os.fspath(path).lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return "parquet"
    return next((suffix for suffix in TEXT_SUFFIXES if name.endswith(suffix)), None)


def _is_saved_dataset(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json"))


def _lines_of(file: str) -> Iterator[tuple[int, Any]]:
    """The rows of a manifest with the number of their line, or the error in the place of a row."""
    # bytes that are no UTF-8 are told with their line: raised by the decoder, they would end the file
    with open_text(file, errors="surrogateescape") as lines:
        if _kind_of(file) in (".csv", ".tsv"):
            yield from _csv_lines(lines, file)
        else:
            yield from _json_lines(lines, file)


def open_text(path: str | os.PathLike, errors: str = "strict") -> Any:
    """A text file, gzipped or not, opened for reading. `errors` is what happens to bytes that are no UTF-8, as in `open`."""
    opener = gzip.open if os.fspath(path).endswith(".gz") else open
    # utf-8-sig: spreadsheet programs put a byte order mark in front, which would become part of the first field
    return opener(path, "rt", encoding="utf-8-sig", errors=errors, newline="")


def _csv_lines(lines: Any, file: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(lines, delimiter="\t" if _kind_of(file) == ".tsv" else ",")
    if problem := _undecoded_byte(" ".join(reader.fieldnames or [])):
        yield 1, RowError(f"{file}:1", "", f"the header {problem}")
    for row in reader:
        if problem := _undecoded_byte(" ".join(value for value in row.values() if isinstance(value, str))):
            yield reader.line_num, RowError(f"{file}:{reader.line_num}", "", f"the line {problem}")
        elif None in row:
            problem = f"the line has {len(row[None])} values more than there are columns: quote values that hold the separator."
            yield reader.line_num, RowError(f"{file}:{reader.line_num}", "", problem)
        else:
            yield reader.line_num, row


def _json_lines(lines: Any, file: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if problem := _undecoded_byte(line):
            yield number, RowError(f"{file}:{number}", "", f"the line {problem}")
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            shown = line.strip() if len(line) <= 80 else f"{line.strip()[:80]}…"
            problem = f"the line is no JSON ({error.msg} at column {error.colno}): {shown} Write one object a line."
            yield number, RowError(f"{file}:{number}", "", problem)


def _undecoded_byte(text: str) -> str | None:
    """What to tell of a text that was opened with `errors="surrogateescape"` and has a byte that is no UTF-8."""
    found = None if text.isascii() else ESCAPED_BYTE.search(text)
    if found is None:
        return None
    before = text[max(0, found.start() - 20) : found.start()]
    return f"has the byte {ord(found[0]) - 0xDC00:#04x} behind {before!r}, which is no UTF-8: save the file as UTF-8."


def rows_of_manifests(
    files: Sequence[str], columns: Mapping[str, str], on_error: str, keep_wrong: bool = False, changed: Any = None
) -> Iterator[dict[str, Any]]:
    """Checked rows, every column present. `changed` is what tells one version of the files from another to the cache."""
    nothing = dict.fromkeys(COLUMNS) | ({WRONG: None} if keep_wrong else {})
    for file in files:
        num_skipped = 0
        for number, raw in _lines_of(file):
            try:
                if isinstance(raw, RowError):
                    raise raw
                row = check_row(_renamed(raw, columns), f"{file}:{number}", os.path.dirname(os.path.abspath(file)))
            except RowError as error:
                if on_error == "stop":
                    raise
                if keep_wrong:
                    yield nothing | {"id": f"{file}:{number}", WRONG: str(error)}
                    continue
                num_skipped += 1
                if num_skipped <= MAX_NAMED:
                    logger.warning("Skipped %s", error)
                continue
            yield nothing | {name: _as_cell(row.get(name), column.kind) for name, column in COLUMNS.items()}
        if num_skipped:
            logger.warning("Skipped %d rows of '%s'.", num_skipped, file)


def _as_cell(value: Any, kind: str) -> Any:
    if kind != "audio" or value is None:
        return value
    if isinstance(value, Mapping):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    return {"bytes": None, "path": value}


def _renamed(raw: Any, columns: Mapping[str, str]) -> Any:
    if not columns or not isinstance(raw, Mapping):
        return raw
    theirs = {their: our for our, their in columns.items()}
    return {theirs.get(name, name): value for name, value in raw.items()}


def row_features(keep_wrong: bool = False):
    """
    The columns, with `keep_wrong` that of what is wrong with a row as well, in `datasets` terms. Audio is stored as
    `Audio(decode=False)` stores it, which needs no decoder.
    """
    from datasets import Features, List, Value

    kinds = {
        "text": Value("string"),
        "audio": {"bytes": Value("binary"), "path": Value("string")},
        "seconds": Value("float64"),
        "times": List(Value("float64")),
        "messages": List({"role": Value("string"), "text": Value("string")}),
    }
    wrong = {WRONG: kinds["text"]} if keep_wrong else {}
    return Features({name: kinds[column.kind] for name, column in COLUMNS.items()} | wrong)


def _from_manifests(files: list[str], columns: dict[str, str], streaming: bool, on_error: str, keep_wrong: bool):
    datasets = _datasets()
    _check_renaming(files, columns)
    kwargs = {"files": files, "columns": columns, "on_error": on_error, "keep_wrong": keep_wrong}
    features = row_features(keep_wrong)
    if streaming:
        return datasets.IterableDataset.from_generator(rows_of_manifests, features, gen_kwargs=kwargs)
    sizes = [(os.path.getsize(file), os.stat(file).st_mtime_ns) for file in files]
    if sum(size for size, _ in sizes) <= MAX_BYTES_IN_MEMORY:
        rows = list(rows_of_manifests(**kwargs))
        if all(row.get(WRONG) for row in rows):
            first = f" The first of {len(rows)} that are wrong: {rows[0][WRONG]}" if rows else ""
            raise ValueError(
                f"There are no rows in {', '.join(files)}, or none that can be read: pass a manifest with at least one. "
                f"`flow-omni prepare validate` lists what is wrong.{first}"
            )
        return datasets.Dataset.from_list(rows, features=features)
    try:
        # a tuple: a list would be taken for shards, to be read apart
        return datasets.Dataset.from_generator(
            rows_of_manifests, features, gen_kwargs=kwargs | {"changed": tuple(sizes)}
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from error.__cause__


def _from_datasets(source: Any, files: list[str], split: str | None, streaming: bool):
    """Parquet files, a saved dataset, a dataset on the Hub, or one that is loaded already."""
    datasets = _datasets()
    if isinstance(source, datasets.Dataset | datasets.IterableDataset):
        loaded = source
    elif isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        loaded = _chosen_split(source, split, "the dataset")
    elif files:
        loaded = datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming)
    elif isinstance(source, str | os.PathLike) and os.path.isdir(source):
        loaded = datasets.load_from_disk(os.fspath(source))
        if isinstance(loaded, datasets.DatasetDict):
            loaded = _chosen_split(loaded, split, f"'{source}'")
    elif isinstance(source, str):
        loaded = _from_hub(source, split, streaming)
    else:
        raise TypeError(
            f"Rows cannot be read from a `{type(source).__name__}`: pass a manifest, parquet files, the folder of a saved "
            "dataset, the id of one on the Hub, or a `datasets.Dataset`."
        )
    if streaming and isinstance(loaded, datasets.Dataset):
        loaded = loaded.to_iterable_dataset(num_shards=min(64, max(1, len(loaded))))
    return loaded


def _from_hub(name: str, split: str | None, streaming: bool):
    datasets = _datasets()
    try:
        loaded = datasets.load_dataset(name, split=split, streaming=streaming)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise ValueError(
            f"Cannot load the dataset {name!r} ({' '.join(str(error).split())[:200]}): there is neither a file or folder of this name "
            "here nor, within reach, such a dataset on the Hub. Check the name."
        ) from error
    return loaded if split is not None else _chosen_split(loaded, None, f"'{name}'")


def _chosen_split(splits: Any, split: str | None, name: str):
    if not isinstance(splits, Mapping):
        return splits
    chosen = split or ("train" if "train" in splits or len(splits) > 1 else next(iter(splits)))
    if chosen not in splits:
        raise ValueError(f"{name} has no split {chosen!r}: choose one of {', '.join(splits)}.")
    return splits[chosen]


def _with_our_columns(rows: Any, columns: dict[str, str], name: str):
    names = rows.column_names or list(next(iter(rows)))
    _check_has(names, columns, name)
    check_columns(_names_after(names, columns), name)
    # first: renaming a stream decodes what is not marked by then
    rows = _undecoded(rows)
    renamed = {their: our for our, their in columns.items() if their != our and their in names}
    return rows.rename_columns(renamed) if renamed else rows


def _check_renaming(files: Sequence[str], columns: Mapping[str, str]) -> None:
    """Whether manifests have the columns that are to be renamed, as far as their first rows tell."""
    for file in files if columns else ():
        rows = (row for _, row in _lines_of(file) if isinstance(row, Mapping))
        names = list(dict.fromkeys(name for row in islice(rows, MAX_LOOKED_AT) for name in row))
        if names:
            _check_has(names, columns, f"'{file}'")


def _check_has(names: Sequence[str], columns: Mapping[str, str], source: str) -> None:
    """Of several sources, one may have our names already."""
    for our, their in columns.items():
        if our not in COLUMNS:
            raise ValueError(
                f"`columns` names {our!r}, and training reads {', '.join(COLUMNS)}: say which is {their!r}."
            )
        if their not in names and our not in names:
            raise ValueError(
                f"{source} lacks the column {their!r} of `columns`, which is to be `{our}`: it has {', '.join(names)}."
            )


def _names_after(names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    theirs = {their: our for our, their in columns.items()}
    return [theirs.get(name, name) for name in names]


def _undecoded(rows: Any):
    """The dataset with its audio columns as files: decoding is the business of the workers, and of our own reader."""
    from datasets import Audio

    for name, feature in (rows.features or {}).items():
        if isinstance(feature, Audio) and feature.decode:
            rows = rows.cast_column(name, Audio(decode=False))
    return rows


def _datasets():
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"`datasets` is needed to read training data ({error}): `pip install flow-omni[train]`."
        ) from error
    return datasets
