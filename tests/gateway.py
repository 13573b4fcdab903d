"""A real S3 gateway for tests, without events, and a way through which its answers go wrong."""

import http.client
import http.server
import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from infra.connections import S3Connection
from infra.secret_files import write_secret
from infra.stack import gateway
from infra.stack.layout import Layout

_READY_SECONDS: Final = 30.0


class Gateway:
    """A running gateway over a folder; `connection` leads to it as its owner."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder, self._program = folder, program
        (folder / "data").mkdir(parents=True)
        self.port = free_port()
        write_secret(folder / "credentials", "tests\nof-a-gateway-that-nobody-else-reaches\n")
        self.connection = self.through(self.port)
        self.start()

    def through(self, port: int) -> S3Connection:
        """Return the connection by another port."""
        return S3Connection(
            endpoint=f"http://127.0.0.1:{port}",
            region="us-east-1",
            credentials_file=self.folder / "credentials",
        )

    def start(self) -> None:
        """Start it and return when it answers."""
        name, secret = (self.folder / "credentials").read_text().split()
        self._process = subprocess.Popen(
            [self._program, "--port", f"127.0.0.1:{self.port}", "--keep-alive", "--quiet", "--health", "/healthz",
             "posix", str(self.folder / "data")],
            env={"ROOT_ACCESS_KEY_ID": name, "ROOT_SECRET_ACCESS_KEY": secret},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, "the gateway does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def bucket(self, name: str) -> str:
        """Make a bucket; over a folder that is a folder."""
        (self.folder / "data" / name).mkdir()
        return name

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def running_gateway(folder: Path, lib: Path) -> Iterator[Gateway]:
    """Run a gateway, built at the first call."""
    layout = Layout(folder / "home", lib)
    gateway.build(layout, print)
    running = Gateway(folder / "gateway", gateway.program(layout))
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder / "gateway")


class Trouble(http.server.ThreadingHTTPServer):
    """Passes requests on to a gateway, and spoils some answers, as `kinds` says: how often of each."""

    daemon_threads = True

    def __init__(self, port: int, seed: int = 7, **kinds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target, self.kinds, self.chance = port, kinds, random.Random(seed)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def next_kind(self) -> str:
        """Return what happens to the next answer."""
        with self.lock:
            at = self.chance.random()
            for kind, share in self.kinds.items():
                at -= share
                if at < 0:
                    return kind
            return "good"


class _Passing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Trouble

    def _pass(self) -> None:
        kind = self.server.next_kind()
        self.server.asked[kind] += 1
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        if kind == "refused":
            self._answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
            return
        onward = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        try:
            onward.request(self.command, self.path, body, dict(self.headers))
            answer = onward.getresponse()
            data = answer.read()
            headers = dict(answer.getheaders())
        finally:
            onward.close()
        self._spoil(kind, answer.status, headers, data)

    def _spoil(self, kind: str, status: int, headers: dict[str, str], data: bytes) -> None:
        if kind == "short" and len(data) > 1:
            headers["Content-Length"] = str(len(data) // 2)
            self._answer(status, headers, data[: len(data) // 2])
        elif kind == "reset" and len(data) > 1:
            self._answer(status, headers, data[: len(data) // 2])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif kind == "changed" and len(data) > 1:
            self._answer(status, headers, bytes([data[0] ^ 0xFF]) + data[1:])
        else:
            self._answer(status, headers, data)

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815  the names that http.server asks for

    def log_message(self, *_: object) -> None:
        """Silent."""
