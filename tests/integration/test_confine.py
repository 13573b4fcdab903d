"""A confined process on this machine's kernel: what the table says it may touch, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.confine import confine
from infra.settings import load
from schemas import access
from schemas.errors import SettingsError

# Enters as a role, then tries what it is told to: "read PATH" or "write FOLDER", one answer each.
PROGRAM = """
import json, os, sys
from infra.confine import enter
from infra.settings import load
confined = enter(load(), sys.argv[1])
def tried(what, path):
    try:
        if what == "read":
            open(path, "rb").close()
        elif what == "signal":
            os.kill(int(path), 0)
        else:
            made = os.path.join(path, "probe-" + sys.argv[1])
            open(made, "xb").close()
            os.unlink(made)
        return True
    except PermissionError:
        return False
import xml.dom.minidom, consumers.deid.profile, numpy, tempfile  # late imports still work
tempfile.TemporaryFile().close()
print(json.dumps([confined, [tried(*one) for one in json.load(sys.stdin)]]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a file in every store and a secret for everybody."""
    made = tmp_path_factory.mktemp("home")
    for name in (
        "spool/segment",
        "trusted/sealed",
        "clean/object",
        "results/object",
        "secrets/master.key",
        "secrets/s3.credentials",
        "secrets/score.kafka",
    ):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text("something")
    return made


def asked(
    home: Path, role: str, tries: list[tuple[str, str]], mode: str = "required", **given: str
) -> list[bool]:
    """What a process of the role could do."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PRODROME_HOME": str(home),
        "PRODROME_ROLE_CONFINE": mode,
        "PRODROME_BUCKETS_CREDENTIALS_FILE": str(home / "secrets" / "s3.credentials"),
        "PRODROME_CLEAN_KAFKA_PASSWORD_FILE": str(home / "secrets" / "score.kafka"),
        **given,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, role], input=json.dumps(tries), env=environ, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    confined, could = json.loads(done.stdout)
    assert confined == (mode != "off")
    return list(could)


@pytest.mark.parametrize("role", access.ROLES)
def test_a_role_touches_its_stores_and_no_others(home: Path, role: str) -> None:
    """Every store, read and write, is as the table says; zero unexpected allows, zero unexpected denials."""
    places = {
        "spool": "spool/segment",
        "quarantine": "trusted/sealed",
        "clean": "clean/object",
        "results": "results/object",
        "keys": "secrets/master.key",
        "buckets": "secrets/s3.credentials",
    }
    tries, expected = [], []
    for store in access.STORES:
        path, rights = home / places[store.name], access.store_rights(role, store)
        tries += [("read", str(path)), ("write", str(path.parent))]
        expected += ["read" in rights, "write" in rights]
    assert asked(home, role, tries) == expected


def test_a_role_reads_its_own_password_and_no_others(home: Path, tmp_path: Path) -> None:
    """Nor what lies elsewhere, nor anybody's memory; and it signals nobody."""
    mine, secret = str(home / "secrets" / "score.kafka"), tmp_path / "elsewhere"
    secret.write_text("x")
    tries = [
        ("read", mine),
        ("read", str(home / "secrets" / "master.key")),
        ("read", str(secret)),
        ("read", f"/proc/{os.getpid()}/mem"),
        ("signal", str(os.getpid())),
        ("write", str(home / "secrets")),
        ("write", "/tmp"),
    ]
    assert asked(home, "score", tries) == [True, False, False, False, False, False, False]


def test_switched_off_nothing_is_held_back(home: Path) -> None:
    """So that the checks above are seen to come from the confinement."""
    assert asked(home, "score", [("read", str(home / "secrets" / "master.key"))], "off") == [True]


def test_a_word_that_is_no_mode_is_refused() -> None:
    """A spelling mistake does not switch it off."""
    with pytest.raises(SettingsError, match="auto, off or required"):
        confine([], "none")


def test_required_means_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no Landlock, a role that must be confined does not start; others say so and do."""
    monkeypatch.setattr("infra.confine._version", lambda: 0)
    assert confine([], "auto") is False
    with pytest.raises(SettingsError, match="no Landlock"):
        confine([], "required")
    assert load({"PRODROME_HOME": "/nowhere"}).role.confine == "auto"


def test_tokens_are_read_after_they_were_exchanged(home: Path, tmp_path: Path) -> None:
    """Their folder is the relay's to read, whatever file lies there by then; the stack's secrets are not."""
    tries = [("read", str(tmp_path / "later")), ("read", str(home / "secrets" / "master.key"))]
    (tmp_path / "later").touch()
    for tokens, could in (
        (tmp_path / "tokens", [True, False]),
        (home / "secrets" / "tokens", [False, False]),
    ):
        given = {"PRODROME_READER_PORT": "0", "PRODROME_READER_TOKENS_FILE": str(tokens)}
        assert asked(home, "relay", tries, **given) == could
        assert asked(home, "ledger", tries, **given) == [False, False]
