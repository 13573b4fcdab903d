"""Settings: wrong ones are named, the environment comes before the file, secrets are kept from others."""

from pathlib import Path

import pytest

from infra.secret_files import key_text, parse_secrets
from infra.settings import load, master_key, rows, sealing_secrets, sources
from schemas.errors import SettingsError

KEY = "00" * 32


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PRODROME_HOME": str(tmp_path), "PATH": "/bin"}


def write_key(home: Path, text: str = KEY, mode: int = 0o600) -> None:
    path = home / "secrets" / "master.key"
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(mode)


def test_defaults_follow_the_home_folder(environ: dict[str, str], tmp_path: Path) -> None:
    """Every path is whole when a component sees it."""
    found = load(environ)
    assert found.spool.path == str(tmp_path / "spool")
    assert found.clean.store == f"file://{tmp_path}/clean"
    assert (found.trusted.keyspace, found.clean.keyspace) == ("prodrome_trusted", "prodrome_clean")


def test_every_setting_can_be_set_to_its_own_default(environ: dict[str, str]) -> None:
    """Names and texts of the table are what the reader understands."""
    given = {row.name: row.default for row in rows() if row.default}
    assert load({**given, **environ}) == load(environ)


def test_values_have_the_type_of_their_field(environ: dict[str, str]) -> None:
    """Numbers, truths and lists, not texts."""
    more = {
        "PRODROME_RECEIVE_PORT": "104",
        "PRODROME_RECEIVE_ALLOW_PLAINTEXT": "Yes",
        "PRODROME_CATALOG_CLOSED_QUIET_SECONDS": "0.5",
        "PRODROME_SPOOL_OTHERS": "/a, /b,",
    }
    found = load({**environ, **more})
    assert (found.receive.port, found.receive.allow_plaintext) == (104, True)
    assert (found.catalog.closed_quiet_seconds, found.spool.others) == (0.5, ("/a", "/b"))


def test_an_unknown_name_is_refused(environ: dict[str, str]) -> None:
    """A typo is not silently the default."""
    with pytest.raises(SettingsError, match="PRODROME_RECIEVE_PORT"):
        load({**environ, "PRODROME_RECIEVE_PORT": "104"})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PRODROME_RECEIVE_PORT", "http", "expected a number"),
        ("PRODROME_RECEIVE_PORT", "", "expected a number"),
        ("PRODROME_RELAY_POLL_SECONDS", "10ms", "expected a number"),
        ("PRODROME_RECEIVE_ALLOW_PLAINTEXT", "maybe", "expected true or false"),
    ],
)
def test_a_value_of_another_type_is_named(
    environ: dict[str, str], name: str, text: str, expected: str
) -> None:
    """The message says which setting, and what was expected."""
    with pytest.raises(SettingsError, match=f"{name}: {expected}"):
        load({**environ, name: text})


def test_the_environment_comes_before_the_file(environ: dict[str, str], tmp_path: Path) -> None:
    """The file of `prodrome up` fills what is not set; comments and empty lines are skipped."""
    (tmp_path / "prodrome.env").write_text(
        "# made by up\n\nPRODROME_CLEAN_KAFKA=127.0.0.1:1\nPRODROME_TRUSTED_KAFKA=127.0.0.1:2\n"
    )
    found = load({**environ, "PRODROME_CLEAN_KAFKA": "broker:9092"})
    assert (found.clean.kafka, found.trusted.kafka) == ("broker:9092", "127.0.0.1:2")


def test_a_file_of_other_lines_is_refused(environ: dict[str, str], tmp_path: Path) -> None:
    """Half a file, or somebody's notes: one line says so."""
    (tmp_path / "prodrome.env").write_text("PRODROME_CLEAN_KAFKA\n")
    with pytest.raises(SettingsError, match="NAME=value"):
        load(environ)


def test_an_unknown_name_in_the_file_is_refused_too(environ: dict[str, str], tmp_path: Path) -> None:
    """Wherever it stands."""
    (tmp_path / "prodrome.env").write_text("PRODROME_NONSENSE=1\n")
    with pytest.raises(SettingsError, match="PRODROME_NONSENSE"):
        load(environ)


def test_the_master_key_is_read_from_its_file(environ: dict[str, str], tmp_path: Path) -> None:
    """64 hexadecimal digits, white space around them allowed."""
    write_key(tmp_path, KEY + "\n")
    assert master_key(load(environ)) == bytes(32)


def test_later_lines_seal_and_the_first_is_the_master(environ: dict[str, str], tmp_path: Path) -> None:
    """One that was retired keeps the numbers of those behind it; `restore` writes the same lines."""
    write_key(tmp_path, f"{KEY}\n-\n{'11' * 32}\n")
    found = sealing_secrets(load(environ))
    assert found == {1: bytes(32), 3: bytes([0x11]) * 32}
    assert master_key(load(environ)) == bytes(32)
    assert parse_secrets(key_text(found), "") == found


@pytest.mark.parametrize("text", ["-", f"{KEY}\n\n{KEY}", f"{KEY}\nzz"])
def test_a_line_that_is_no_secret_is_named(environ: dict[str, str], tmp_path: Path, text: str) -> None:
    """By its number; the master does not retire."""
    write_key(tmp_path, text)
    with pytest.raises(SettingsError, match=r"line [12]: expected 64 hexadecimal digits"):
        sealing_secrets(load(environ))


@pytest.mark.parametrize("mode", [0o620, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(environ: dict[str, str], tmp_path: Path, mode: int) -> None:
    """The command that mends it is in the message."""
    write_key(tmp_path, mode=mode)
    with pytest.raises(SettingsError, match="chmod 600"):
        master_key(load(environ))


@pytest.mark.parametrize("text", ["", "00" * 16, "zz" * 32, KEY + "00"])
def test_a_key_of_another_form_is_refused_and_not_shown(
    environ: dict[str, str], tmp_path: Path, text: str
) -> None:
    """Pseudonyms made with half a key could not be made again."""
    write_key(tmp_path, text)
    with pytest.raises(SettingsError, match="expected 64 hexadecimal digits") as caught:
        master_key(load(environ))
    assert not text or text not in str(caught.value)


def test_without_a_key_the_message_says_where_it_would_be(environ: dict[str, str]) -> None:
    """A new key would give every patient another pseudonym, so none is made here."""
    with pytest.raises(SettingsError, match=r"secrets/master\.key"):
        master_key(load(environ))


def test_without_a_sources_file_only_this_machine_may_send(environ: dict[str, str]) -> None:
    """The default admits loopback alone."""
    assert [s.addresses for s in sources(load(environ))] == [("127.0.0.0/8", "::1/128")]


@pytest.mark.parametrize(
    "text",
    ["[[source]]\nnme = 'x'", "[[source]]\nname = 'Upper Case'", "[[source", "[[source]]\nname = 1"],
    ids=["unknown field", "bad name", "no TOML", "bad type"],
)
def test_a_wrong_sources_file_is_refused(environ: dict[str, str], tmp_path: Path, text: str) -> None:
    """An allow-list with a typo admits nobody by accident."""
    path = tmp_path / "sources.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match="PRODROME_RECEIVE_SOURCES"):
        sources(load({**environ, "PRODROME_RECEIVE_SOURCES": str(path)}))
