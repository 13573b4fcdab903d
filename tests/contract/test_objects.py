"""Objects: written once under their key, read back whole or refused, mended after a power loss; on both kinds of store."""

import hashlib
import os
from pathlib import Path

import pytest

from infra.objects import Store
from schemas.errors import BadMessage, SettingsError, SlowDown
from schemas.events import Pointer
from tests.gateway import Gateway


@pytest.fixture(params=["file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where the objects of the store lie as files: a gateway's bucket is a folder."""
    if request.param == "file":
        return tmp_path / "clean"
    gateway: Gateway = request.getfixturevalue("s3_gateway")
    return gateway.folder / "data" / gateway.bucket(tmp_path.name.replace("_", "-").lower()[:40] + "-x")


@pytest.fixture
def store(folder: Path, request: pytest.FixtureRequest) -> Store:
    """The same store, on a file system or behind S3."""
    if folder.parent.name != "data":
        return Store(f"file://{folder}", "clean")
    gateway: Gateway = request.getfixturevalue("s3_gateway")
    return Store(f"s3://{folder.name}", "clean", gateway.connection)


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
def test_what_is_put_is_got(store: Store, data: bytes) -> None:
    """An empty object too."""
    pointer = store.put("default/ab/abc.dcm", data)
    assert pointer.uri == "clean://default/ab/abc.dcm"
    assert store.get(pointer) == data


def test_a_repeat_gives_the_same_pointer(store: Store) -> None:
    """The key names the content, so the same is there already."""
    assert store.put("k/a", b"same") == store.put("k/a", b"same")


@pytest.mark.parametrize("left", [b"", b"who", b"\0\0\0\0\0"], ids=["empty", "cut", "zeros"])
def test_a_repeat_mends_what_a_power_loss_left(store: Store, folder: Path, left: bytes) -> None:
    """Local puts are renamed but not synced: the name may survive without its bytes."""
    pointer = store.put("k/a", b"whole")
    (folder / "k" / "a").write_bytes(left)
    with pytest.raises(BadMessage, match="missing_object"):
        store.get(pointer)
    assert store.put("k/a", b"whole") == pointer
    assert store.get(pointer) == b"whole"


def test_a_part_of_an_object_is_got_by_its_range(store: Store) -> None:
    """A pointer is a range."""
    store.put("k/a", b"0123456789")
    assert store.get(Pointer(uri="clean://k/a", offset=3, length=4)) == b"3456"


@pytest.mark.parametrize(
    "pointer",
    [
        Pointer(uri="clean://k/none", offset=0, length=5),
        Pointer(uri="clean://k/a", offset=0, length=6),
        Pointer(uri="clean://k/a", offset=6, length=1),
        Pointer(uri="clean://k/a", offset=0, length=5, digest="00" * 32),
        Pointer(uri="clean://k/a", offset=0, length=5, checksum="xxh3:" + "00" * 8),
        Pointer(uri="spool://k/a", offset=0, length=5),
        Pointer(uri="clean://../clean/k/a", offset=0, length=5),
    ],
    ids=["gone", "shorter", "beyond", "others", "other bytes", "another store", "outside"],
)
def test_a_pointer_that_does_not_hold_is_bad(store: Store, pointer: Pointer) -> None:
    """It ends as a dead letter: waiting would not heal it."""
    store.put("k/a", b"01234")
    with pytest.raises(BadMessage, match="missing_object"):
        store.get(pointer)


def test_a_pointer_of_the_first_release_holds(store: Store) -> None:
    """Release 0.1.0 wrote SHA-256 into its pointers, and they are still out there."""
    store.put("k/a", b"01234")
    digest = hashlib.sha256(b"01234").hexdigest()
    assert store.get(Pointer(uri="clean://k/a", offset=0, length=5, digest=digest)) == b"01234"


def test_sealed_bytes_may_be_written_again(store: Store) -> None:
    """The newest sealing is what is read."""
    store.put_again("k/a", b"first")
    assert store.get(store.put_again("k/a", b"second")) == b"second"


def test_deleting_twice_is_no_error(store: Store) -> None:
    """A repeat of a deletion changes nothing."""
    pointer = store.put("k/a", b"x")
    store.delete(pointer)
    store.delete(pointer)
    assert store.keys() == []


def test_a_store_that_refuses_to_write_is_waited_for(store: Store, folder: Path) -> None:
    """A full or unmounted disk heals; nothing is a dead letter for it."""
    (folder / "k").write_bytes(b"a file where a folder is wanted")
    with pytest.raises(SlowDown, match="clean store refused a put"):
        store.put("k/a", b"x")


def test_what_a_kill_left_beside_an_object_is_none(tmp_path: Path) -> None:
    """A local put that was cut: it is not listed, and the next put of that key is whole."""
    store = Store(f"file://{tmp_path}", "clean")
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "a#1").write_bytes(b"ha")
    assert store.keys() == []
    assert store.get(store.put("k/a", b"half")) == b"half"
    assert store.keys() == ["k/a"]


def test_what_kills_left_is_found_and_goes_with_its_object(tmp_path: Path) -> None:
    """Only what is old enough is left over; nothing of an object is there once it was removed."""
    store = Store(f"file://{tmp_path}", "clean")
    pointer = store.put("k/a[1]", b"whole")
    cut = [tmp_path / "k" / name for name in ("a[1]#1", "a[1]#23", "b#1")]
    for path in cut:
        path.write_bytes(b"ha")
        os.utime(path, (1000, 1000))
    (tmp_path / "k" / "c#1").write_bytes(b"may be at work")
    assert sorted(store.leftovers(2000)) == cut
    store.delete(pointer)
    store.delete(pointer)
    assert list(store.leftovers(2000)) == cut[2:]


@pytest.mark.parametrize("url", ["/folder", "ftp://host/x", ""])
def test_another_kind_of_store_is_refused(url: str) -> None:
    """The message says which kinds there are."""
    with pytest.raises(SettingsError, match="file or s3"):
        Store(url, "clean")


def test_a_bucket_that_is_away_is_waited_for(s3_gateway: Gateway) -> None:
    """Nobody listens there: nothing is a dead letter for it."""
    store = Store("s3://away", "clean", s3_gateway.through(1))
    for step in (
        lambda: store.put("k", b"x"),
        lambda: store.get(Pointer(uri="clean://k", offset=0, length=1)),
    ):
        with pytest.raises(SlowDown):
            step()
