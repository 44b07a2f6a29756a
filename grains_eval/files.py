"""Files and folders written whole or not at all: under a hidden name beside their place, then renamed.

What a process left that was killed is cleared away by the next one that writes there. A lock that the system frees when
a process ends tells the two apart.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from grains_eval.errors import GrainsError

_WORK, _OLD = re.compile(r"-[0-9a-f]{8}"), re.compile(r"(-[0-9a-f]{8})-old")


def try_lock(handle: int, *, if_unknown: bool = True) -> bool:
    """Lock an open file or folder for this process alone, until it is closed.

    Args:
        handle: Its descriptor.
        if_unknown: The answer where the system has no such locks: writers are not kept apart there.

    Returns:
        False where another process has it.
    """
    if sys.platform == "win32":
        return if_unknown
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return if_unknown
    return True


@contextmanager
def whole_file(file: Path) -> Generator[Path, None, None]:
    """A path beside `file` to write to; it takes the file's place at the end, or is removed if something is raised.

    Args:
        file: Where to; a file that is there is replaced, and folders that are missing are made.

    Raises:
        GrainsError: another process is writing it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(file)
    with _alone(part, file):
        try:
            yield part
            part.replace(file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def part_of(file: Path) -> Path:
    """Where a file is written until it is whole."""
    return file.with_name(f".{file.name}.part")


@contextmanager
def _alone(part: Path, file: Path) -> Generator[None, None, None]:
    """An empty file that no other process writes meanwhile."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not try_lock(handle):
                raise GrainsError(f"another process is writing '{file}'; wait for it to end, or write elsewhere")
            if _is_at(handle, part):  # and not what another process has just put in its place
                os.ftruncate(handle, 0)
                yield
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def write_file(file: Path, content: str | bytes) -> None:
    """Write one file; text as UTF-8."""
    write_together(file.parent, {file.name: content})


def write_together(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    """Write files that belong together: all of them, or none where one cannot be written (the disk is full).

    Args:
        folder: Where to; made if it is not there.
        contents: Text or bytes by file name.

    Raises:
        GrainsError: another process is writing one of them, or a folder is in the place of one.
    """
    with written_together(folder, contents):
        pass


@contextmanager
def written_together(folder: Path, contents: Mapping[str, str | bytes]) -> Generator[None, None, None]:
    """`write_together`; within the block everything is written, and takes its place after it."""
    for name in contents:
        if (folder / name).is_dir():  # found out when others have taken their places
            raise GrainsError(f"'{folder / name}' is a folder, in the place of a file; move it, or write elsewhere")
    with ExitStack() as stack:
        parts = {name: stack.enter_context(whole_file(folder / name)) for name in contents}
        for name, content in contents.items():
            if isinstance(content, bytes):
                parts[name].write_bytes(content)
            else:
                parts[name].write_text(content, encoding="utf-8")
        yield


def finished(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of some files written together that are there; none where a process was killed as it put them there."""
    listed = list(names)
    found = [name for name in listed if (folder / name).exists()]
    was_cut_off = len(found) < len(listed) and any(part_of(folder / name).exists() for name in listed)
    return [] if was_cut_off else found


@contextmanager
def whole_folder(folder: Path) -> Generator[Path, None, None]:
    """A new folder to fill; it takes the place of `folder` at the end, or is removed if something is raised.

    Args:
        folder: Where to; a folder that is there is replaced, and only when the new one is whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    with _work_folder(folder) as work:
        old = work.with_name(f"{work.name}-old")
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


@contextmanager
def _work_folder(folder: Path) -> Generator[Path, None, None]:
    """A new folder beside another, locked while it is in use."""
    while True:
        work = folder.with_name(f".{folder.name}-{uuid4().hex[:8]}")
        work.mkdir()
        with _locked_folder(work, if_unknown=True) as is_ours:
            if is_ours:  # and no process that clears away has taken it for left behind
                yield work
                return


@contextmanager
def _locked_folder(folder: Path, *, if_unknown: bool) -> Generator[bool, None, None]:
    """Whether a folder is there and was to be had; nobody else has it within the block."""
    if sys.platform == "win32":  # folders cannot be opened
        yield if_unknown and folder.is_dir()
        return
    handle = None
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        is_free = handle is not None and try_lock(handle, if_unknown=if_unknown)
        yield is_free and handle is not None and _is_at(handle, folder)
    finally:
        if handle is not None:
            os.close(handle)


def _clear(folder: Path) -> None:
    """Remove what killed processes left of their work on a folder, and put back what they had moved away.

    Where there are no locks nothing tells who lives, and everything stays.
    """
    start = f".{folder.name}"
    names = [name.removeprefix(start) for name in os.listdir(folder.parent) if name.startswith(start)]
    for match in filter(None, map(_OLD.fullmatch, names)):
        old, work = (folder.with_name(f"{start}{ending}") for ending in (match[0], match[1]))
        with _locked_folder(work, if_unknown=False) as is_left:
            if work.exists() and not is_left:
                continue
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(folder)
    for ending in filter(_WORK.fullmatch, names):
        with _locked_folder(work := folder.with_name(f"{start}{ending}"), if_unknown=False) as is_left:
            if is_left:
                shutil.rmtree(work, ignore_errors=True)
