"""Logs: one line an event, to standard error, for the supervisor or the container to keep.

Libraries that quote values of datasets or rows in their messages are silenced to their errors; our own lines
carry ids of prodrome (intakes, pseudonyms, partitions), never an identifier of a patient.
"""

import faulthandler
import logging
import os
import sys
import warnings
from typing import Final

#: Loggers that would quote what they read, and how much of them is heard.
QUIET: Final = {
    "pydicom": logging.CRITICAL,
    "pynetdicom": logging.CRITICAL,
    "cassandra": logging.CRITICAL,
    "aiokafka": logging.ERROR,
    "faust": logging.ERROR,
    "mode": logging.ERROR,
    "asyncio": logging.ERROR,
}


def setup(role: str, level: str = "INFO") -> None:
    """Send log lines of this process to standard error as ``time level role logger: message``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(
            f"%(asctime)s.%(msecs)03d %(levelname)s {role} %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, threshold in QUIET.items():
        logging.getLogger(name).setLevel(threshold)
    faulthandler.enable()  # a crash inside a C extension says where
    # pydicom warns with the values it stumbles over.
    warnings.simplefilter("ignore")


def place(error: BaseException) -> str:
    """Return file and line of an error: what may be logged of one whose text may quote a value."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (
        f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        if trace
        else "unknown place"
    )
