"""Commands of grains-eval in processes that are killed, on disks that are full and without a network.

`python -m tests.forked` imports everything once and forks for each command, so that a hundred take no hundred imports.
It reads a list of steps as JSON and writes what came of each.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).parents[1]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.rename": 2, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 0}  # arguments that are paths
_SPACES = ("unshare", "--map-root-user", "--mount", "--propagation", "private")


def run(steps: Sequence[dict[str, Any]], *, confined: bool = False, offline: bool = False) -> list[Any]:
    """Take the steps in a process of their own.

    Args:
        steps: Each has a `do`, the name of a function below, and its arguments.
        confined: In a mount namespace, where disks can be made and made read-only.
        offline: Where there is no network at all.
    """
    spaces = [*_SPACES, *(["--net"] if offline else []), "--"] if confined or offline else []
    hidden = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"} if offline else set[str]()
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "COLUMNS": "200"}
    found = subprocess.run(
        [*spaces, sys.executable, "-m", "tests.forked"],
        input=json.dumps(list(steps)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def is_confinable() -> bool:
    """Whether this machine lets us make namespaces."""
    try:
        made = subprocess.run([*_SPACES, "--net", "--", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    except FileNotFoundError:
        return False
    return made.returncode == 0


def listing(place: str | Path) -> dict[str, str]:
    """Every file and link below a folder by its content's hash, and every folder."""
    found: dict[str, str] = {}
    for path in sorted(Path(place).rglob("*")):
        name = str(path.relative_to(place))
        found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


class Pipe:
    """What a child prints, read while it lives."""

    def __init__(self) -> None:
        self._start, self.end = os.pipe()

    def start(self) -> Callable[[], str]:
        """Close this process's end and read; gives what returns the text once the child has ended."""
        os.close(self.end)
        parts: list[bytes] = []

        def read() -> None:
            with open(self._start, "rb") as file:
                parts.append(file.read())

        reader = Thread(target=read)
        reader.start()

        def text() -> str:
            reader.join()
            return parts[0].decode(errors="replace")

        return text


def command(
    words: Sequence[str], cwd: str, at: int = 0, sign: int = signal.SIGKILL, largest: int = -1
) -> dict[str, Any]:
    """Run a command in a process of its own.

    Args:
        words: Without the program's name.
        cwd: Where.
        at: The change to files below `cwd` before which it gets a signal; 0 for none.
        sign: The signal.
        largest: Bytes that a file may have; -1 for any number.

    Returns:
        Its exit code (negative for a signal that ended it), what it printed, and how many changes it made.
    """
    with tempfile.TemporaryDirectory() as place:
        count = Path(place) / "count"
        out, err = Pipe(), Pipe()  # no files, whose size would be limited too
        child = os.fork()
        if child == 0:
            try:
                os.chdir(cwd)
                signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have us ignore it
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
                for number, pipe in ((1, out), (2, err)):
                    os.dup2(pipe.end, number)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                code = _watched(list(words), at, sign, os.open(count, os.O_RDWR | os.O_CREAT))
                sys.stdout.flush()
                sys.stderr.flush()
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:
                traceback.print_exc()
                code = 1
            os._exit(code)
        printed = [pipe.start() for pipe in (out, err)]
        _, status = os.waitpid(child, 0)
        made = int(count.read_bytes() or b"0") if count.exists() else 0
        return {
            "code": os.waitstatus_to_exitcode(status),
            "out": printed[0](),
            "err": printed[1](),
            "changes": made,
        }


def _watched(words: list[str], at: int, sign: int, count: int) -> int:
    from grains_eval.cli import main

    made, here = 0, os.getcwd() + os.sep

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal made
        if event == "open":
            is_write = isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
            paths = arguments[:1] if is_write else ()
        else:
            paths = arguments[: _CHANGES.get(event, 0)]
        if not any(isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(here) for path in paths):
            return
        made += 1
        os.pwrite(count, str(made).encode(), 0)
        if made == at:
            os.kill(os.getpid(), sign)

    sys.addaudithook(watch)
    return main(words)


def mount(place: str, size: int = 0, inodes: int = 0) -> None:
    """A disk of so many bytes, and of so many files and folders."""
    _mount("tmpfs", place, 0, f"size={size},nr_inodes={inodes}")


def read_only(place: str) -> None:
    """Nobody may write into a folder any more, not even root."""
    bind, remount, readonly = 4096, 32, 1
    _mount(place, place, bind, "")
    _mount("", place, bind | remount | readonly, "")


def grow(place: str) -> None:
    """Room for everything on a disk that was small."""
    remount = 32
    _mount("tmpfs", place, remount, "size=100m,nr_inodes=0")


def unmount(place: str) -> None:
    subprocess.run(["umount", place], check=True)


def copy(source: str, target: str) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def full(place: str) -> bool:
    """Whether a disk has no room left for a file."""
    state = os.statvfs(place)
    return state.f_bavail == 0 or state.f_favail == 0


def _mount(source: str, place: str, flags: int, data: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = (source.encode(), place.encode(), b"tmpfs", flags, data.encode())
    if libc.mount(*words):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), place)


_STEPS = {step.__name__: step for step in (command, mount, read_only, grow, unmount, copy, listing, full)}


def _main() -> None:
    import grains_eval.exchange.transfer
    import grains_eval.judging.pairwise
    import grains_eval.study.ablate
    import grains_eval.study.sweep  # noqa: F401

    steps = json.load(sys.stdin)
    results = [_STEPS[step.pop("do")](**step) for step in steps]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    _main()
