"""Whether everything this platform leans on answers, each by name and with the time it took; asked at most once in two seconds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Check = Callable[[], Awaitable[None]]
"""Returns when the dependency is well, raises otherwise; what it raises is the reason shown."""
PATIENCE = 2.0
"""Seconds a dependency gets to answer."""
KEEP = 2.0
"""Seconds an answer is good for: however many ask, the dependencies are asked no more often."""


class Unwell(Exception):
    """It answers, but not as it should; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One dependency at one moment."""

    name: str
    ok: bool
    needed: bool
    latency_ms: float
    reason: str | None = None

    def shown(self) -> dict[str, Any]:
        return {"name": self.name, "status": "ok" if self.ok else "down", "needed": self.needed, "latency_ms": self.latency_ms, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Readiness:
    """All findings and what they come to."""

    findings: Sequence[Finding]

    @property
    def ready(self) -> bool:
        return all(each.ok for each in self.findings if each.needed)

    @property
    def status(self) -> str:
        return "ok" if all(each.ok for each in self.findings) else "degraded" if self.ready else "down"

    def shown(self) -> dict[str, Any]:
        down = [f"{each.name}: {each.reason}" for each in self.findings if not each.ok]
        dependencies = {each.name: each.shown() for each in self.findings}
        return {"status": self.status, "message": "; ".join(down) or "everything answers", "dependencies": dependencies}


class Health:
    """Asks all dependencies at once. `needed` ones make the process unready; the others, the neighbours, only degrade it."""

    def __init__(self, needed: Mapping[str, Check], others: Mapping[str, Check], *, secrets: Sequence[str] = ()) -> None:
        self._checks = [(name, check, True) for name, check in needed.items()] + [(name, check, False) for name, check in others.items()]
        self._secrets = [secret for secret in secrets if secret]
        self._lock = asyncio.Lock()
        self._last: tuple[float, Readiness] | None = None

    async def readiness(self) -> Readiness:
        async with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > KEEP:
                findings = await asyncio.gather(*(self._ask(name, check, needed) for name, check, needed in self._checks))
                self._last = (time.monotonic(), Readiness(findings))
            return self._last[1]

    async def _ask(self, name: str, check: Check, needed: bool) -> Finding:
        began, reason = time.perf_counter(), None
        try:
            async with asyncio.timeout(PATIENCE):
                await check()
        except TimeoutError:
            reason = f"no answer within {PATIENCE:g} s"
        except Exception as error:  # whatever a client raises, the answer is a line on a page and never a failed probe
            reason = self._clean(error)
        return Finding(name, reason is None, needed, round((time.perf_counter() - began) * 1000, 1), reason)

    def _clean(self, error: Exception) -> str:
        """The first line of an error, without what must not be shown."""
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text[:300]
