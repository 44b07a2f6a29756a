"""A stand-in for the hub on 127.0.0.1: repositories, branches, commits, files, as huggingface_hub asks for them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What is on it: `{repository: {branch: {path: content}}}`, and every commit by its hash."""

    url: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refuses: int = 0
    asked: list[str] = field(default_factory=list)

    def files(self, repository: str, revision: str) -> dict[str, bytes] | None:
        return self.repositories.get(repository, {}).get(revision, self.commits.get(revision))

    def sha(self, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1()
        for path, content in sorted(files.items()):
            digest.update(path.encode() + content)
        self.commits[digest.hexdigest()] = dict(files)
        return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *words: Any) -> None:
        pass

    def _send(self, code: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, what: str) -> None:
        self._send(404, {"error": f"{what} not found"}, X_Error_Code=what)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        self._route(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._route(self._body())

    def _route(self, body: bytes) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("Authorization") or "")
        if hub.refuses and self.command == "POST":
            self._send(hub.refuses, {"error": "no write access"})
            return
        if path == "/api/repos/create":
            made = json.loads(body)
            name = "/".join(filter(None, [made.get("organization"), made["name"]]))
            is_new = name not in hub.repositories
            hub.repositories.setdefault(name, {"main": {}})
            hub.private.setdefault(name, bool(made.get("private") or made.get("visibility") == "private"))
            self._send(200 if is_new else 409, {"url": f"{hub.url}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path):
            self._write(*found.groups(), body)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/([^/]+))?)?", path):
            self._info(*found.groups())
        else:
            self._missing("RepoNotFound")

    def _write(self, name: str, what: str, revision: str, body: bytes) -> None:
        branches = self.hub.repositories.get(name)
        if branches is None:
            self._missing("RepoNotFound")
        elif what == "branch":
            is_new = revision not in branches
            branches.setdefault(revision, dict(branches["main"]))
            self._send(200 if is_new else 409, {})
        elif revision not in branches:
            self._missing("RevisionNotFound")
        elif what == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self._send(200, {"files": modes})
        else:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    branches[revision][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    branches[revision].pop(value["path"], None)
            oid = self.hub.sha(branches[revision])
            self._send(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def _file(self, name: str, revision: str, path: str) -> None:
        files = self.hub.files(name, revision)
        if name not in self.hub.repositories:
            self._missing("RepoNotFound")
        elif files is None:
            self._missing("RevisionNotFound")
        elif path not in files:
            self._missing("EntryNotFound")
        else:
            etag = hashlib.sha1(files[path]).hexdigest()
            self._send(200, files[path], ETag=f'"{etag}"', X_Repo_Commit=self.hub.sha(files))

    def _info(self, name: str, what: str | None, revision: str | None) -> None:
        files = self.hub.files(name, revision or "main")
        if name not in self.hub.repositories:
            self._missing("RepoNotFound")
        elif what == "refs":
            branches = [
                {"name": one, "ref": f"refs/heads/{one}", "targetCommit": self.hub.sha(held)}
                for one, held in self.hub.repositories[name].items()
            ]
            self._send(200, {"branches": branches, "converts": [], "tags": []})
        elif files is None:
            self._missing("RevisionNotFound")
        elif what == "tree":
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            self._send(200, entries)
        else:
            siblings = [{"rfilename": path} for path in files]
            self._send(200, {"id": name, "modelId": name, "sha": self.hub.sha(files), "siblings": siblings, "tags": []})


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
