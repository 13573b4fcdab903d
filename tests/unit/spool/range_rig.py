"""What stands around a reader in tests: a token's file, a certificate, and a way that damages what passes."""

import datetime
import ipaddress
import random
import socket
import socketserver
import threading
import time
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "0123456789abcdef" * 4


def private(path: Path, text: str) -> Path:
    """Write a file of mode 600 in one step, as an operator should."""
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text(text + "\n")
    new.rename(path)
    return path


def certificate(path: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1, and its key, into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "reader")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private(path, (made.public_bytes(serialization.Encoding.PEM) + private_key).decode())


class Way(socketserver.ThreadingTCPServer):
    """A way to a port. Every n-th answer is `cut` in the middle, has a byte altered (`flip`), comes in crumbs
    (`slice`) or never (`hole`)."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target: int, fault: str, every: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target, self.fault, self.every = target, fault, every
        self.port, self.answers, self.faults = int(self.server_address[1]), 0, 0
        self._lock, self.chance = threading.Lock(), random.Random(7)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()

    def is_due(self) -> bool:
        """Whether the next answer is one that is damaged."""
        with self._lock:
            self.answers += 1
            due = self.answers % self.every == 0
            self.faults += due
            return due


class _Passing(socketserver.BaseRequestHandler):
    server: Way

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target)) as inside:
            while request := self.request.recv(1 << 16):
                inside.sendall(request)
                answer = _whole_answer(inside)
                if self.server.is_due():
                    if not self._damaged(answer):
                        return
                else:
                    self.request.sendall(answer)

    def _damaged(self, answer: bytes) -> bool:
        match self.server.fault:
            case "cut":
                self.request.sendall(answer[: -len(answer) // 3])
                return False
            case "flip":
                at = len(answer) - 1 - self.server.chance.randrange(500)
                self.request.sendall(answer[:at] + bytes([answer[at] ^ 0x55]) + answer[at + 1 :])
            case "slice":
                for start in range(0, len(answer), 97):
                    self.request.sendall(answer[start : start + 97])
                    time.sleep(0.001)
            case "hole":
                self.request.recv(1)
                return False
        return True


def _whole_answer(inside: socket.socket) -> bytes:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += inside.recv(1 << 16)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += inside.recv(1 << 16)
    return head + b"\r\n\r\n" + body
