"""A model hub and a plain file server over real HTTP: as much of the hub's protocol as its official client asks for."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is published, and what happens to those who ask.

    Attributes:
        url: Its address.
        repos: Files by path, by repository ("models/owner/name" or "spaces/owner/name").
        gated: Repositories that want the token "hf_good".
        plain: Files at addresses of their own.
        gets: (path, Range header) of every GET, in order.
        cut_after: The next plain GET ends after so many bytes, once.
        gate: Every GET waits for it.
    """

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    plain: dict[str, bytes] = field(default_factory=dict)
    gets: list[tuple[str, str | None]] = field(default_factory=list)
    cut_after: int | None = None
    gate: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self.hub.gets.append((self.path, self.headers.get("Range")))
        self.hub.gate.wait()
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        if self.path in self.hub.plain:
            self._send(self.hub.plain[self.path], {}, with_body)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/[^?]+(?:\?.*)?", self.path):
            files = self.hub.repos.get(f"models/{match[1]}")
            if files is None:
                self._refuse(404, "RepoNotFound")
                return
            tree = [{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in files]
            about = {"id": match[1], "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}
            content = json.dumps(tree if match[2] == "tree" else about).encode()
            self._send(content, {"Content-Type": "application/json"}, with_body)
        elif match := re.fullmatch(r"/(spaces/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path):
            repo = f"{match[1] or 'models/'}{match[2]}"
            if self._allowed(repo):
                content = self.hub.repos[repo].get(match[3])
                if content is None:
                    self._refuse(404, "EntryNotFound")
                else:
                    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                    self._send(content, headers, with_body)
        else:
            self._refuse(404, "")

    def _allowed(self, repo: str) -> bool:
        if repo not in self.hub.repos:
            self._refuse(404, "RepoNotFound")
            return False
        if repo in self.hub.gated and self.headers.get("Authorization") != "Bearer hf_good":
            self._refuse(403, "GatedRepo")
            return False
        return True

    def _send(self, content: bytes, headers: dict[str, str], with_body: bool) -> None:
        begin, status = 0, 200
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            begin, status = int(asked[1]), 206
            if begin >= len(content):
                self._refuse(416, "")
                return
        body = content[begin:]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body and self.hub.cut_after is not None:
            body, self.hub.cut_after = body[: self.hub.cut_after], None
            self.close_connection = True
        if with_body:
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def run_hub() -> Iterator[Hub]:
    """Serves on a free loopback port."""
    hub = Hub()
    hub.gate.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
