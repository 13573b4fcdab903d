"""The access table: whole, and as narrow as the zones ask."""

import re
from pathlib import Path

import pytest

from commands.stack import ROLES, role_environment
from infra.access import acls, as_commands, grants
from infra.cassandra import MIGRATIONS
from infra.settings import load
from infra.stack.layout import Addresses, Layout, StackError
from infra.stack.logins import make_passwords, password_file
from schemas import access
from schemas.topics import TOPICS, Zone

KEYSPACES: dict[Zone, str] = {"trusted": "t", "clean": "c"}


def test_every_table_has_a_row_and_every_row_a_table() -> None:
    """A migration that adds a table says who may use it, or nobody can."""
    made = {
        (name, path.parent.name)
        for path in MIGRATIONS.glob("*/*.cql")
        for name in re.findall(r"CREATE TABLE (\w+)", path.read_text())
    }
    assert {(table.name, table.zone) for table in access.TABLES} == made


def test_every_name_is_a_principal() -> None:
    """A right of somebody unknown is a spelling mistake."""
    known = {*access.PRINCIPALS, *access.PLANNED, access.GATEWAY}
    for row in (*TOPICS, *access.TABLES, *access.STORES):
        assert {*row.writers, *row.readers} <= known, row.name


def test_every_role_of_the_stack_is_a_principal() -> None:
    """Each logs in as itself."""
    assert {arguments[0] for arguments in ROLES.values()} <= {*access.ROLES}


@pytest.mark.parametrize("principal", ["catalog", "score", "subscribers"])
def test_the_clean_side_has_nothing_of_the_trusted_zone(principal: str) -> None:
    """No topic, no table, no store, and so no login."""
    assert not access.uses(principal, "trusted")


@pytest.mark.parametrize("principal", ["receive", "relay", "ledger"])
def test_the_trusted_side_has_nothing_of_the_clean_zone(principal: str) -> None:
    """Who sees identifiers does not see pseudonyms beside them."""
    assert not access.uses(principal, "clean")


def test_only_deidentify_and_people_have_the_master_secret() -> None:
    """It opens the vault and the quarantine."""
    [keys] = [store for store in access.STORES if store.name == "keys"]
    able = {p for p in access.PRINCIPALS if access.store_rights(p, keys)}
    assert able == {"deidentify", access.OPERATOR, access.ADMIN}


def test_a_scorer_is_not_told_where_the_trusted_zone_is(tmp_path: Path) -> None:
    """Its settings name its own password files, and nothing of the other zone, whatever `up` was called with."""
    addresses = Addresses(
        kafka=1, kafka_controller=2, cassandra=3, cassandra_storage=4, dicom=5, kafka_gateway=6, s3=7
    )
    given = {
        "PRODROME_TRUSTED_STORE": "s3://raw",
        "PRODROME_BUCKETS_CREDENTIALS_FILE": "/somewhere",
        "PRODROME_SCORE_THREADS": "2",
    }
    found = role_environment(load({"PRODROME_HOME": str(tmp_path)}), addresses, given, "score")
    assert not any("TRUSTED" in name or "BUCKETS" in name for name in found)
    files = {Path(value).name for name, value in found.items() if name.endswith("PASSWORD_FILE")}
    assert files == {"score.kafka", "score.cassandra"}
    assert found["PRODROME_SCORE_THREADS"] == "2"


def test_an_administrator_password_that_is_lost_is_not_made_anew(tmp_path: Path) -> None:
    """Cassandra knows the old one alone; the message says what helps."""
    layout = Layout(tmp_path, tmp_path)
    make_passwords(layout)
    first = password_file(layout, "score", "kafka").read_text()
    (tmp_path / "cassandra").mkdir()
    (tmp_path / "cassandra" / "closed").touch()
    make_passwords(layout)
    assert password_file(layout, "score", "kafka").read_text() == first
    password_file(layout, access.ADMIN, "cassandra").unlink()
    with pytest.raises(StackError, match="restore your backup"):
        make_passwords(layout)


def test_nothing_is_given_to_everybody() -> None:
    """Every ACL names a topic or a prefix of our own groups, every grant a table."""
    assert {acl.kind for acl in acls()} == {"TOPIC", "GROUP"}
    assert all(acl.name.startswith(("prodrome-", "subscriber-")) for acl in acls() if acl.kind == "GROUP")
    assert not any("*" in grant for grant in grants(KEYSPACES))


def test_administrators_of_other_clusters_are_told_the_same() -> None:
    """A line for each ACL and each grant of the zone, and no password."""
    lines = list(as_commands("clean", KEYSPACES))
    assert "GRANT MODIFY ON c.predictions TO prodrome_score;" in lines
    assert not any("t." in line.split() or "instance.received" in line for line in lines)
    assert sum(line.startswith("GRANT") for line in lines) == sum(
        g.keyspace == "c" for g in grants(KEYSPACES)
    )
