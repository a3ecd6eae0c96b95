"""Named places where a test, a simulation or `tidemill worker --crash-at NAME` stops the process; one global look when off."""

import os
import signal
from collections.abc import Callable

POINTS = {
    "inbox.received": "P1: a record was read, nothing is in the ledger",
    "inbox.recorded": "P2: it is in the ledger, its offset is not committed",
    "command.sending": "P3: a command is about to be sent to a neighbour",
    "command.sent": "P4: the neighbour has it, its answer was not seen",
    "command.answered": "P5: the answer was seen, the ledger does not know it",
    "step.committed": "P6: the outcome is in the ledger, its event is not on Kafka",
    "outbox.published": "P7: the event is on Kafka, its outbox row is still there",
    "index.uploading": "P8: part of an index is in S3",
    "index.uploaded": "P9: all of it but the manifest is in S3",
    "index.manifest": "P10: the manifest is in S3, index.built is not committed",
    "deploy.accepted": "P11: the inference service took the version, its health was not seen",
    "deploy.restoring": "P12: the last good version is being put back",
    "cache.warming": "P13: the cache is being warmed",
    "slot.firing": "P14: a schedule's slot is due, its event is not in the outbox",
}

_armed: dict[str, Callable[[], None]] = {}


def point(name: str) -> None:
    """Pass a fault point."""
    if _armed and name in _armed:
        _armed[name]()


def arm(name: str, action: Callable[[], None] | None = None, *, after: int = 0) -> None:
    """Let the named point run `action` (default: SIGKILL to this process) once it was passed `after` times before."""
    if name not in POINTS:
        raise KeyError(f"unknown fault point {name}; there are: {', '.join(POINTS)}")
    passes = 0

    def hit() -> None:
        nonlocal passes
        passes += 1
        if passes > after:
            (action or _die)()

    _armed[name] = hit


def disarm() -> None:
    """Turn all points off."""
    _armed.clear()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
