"""JSON and ZIP files as tools write them, with one-line errors."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile, ZipFile, ZipInfo

from grains_eval.errors import GrainsError

ZSTANDARD = 93  # the ZIP format's number for it; `zipfile` knows it from Python 3.14 on
_LONGEST = 300  # digits; a float reaches 10 ** 308
_LOCAL_HEADER = 30  # bytes, before name and extra field


def digest(file: Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    found = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(1 << 20):  # logs can be large
            found.update(piece)
    return found.hexdigest()[:16]


def text_hash(value: Any) -> str:
    """The SHA-256 of a text, or of a value's JSON."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_in(folder: Path, name: str) -> Path | None:
    """A file of a folder by a name that a log gives, None where there is none.

    Raises:
        GrainsError: the name is a path, which could lead out of the folder.
    """
    if any(separator in name for separator in ("/", "\\", "\0")):
        raise GrainsError(f"{name!r} is a path where '{folder}' should hold a file; give a folder as the tool wrote it")
    try:
        return file if (file := folder / name).is_file() else None
    except (OSError, ValueError):  # no file system takes this name
        return None


def whole_number(text: str) -> int | float:
    """An integer of a log, infinite where it is beyond what a float holds."""
    return int(text) if len(text) < _LONGEST else float(text)


def json_object(file: Path, what: str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        GrainsError: it does not; `what` says what it was taken for.
    """
    try:
        found = json.loads(file.read_bytes(), parse_int=whole_number)
    except (OSError, ValueError, RecursionError) as error:
        raise GrainsError(f"'{file}' is not {what}: {error}") from error
    if not isinstance(found, dict):
        raise GrainsError(f"'{file}' is not {what}: it holds no object")
    return cast(dict[str, Any], found)


def json_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object a line.

    Raises:
        GrainsError: a line is none.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode(), parse_int=whole_number)
            except (ValueError, RecursionError) as error:
                raise GrainsError(f"'{file}' line {number} is not JSON; the file is damaged, run again") from error
            if not isinstance(row, dict):
                raise GrainsError(f"'{file}' line {number} is not a sample; the file is damaged, run again")
            yield cast(dict[str, Any], row)


def zipped_json(file: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
    """The JSON members of a ZIP file, one after another: name and content.

    Args:
        file: The file.
        wanted: Which members, by name.

    Raises:
        GrainsError: it is not a ZIP file, or damaged.
    """
    try:
        with ZipFile(file) as archive:
            for info in archive.infolist():
                if wanted(info.filename):
                    yield info.filename, json.loads(_content(file, archive, info), parse_int=whole_number)
    except (
        OSError,
        ValueError,
        BadZipFile,
        RuntimeError,
        struct.error,
        zlib.error,
    ) as error:  # encrypted: RuntimeError
        if isinstance(error, GrainsError):
            raise
        raise GrainsError(f"'{file}' is damaged or no log: {error}; copy or make it again") from error


def _content(file: Path, archive: ZipFile, info: ZipInfo) -> bytes:
    """A member's bytes, decompressed by `zstandard` where `zipfile` cannot."""
    if info.compress_type != ZSTANDARD:
        return archive.read(info)
    import zstandard

    with file.open("rb") as raw:
        raw.seek(info.header_offset)
        header = raw.read(_LOCAL_HEADER)
        raw.seek(sum(struct.unpack("<HH", header[26:30])), 1)
        packed = raw.read(info.compress_size)
    try:
        # one byte more than there should be, so that a file that lies about its size is not unpacked for ever
        with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
            content = stream.read(info.file_size + 1)
    except zstandard.ZstdError as error:
        raise BadZipFile(str(error)) from error
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise BadZipFile(f"{info.filename} is not what it was when it was written")
    return content
