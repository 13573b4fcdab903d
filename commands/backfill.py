"""`prodrome backfill`: take in what a bucket already holds, at a rate that disturbs nobody.

It is a look of the lister at one prefix, once, in the bulk lane. What is known already is passed over, so that it may
be cut and run again; it goes on where it was. How much there is is counted beside it, by a listing of its own.
"""

import datetime
import threading
import time
from collections import Counter
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from commands.auditing import audited
from commands.wiring import settings, stop_event, told
from infra.clock import SystemClock
from infra.connections import kafka_of
from infra.settings import Settings
from schemas.buckets import address_of
from schemas.errors import Refused, SettingsError, SlowDown
from schemas.sources import Source, of_object


@click.command()
@click.argument("address", metavar="s3://BUCKET/PREFIX")
@click.option("--since", type=click.DateTime(), help="Only what was written since, UTC.")
@click.option("--rate", type=float, default=0.0, help="Objects a second at most; 0 sets no bound.")
@click.option("--dry-run", is_flag=True, help="Count what is there and what is known, and change nothing.")
def backfill(address: str, since: datetime.datetime | None, rate: float, dry_run: bool) -> None:
    """Take in everything below s3://BUCKET/PREFIX that is not known yet, in the bulk lane: live images overtake it.

    Run again after it was cut, it goes on. A [[source]] must name the bucket and prefix.
    """
    with told():
        try:
            bucket, prefix = address_of(address)
        except ValueError as error:
            raise SettingsError(f"backfill: {error}") from None
        found = settings()
        after = since.replace(tzinfo=datetime.UTC).timestamp() if since else 0.0
        filling = Backfill(found, bucket, prefix, after)
        if dry_run:
            for what, count in sorted(filling.count().items()):
                click.echo(f"{what:32} {count}")
            return
        with audited(found, "backfill", begins=True, source=filling.source.name) as entry:
            done = filling.run(rate)
            entry.update({what: str(count) for what, count in done.items()})
        for what, count in sorted(done.items()):
            click.echo(f"{what:32} {count}")


class Backfill:
    """One look at a prefix."""

    def __init__(self, found: Settings, bucket: str, prefix: str, since: float) -> None:
        from commands.roles import taking_of
        from infra.kafka import Producer

        self._stop = stop_event()
        producer = Producer(kafka_of(found.trusted), self._stop)
        self._buckets, sources, self._tables, self._taking = taking_of(found, "lister", producer, self._stop)
        source = of_object(sources, bucket, prefix)
        if source is None:
            raise SettingsError("no [[source]] of PRODROME_RECEIVE_SOURCES names this bucket and prefix")
        self.source = Source(name=source.name, bucket=bucket, prefix=prefix)
        self._since = since
        self._name = f"backfill {since:.0f}"

    def count(self) -> Counter[str]:
        """Return how much is there, and how much of it is known."""
        counted: Counter[str] = Counter()
        for page in self._buckets.pages(self.source.bucket, self.source.prefix):
            found = [version for version in page if version.modified >= self._since]
            known = self._taking.known(found)
            counted["objects"] += len(found)
            counted["bytes"] += sum(version.size for version in found)
            counted["known"] += sum((v.bucket, v.key, v.version) in known for v in found)
            counted["requests for the listing"] += 1
        return counted

    def run(self, rate: float) -> Counter[str]:
        """Take in what is not known and return what became of all."""
        from producers.lister import Lister

        looking = Lister(self._buckets, self._tables, self._taking, SystemClock(), 0.0, self._stop)
        with _progress() as progress:
            task = progress.add_task("objects", total=None)
            counter = threading.Thread(target=self._total, args=(progress, task), daemon=True)
            counter.start()
            paced = Paced(rate, lambda count: progress.advance(task, count))
            while True:
                try:
                    look = looking.look(self._name, self.source, since=self._since, progress=paced)
                    break
                except SlowDown as error:
                    if self._stop.is_set():
                        raise
                    progress.console.log(f"waiting: {error}")
                    time.sleep(1.0)
                except Refused as refusal:
                    raise SettingsError(f"the bucket cannot be listed: {refusal}") from None
        self._taking.close()
        return Counter({"objects": look.listed}) + look.outcomes

    def _total(self, progress: Progress, task: Any) -> None:
        total = 0
        for page in self._buckets.pages(self.source.bucket, self.source.prefix):
            total += len(page)
        progress.update(task, total=total)


class Paced:
    """Told of objects, sleeps so that no more than `rate` a second are done."""

    def __init__(self, rate: float, tell: Any) -> None:
        self._rate, self._tell, self._began, self._done = rate, tell, time.monotonic(), 0

    def __call__(self, count: int) -> None:
        """Count objects; return when their time has come."""
        self._tell(count)
        self._done += count
        if self._rate > 0:
            time.sleep(max(0.0, self._began + self._done / self._rate - time.monotonic()))


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")
