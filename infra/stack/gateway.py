"""An S3 gateway for one machine: versitygw over a folder, which tells Kafka of every object.

1. `build` makes the program with Go, once: fetched from the module proxy, its sum as it is known here.
2. `prepare` makes its access key and its bucket.
3. `become` turns this process into it. It listens on loopback, for whoever has the key.

It tells Kafka after it has answered, and forgets what it could not tell: that is what the lister is for. Its
client of Kafka knows no login, so that it has a listener of its own (`kafka_node`).
"""

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console

from infra.secret_files import read_secret, write_secret
from infra.settings import GATEWAY_BUCKET
from infra.stack.layout import Addresses, Layout, MissingPrerequisite, StackError
from schemas.access import GATEWAY, OPERATOR, STORES, store_rights

MODULE: Final = "github.com/versity/versitygw"
VERSION: Final = "v1.7.0"
#: Of the module's files, as Go's checksum database has it.
SUM: Final = "h1:Tyn9TOpUn6nTyYfb+e2uaz1prf5Uv44FLpy4RU/foJE="
#: Compiling takes three minutes on two cores; ten times that is a build that hangs.
BUILD_SECONDS: Final = 1800.0
EVENTS: Final = "s3.events"


def program(layout: Layout) -> Path:
    """Where the built program lies."""
    return layout.lib / "versitygw" / VERSION / "versitygw"


def build(layout: Layout, say: Callable[[str], None] = lambda _: None) -> None:
    """Make the program present; returns at once when it is.

    Raises
    ------
    MissingPrerequisite
        Go is missing.
    StackError
        The module is not the one that is known, or does not build.
    """
    target = program(layout)
    if target.exists():
        return
    go = shutil.which("go")
    if go is None:
        raise MissingPrerequisite("Go 1.24 or later is missing (it builds the S3 gateway): see go.dev/dl")
    say("building the S3 gateway with Go (three minutes, this once)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(go, target)


def prepare(layout: Layout) -> None:
    """Make the access key and the bucket that are not there yet."""
    if not layout.credentials.exists():
        write_secret(layout.credentials, f"{secrets.token_hex(10)}\n{secrets.token_urlsafe(32)}\n")
    for folder in (_data(layout), _data(layout) / GATEWAY_BUCKET):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def as_settings(layout: Layout, addresses: Addresses, principal: str) -> dict[str, str]:
    """Return the settings by which a principal reads the bucket; nothing for one that does not."""
    if not reads_buckets(principal):
        return {}
    found = {
        "PRODROME_BUCKETS_ENDPOINT": addresses.s3_endpoint,
        "PRODROME_BUCKETS_CREDENTIALS_FILE": str(layout.credentials),
    }
    if principal in ("bridge", OPERATOR):
        found["PRODROME_BRIDGE_EVENTS"] = f"kafka:{EVENTS}"
    return found


def reads_buckets(principal: str) -> bool:
    """Whether a principal has anything to do with the buckets of others."""
    return any(store_rights(principal, store) for store in STORES if store.name == "buckets")


def become(layout: Layout, addresses: Addresses) -> NoReturn:
    """Become the gateway."""
    name, secret = read_secret(layout.credentials, "`prodrome up --s3` makes it").split()
    command = [
        str(program(layout)),
        *("--port", f"{addresses.host}:{addresses.s3}"),
        *("--health", "/healthz", "--keep-alive", "--quiet"),
        *("--event-kafka-url", f"{addresses.host}:{addresses.kafka_gateway}", "--event-kafka-topic", EVENTS),
        *("posix", str(_data(layout))),
    ]
    environment = {**os.environ, "ROOT_ACCESS_KEY_ID": name, "ROOT_SECRET_ACCESS_KEY": secret}
    os.execve(command[0], command, environment)  # noqa: S606  our own program, our own arguments


def _data(layout: Layout) -> Path:
    return layout.home / GATEWAY / "data"


def _build(go: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as temporary:
        environment = {
            **os.environ,
            "GOPATH": f"{temporary}/go",
            "GOCACHE": f"{temporary}/cache",
            "GOBIN": f"{temporary}/bin",
            "GOFLAGS": "-modcacherw -buildvcs=false",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        }
        with Console(stderr=True).status("building versitygw"):
            told = json.loads(_run([go, "mod", "download", "-json", f"{MODULE}@{VERSION}"], environment))
            if told.get("Sum") != SUM:
                raise StackError(f"{MODULE} {VERSION}: expected the sum {SUM}, came {told.get('Sum')}")
            _run([go, "install", "-trimpath", f"{MODULE}/cmd/versitygw@{VERSION}"], environment)
        Path(temporary, "bin", "versitygw").rename(target)


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode:
        raise StackError(f"building the S3 gateway failed: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


if __name__ == "__main__":  # before it is needed: tests build it beside other work
    build(Layout(Path(".prodrome"), Path(".prodrome", "lib")), print)
