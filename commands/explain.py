"""`prodrome explain`: asks the scorers for a map of where a model looked; the bulk lane makes it."""

import uuid

import click
import msgspec

from commands.auditing import audited
from commands.registry import ModelRefused, Registry
from commands.wiring import opened, settings, told
from infra.connections import kafka_of
from infra.kafka import Producer
from schemas.codec import encode
from schemas.errors import ProdromeError
from schemas.events import StudyRevised
from schemas.ids import study_key
from schemas.topics import REVISED

_HEAD = "SELECT body FROM study_head WHERE project = ? AND study = ?"


@click.command()
@click.argument("study")
@click.option("--model", required=True, help="Id of the model whose answer is meant.")
@click.option("--method", type=click.Choice(["occlusion", "grad_cam"]), default="occlusion", show_default=True,
              help="occlusion: for any model, a pass a block; grad_cam: where the model's graph gives one.")  # fmt: skip
@click.option("--project", default="default", show_default=True)
def explain(study: str, model: str, method: str, project: str) -> None:
    """Make a map of where MODEL looked for its answer on STUDY, a pseudonymous Study Instance UID.

    It is made in the bulk lane, minutes for a large model. The answer is then published again with a pointer to the
    map (`maps`); its numbers stay as they were.
    """
    with told(), opened(settings().clean) as tables:
        found = settings()
        digest = Registry(found, tables).active(model)
        if not digest:
            raise ModelRefused(f"expected a model that runs, {model!r} does not")
        rows = tables.run(_HEAD, (project, study))
        if not rows:
            raise ProdromeError(f"expected a study of project {project} with a revision, found none")
        revised = msgspec.structs.replace(
            msgspec.json.decode(rows[0].body, type=StudyRevised), rescore=(digest,), explain=method
        )
        with audited(found, "rescore", project=project, studies=study, model=model, what=method):
            message = encode(
                REVISED["bulk"],
                study_key(project, study),
                revised,
                identity=(project, study, method, uuid.uuid4().hex),
                source="operator",
                subject=study,
            )
            Producer(kafka_of(found.clean)).send([message])
    click.echo(f"asked for; `prodrome query predictions {study}` shows it when it is there")
