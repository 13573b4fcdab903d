"""Become the installed Prometheus, scraping every role of this home's stack."""

import os
import shutil
from typing import Final

from commands.stack import PROMETHEUS, layout
from infra.monitoring.scrape import configuration
from infra.settings import Settings
from infra.stack.layout import LOOPBACK
from infra.stack.ports import recorded_addresses
from schemas.errors import SettingsError

#: History that one machine keeps: a week, and never more than this of disk.
_KEPT: Final = ("--storage.tsdb.retention.time=7d", "--storage.tsdb.retention.size=2GB")


def run(found: Settings) -> None:
    """Write the configuration and become Prometheus; does not return.

    Raises
    ------
    SettingsError
        Prometheus is not installed, or the stack was never up.
    """
    program, addresses = shutil.which(PROMETHEUS), recorded_addresses(layout(found))
    if program is None:
        raise SettingsError("Prometheus is not installed: apt-get install prometheus")
    if addresses is None:
        raise SettingsError("the stack has no addresses yet: `prodrome up`")
    folder = found.home / "prometheus"
    folder.mkdir(mode=0o700, exist_ok=True)
    endpoints = {role: port for role, port in addresses.metrics.items() if role != PROMETHEUS}
    (folder / "prometheus.yml").write_text(configuration(endpoints))
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={LOOPBACK}:{found.role.metrics_port}",
        *_KEPT,
        "--log.level=warn",
    ]
    os.execv(program, command)  # noqa: S606  the path is the system's, the arguments are ours
