"""`prodrome watch`: the messages of a topic as they come, for people and for `jq`."""

import json
from typing import Any, Final

import click

from commands.wiring import settings, stop_event, told
from infra.connections import kafka_of
from infra.kafka import Received, read
from schemas.topics import BY_NAME, TOPICS

#: what may be typed -> topic
SHORT: Final = {**{t.name.rsplit(".v", 1)[0]: t.name for t in TOPICS}, **{t.name: t.name for t in TOPICS}}


@click.command()
@click.argument("topic", type=click.Choice(sorted(SHORT)), metavar="TOPIC")
@click.option("--from-start", is_flag=True, help="Begin with the oldest kept message.")
@click.option("--no-follow", is_flag=True, help="End at the newest message.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line, whole.")
def watch(topic: str, from_start: bool, no_follow: bool, as_json: bool) -> None:
    """Show the messages of TOPIC (prediction, lifecycle, study.revised, ...) as they come.

    Trusted topics hold identifiers; they are shown to who may read them.
    """
    with told():
        found = settings()
        name = SHORT[topic]
        kafka = kafka_of(getattr(found, BY_NAME[name].zone))
        for message in read(kafka, name, from_start=from_start, follow=not no_follow, stopping=stop_event()):
            click.echo(_json(message) if as_json else _line(message))


def _json(message: Received) -> str:
    headers = {name: value.decode("utf-8", "replace") for name, value in message.headers}
    value: Any = json.loads(message.value)
    return json.dumps({"key": message.key.decode("utf-8", "replace"), "headers": headers, "value": value})


def _line(message: Received) -> str:
    body: dict[str, Any] = json.loads(message.value)
    kind = dict(message.headers).get("ce_type", b"").decode().removeprefix("org.prodrome.")
    shown = [f"{name}={body[name]}" for name in _SHOWN if body.get(name) not in (None, "", [], {})]
    return f"{message.partition}@{message.offset} {kind} {' '.join(shown)}"


_SHOWN: Final = (
    "project", "study_instance_uid", "revision", "kind", "outcome", "status", "category", "score", "reason",
    "association", "supersedes", "spool", "segment", "stage",
)  # fmt: skip
