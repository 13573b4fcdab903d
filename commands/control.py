"""`pause`, `resume`, `drain`: let a stage stand still, or the whole system run empty, and go on again.

A pause is a row that every process of the stage looks at, wherever it runs; its messages wait in Kafka, and
what the receiver takes waits in the spool. A drain turns new associations away at this machine's door and
waits until nothing is on its way: then `down`, or a change of cluster, finds nothing in the middle.
"""

import json
import time
from pathlib import Path
from typing import Any, Final

import click
from rich.progress import Progress, TextColumn

from commands.auditing import actor, audited
from commands.wiring import fail, opened, settings, told
from infra.settings import Settings
from infra.spool.drain import set_draining
from schemas.errors import SettingsError, SlowDown
from schemas.topics import BY_NAME

#: stage -> the zone whose keyspace tells it
STAGES: Final = {
    "relay": "trusted", "bridge": "trusted", "lister": "trusted",
    "deidentify": "trusted", "deidentify-bulk": "trusted", "ledger": "trusted",
    "catalog": "clean", "score": "clean", "score-bulk": "clean", "score-images": "clean",
}  # fmt: skip
#: Empty for this long counts as drained: longer than the relay and a batch of any stage take to say so.
EMPTY_SECONDS: Final = 3.0


@click.command()
@click.argument("stage", type=click.Choice(sorted(STAGES)))
def pause(stage: str) -> None:
    """Let STAGE stand still within a few seconds, in all its processes, until `prodrome resume STAGE`.

    Messages wait in Kafka, images in the spool, and nothing is refused at the door until the spool's
    watermark. For a dependency that is being mended, or to look at something that moves too fast.
    """
    _tell(stage, paused=True)
    click.echo(f"{stage} pauses within a few seconds; `prodrome resume {stage}` lets it go on")


@click.command()
@click.argument("stage", type=click.Choice(sorted(STAGES)))
def resume(stage: str) -> None:
    """Let a paused STAGE go on."""
    _tell(stage, paused=False)
    click.echo(f"{stage} goes on within a few seconds")


@click.command()
@click.option("--undo", is_flag=True, help="Take new associations again.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait until all is settled.")
@click.option("--json", "as_json", is_flag=True, help="Say what is left as JSON.")
def drain(undo: bool, timeout: float, as_json: bool) -> None:
    """Turn new associations away (senders are told to come again) and wait until all is settled.

    Associations that are open go on to their end. Exit status 1 if something is left after the timeout: what
    is said, and the door stays closed until `prodrome drain --undo`.
    """
    with told():
        found = settings()
        folder = Path(found.spool.path)
        if not folder.is_dir():
            raise SettingsError(f"no spool at {folder}: run this where the receiver runs")
        with audited(found, "drain", undo=undo) as entry:
            set_draining(folder, on=not undo)
            left = {} if undo else _wait_empty(found, timeout)
            entry["left"] = json.dumps(left)
    if as_json:
        click.echo(json.dumps({"draining": not undo, "left": left}))
    elif undo:
        click.echo("the door is open")
    elif not left:
        click.echo("drained: nothing is on its way. `prodrome down`, or `prodrome drain --undo`")
    if left:
        fail("not empty: " + ", ".join(f"{name} {value}" for name, value in left.items()))


def paused(found: Settings) -> list[str]:
    """Return the stages that are paused now."""
    from infra.control import paused_stages

    names: list[str] = []
    for zone in ("trusted", "clean"):
        with opened(getattr(found, zone)) as tables:
            names += [name for name in paused_stages(tables) if STAGES.get(name) == zone]
    return sorted(names)


def _tell(stage: str, *, paused: bool) -> None:
    from infra.control import set_paused

    with told():
        found = settings()
        with (
            audited(found, "pause" if paused else "resume", stage=stage),
            opened(getattr(found, STAGES[stage])) as tables,
        ):
            set_paused(tables, stage, paused, actor(found))


def _wait_empty(found: Settings, timeout: float) -> dict[str, int]:
    """Return what is still on its way after `timeout`; nothing once it stayed empty for a while."""
    deadline = time.monotonic() + timeout
    empty_since: float | None = None
    left: dict[str, int] = {}
    columns = TextColumn("{task.description}")
    with Progress(columns, transient=True) as progress:
        task = progress.add_task("draining", total=None)
        while time.monotonic() < deadline:
            left = _on_its_way(found)
            progress.update(task, description=f"draining: {left or 'empty'}")
            now = time.monotonic()
            empty_since = None if left else empty_since or now
            if empty_since is not None and now - empty_since >= EMPTY_SECONDS:
                return {}
            time.sleep(0.5)
    return left or {"unsettled": 0}


def _open_studies(found: Settings) -> int:
    """Studies that wait to become quiet: their revision and prediction are still to come."""
    partitions = BY_NAME["instance.deidentified.v1"].partitions
    with opened(found.clean) as tables:
        return sum(
            tables.run("SELECT COUNT(*) AS n FROM open_studies WHERE partition = ?", (partition,))[0].n
            for partition in range(partitions)
        )


def _on_its_way(found: Settings) -> dict[str, int]:
    from commands.status import intakes, lags_by_group

    try:
        waiting: dict[str, Any] = {"in flight": intakes(found)["in_flight"]}
        waiting |= {group: sum(topics.values()) for group, topics in lags_by_group(found).items()}
        waiting["open studies"] = _open_studies(found)
    except SlowDown as error:
        return {str(error): 1}
    return {name: count for name, count in waiting.items() if count}
