"""The folder of an unfinished build: one process at a time, and an interrupted build goes on where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from grains_eval.errors import GrainsError
from grains_eval.files import write_file

logger = logging.getLogger(__name__)

STATE = "state.json"


@contextmanager
def claimed(target: Path) -> Generator[None, None, None]:
    """Keep other processes from building the same folder; the system releases the lock of one that died.

    Raises:
        GrainsError: another process is building it.
    """
    name = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]
    # not unlinked: a process waiting for the old file would not see the lock on a new one
    with (Path(gettempdir()) / f"grains-eval-{getuser()}-{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GrainsError(
                f"another process is building '{target}'; wait for it, or choose another --output_path"
            ) from error
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
        if done := len(list(work.glob("*.safetensors"))):
            logger.warning("going on with %d examples that are done", done)
        return
    if work.exists():
        if any(work.iterdir()) and not note.is_file():
            raise GrainsError(
                f"'{work}' is in the way and is not an unfinished build; move it or choose another --output_path"
            )
        if any(work.glob("*.safetensors")) and not overwrite:
            raise GrainsError(
                f"'{work}' holds an unfinished build of another recipe or model; finish that one, choose another "
                "--output_path or pass --overwrite"
            )
        shutil.rmtree(work)
    write_file(note, json.dumps(state))


def abandon(work: Path) -> None:
    """Remove the folder of a build that failed, unless it holds what another attempt could use."""
    if not any(work.glob("*.safetensors")):
        shutil.rmtree(work, ignore_errors=True)
