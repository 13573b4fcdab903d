"""The demo's ear: what a restarted role says again, behind what came later, changes nothing of what it shows."""

import itertools
import json
from pathlib import Path
from typing import Any

from commands.demo import Arrived

EXAMPLES = Path(__file__).parents[3] / "schemas" / "examples"
CREATED = "org.prodrome.imaging.prediction.created.v1"


def message(name: str, **changes: Any) -> bytes:
    """The worked example of a message, with other values."""
    return json.dumps(json.loads((EXAMPLES / f"{name}.json").read_text()) | changes).encode()


def test_repeats_and_order_do_not_matter() -> None:
    """Whatever the order, and however often each is heard: two answers about the study, the older first."""
    said = [
        message(f"{CREATED}.incomplete", prediction_id="0", study_instance_uid="2.25.1", revision=1),
        message(CREATED, prediction_id="1", study_instance_uid="2.25.1", revision=2),
        message(CREATED, prediction_id="2", study_instance_uid="2.25.1", revision=3),
        message(CREATED, prediction_id="3", study_instance_uid="2.25.2", revision=1),
    ]
    for order in itertools.permutations([*said, said[1]]):
        arrived = Arrived()
        for one in order:
            arrived.hear(one)
        assert [p["prediction_id"] for p in arrived.of("2.25.1")] == ["1", "2"]
        assert [p["prediction_id"] for p in arrived.of("2.25.2")] == ["3"]
        assert arrived.of("2.25.3") == []
