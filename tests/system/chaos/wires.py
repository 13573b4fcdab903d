"""What is on a wire: a bad way between a sender and a receiver, elements by hand, and whether a peer has hung up."""

import random
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Final

_BLOCK: Final = 64 << 10


class BadWire:
    """A TCP proxy to a port of this machine; `port` is where it listens.

    Each connection is reset after a random number of bytes, up to `bytes_until_reset`; each answer waits `delay`
    seconds before it goes on. `resets` counts.
    """

    def __init__(
        self, to_port: int, chance: random.Random, bytes_until_reset: int, delay: float = 0.0
    ) -> None:
        self._to, self._chance, self._most, self._delay = to_port, chance, bytes_until_reset, delay
        self.resets = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept)
        self._ended = False

    def __enter__(self) -> "BadWire":
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        carriers: list[threading.Thread] = []
        while not self._ended:
            if select.select([self._listener], [], [], 0.1)[0]:
                near, _ = self._listener.accept()
                left = self._chance.randrange(1, self._most)
                carriers.append(threading.Thread(target=self._carry, args=(near, left)))
                carriers[-1].start()
        for carrier in carriers:
            carrier.join()

    def _carry(self, near: socket.socket, left: int) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as far:
            while not self._ended:
                for one in select.select([near, far], [], [], 0.1)[0]:
                    data = one.recv(min(_BLOCK, left))
                    if not data:
                        return
                    left -= len(data)
                    if one is far:
                        time.sleep(self._delay)
                    (far if one is near else near).sendall(data)
                    if not left:
                        self.resets += 1
                        for end in (near, far):  # a reset, not an end: what is on its way is lost
                            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        return


def element(tag: int, value: bytes) -> bytes:
    """Return a UI element, explicit little endian."""
    padded = value + b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"UI", len(padded)) + padded


def ended(peer: socket.socket) -> bool:
    """Whether the other end has ended this connection."""
    peer.settimeout(0.01)
    try:
        while peer.recv(100):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True
