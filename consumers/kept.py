"""What the quarantine keeps of a doubtful instance, sealed: its bytes in the store, its event in the row. Trusted.

Both belong to the intake that came through the door; a release of it, however often, points at the same
object. Written by deidentify, opened by it for a release, and by the operator's commands.
"""

from functools import cache
from typing import Final

import msgspec

from consumers.deid.keys import ProjectKeys, mac
from infra.objects import open_store
from infra.seal import Sealer
from infra.secret_files import MASTER
from infra.settings import Settings, sealing_secrets
from schemas.codec import body
from schemas.errors import BadMessage
from schemas.events import InstanceReceived, Intake, Pointer

_PURPOSE: Final = "quarantine"


class Kept:
    """Reads and writes the quarantine's sealed bytes; holds the secrets."""

    def __init__(self, settings: Settings) -> None:
        secrets, key_id = sealing_secrets(settings), settings.deidentify.key_id
        self.store = open_store(settings.trusted, "trusted", "trusted")
        self._sealer = cache(lambda project: Sealer(secrets, project, _PURPOSE, key_id))
        self._keys = cache(lambda project: ProjectKeys.derive(secrets[MASTER], project, key_id))

    def keep(self, project: str, intake: Intake, raw: bytes) -> Pointer:
        """Encrypt raw bytes into the store; the key of the object is a keyed digest of the intake."""
        name = mac(self._keys(project).digest, f"quarantine {intake}".encode()).hex()
        sealed = self._sealer(project).seal(raw, f"{project} {intake}")
        return self.store.put_again(f"quarantine/{project}/{name[:2]}/{name}", sealed)

    def bytes_of(self, project: str, intake: Intake, pointer: Pointer) -> bytes:
        """Return the bytes as received.

        Raises
        ------
        BadMessage
            `missing_object`: they were purged. `raw_corrupt`: they do not open.
        """
        return self._open(project, self.store.get(pointer), f"{project} {intake.origin}")

    def seal_again(self, project: str, intake: Intake, pointer: Pointer) -> None:
        """Seal an object anew under the latest secret; it stays as long, under the same key."""
        sealed = self._sealer(project).seal(
            self.bytes_of(project, intake, pointer), f"{project} {intake.origin}"
        )
        self.store.put_again(pointer.uri.partition("://")[2], sealed)

    def seal_event(self, event: InstanceReceived) -> bytes:
        """Return an event of one instance, sealed for its row."""
        belongs_to = f"{event.project} {event.instances[0].intake} event"
        return self._sealer(event.project).seal(body(event), belongs_to)

    def event_of(self, project: str, intake: Intake, sealed: bytes) -> InstanceReceived:
        """Return the event that was sealed for the row of an intake."""
        opened = self._open(project, sealed, f"{project} {intake} event")
        return msgspec.json.decode(opened, type=InstanceReceived)

    def _open(self, project: str, sealed: bytes, belongs_to: str) -> bytes:
        try:
            return self._sealer(project).open(sealed, belongs_to)
        except ValueError as error:
            raise BadMessage("raw_corrupt", f"a value of the quarantine {error}") from None
