"""The folder of an unfinished study: one process at a time, and an interrupted build goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from grains_eval.artifacts.layout import CONFIG
from grains_eval.errors import GrainsError
from grains_eval.files import part_of, try_lock, write_file
from grains_eval.study.distributed import is_first_process

logger = logging.getLogger(__name__)

STATE = "state.json"


@contextmanager
def claimed(target: Path) -> Generator[None, None, None]:
    """Keep other processes from working on the same folder; the system releases the lock of one that died.

    Of the processes of one distributed job the first claims it.

    Raises:
        GrainsError: another process works on it.
    """
    if not is_first_process():
        yield
        return
    name = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]
    # not unlinked: a process waiting for the old file would not see the lock on a new one
    user = os.getuid() if hasattr(os, "getuid") else 0  # a container's user may have no name
    with (Path(gettempdir()) / f"grains-eval-{user}-{name}.lock").open("w") as file:
        if not try_lock(file.fileno()):
            raise GrainsError(
                f"another process is working on '{target}'; wait for it to end, or choose another --output_path"
            )
        yield


def work_folder(target: Path) -> Path:
    """Where a build keeps what it has until the artifact is written."""
    return target.with_name(f"{target.name}.partial")


def take_up(work: Path, state: Mapping[str, Any], *, overwrite: bool) -> None:
    """Go on with an unfinished build of the same recipe and model, or begin one.

    Args:
        work: Its folder.
        state: What tells recipe and model from others.
        overwrite: Drop what there is of another build.

    Raises:
        GrainsError: something else is in the way.
    """
    note = work / STATE
    try:
        same = json.loads(note.read_text(encoding="utf-8")) == state
    except (OSError, json.JSONDecodeError):
        same = False
    if same:
        os.utime(note)  # younger than an artifact that it is to replace, which `forget` asks
        if done := len(list(work.glob("*.safetensors"))):
            logger.warning("going on with %d examples that are done", done)
        return
    if work.exists():
        if not note.is_file() and any(each != part_of(note) for each in work.iterdir()):
            raise GrainsError(
                f"'{work}' is in the way and is not an unfinished build; move it or choose another --output_path"
            )
        if any(work.glob("*.safetensors")) and not overwrite:
            raise GrainsError(
                f"'{work}' holds an unfinished build of another recipe or model; finish that one, choose another "
                "--output_path or pass --overwrite"
            )
        drop(work)
    write_file(note, json.dumps(state))


def drop(work: Path) -> None:
    """Remove the folder of an unfinished build; what says that it is one goes last, as this may be cut off too."""
    for each in work.iterdir() if work.is_dir() else ():
        if each.name != STATE:
            shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def forget(target: Path) -> None:
    """Remove the work folder of the build that made an artifact, if the process was killed before it could do so.

    Work that was begun after the artifact was written is to replace it and stays, as does that of a process that lives.
    """
    work = work_folder(target)
    note, config = work / STATE, target / CONFIG
    with suppress(GrainsError), claimed(target):
        with suppress(OSError):
            work.rmdir()  # killed when all but the empty folder was gone
        try:
            state = json.loads(note.read_text(encoding="utf-8"))
            made = json.loads(config.read_text(encoding="utf-8"))["provenance"]
            is_of_it = (made["recipe_hash"], made["weights"]) == (state["recipe"], state["weights"])
            is_older = note.stat().st_mtime_ns <= config.stat().st_mtime_ns
        except (OSError, ValueError, KeyError, TypeError):
            return
        if is_of_it and is_older:
            drop(work)


def abandon(work: Path) -> None:
    """Remove the folder of a build that failed, unless it holds what another attempt could use."""
    if not any(work.glob("*.safetensors")):
        drop(work)
