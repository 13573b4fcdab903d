"""What a test may change in a role that it starts itself; see `plug/sitecustomize.py`. Each is one function."""

import threading


def answer_before_sync() -> None:
    """The receiver answers, and syncs behind that."""
    from infra.spool.writer import Spool

    right = Spool._commit

    def commit(self, segment, end):  # type: ignore[no-untyped-def]
        threading.Timer(0.05, right, (self, segment, end)).start()

    Spool._commit = commit  # type: ignore[method-assign]


def no_folder_sync() -> None:
    """A segment's name is never made durable."""
    from infra.spool import files

    files.sync_folder = lambda folder: None
