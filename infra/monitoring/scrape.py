"""Prometheus' configuration for one machine: every role is scraped, the rules are loaded. Pure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: Of the files that ship.
RULES: Final = Path(__file__).resolve().parent.parent / "deploy" / "prometheus" / "rules.yml"
#: An alert over minutes needs no more, and the smallest step of a panel is a minute.
INTERVAL: Final = "5s"


def configuration(endpoints: Mapping[str, int], rules: Path = RULES) -> str:
    """Return the configuration file, in JSON, which is YAML.

    Parameters
    ----------
    endpoints : mapping
        Role name to the port of its ``/metrics`` on loopback.
    """
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        for name, port in endpoints.items()
    ]
    found = {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(rules)],
        "scrape_configs": jobs,
    }
    return json.dumps(found, indent=1) + "\n"
