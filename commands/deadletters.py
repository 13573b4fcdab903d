"""`prodrome deadletters` and `replay`: what could not be worked on, putting it back, or letting it be.

A letter stands on its topic until retention ends; what became of it stands in `letters_done`, with the place of
its newest copy. So a letter that was replayed is not replayed again, and one that came back with the same id,
because the cause is still there, is open again. Sent first, noted then: a replay that is cut sends again, and
effects are keyed, so that it changes nothing.
"""

import base64
import datetime
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Final, Literal, NamedTuple, Protocol

import click
from rich.console import Console
from rich.table import Table

from commands.auditing import audited, confirm
from commands.wiring import fail, opened, settings, told
from infra.cassandra import Tables
from infra.connections import kafka_of
from infra.kafka import Producer, Received, read
from infra.settings import Settings
from schemas.codec import MEANT_FOR, Message, decode
from schemas.errors import BadMessage
from schemas.events import DeadLetter
from schemas.topics import BY_NAME, DEAD_LETTER_TOPIC

State = Literal["open", "replayed", "discarded"]

#: A step: few enough letters that an entry of the audit trail can name them, few enough bytes for memory.
TOGETHER: Final = 100
TOGETHER_BYTES: Final = 16 << 20
_DONE: Final = "INSERT INTO letters_done (zone, letter, what) VALUES (?, ?, ?)"


class Letter(NamedTuple):
    """A dead letter: its id, the place of its newest copy, and what became of it."""

    zone: str
    id: str
    place: str
    state: State
    event: DeadLetter


class Wanted(NamedTuple):
    """Which letters are meant; what is None or empty does not narrow."""

    zone: str | None = None
    reason: str | None = None
    stage: str | None = None
    state: str | None = None
    ids: tuple[str, ...] = ()

    def means(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        return (
            self.reason in (None, letter.event.reason)
            and self.stage in (None, letter.event.stage)
            and self.state in (None, letter.state)
            and (not self.ids or letter.id in self.ids)
        )


class Publisher(Protocol):
    """What a replay needs of Kafka."""

    def send(self, messages: Sequence[Message]) -> None:
        """Return once all are confirmed."""


def letters(found: Settings, tables: Tables, wanted: Wanted) -> Iterator[Letter]:
    """Yield the dead letters that are meant, each once however often it was written, oldest first.

    Of all letters only ids are in memory; `tables` is the trusted keyspace, which knows of both zones.
    """
    for zone in ("trusted", "clean"):
        if wanted.zone in (None, zone):
            yield from filter(wanted.means, _of_zone(found, tables, zone))


def replay_letters(tables: Tables, producer: Publisher, some: Sequence[Letter]) -> Counter[str]:
    """Put letters of one zone back on their topics, then note it."""
    placed = [letter for letter in some if letter.event.topic in BY_NAME]
    able = [letter for letter in placed if letter.event.value]
    producer.send([_again(letter.event) for letter in able])
    _note(tables, able, "replayed")
    done = Counter({"replayed": len(able)})
    if len(able) < len(placed):
        done["without the message, which was too large to keep"] = len(placed) - len(able)
    if len(placed) < len(some):
        done["not of a topic of ours: what they were about, the lister finds"] = len(some) - len(placed)
    return done


def discard_letters(tables: Tables, some: Sequence[Letter]) -> Counter[str]:
    """Note that letters are not wanted any more."""
    _note(tables, some, "discarded")
    return Counter({"discarded": len(some)})


def state_of(what: str | None, place: str) -> State:
    """Return what became of a letter whose newest copy is at `place`; `what` is its row."""
    word, _, until = (what or "").partition(" ")
    if word not in ("replayed", "discarded") or _offset(place) > _offset(until):
        return "open"
    return word  # type: ignore[return-value]


def _of_zone(found: Settings, tables: Tables, zone: str) -> Iterator[Letter]:
    topic = DEAD_LETTER_TOPIC[zone]  # type: ignore[index]
    kafka = kafka_of(getattr(found, zone))
    newest = {_id(m): _place(m) for m in read(kafka, topic, from_start=True, follow=False)}
    rows = tables.run("SELECT letter, what FROM letters_done WHERE zone = ?", (zone,))
    done = {row.letter: row.what for row in rows}
    for message in read(kafka, topic, from_start=True, follow=False):
        name, place = _id(message), _place(message)
        if newest.get(name) != place:
            continue
        try:
            event = decode(message.value, message.headers, accepts=BY_NAME[topic].types)
        except BadMessage:
            continue
        if isinstance(event, DeadLetter):
            yield Letter(zone, name, place, state_of(done.get(name), place), event)


def _id(message: Received) -> str:
    return (dict(message.headers).get("ce_id") or b"").decode("ascii", "replace") or _place(message)


def _place(message: Received) -> str:
    return f"{message.partition}@{message.offset}"


def _offset(place: str) -> int:
    return int(place.rpartition("@")[2])


def _again(letter: DeadLetter) -> Message:
    """Return the message of a letter, meant for the stage that gave it up: else each reader made another letter."""
    headers = {name: base64.b64decode(data) for name, data in letter.headers.items()}
    headers[MEANT_FOR] = letter.stage.encode()
    return Message(
        letter.topic, base64.b64decode(letter.key), base64.b64decode(letter.value), list(headers.items())
    )


def _note(tables: Tables, some: Iterable[Letter], word: State) -> None:
    tables.run_all([(_DONE, (each.zone, each.id, f"{word} {each.place}")) for each in some])


def _together(found: Iterator[Letter]) -> Iterator[list[Letter]]:
    """Yield letters in parts of one zone."""
    part: list[Letter] = []
    size = 0
    for letter in found:
        length = len(letter.event.value)
        if part and (len(part) == TOGETHER or size + length > TOGETHER_BYTES or part[0].zone != letter.zone):
            yield part
            part, size = [], 0
        part.append(letter)
        size += length
    if part:
        yield part


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--stage", help="Only letters of this stage."),
        click.option("--reason", help="Only letters of this reason word."),
        click.option("--zone", type=click.Choice(["trusted", "clean"]), help="Only letters of this zone."),
    ):
        command = option(command)
    return command


