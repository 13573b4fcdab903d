"""Find what the stack needs and does not bring itself: a Java 17 and Maven.

Cassandra 5.0 runs on Java 11 or 17 and its module flags here are those of 17, so 17 it is, exactly.
A missing one is a single line that says what to install.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from infra.stack.layout import MissingPrerequisite

JAVA_MAJOR: Final = "17"


def find_java() -> Path:
    """Return the `java` of a JDK 17: of `JAVA_HOME`, of `PATH`, or where Debian puts it.

    Raises
    ------
    MissingPrerequisite
        If none of them is a Java 17.
    """
    seen = []
    for java in _candidates():
        major = _major(java)
        if major == JAVA_MAJOR:
            return java
        seen.append(f"{java} is Java {major}" if major else f"{java} does not run")
    found = f" (found: {'; '.join(seen)})" if seen else ""
    raise MissingPrerequisite(
        f"Java {JAVA_MAJOR} is missing{found}: apt-get install openjdk-17-jdk-headless, or set JAVA_HOME"
    )


def find_maven() -> Path:
    """Return `mvn`, which is needed once, to fetch the jars."""
    found = shutil.which("mvn")
    if found is None:
        raise MissingPrerequisite("Maven is missing (it fetches Kafka and Cassandra): apt-get install maven")
    return Path(found)


def _candidates() -> Iterator[Path]:
    places = [Path(home) / "bin" / "java"] if (home := os.environ.get("JAVA_HOME")) else []
    if on_path := shutil.which("java"):
        places.append(Path(on_path))
    places += sorted(_debian_folder().glob(f"java-{JAVA_MAJOR}-*/bin/java"))
    yield from dict.fromkeys(place for place in places if os.access(place, os.X_OK))


def _debian_folder() -> Path:
    return Path("/usr/lib/jvm")


def _major(java: Path) -> str | None:
    try:
        # A JVM says its version in well under a second; a wrapper that hangs must not hang `up`.
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r'version "(\d+)', answer.stderr)
    return version[1] if version else None
