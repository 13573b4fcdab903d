"""The command `prodrome`: one line a subcommand, no logic.

Subcommands are imported when they are called, so that a receiver loads no model runtime and `--help` is quick.
"""

import importlib

import click

#: subcommand -> (where it is, what it is for)
COMMANDS = {
    "up": ("commands.stack:up", "Start Kafka, Cassandra and all roles on this machine."),
    "down": ("commands.stack:down", "Stop everything that `up` started."),
    "restart": ("commands.stack:restart", "Stop one role and start it again."),
    "status": ("commands.status:status", "Show programs, addresses, lags, the balance and predictions."),
    "demo": ("commands.demo:demo", "Send two synthetic exams and show what comes out."),
    "send": ("commands.send:send", "Send DICOM files to a receiver, byte for byte."),
    "watch": ("commands.watch:watch", "Show the messages of a topic as they come."),
    "query": ("commands.query:query", "Find studies, instances and predictions by pseudonym."),
    "reidentify": ("commands.reidentify:reidentify", "Who or what one pseudonym stands for. Trusted."),
    "trace": ("commands.trace:trace", "Trusted: where is my image, by UID or accession number."),
    "deid": ("commands.deid:deid", "De-identify files; needs no stack."),
    "deadletters": ("commands.deadletters:deadletters", "What could not be worked on: list, show, discard."),
    "replay": ("commands.deadletters:replay", "Put dead letters back on their topics."),
    "quarantine": (
        "commands.quarantine:quarantine",
        "Trusted: what waits in quarantine; release or purge it.",
    ),
    "pause": ("commands.control:pause", "Let a stage stand still; nothing is lost."),
    "resume": ("commands.control:resume", "Let a paused stage go on."),
    "drain": ("commands.control:drain", "Take nothing new and wait until all is settled."),
    "keys": ("commands.keys:keys", "Trusted: exchange the secret that seals vault and quarantine."),
    "backup": ("commands.backup:backup", "Trusted: master key and vault into one sealed file."),
    "restore": ("commands.backup:restore", "Trusted: put a backup back."),
    "resolve": ("commands.resolve:resolve", "Trusted: decide which version of an instance is right."),
    "forget": ("commands.forget:forget", "Trusted: remove everything that is kept of a patient."),
    "audit": ("commands.audit:audit", "Trusted: who did what, and whether the trail is whole."),
    "reconcile": ("commands.reconcile:reconcile", "Check ledger against catalog."),
    "backfill": ("commands.backfill:backfill", "Take in what a bucket already holds."),
    "models": ("commands.models:models", "The model packages: list, verify, add, promote, retire."),
    "lineage": ("commands.lineage:lineage", "Trusted: what a prediction was made of."),
    "explain": ("commands.explain:explain", "Where a model looked, as a map for a prediction."),
    "spool": ("commands.spool:spool", "Trusted: look into a spool."),
    "migrate": ("commands.stack:migrate", "Create keyspaces, tables and topics."),
    "secrets": ("commands.site_secrets:secrets", "Make the secret files of a site that runs containers."),
    "bench": ("commands.bench:bench", "Measure the whole way on this machine."),
    "bench-deid": ("commands.bench_deid:bench_deid", "Measure de-identification beside other tools."),
    "bench-s3": ("commands.bench_s3:bench_s3", "Measure the S3 door beside the loop that people write."),
    "bench-scoring": ("commands.bench_scoring:bench_scoring", "Measure scoring beside the bare runtime."),
    "bench-receive": ("commands.bench_receive:bench_receive", "Measure the DICOM door beside its peers."),
    "receive": ("commands.roles:receive", "Role: the DICOM door."),
    "relay": ("commands.roles:relay", "Role: from the spool to Kafka."),
    "bridge": ("commands.roles:bridge", "Role: what events say of objects in buckets."),
    "lister": ("commands.roles:lister", "Role: what events of buckets have lost."),
    "gateway": ("commands.roles:gateway", "Role: an S3 gateway over a folder of this machine."),
    "deidentify": ("commands.roles:deidentify", "Role: over the boundary between the zones."),
    "catalog": ("commands.roles:catalog", "Role: index instances, assemble studies."),
    "ledger": ("commands.roles:ledger", "Role: what became of every intake."),
    "exporter": ("commands.roles:exporter", "Role: what no single role can say, as metrics."),
    "prometheus": ("commands.roles:prometheus", "Role: Prometheus over this machine's roles."),
    "score": ("commands.roles:score", "Role: resident models over studies."),
}


class Lazy(click.Group):
    """A group whose members are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="prodrome")
def main() -> None:
    """DICOM in, risk predictions out: received durably, de-identified, indexed, assembled, scored.

    Start with `prodrome demo`, or with `prodrome up` and `prodrome send DIR`.
    """


if __name__ == "__main__":
    main()
