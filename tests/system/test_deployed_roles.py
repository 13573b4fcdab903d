"""Every role as it is deployed, as a plain process: the settings of its manifest, the rooms and packages of its image.

An image cannot be run here. What it would hold can: a folder with the rooms that the container file copies, and
an import hook that knows no package that the role's lock does not name. The settings are those of the manifest;
only places differ: addresses of the parts, folders, ports.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from house import CHECKOUT, House, bucket_sources, eventually

from commands.deploy.manifests import manifests
from commands.deploy.workloads import CERTIFICATES, HOME, SECRETS, SOURCES, principal_of
from infra.settings import PREFIX
from infra.stack import certificates

sys.path.insert(0, str(CHECKOUT / "tests" / "unit" / "deploy"))
from containers import lock, rooms

pytestmark = [pytest.mark.stack, pytest.mark.slow]

#: Found before anything else by every Python that is started in the folder, workers of a role included.
HOOK = """
import json, os, sys
class Absent:
    names = frozenset(json.loads({absent!r}))
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}} in this image", name=name)
sys.meta_path.insert(0, Absent())
"""
ROOMS = ("schemas", "infra", "producers", "consumers", "scoring", "commands", "tests")
PODS = {
    container["name"]: (document["metadata"]["namespace"], container)
    for name, text in manifests().items()
    if name != "migrate.yaml" and not name.endswith("kustomization.yaml")
    for document in yaml.safe_load_all(text)
    for container in document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())
}
MAPS = {
    (document["metadata"]["namespace"], document["metadata"]["name"]): document["data"]
    for name in ("settings.yaml", "buckets/settings.yaml")
    for document in yaml.safe_load_all(manifests()[name])
}


def absent(image: str) -> list[str]:
    """Top-level modules that are installed here and not in an image."""
    held = {line.partition("==")[0] for line in lock(image).read_text().splitlines() if line[:1].isalnum()}
    known = packages_distributions()
    theirs = {m for m, names in known.items() if not {_plain(name) for name in names} & held}
    # an editable install knows the rooms too, and would find them in the checkout
    return sorted((theirs - {"prodrome", *ROOMS}) | (set(ROOMS) - rooms(image)))


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def make_root(folder: Path, image: str) -> Path:
    """What an image holds below /app, and the hook."""
    folder.mkdir()
    for name in rooms(image):
        (folder / name).symlink_to(CHECKOUT / name)
    (folder / "sitecustomize.py").write_text(HOOK.format(absent=json.dumps(absent(image))))
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Pod:
    """One container of the manifests as a process."""

    def __init__(self, role: str, house: House, folder: Path, ports: dict[int, int]) -> None:
        self.role, self.ports = role, ports
        namespace, self.container = PODS[role]
        given: dict[str, str] = {}
        for source in self.container["envFrom"]:
            given |= MAPS[namespace, source["configMapRef"]["name"]]
        given |= {item["name"]: item["value"] for item in self.container["env"]}
        image = self.container["image"].removeprefix("prodrome/").partition(":")[0]
        self.root = make_root(folder / f"{role}.image", image)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
            **{name: self._here(name, value, house, folder) for name, value in given.items()},
            "PYTHONPATH": str(self.root),
            "PRODROME_HOME": str(folder / role),
            "PRODROME_SPOOL_PATH": str(folder / "spool"),
            "PRODROME_CLEAN_STORE": f"file://{folder}/clean",
            "PRODROME_TRUSTED_STORE": f"file://{folder}/trusted",
            "PRODROME_SCORE_STORE": f"file://{folder}/results",
            "PRODROME_ROLE_METRICS_PORT": str(self.port("metrics")),
        }
        self.log = folder / f"{role}.log"

    def _here(self, name: str, value: str, house: House, folder: Path) -> str:
        """A setting of the manifest as it is on this machine: the same files and ports, elsewhere."""
        for zone in ("trusted", "clean"):
            at = getattr(house.settings, zone)
            if name in (f"PRODROME_{zone.upper()}_KAFKA", f"PRODROME_{zone.upper()}_CASSANDRA"):
                return str(getattr(at, name.rpartition("_")[2].lower()))
            if name.startswith(f"PRODROME_{zone.upper()}_") and name.endswith("_TLS"):
                return "false"  # the stack's parts listen on loopback
        if name == "PRODROME_BUCKETS_ENDPOINT":
            return house.settings.buckets.endpoint
        for path in (SECRETS, CERTIFICATES, HOME):
            value = value.replace(path, str(folder / self.role / path.strip("/")))
        value = value.replace(f"{SOURCES}/sources.toml", str(folder / "sources.toml"))
        value = value.replace("0.0.0.0", "127.0.0.1")
        for port, here in self.ports.items():
            value = str(here) if value == str(port) else value.replace(f":{port}", f":{here}")
        return value

    def port(self, name: str) -> int:
        """The port here that stands for one of the container's."""
        [found] = [p["containerPort"] for p in self.container["ports"] if p["name"].endswith(name)]
        return self.ports[found]

    def start(self) -> "Pod":
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prodrome", *self.container["args"]],
                cwd=self.root, env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def answers(self, probe: str) -> bool:
        """Whether the manifest's probe would be content; the process must not have ended."""
        assert self.process.poll() is None, f"{self.role} ended:\n{self.log.read_text()[-3000:]}"
        check = self.container[probe]["httpGet"]
        [port] = [p["containerPort"] for p in self.container["ports"] if p["name"] == check["port"]]
        try:
            url = f"http://127.0.0.1:{self.ports[port]}{check['path']}"
            with urllib.request.urlopen(url, timeout=3) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


