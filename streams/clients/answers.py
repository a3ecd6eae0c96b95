"""What a neighbour's answer, or its silence, means for a step: the only place that turns HTTP into `TryAgain` and `GiveUp`."""

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Self

import httpx
from pydantic import BaseModel, ValidationError

from streams.clients.breaker import Failed
from streams.stage import GiveUp, TryAgain

LONGEST_RETRY_AFTER = timedelta(seconds=60)
"""However long a neighbour asks us to wait, we look again after this."""
QUICK = timedelta(seconds=2)
"""A wait that is shorter than this is not worth giving the step back for."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Problem(BaseModel):
    """How a neighbour says no."""

    code: str = ""
    message: str = ""

    @classmethod
    def of(cls, body: bytes) -> "Problem":
        try:
            return Problem.model_validate_json(body)
        except ValidationError:
            return Problem()


class Unanswered(Failed):
    """The neighbour could not be reached (`connect`, `dns`, `tls`) or broke off (`reset`, `timeout`)."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind, self.sentence = kind, sentence

    @classmethod
    def by(cls, error: Exception) -> Self:
        """What a transport error was: the transport keeps the true one as the cause."""
        if isinstance(error.__cause__, socket.gaierror):
            return cls("dns", "has a host name that does not resolve")
        if isinstance(error.__cause__, ssl.SSLError):
            return cls("tls", "has a certificate or TLS set-up that was refused")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return cls("connect", "cannot be reached")
        if isinstance(error, httpx.TimeoutException):
            return cls("timeout", "gave no answer in time")
        return cls("reset", "broke the connection off before its answer was complete")


class Unfit(GiveUp):
    """What was sent is itself refused (413, 422): the same is refused for ever, whoever mends what."""


def no_answer(name: str, trouble: Unanswered, *, down: bool) -> TryAgain:
    """Nobody there costs no attempt; an unsure answer does, unless the neighbour is taken to be `down`. Either way the next try has the same key."""
    outage = down or trouble.kind in ("connect", "dns", "tls")
    code = {"connect": f"{name}_down", "reset": f"{name}_broke_off"}.get(trouble.kind, f"{name}_{trouble.kind}")
    sentence = f"{name} {trouble.sentence}; look at the service and at TIDEMILL_{name.upper()}__URL"
    return TryAgain(sentence, code=code, free=outage, waiting_for=name if outage else None)


def says_later(name: str, command: str, reply: Reply) -> TryAgain:
    """A 5xx costs an attempt. A full queue (429) and a first call that still runs (409) do not: the neighbour is well."""
    after = asked_to_wait(reply)
    if reply.status >= 500 or reply.status == 408:
        return TryAgain(f"{name} answered {command} with {reply.status}; look at its log", code=f"{name}_error", after=after)
    busy = f"{name} has no room for {command} now" if reply.status == 429 else f"{name} is still working on the same {command}"
    return TryAgain(busy, code=f"{name}_busy", after=after or QUICK, free=True, waiting_for=name)


def says_lies(name: str, sentence: str) -> TryAgain:
    """An answer that cannot be the neighbour's: believed in nothing, asked again at the cost of an attempt."""
    return TryAgain(f"{name} {sentence}; look whether something else answers at TIDEMILL_{name.upper()}__URL", code=f"{name}_lied")


def refusal(name: str, status: int, problem: Problem) -> GiveUp:
    """A 4xx: asking again the same would be refused again."""
    what = {401: "forbidden", 403: "forbidden", 404: "not_found", 413: "too_large"}.get(status, "refused")
    code = re.sub(r"[^\w .-]", "", problem.code)[:60]
    said = " ".join("".join(c if c.isprintable() else " " for c in problem.message).split())[:300]
    reason = ": ".join(part for part in (code, said) if part) or "no reason given"
    kind = Unfit if status in (413, 422) else GiveUp
    return kind(f"{name} refused with {status} ({reason}); mend that, then `tidemill retry` the run", code=f"{name}_{what}")


def in_progress(reply: Reply) -> bool:
    return reply.status == 409 and Problem.of(reply.body).code == "in_progress"


def asked_to_wait(reply: Reply) -> timedelta | None:
    """How long the neighbour asks us to stay away: its `Retry-After`, no longer than a minute; None if that is short enough to try at once."""
    wait = _seconds(reply.headers.get("retry-after", ""))
    return min(timedelta(seconds=wait), LONGEST_RETRY_AFTER) if wait > QUICK.total_seconds() else None


def _seconds(header: str) -> float:
    if re.fullmatch(r"\d{1,18}", header.strip()):
        return min(float(header), 1e9)
    try:
        return min((parsedate_to_datetime(header).astimezone(UTC) - datetime.now(UTC)).total_seconds(), 1e9)
    except (ValueError, TypeError, OverflowError):
        return 0.0
