"""Become the program that a launch file describes: `launch.py FILE DIGEST`.

supervisord reads commands and environments from an INI file with quoting rules of its own; a password with
a quote or a `#` in it does not survive them. So it runs this file instead, which takes both from JSON and
replaces itself. The digest is there for supervisord: a changed program has a changed command.

It imports no package and runs with `-I -S`, so that a restart costs milliseconds.
"""

import json
import os
import sys


def main(path: str) -> None:
    """Replace this process by the program."""
    with open(path) as file:
        program = json.load(file)
    # The supervisor inherited them from whoever ran the first `up`; what counts is in the launch file.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PRODROME_")}
    command = program["command"]
    os.execve(command[0], command, inherited | program["env"])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1])
