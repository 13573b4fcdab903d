"""The canaries of bench-deid: planted in every class and carrier, and a leak of any is found."""

import pytest

from commands.benching import deid_canaries
from commands.benching.deid_canaries import CLASSES, measured, patients
from consumers.deid.engine import Profile, load_profile


def test_every_class_is_in_many_carriers() -> None:
    """An instance has hundreds, of all eighteen classes, in some twenty carriers."""
    (made,) = patients(1)
    assert {canary.kind for canary in made.canaries} == set(CLASSES)
    assert len({canary.carrier for canary in made.canaries}) >= 20
    assert len(made.canaries) > 500
    assert sum(canary.value in made.file for canary in made.canaries) > 100  # the rest is deflated


def test_none_is_found_and_nothing_is_lost() -> None:
    """One patient under each profile: no canary, no loss, one UID each, no dangling reference."""
    told = {line[0]: line[1] for line in measured(3 * 24)[0].lines}
    assert told["instances"].startswith("72, of them quarantined 0")
    for name in list(told)[1:]:
        assert told[name].startswith("0 of "), (name, told[name])


@pytest.mark.parametrize("broken", ["row", "private"])
def test_a_leak_is_found(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """One row or one pattern switched off shows, in deflated files too."""

    def worse(name: str) -> Profile:
        profile = load_profile(name)
        if broken == "row":
            return profile.without(0x00324000)
        return profile.without(patterns=("PrivateAttributes",))

    rows = deid_canaries._rows()
    monkeypatch.setattr(deid_canaries, "_rows", lambda: rows)
    monkeypatch.setattr(deid_canaries, "load_profile", worse)
    told = {line[0]: line[1] for line in measured(24)[0].lines}
    found = int(told["canaries found of those planted"].split()[0])
    assert found >= 22  # of 24 instances; some have a date there, of which one in a row is not looked for
