"""Files and folders written whole or not at all: under a hidden name beside their place, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(file: Path) -> Generator[Path, None, None]:
    """A path beside `file` to write to; it takes the file's place at the end, or is removed if something is raised.

    Args:
        file: Where to; a file that is there is replaced, and folders that are missing are made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    try:
        yield part
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_file(file: Path, content: str | bytes) -> None:
    """Write one file; text as UTF-8."""
    write_together(file.parent, {file.name: content})


def write_together(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    """Write files that belong together: all of them, or none where one cannot be written (the disk is full).

    Args:
        folder: Where to; made if it is not there.
        contents: Text or bytes by file name.
    """
    with ExitStack() as stack:
        parts = {name: stack.enter_context(whole_file(folder / name)) for name in contents}
        for name, content in contents.items():
            if isinstance(content, bytes):
                parts[name].write_bytes(content)
            else:
                parts[name].write_text(content, encoding="utf-8")


@contextmanager
def whole_folder(folder: Path) -> Generator[Path, None, None]:
    """A new folder to fill; it takes the place of `folder` at the end, or is removed if something is raised.

    Args:
        folder: Where to; a folder that is there is replaced, and only when the new one is whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid4().hex[:8]
    work, old = (folder.with_name(f".{folder.name}-{ending}") for ending in (mark, f"{mark}-old"))
    work.mkdir()
    try:
        yield work
        if folder.exists():
            folder.rename(old)
        work.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
