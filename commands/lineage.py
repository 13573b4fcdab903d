"""`prodrome lineage`: from a prediction back to what it was made of. Trusted: it shows the digests of raw bytes.

1. The prediction by its id: model package, preparation, gate values, software, what it supersedes.
2. The instances that were used, of the revision's manifest: clean object, and what was done at the boundary.
3. The vault and the identities: the raw content and pixel digests, and the intakes that brought them.

No UID as sent is shown: that is `prodrome reidentify`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.tree import Tree

from commands.auditing import audited
from commands.wiring import clean_store, opened, settings, told
from consumers.deid.keys import ProjectKeys
from consumers.vault import Vault
from infra.cassandra import Tables
from infra.objects import Store
from infra.secret_files import MASTER
from infra.settings import Settings, sealing_secrets
from schemas.errors import BadMessage, ProdromeError
from schemas.events import Manifest, ManifestInstance, Pointer, Prediction

_WHERE: Final = "SELECT study, model FROM predictions_by_id WHERE project = ? AND prediction = ?"
_BODY: Final = "SELECT body FROM predictions WHERE project = ? AND study = ? AND model = ? AND prediction = ?"
_REVISION: Final = "SELECT manifest FROM study_revisions WHERE project = ? AND study = ? AND revision = ?"
_BOUNDARY: Final = (
    "SELECT sop, content_key, manifest FROM study_instances WHERE project = ? AND study = ? AND sop = ?"
)
_RAW: Final = (
    "SELECT content_id, pixel_id, intake FROM identities WHERE project = ? AND study_uid = ? AND sop_uid = ?"
)
#: Instances that are shown one by one; of the rest their number is.
SHOWN: Final = 8


@click.command()
@click.argument("prediction")
@click.option("--project", default="default", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a tree, with every instance.")
def lineage(prediction: str, project: str, as_json: bool) -> None:
    """Say what PREDICTION was made of: model, gates, de-identification, and the digests of the raw instances.

    Recorded in the audit trail.
    """
    with told():
        found = settings()
        with (
            audited(found, "lineage", project=project, prediction=prediction),
            opened(found.trusted) as trusted,
            opened(found.clean) as clean,
        ):
            answer = Lineage(found, project, trusted, clean, clean_store(found)).of(prediction)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        Console().print(_tree(answer))


class Lineage:
    """Where the predictions of a project come from."""

    def __init__(self, found: Settings, project: str, trusted: Tables, clean: Tables, store: Store) -> None:
        self._project, self._trusted, self._clean, self._store = project, trusted, clean, store
        secrets, key_id = sealing_secrets(found), found.deidentify.key_id
        self._keys = ProjectKeys.derive(secrets[MASTER], project, key_id)
        self._vault = Vault(trusted, secrets, key_id)

    def of(self, name: str) -> dict[str, Any]:
        """Return everything behind a prediction.

        Raises
        ------
        ProdromeError
            There is none of this id.
        """
        rows = self._clean.run(_WHERE, (self._project, name))
        if not rows:
            raise ProdromeError(
                f"expected the id of a prediction of project {self._project}, nothing is known of it"
            )
        [row] = self._clean.run(_BODY, (self._project, rows[0].study, rows[0].model, name))
        found = msgspec.json.decode(row.body, type=Prediction)
        model = msgspec.to_builtins(found.model)
        gates = {} if found.gates is msgspec.UNSET else found.gates
        software = None if found.software is msgspec.UNSET else found.software
        return {
            "prediction": name,
            "project": self._project,
            "study": found.study_instance_uid,
            "revision": found.revision,
            "outcome": found.outcome,
            "supersedes": found.supersedes,
            "software": software,
            "model": model,
            "gates": gates,
            "deid_profile": found.deid_profile,
            "inputs_set_id": found.inputs_set_id,
            "instances": self._instances(found),
        }

    def _used(self, found: Prediction) -> list[ManifestInstance]:
        """Return the instances of the revision that were used; none where its manifest is gone."""
        key = (self._project, found.study_instance_uid)
        rows = self._clean.run(_REVISION, (*key, found.revision))
        if not rows:
            return []
        try:
            data = self._store.get(msgspec.json.decode(rows[0].manifest, type=Pointer))
        except BadMessage:
            return []
        manifest = msgspec.json.decode(data, type=Manifest)
        single = {each.sop_instance_uid for each in found.inputs if each.series_instance_uid is msgspec.UNSET}
        series = {each.series_instance_uid for each in found.inputs} - {msgspec.UNSET}
        return [
            i for i in manifest.instances if i.sop_instance_uid in single or i.series_instance_uid in series
        ]

    def _instances(self, found: Prediction) -> list[dict[str, Any]]:
        kept = self._vault.study(self._project, found.study_instance_uid)
        original = kept["study_instance_uid"] if kept else None
        return [self._instance(found, each, original) for each in self._used(found)]

    def _instance(self, found: Prediction, used: ManifestInstance, original: str | None) -> dict[str, Any]:
        rows = self._clean.run(_BOUNDARY, (self._project, found.study_instance_uid, used.sop_instance_uid))
        manifests = {row.content_key: row.manifest for row in rows}
        return {
            "sop_instance_uid": used.sop_instance_uid,
            "object": used.object.uri,
            "content_key": used.content_key,
            "boundary": self._boundary(manifests.get(used.content_key)),
            "raw": self._raw(found.study_instance_uid, used, original),
        }

    def _boundary(self, pointer: str | None) -> dict[str, Any]:
        """Return under what rules an instance crossed: of its manifest all but the actions."""
        if not pointer:
            return {}
        try:
            said = json.loads(self._store.get(msgspec.json.decode(pointer, type=Pointer)))
        except BadMessage:
            return {}
        return {name: value for name, value in said.items() if name != "actions"}

    def _raw(self, study: str, used: ManifestInstance, original: str | None) -> list[dict[str, str]]:
        """Return the raw versions that became this clean content, with the intakes that brought them."""
        instance = self._vault.instance(self._project, study, used.sop_instance_uid)
        if original is None or instance is None:
            return []
        key = (self._project, original, instance["sop_instance_uid"])
        return [
            {"content_id": row.content_id.hex(), "pixel_id": row.pixel_id.hex(), "intake": row.intake}
            for row in self._trusted.run(_RAW, key)
            if self._keys.keyed_digest("content", row.content_id.hex()) == used.content_key
        ]


def _tree(answer: dict[str, Any]) -> Tree:
    tree = Tree(
        f"prediction {answer['prediction']}: {answer['outcome']}, study {answer['study']} revision {answer['revision']}"
    )
    model = answer["model"]
    tree.add(f"model {model['id']} {model['version']}, package {model['sha256']}")
    tree.add(f"preparation {model['preparation']}, parameters {model['parameters']}")
    tree.add(f"software {answer['software'] or 'not said'}, profile {answer['deid_profile']}")
    if answer["gates"]:
        tree.add("gates " + ", ".join(f"{name} {value:g}" for name, value in answer["gates"].items()))
    _add_instances(
        tree.add(f"{len(answer['instances'])} instances, set {answer['inputs_set_id']}"), answer["instances"]
    )
    return tree


def _add_instances(branch: Tree, instances: Sequence[dict[str, Any]]) -> None:
    rules = Counter(json.dumps(each["boundary"], sort_keys=True) for each in instances)
    for text, count in rules.items():
        said = ", ".join(f"{name} {value}" for name, value in json.loads(text).items())
        branch.add(f"{count} crossed under {said or 'rules of which no manifest is kept'}")
    for each in instances[:SHOWN]:
        one = branch.add(each["sop_instance_uid"])
        for raw in each["raw"]:
            one.add(f"raw content {raw['content_id']}, pixels {raw['pixel_id']}, intake {raw['intake']}")
    if len(instances) > SHOWN:
        branch.add(f"and {len(instances) - SHOWN} more (--json shows all)")
