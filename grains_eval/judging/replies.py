"""Replies of a judge by request, kept in a file from the moment they arrive, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grains_eval.errors import GrainsError
from grains_eval.files import try_lock, write_file


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
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


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
        self._is_open = False
        self._load()

    def _load(self) -> bytes:
        """Take what is on disk, beside what is known already; the half line that a process left that was killed."""
        content = self.file.read_bytes() if self.file.is_file() else b""
        end = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:end].splitlines(), start=1):
            self._take(line, number)
        return content[end:]

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
        """Within the block the file is this process's alone: what others added is read, and replies can be added.

        Raises:
            GrainsError: another process has it.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # a file of its own, as the replies' is replaced; it stays, as whoever waits for it would lock a removed one
        with self.file.with_name(f".{self.file.name}.lock").open("w") as lock:
            if not try_lock(lock.fileno()):
                raise GrainsError(f"another process is asking into '{self.file}'; wait for it to end")
            if half := self._load():
                with self.file.open("rb+") as handle:
                    handle.truncate(self.file.stat().st_size - len(half))
            self._is_open = True
            try:
                yield
            finally:
                self._is_open = False

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply, on disk before anything else happens.

        Raises:
            OSError: the disk is full; no part of the reply stays in the file, where the next one would follow it.
        """
        assert self._is_open
        with self.file.open("ab", buffering=0) as handle:
            start, left = handle.seek(0, os.SEEK_END), _line(key, reply)
            try:
                while left:
                    left = left[handle.write(left) :]
            except BaseException:
                handle.truncate(start)
                raise
        self.replies[key] = reply

    def settle(self, keys: Iterable[str]) -> None:
        """Bring the file into the order of the requests, in which an uninterrupted run would have left it too."""
        assert self._is_open
        order = dict.fromkeys([*keys, *sorted(self.replies)])
        write_file(self.file, b"".join(_line(key, self.replies[key]) for key in order if key in self.replies))


def _line(key: str, reply: Reply) -> bytes:
    # a reply may hold half of a surrogate pair, which JSON's reader takes back
    return (json.dumps({"key": key, **asdict(reply)}, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
