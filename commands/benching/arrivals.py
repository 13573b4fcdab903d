"""When things come out: a listener on a topic of the clean zone that notes the first time of each key it awaits.

Used beside a sender that told when each instance was acknowledged; monotonic time is one for all processes of
a machine. It decodes only what it awaits.
"""

import threading
import time
from collections.abc import Collection

from infra.connections import kafka_of
from infra.kafka import read
from infra.settings import Settings
from schemas.codec import decode
from schemas.events import InstanceDeidentified
from schemas.ids import study_key
from schemas.topics import BY_NAME


class Listener:
    """Follows one topic in a thread of its own; `seen` maps what came to the monotonic time of it.

    Parameters
    ----------
    found : Settings
        Of the stack.
    topic : str
        A topic of the clean zone.
    studies : collection of str
        Pseudonymous Study Instance UIDs; messages of none of these, or of those expected later, are passed over.
    """

    def __init__(self, found: Settings, topic: str, studies: Collection[str] = ()) -> None:
        self.seen: dict[str, float] = {}
        self._keys = {study_key("default", study): study for study in studies}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(found, topic), daemon=True)
        self._thread.start()

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def expect(self, study: str) -> None:
        """Listen for this study too, before its first image is sent."""
        self._keys[study_key("default", study)] = study

    def wait(self, study: str, seconds: float) -> float | None:
        """Return when a study's first message came, or None where none has within `seconds`."""
        deadline = time.monotonic() + seconds
        while study not in self.seen and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.seen.get(study)

    def _listen(self, found: Settings, topic: str) -> None:
        messages = read(kafka_of(found.clean), topic, from_start=False, follow=True, stopping=self._stopping)
        for message in messages:
            study = self._keys.get(message.key)
            if study is None:
                continue
            now = time.monotonic()
            self.seen.setdefault(study, now)
            event = decode(message.value, message.headers, accepts=BY_NAME[topic].types)
            if isinstance(event, InstanceDeidentified):
                for instance in event.instances:
                    self.seen.setdefault(instance.sop_instance_uid, now)
