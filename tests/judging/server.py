"""A stand-in for a judge's server on 127.0.0.1: the chat completions API, with faults on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """What it answers, what went wrong on purpose and what it was asked.

    `reply` makes the text from the last user message. `faults` are taken one a request before anything is answered:
    `429`, `500`, `slow`, `cut` (fewer bytes than promised), `half` (half a body, of its promised length), `html`,
    `filter`,
    `gone` (the connection is closed, and all that follow). `broken` is a fault of every request of a given text.
    """

    reply: Callable[[str], str]
    faults: list[str] = field(default_factory=list)
    broken: Callable[[str], str] = lambda text: ""
    delay: float = 0.0
    retry_after: str = "0.05"
    asked: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    is_gone: bool = False

    def texts(self) -> list[str]:
        return [_text(request) for request in self.asked]


def _text(request: dict[str, Any]) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@contextmanager
def serving(reply: Callable[[str], str], **options: Any) -> Iterator[Server]:
    state = Server(reply, **options)
    lock, running = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: Any) -> None:
            pass

        def do_POST(self) -> None:
            with lock:
                running[0] += 1
                state.most_at_once = max(state.most_at_once, running[0])
            try:
                self._answer()
            finally:
                with lock:
                    running[0] -= 1

        def _answer(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = _text(request)
            with lock:
                fault = "gone" if state.is_gone else state.faults.pop(0) if state.faults else state.broken(text)
                if fault == "gone":
                    state.is_gone = True
                state.asked.append({**request, "path": self.path, "key": self.headers.get("Authorization")})
                state.times.append(time.monotonic())
            time.sleep(state.delay)
            if fault == "gone":
                self.close_connection = True
                self.connection.close()
                return
            if fault in ("429", "500", "401", "404"):
                self._send(int(fault), json.dumps({"error": {"message": f"fault {fault}", "code": None}}).encode())
                return
            if fault == "filter":
                error = {"error": {"message": "not allowed here", "code": "content_filter"}}
                self._send(400, json.dumps(error).encode())
                return
            if fault == "slow":
                time.sleep(3)
            body = json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "judge-2026",
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": "stop",
                            "message": {"role": "assistant", "content": state.reply(text)},
                        }
                    ],
                }
            ).encode()
            if fault == "half":
                self._send(200, body[: len(body) // 2])
            elif fault == "html":
                self._send(200, b"<html>busy</html>", "text/html")
            elif fault == "cut":
                self._send(200, body[: len(body) // 2], promised=len(body))
                self.close_connection = True
            else:
                self._send(200, body)

        def _send(self, code: int, body: bytes, kind: str = "application/json", promised: int | None = None) -> None:
            try:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body) if promised is None else promised))
                if code == 429:
                    self.send_header("Retry-After", state.retry_after)
                self.end_headers()
                self.wfile.write(body)
            except OSError:  # the client has given up
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