_ids = click.argument("ids", nargs=-1, metavar="[LETTER]...")
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done.")
_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")


@click.group()
def deadletters() -> None:
    """Look at messages that could not be worked on, or discard them; `prodrome replay` puts them back."""


@deadletters.command("list")
@_filters
@click.option(
    "--state",
    type=click.Choice(["open", "replayed", "discarded", "all"]),
    default="open",
    show_default=True,
    help="What became of them.",
)
@click.option("--limit", default=100, show_default=True, help="Show so many; all are counted.")
@_json
def list_(
    zone: str | None, reason: str | None, stage: str | None, state: str, limit: int, as_json: bool
) -> None:
    """List dead letters, oldest first: where each came from, and why it ended there."""
    wanted = Wanted(zone, reason, stage, None if state == "all" else state)
    counts: Counter[str] = Counter()
    table = Table("letter", "zone", "stage", "topic", "partition@offset", "reason", "detail", "state")
    with told():
        found = settings()
        with opened(found.trusted) as tables:
            for number, letter in enumerate(letters(found, tables, wanted)):
                counts[f"{letter.event.stage} {letter.event.reason}"] += 1
                if number < limit and as_json:
                    click.echo(json.dumps(_facts(letter)))
                elif number < limit:
                    e = letter.event
                    table.add_row(
                        letter.id, letter.zone, e.stage, e.topic, f"{e.partition}@{e.offset}", e.reason, e.detail,
                        letter.state,
                    )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"counts": counts}))
        return
    Console().print(table)
    click.echo("".join(f"{count:8} {words}\n" for words, count in counts.most_common()), nl=False)
    click.echo(f"{counts.total()} dead letters" + (f", {limit} shown" if counts.total() > limit else ""))


@deadletters.command()
@click.argument("letter")
@click.option(
    "--values", is_flag=True, help="With key and body of the message: they may identify the patient."
)
def show(letter: str, values: bool) -> None:
    """Show one LETTER as JSON. Recorded in the audit trail."""
    with told():
        found = settings()
        with (
            opened(found.trusted) as tables,
            audited(found, "deadletters-show", tables=tables, letters=letter, values=values),
        ):
            one = next(letters(found, tables, Wanted(ids=(letter,))), None)
            if one is None:
                fail("no such letter, or its topic's retention is over")
    shown = _facts(one)
    if values:
        shown |= {
            name: base64.b64decode(getattr(one.event, name)).decode("utf-8", "replace")
            for name in ("key", "value")
        }
    click.echo(json.dumps(shown, indent=2))


