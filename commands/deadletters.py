"""`prodrome deadletters` and `replay`: what could not be worked on, and putting it back."""

import base64
from collections.abc import Iterator

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from commands.wiring import settings, told
from infra.connections import kafka_of
from infra.kafka import Producer, Received, read
from infra.settings import Settings
from schemas.codec import Message, decode
from schemas.errors import BadMessage
from schemas.events import DeadLetter
from schemas.topics import BY_NAME, DEAD_LETTER_TOPIC

_zone = click.option(
    "--zone", type=click.Choice(["trusted", "clean"]), required=True, help="Whose dead letters."
)
_reason = click.option("--reason", help="Only letters of this reason word.")


def letters(found: Settings, zone: str) -> Iterator[tuple[Received, DeadLetter]]:
    """Yield the dead letters of a zone, each once however often it was written, oldest first."""
    topic = DEAD_LETTER_TOPIC[zone]  # type: ignore[index]
    seen: set[bytes] = set()
    for message in read(kafka_of(getattr(found, zone)), topic, from_start=True, follow=False):
        try:
            letter = decode(message.value, message.headers, accepts=BY_NAME[topic].types)
        except BadMessage:
            continue
        name = dict(message.headers).get("ce_id", b"")
        if isinstance(letter, DeadLetter) and name not in seen:
            seen.add(name)
            yield message, letter


@click.command()
@_zone
@_reason
def deadletters(zone: str, reason: str | None) -> None:
    """List the dead letters of a zone: where each came from, and why it ended there."""
    with told():
        table = Table("letter", "stage", "topic", "partition@offset", "reason", "detail", "attempts")
        for message, letter in letters(settings(), zone):
            if reason in (None, letter.reason):
                table.add_row(
                    f"{message.partition}@{message.offset}", letter.stage, letter.topic,
                    f"{letter.partition}@{letter.offset}", letter.reason, letter.detail, str(letter.attempts),
                )  # fmt: skip
        Console().print(table)


@click.command()
@_zone
@_reason
@click.option("--dry-run", is_flag=True, help="Say how many would be replayed.")
def replay(zone: str, reason: str | None, dry_run: bool) -> None:
    """Put dead letters back on the topics they came from, unchanged.

    Effects are keyed, so that replaying a letter that was worked on meanwhile changes nothing.
    """
    with told():
        found = settings()
        messages = [_again(letter) for _, letter in letters(found, zone) if reason in (None, letter.reason)]
        if not dry_run:
            producer = Producer(kafka_of(getattr(found, zone)))
            for message in track(messages, description="replaying"):
                producer.send([message])
        click.echo(f"{len(messages)} {'would be ' if dry_run else ''}replayed")


def _again(letter: DeadLetter) -> Message:
    headers = [(name, base64.b64decode(data)) for name, data in letter.headers.items()]
    return Message(letter.topic, base64.b64decode(letter.key), base64.b64decode(letter.value), headers)
