"""A web server on loopback whose files misbehave as they are told to."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Page:
    """What a path answers."""

    body: bytes
    faults: list[str] = field(default_factory=list)  # of the first requests, one each; afterwards all is well
    always: str = ""  # a fault of every request
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"one"'


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, path: str, body: bytes, *faults: str, **more) -> str:
        """Serve a body; its address."""
        self.pages[path] = Page(body, list(faults), **more)
        return self.url + path

    def count(self) -> Counter[str]:
        return Counter(path for _, path, _ in self.asked)

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is no error of ours."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_) -> None:
        """Nobody reads it."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append((self.command, self.path, self.headers.get("Range")))
        page = self.server.pages.get(path) or self.server.pages.get(self.path)
        if page is None:
            self._send(404, {}, b"nothing here" if body else b"")
            return
        fault = page.always or (page.faults.pop(0) if page.faults and body else "")
        content = page.body
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} | page.headers
        if page.etag:
            headers["ETag"] = page.etag
        if fault.isdigit():
            self._send(int(fault), page.headers, b"<html>sorry</html>" if body else b"")
            return
        if fault == "hang":
            self.server.stopping.wait(30)
            self.close_connection = True
            return
        if fault == "wrong byte":
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, status = 0, 200
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if wanted and fault != "ignore range" and (condition is None or condition == page.etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if fault == "wrong range":
            headers["Content-Range"] = f"bytes 0-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        announced = len(rest) + (7 if fault == "lie" else 0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        if not body:
            return
        if fault == "drop":
            rest = rest[: max(1, len(rest) // 2)]
        if fault.startswith("slow"):
            for at in range(0, len(rest), size := int(fault.split()[1])):
                self.wfile.write(rest[at : at + size])
                self.wfile.flush()
                time.sleep(0.02)
            return
        if fault == "stop half-way":
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.server.stopping.wait(30)
            self.close_connection = True
            return
        self.wfile.write(rest)
        if fault in ("drop", "lie"):
            self.wfile.flush()
            self.close_connection = True

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "text/html"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