@deadletters.command()
@_ids
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@_dry_run
@_json
def discard(
    ids: tuple[str, ...], zone: str | None, reason: str | None, stage: str | None, yes: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Let LETTER..., or what the options say, be: they are not listed as open nor replayed any more.

    The topic keeps them until its retention is over, and the ledger how their intakes ended.
    """

    with told():
        wanted = Wanted(zone, reason, stage, "open", ids)
        _each(settings(), "discard", wanted, discard_letters, ask=not yes, dry_run=dry_run, as_json=as_json)


@click.command()
@_ids
@_filters
@click.option("--again", is_flag=True, help="Those too that were replayed or discarded before.")
@click.option(
    "--model", metavar="MODEL@VERSION", help="Not letters: score studies again with the version that runs."
)
@click.option("--cohort", multiple=True, metavar="KEY=VALUE", help="With --model: only studies of which this holds: "
              "project, study, patient, modality, outcome. May be given again.")  # fmt: skip
@click.option(
    "--since",
    type=click.DateTime(),
    help="With --model: only studies whose newest revision is of then or later.",
)
@_dry_run
@_json
def replay(
    ids: tuple[str, ...], zone: str | None, reason: str | None, stage: str | None, again: bool, model: str | None,
    cohort: tuple[str, ...], since: datetime.datetime | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Put LETTER..., or what the options say, back on the topics they came from, for the stages that gave them up.

    Effects are keyed, so that replaying a letter that was worked on meanwhile changes nothing. What is still
    broken becomes a letter again.

    With --model studies are scored again, in the bulk lane, which live ones overtake: what this version has not
    answered for the same inputs is computed, what it has is published again where another answer counts. Results
    supersede, none is overwritten. --dry-run counts.
    """
    if model is not None:
        from commands.rescore import run

        return run(model, cohort, since, dry_run=dry_run, as_json=as_json)
    with told():
        found = settings()
        producer = cache(lambda zone: Producer(kafka_of(getattr(found, zone))))

        def step(tables: Tables, part: Sequence[Letter]) -> Counter[str]:
            return replay_letters(tables, producer(part[0].zone), part)

        wanted = Wanted(zone, reason, stage, None if again else "open", ids)
        _each(found, "replay", wanted, step, ask=False, dry_run=dry_run, as_json=as_json)
    return None


def _each(
    found: Settings,
    action: str,
    wanted: Wanted,
    step: Callable[[Tables, Sequence[Letter]], Counter[str]],
    *,
    ask: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Count what is meant, ask where it is to be asked, take it step by step; say what became of it."""
    if not (wanted.zone or wanted.reason or wanted.stage or wanted.ids):
        fail("say which: LETTER..., --zone, --reason or --stage")
    done: Counter[str] = Counter()
    with opened(found.trusted) as tables:
        count = sum(1 for _ in letters(found, tables, wanted))
        if ask and count and not dry_run:
            confirm(f"{action.capitalize()} {count} letters?", yes=False)
        if dry_run or not count:
            done[f"would be {action}ed"] = count
        else:
            for part in _together(letters(found, tables, wanted)):
                names = " ".join(each.id for each in part)
                with audited(
                    found, action, begins=True, tables=tables, zone=part[0].zone, letters=names
                ) as entry:
                    done += (some := step(tables, part))
                    entry.update(some)
    click.echo(json.dumps(done) if as_json else ", ".join(f"{n} {what}" for what, n in done.items()))


def _facts(letter: Letter) -> dict[str, Any]:
    e = letter.event
    return {
        "letter": letter.id, "zone": letter.zone, "state": letter.state, "stage": e.stage, "topic": e.topic,
        "partition": e.partition, "offset": e.offset, "reason": e.reason, "detail": e.detail,
        "attempts": e.attempts,
    }  # fmt: skip
