"""A model hub on loopback that speaks as much of the Hugging Face hub's protocol as `models add hf:...` uses.

What the client needs, read in huggingface_hub 0.36 and 2.4: the list of a repository with `sha`, `tags` and `siblings`
(`rfilename`, `size`, `blobId`, `lfs` with `sha256` and `size`); on HEAD of a file `X-Repo-Commit`, an `ETag` or
`X-Linked-Etag`, a `Content-Length` or `X-Linked-Size`, and a `Location` when the bytes are elsewhere; `X-Error-Code` says
which kind of 401 or 404 it is. Large files come from a second server, as from a CDN, which must not see the token.
"""

from __future__ import annotations

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

COMMIT = "c0ffee" * 6 + "c0ff"
TOKEN = "hf_of_the_tests"


@dataclass
class Hub:
    """What the server has and how it behaves; change it while it runs. Repositories are dicts of path -> bytes."""

    files: dict[str, dict[str, bytes]]
    large_bytes: int = 1000
    """Files from this size on are "LFS": they have a sha256 and are served by the CDN."""
    licence: str = "mit"
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    cuts: list[int] = field(default_factory=list)
    """Each GET of a large file takes one from the left and breaks off after so many bytes; -1: it does not."""
    status: int = 0
    """Not 0: every answer."""
    ignore_ranges: bool = False
    damage: bool = False
    """The CDN flips a bit of what it sends."""
    etag: str = ""
    """Not "": instead of the true one."""
    pause_s: float = 0.0
    """Before each 64 KB of a large file."""
    bare: bool = False
    """Small repositories' mirrors: no sizes and hashes in the list."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    cdn_url: str = ""

    def gets(self, path: str) -> list[dict[str, str]]:
        """The headers of the GETs whose path ends so, in order."""
        return [headers for method, where, headers in self.requests if method == "GET" and where.endswith(path)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if self.hub.status:
            self._say(self.hub.status, {}, b"")
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._bytes(self.hub.files[match[1]][match[2]])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            if self._may(match[1], match[2], listing=True):
                self._list(match[1])
        elif (match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)) and self._may(match[1], match[2]):
            self._resolve(match[1], match[3])
        elif not match:
            self._say(404, {}, b"no such route")

    def _may(self, repo: str, revision: str, listing: bool = False) -> bool:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.headers.get("Authorization") and not known:
            self._say(401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"")
        elif repo not in self.hub.files:
            self._say(404 if known else 401, {"X-Error-Code": "RepoNotFound"}, b"")
        elif repo in self.hub.private and not known:
            self._say(401, {"X-Error-Code": "RepoNotFound"}, b"")
        elif repo in self.hub.gated and not known and not listing:  # its list is public
            self._say(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}, b"")
        elif revision not in ("main", "v1", COMMIT):
            self._say(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        else:
            return True
        return False

    def _list(self, repo: str) -> None:
        rows = []
        for path, data in sorted(self.hub.files[repo].items()):
            row: dict[str, Any] = {"rfilename": path}
            if not self.hub.bare:
                row |= {"size": len(data), "blobId": git_blob(data)}
                if len(data) >= self.hub.large_bytes:
                    row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            rows.append(row)
        body = {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": ["gguf", f"license:{self.hub.licence}"], "siblings": rows}
        self._say(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _resolve(self, repo: str, path: str) -> None:
        data = self.hub.files[repo].get(path)
        if data is None:
            self._say(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b"")
            return
        large = len(data) >= self.hub.large_bytes
        etag = self.hub.etag or (hashlib.sha256(data).hexdigest() if large else git_blob(data))
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
        if large:
            headers = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data)), "Location": f"{self.hub.cdn_url}/cdn/{repo}/{path}"}
            self._say(302, headers, b"")
        else:
            self._say(200, headers, data)

    def _bytes(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and not self.hub.ignore_ranges else 0
        if start >= len(data):
            self._say(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            return
        cut = self.hub.cuts.pop(0) if self.hub.cuts and self.command == "GET" else -1
        if self.hub.damage:
            data = bytes([data[0] ^ 1]) + data[1:] if start == 0 else data
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        rest = data[start:] if cut < 0 else data[start : start + cut]
        for at in range(0, len(rest), 65536):
            self.server.released.wait(self.hub.pause_s)
            self.wfile.write(rest[at : at + 65536])
        if cut >= 0:
            self.close_connection = True

    def _say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.released = threading.Event()
        self.open: set[Any] = set()

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that leaves is part of the tests."""

    def process_request(self, request: Any, address: Any) -> None:
        """Remember the connection, to be able to end it."""
        self.open.add(request)
        super().process_request(request, address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self.open.discard(request)
        super().shutdown_request(request)


def git_blob(data: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving_hub(hub: Hub) -> Iterator[Hub]:
    """The hub and its CDN, each on its own port, until the end of the block."""
    servers = [_Server(hub), _Server(hub)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.005,), name="hub") for server in servers]
    hub.url, hub.cdn_url = (f"http://{host}:{server.server_address[1]}" for host, server in zip(("127.0.0.1", "localhost"), servers, strict=True))
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.released.set()
            server.shutdown()
            for connection in list(server.open):  # kept alive by clients that may come back
                try:
                    connection.shutdown(2)
                except OSError:
                    pass
            server.server_close()
            thread.join()
