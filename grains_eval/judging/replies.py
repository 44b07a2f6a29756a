"""Replies of a judge by request, kept in a file from the moment they arrive, so that nothing is asked twice."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from grains_eval.errors import GrainsError
from grains_eval.files import write_file


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: The message; empty where there is none.
        finish_reason: Why it ended, as the endpoint says.
        served: The model's name as the endpoint says.
        error: Why the endpoint refused this one request; empty where it did not.
    """

    text: str
    finish_reason: str = ""
    served: str = ""
    error: str = ""


def request_key(request: Mapping[str, Any]) -> str:
    """32 hex digits over model, messages and parameters."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


class ReplyFile:
    """A JSON Lines file of replies: `{"key", "text", "finish_reason", "served", "error"}`.

    Args:
        file: Where it is, or will be.

    Raises:
        GrainsError: a line that is no reply, other than a last one that was cut off.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.replies: dict[str, Reply] = {}
        self._handle: TextIO | None = None
        if file.is_file():
            content = file.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]  # a process that was killed leaves half a line
            for number, line in enumerate(whole.splitlines(), start=1):
                self._take(line, number)
            if len(whole) < len(content):
                write_file(file, whole)

    def _take(self, line: bytes, number: int) -> None:
        try:
            row = json.loads(line)
            key = row.pop("key")
            self.replies[str(key)] = Reply(**row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise GrainsError(
                f"'{self.file}' line {number} is not a reply; remove that line, or the file to ask everything again"
            ) from error

    @contextmanager
    def open(self) -> Generator[None, None, None]:
        """Within the block replies can be added, by this process alone.

        Raises:
            GrainsError: another process is adding to the file.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system frees it when the process ends
            except BlockingIOError as error:
                raise GrainsError(f"another process is asking into '{self.file}'; wait for it to end") from error
            self._handle = handle
            try:
                yield
            finally:
                self._handle = None

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply, on disk before anything else happens."""
        assert self._handle is not None
        self._handle.write(_line(key, reply))
        self._handle.flush()
        self.replies[key] = reply

    def settle(self, keys: Iterable[str]) -> None:
        """Bring the file into the order of the requests, in which an uninterrupted run would have left it too."""
        order = dict.fromkeys([*keys, *sorted(self.replies)])
        write_file(self.file, "".join(_line(key, self.replies[key]) for key in order if key in self.replies))


def _line(key: str, reply: Reply) -> str:
    return json.dumps({"key": key, **asdict(reply)}, ensure_ascii=False) + "\n"
