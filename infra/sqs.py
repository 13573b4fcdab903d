"""A queue of SQS; the only door to botocore's SQS.

`receive` gives some messages and hides them for a while; `done` deletes them. One that is not deleted comes again.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from infra.connections import S3Connection
from schemas.errors import SettingsError, SlowDown

T = TypeVar("T")

#: As many as the protocol allows.
MOST: Final = 10
#: Longer than a batch takes, archives apart: what comes again meanwhile is known already.
HIDDEN_SECONDS: Final = 300
#: The wait of a queue that is empty.
WAIT_SECONDS: Final = 2


class Queued(NamedTuple):
    """A message, and by what it is deleted."""

    value: bytes
    receipt: str


class Queue:
    """One queue.

    Parameters
    ----------
    url : str
        As SQS names it; its host is where requests go.
    connection : S3Connection
        Region and credentials; its endpoint is the objects' alone.
    """

    def __init__(self, url: str, connection: S3Connection) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.path.strip("/"):
            raise SettingsError("PRODROME_BRIDGE_EVENTS: expected sqs:https://host/account/queue")
        self._url = url
        config = Config(
            connect_timeout=5.0,
            read_timeout=WAIT_SECONDS + 20.0,
            retries={"total_max_attempts": 3, "mode": "standard"},
            ignore_configured_endpoint_urls=True,
            proxies={},
        )
        arguments = {**connection.client_arguments(), "endpoint_url": f"{parts.scheme}://{parts.netloc}"}
        self._client = Session().create_client("sqs", config=config, **arguments)

    def receive(self, most: int) -> list[Queued]:
        """Return some messages, or none after `WAIT_SECONDS`; raises `SlowDown` where the queue does not answer."""
        found: list[Queued] = []
        while len(found) < most:
            answer = self._ask(
                "receive_message",
                MaxNumberOfMessages=MOST,
                WaitTimeSeconds=0 if found else WAIT_SECONDS,
                VisibilityTimeout=HIDDEN_SECONDS,
            )
            some = [Queued(m["Body"].encode(), m["ReceiptHandle"]) for m in answer.get("Messages", ())]
            if not some:
                break
            found += some
        return found

    def done(self, messages: Sequence[Queued]) -> None:
        """Delete messages; raises `SlowDown` where some may come again."""
        failed = 0
        for start in range(0, len(messages), MOST):
            some = messages[start : start + MOST]
            entries = [{"Id": str(i), "ReceiptHandle": one.receipt} for i, one in enumerate(some)]
            failed += len(self._ask("delete_message_batch", Entries=entries).get("Failed", ()))
        if failed:
            raise SlowDown(f"SQS did not delete {failed} of {len(messages)} messages")

    def _ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, what)(QueueUrl=self._url, **arguments)
        except ClientError as error:
            raise SlowDown(f"SQS answers {error.response.get('Error', {}).get('Code', '')}") from None
        except (BotoCoreError, OSError) as error:
            raise SlowDown(f"SQS does not answer: {type(error).__name__}") from None
        return answer
