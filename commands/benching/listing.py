"""The lister over a bucket that is as large as one likes: a generated listing, answered by a server of its own process.

Every object is one that is known and settled, so that what is measured is the look itself: requests, digests, rows.
"""

import dataclasses
import http.server
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from commands.benching.pages import Figures
from infra.buckets import PAGE_KEYS, Buckets
from infra.cassandra import Tables
from infra.clock import SystemClock
from infra.connections import S3Connection
from producers.lister import Lister
from schemas.buckets import ObjectVersion
from schemas.sources import Source

_ITEM: Final = (
    "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>204800</Size><StorageClass>STANDARD</StorageClass>"
    "</Contents>"
)


def measured(tables: Tables, keys: int, login: S3Connection) -> Figures:
    """Return what two looks at so many keys cost: the first keeps digests, the second compares them.

    The server looks at no signature; `login` is for the client, which makes one.
    """
    clock, source = SystemClock(), Source(name="listing", bucket="listing", prefix=f"{time.time_ns()}/")
    lines = []
    with _server(keys, source.prefix) as endpoint:
        buckets = Buckets(dataclasses.replace(login, endpoint=endpoint))
        lister = Lister(buckets, tables, _Known(), clock, 0.0, threading.Event())  # type: ignore[arg-type]
        for name in ("first look", "at rest"):
            began, cpu, before = time.monotonic(), time.process_time(), _peak_mb()
            look = lister.look("bench", source)
            took, used = time.monotonic() - began, time.process_time() - cpu
            lines.append([
                name, f"{look.listed}", f"{look.listed // PAGE_KEYS}", f"{look.runs}", f"{look.resting}",
                f"{look.listed / took:.0f}", f"{1e6 * used / look.listed:.0f}", f"{_peak_mb() - before:.0f}",
            ])  # fmt: skip
        buckets.close()
    head = [
        "look",
        "objects",
        "requests",
        "runs",
        "of them at rest",
        "objects/s",
        "CPU us an object",
        "memory grew, MB",
    ]
    return Figures("The lister", head, lines)


class _Known:
    """Everything is known and refused: settled, that is."""

    def known(self, versions: Sequence[ObjectVersion]) -> dict[tuple[str, str, str], Any]:
        row = _Row()
        return {(version.bucket, version.key, version.version): row for version in versions}

    def take(self, *_: object, **__: object) -> Counter[str]:
        raise AssertionError("nothing is missing")


class _Row:
    state = "refused"


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _server(keys: int, prefix: str) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).resolve()), str(keys), prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            yield f"http://127.0.0.1:{(serving.stdout.readline() if serving.stdout else '').strip()}"
        finally:
            serving.kill()


class _Listing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    keys, prefix = 0, ""

    def do_GET(self) -> None:
        """Answer ListObjectsV2 from the key after StartAfter on."""
        asked = parse_qs(urlsplit(self.path).query)
        after = asked.get("start-after", [""])[0].removeprefix(self.prefix)
        first = int(after) + 1 if after else 0
        last = min(self.keys, first + PAGE_KEYS)
        items = "".join(_ITEM.format(escape(f"{self.prefix}{n:012d}")) for n in range(first, last))
        more = "true" if last < self.keys else "false"
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>listing</Name><KeyCount>{last - first}</KeyCount><IsTruncated>{more}</IsTruncated>{items}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


if __name__ == "__main__":
    _Listing.keys, _Listing.prefix = int(sys.argv[1]), sys.argv[2]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Listing)
    print(server.server_port, flush=True)
    server.serve_forever()
