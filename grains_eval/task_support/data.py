"""Rows and images of the benchmarks, read from the hub's own files.

Dataset scripts no longer run, and some parquet files carry feature metadata that older `datasets` cannot
parse, so the files are read with pyarrow and the metadata is dropped. `GRAINS_EVAL_DATA=/folder` reads a copy
instead of the hub: one folder per dataset, named and laid out as there (`/folder/sqrti/SPA-VL/test/...`).

Documents hold the SHA-256 of an image, never the image: lm-eval hashes and logs documents as JSON, and a
PIL image would put its memory address there. `picture` gives the pixels for the hash.

Three names say picture and stay: functions of tasks call them, lm-eval writes the source of these functions into its
results, and runs whose tasks have different sources are not compared.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import InMemoryTable
from huggingface_hub import snapshot_download
from PIL import Image

from grains_eval.errors import GrainsError, first_line

DATA_VARIABLE = "GRAINS_EVAL_DATA"

_images: dict[str, tuple[str, Callable[[], bytes]]] = {}


def fetch(repo: str, revision: str, patterns: Sequence[str]) -> Path:
    """Give the folder that holds a dataset's files: the local copy if one is named, else the hub's.

    Args:
        repo: Hub id, `org/name`; also the path below `GRAINS_EVAL_DATA`.
        revision: Full commit hash or branch; a local copy is taken as it is.
        patterns: Globs of the files that are needed.

    Raises:
        GrainsError: the local copy or the download is not there.
    """
    root = os.environ.get(DATA_VARIABLE)
    if root:
        folder = Path(root).expanduser() / repo
        if not folder.is_dir():
            raise GrainsError(
                f"{DATA_VARIABLE}={root} holds no folder '{repo}'; put a copy of the hub's dataset there "
                f"or unset {DATA_VARIABLE} to download it"
            )
        return folder
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client has no common base for offline, gated, missing and network errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise GrainsError(
            f"dataset '{repo}' could not be downloaded ({reason}); accept its terms and log in if it is "
            f"gated, or set {DATA_VARIABLE} to a folder with a copy"
        ) from error


def read_parquet(folder: Path, pattern: str, columns: Sequence[str]) -> pa.Table:
    """Read every file that matches, in name order, without the stored feature metadata.

    Args:
        folder: What `fetch` gave.
        pattern: Glob below it.
        columns: Columns that must be there; others are kept too.

    Raises:
        GrainsError: no such file, an unreadable one, or a column is missing.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise GrainsError(f"no file '{pattern}' in {folder}; the copy must have the hub's file names")
    try:
        tables = [pq.read_table(file).replace_schema_metadata(None) for file in files]
    except (pa.ArrowInvalid, OSError) as error:
        raise GrainsError(f"'{pattern}' in {folder} is not readable parquet: {first_line(error)}") from error
    table = pa.concat_tables(tables)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        there = ", ".join(table.column_names)
        raise GrainsError(f"'{pattern}' in {folder} has no column {', '.join(missing)}; it has {there}")
    return table


def read_json(folder: Path, name: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Read a JSON list of objects.

    Raises:
        GrainsError: no such file, not a list of objects, or an object without one of the fields.
    """
    file = folder / name
    try:
        rows: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise GrainsError(f"no file '{name}' in {folder}; the copy must have the hub's file names") from error
    except ValueError as error:
        raise GrainsError(f"'{file}' is not JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise GrainsError(f"'{file}' must hold a list of objects, and at least one")
    for index, row in enumerate(cast("list[Any]", rows)):
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise GrainsError(f"'{file}', item {index}: no field {', '.join(missing)}")
    return cast("list[dict[str, Any]]", rows)


def to_dataset(rows: pa.Table | Iterable[Mapping[str, Any]]) -> Dataset:
    """Make the kind of dataset that an lm-eval task expects.

    Raises:
        GrainsError: there is no row.
    """
    table: Any = rows
    if not isinstance(rows, pa.Table):
        table = pa.Table.from_pylist([dict(row) for row in rows])
    if not table.num_rows:
        raise GrainsError("a dataset split has no usable row; check the copy of the data")
    return Dataset(InMemoryTable(table))


def keep_pictures(table: pa.Table, column: str = "image") -> pa.Table:
    """Replace a column of encoded images by `<column>_sha256` and remember the bytes.

    Args:
        table: Its column is the hub's `struct<bytes, path>`, or plain bytes.
        column: Name of that column.

    Raises:
        GrainsError: a row without bytes.
    """
    cells = table.column(column)
    if pa.types.is_struct(cells.type):
        cells = pa.chunked_array([chunk.field("bytes") for chunk in cells.chunks], type=pa.binary())
    hashes: list[str] = []
    for row, cell in enumerate(cells):
        content: bytes | None = cell.as_py()
        if not content:
            raise GrainsError(f"row {row}: column '{column}' holds no image; fetch the file again")
        hashes.append(_remember(content, f"row {row} of column '{column}'", cell.as_py))
    table = table.drop_columns([column])
    return table.append_column(f"{column}_sha256", pa.array(hashes))


def keep_picture_file(file: Path) -> str:
    """Remember an image on disk; gives the SHA-256 of its content.

    Raises:
        GrainsError: no such file.
    """
    try:
        return _remember(file.read_bytes(), f"'{file}'", partial(Path.read_bytes, file))
    except OSError as error:
        raise GrainsError(f"image '{file}' is missing; the copy must have the hub's file names") from error


def _remember(content: bytes, where: str, read: Callable[[], bytes]) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    _images[sha256] = (where, read)
    return sha256


def picture(sha256: str) -> Image.Image:
    """Give the image that a document names, RGB where it is not already.

    The pixels are decoded once here, so that a damaged file is an error before the model runs, and then again
    only when they are used: thousands of requests are built at once, and decoded they would fill the memory.

    Raises:
        GrainsError: the file is damaged, or its task was not loaded in this process.
    """
    if sha256 not in _images:
        raise GrainsError(f"image {sha256[:12]} is unknown in this process; load its task first")
    where, read = _images[sha256]
    content = read()
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise GrainsError(f"image at {where} is damaged ({error}); fetch it again") from error
    if image.mode != "RGB":
        return image.convert("RGB")
    return Image.open(io.BytesIO(content))
