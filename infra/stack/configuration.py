"""Write what supervisord reads: one launch file a program, and one configuration for all of them.

Parts start with the daemon, roles when they are told to; parts stop last. Nothing is started here.
"""

import json
import os
import resource
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from infra.secret_files import write_secret
from infra.stack.layout import Layout, Program, StackError, is_part

#: A role that is told to stop finishes its batch; one that needs longer is killed, which loses nothing.
STOP_SECONDS: Final = 30
#: A unix socket's path ends after 107 bytes, and supervisord appends its pid while it makes one.
_LONGEST_SOCKET: Final = 107 - len(".4194304")
_LAUNCH: Final = Path(__file__).parent / "launch.py"

_DAEMON: Final = """\
[supervisord]
logfile={layout.logs}/supervisord.log
logfile_maxbytes=5MB
logfile_backups=2
pidfile={layout.run}/supervisord.pid
minfds={files}
{user}
[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[rpcinterface:prodrome]
supervisor.rpcinterface_factory=infra.stack.plugin:make_rpc_namespace
"""
# startsecs: who dies sooner waits longer each time; startretries: and is never given up.
_PROGRAM: Final = """
[program:{program.name}]
command={command}
priority={priority}
autostart={autostart}
autorestart=true
startsecs=5
startretries=1000000000
stopwaitsecs={stop}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


def write(layout: Layout, programs: Sequence[Program]) -> None:
    """Write the launch files and the configuration of the table; drop the launch files of others."""
    for old in layout.run.glob("*.json"):
        if old.stem not in {program.name for program in programs}:
            old.unlink()
    for program in programs:
        write_secret(_launch_file(layout, program.name), program.document())
    files = min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    # Said or not, root stays root; said, supervisord does not warn of it.
    user = "user=root\n" if os.geteuid() == 0 else ""
    daemon = _DAEMON.format(layout=layout, files=files, user=user, socket=socket_path(layout))
    write_secret(
        configuration_file(layout), daemon + "".join(_section(layout, program) for program in programs)
    )


def written_parts(layout: Layout) -> list[Program]:
    """The parts as the last start wrote them down."""
    parts = []
    for path in sorted(layout.run.glob("*.json")):
        if not is_part(path.stem):
            continue
        launch = json.loads(path.read_text())
        parts.append(Program(name=path.stem, command=tuple(launch["command"]), env=launch["env"], part=True))
    return parts


def socket_path(layout: Layout) -> Path:
    """Where supervisord listens: under the home, or in a private folder when that path is too long."""
    inside = layout.run / "supervisor.sock"
    if len(os.fsencode(inside)) <= _LONGEST_SOCKET:
        return inside
    name = sha256(os.fsencode(layout.home)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"prodrome-{os.geteuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StackError(f"{folder}: expected a folder that only its owner can enter")
    return folder / "supervisor.sock"


def drop_socket_folder(layout: Layout) -> None:
    """Remove the private folder of a socket that did not fit under the home."""
    folder = socket_path(layout).parent
    if folder != layout.run:
        shutil.rmtree(folder)


def _section(layout: Layout, program: Program) -> str:
    python = [sys.executable, "-I", "-S", str(_LAUNCH)]
    return _PROGRAM.format(
        program=program,
        command=shlex.join([*python, str(_launch_file(layout, program.name)), program.digest()]),
        priority=1 if program.part else 2,
        autostart=str(program.autostart).lower(),
        stop=STOP_SECONDS,
        log=layout.log(program.name),
    )


def configuration_file(layout: Layout) -> Path:
    """The file that supervisord is started with."""
    return layout.run / "supervisord.conf"


def _launch_file(layout: Layout, name: str) -> Path:
    return layout.run / f"{name}.json"