@pytest.fixture(scope="module")
def pods(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pod]]:
    """All roles, started at once beside those of the house, as further members of their groups."""
    folder = tmp_path_factory.mktemp("deployed")
    senders = MAPS["prodrome-trusted", "sources"]["sources.toml"]
    (folder / "sources.toml").write_text(senders + bucket_sources())
    for name in ("spool", "clean", "trusted", "results"):  # the volumes
        (folder / name).mkdir(mode=0o700)
    ports = {p["containerPort"]: free_port() for _, c in PODS.values() for p in c["ports"]}
    made = {}
    for role in PODS:
        own = {p["containerPort"]: free_port() for p in PODS[role][1]["ports"] if p["name"] == "metrics"}
        made[role] = Pod(role, house, folder, ports | own)
        hand_over(house, folder / role, principal_of(role))
    started = [made[role].start() for role in made]
    yield made
    for pod in started:
        pod.process.kill()
        pod.process.wait()


def hand_over(house: House, home: Path, principal: str) -> None:
    """Put the secrets of a principal and a certificate where its manifest looks for them."""
    secrets, tls = home / SECRETS.strip("/"), home / CERTIFICATES.strip("/")
    secrets.mkdir(parents=True)
    for part in ("kafka", "cassandra"):
        if (path := house.home / "secrets" / f"{principal}.{part}").exists():
            shutil.copy(path, secrets / part)
    shutil.copy(house.home / "secrets" / "master.key", secrets / "master.key")
    shutil.copy(house.settings.buckets.credentials_file, secrets / "buckets")
    for name in ("reader-token", "reader-tokens"):
        (secrets / name).write_text("a-token-of-a-test-with-enough-letters-in-it\n")
        (secrets / name).chmod(0o600)
    certificates.make(tls)
    shutil.copy(tls / "ca.pem", tls / "ca.crt")
    for name in ("tls.crt", "tls.key"):
        shutil.copy(tls / "server.pem", tls / name)


def test_every_role_becomes_ready_as_deployed(pods: dict[str, Pod]) -> None:
    """With its image's rooms and packages alone, its manifest's settings, and the probes that it will be asked."""
    for role, pod in pods.items():
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            eventually(lambda pod=pod, probe=probe: pod.answers(probe), f"{probe} of {role}")  # type: ignore[misc]


def test_the_exporter_reaches_what_it_looks_at(pods: dict[str, Pod]) -> None:
    """What is down is no error of its own, nor is a package that its image lacks: so its metrics are asked."""
    url = f"http://127.0.0.1:{pods['exporter'].port('metrics')}/metrics"

    def reached() -> set[str]:
        with urllib.request.urlopen(url, timeout=3) as answer:
            lines = answer.read().decode().splitlines()
        return {line for line in lines if line.startswith("prodrome_exporter_reachable{")}

    parts = ("kafka", "cassandra_trusted", "cassandra_clean", "spool")
    wanted = {f'prodrome_exporter_reachable{{part="{part}"}} 1.0' for part in parts}
    eventually(lambda: wanted <= reached(), "answers of all parts")


def test_every_port_of_a_role_is_listened_on(pods: dict[str, Pod]) -> None:
    """The door's and the reader's too."""
    for pod in pods.values():
        for port in pod.container["ports"]:
            socket.create_connection(("127.0.0.1", pod.ports[port["containerPort"]]), timeout=5).close()


@pytest.mark.parametrize(
    ("role", "module"), [("receive", "onnxruntime"), ("score", "pynetdicom"), ("ledger", "producers")]
)
def test_what_is_not_in_the_image_cannot_be_imported(pods: dict[str, Pod], role: str, module: str) -> None:
    """The hook bites; otherwise the test above would say nothing of images."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        cwd=pods[role].root, env=pods[role].environment, capture_output=True, text=True,
    )  # fmt: skip
    assert "in this image" in done.stderr
    assert sysconfig.get_path("purelib")


def test_a_role_stops_when_it_is_told_to(pods: dict[str, Pod]) -> None:
    """Well within the manifest's grace, and with no error. Comes last: it ends them all."""
    for pod in pods.values():
        pod.process.send_signal(signal.SIGTERM)
    ended: dict[str, Any] = {role: pod.process.wait(timeout=60) for role, pod in pods.items()}
    assert ended == dict.fromkeys(pods, 0)
