"""Follows runs to their end for `trigger --wait`, with progress on stderr and the result on stdout."""

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import UUID

from streams.cli import out
from streams.cli.refusal import CliError
from streams.cli.runs import headline

if TYPE_CHECKING:
    from streams.ledger.reader import Reader
    from streams.ledger.rows import RunDetail

LOOK = 0.25
GOOD = frozenset({"succeeded", "succeeded_with_warnings"})


async def follow(reader: "Reader", run_ids: list[str], timeout: float, as_json: bool) -> bool:
    """Wait until all are over, print what they came to; whether all succeeded."""
    ids = [UUID(each) for each in dict.fromkeys(run_ids)]
    if not any(worker.alive for worker in await reader.workers()):
        out.say("no worker is alive; runs start when one does (`tidemill worker`)")
    open_, over = set(ids), {}
    seen: dict[UUID, str] = {}
    until = time.monotonic() + timeout
    with out.console(stderr=True).status("waiting") as status:
        while open_:
            for each in sorted(open_):
                detail = await reader.run(each)
                if (now := where(detail)) != seen.get(each):
                    seen[each] = now
                    out.say(now)
                if detail.run.outcome:
                    over[each] = detail
                    open_.discard(each)
            if open_ and time.monotonic() > until:
                raise CliError(
                    "wait_timeout",
                    f"{len(open_)} of {len(ids)} runs are not over after {timeout:g} s; they go on, `tidemill show {min(open_)}` shows one",
                )
            status.update(f"{len(open_)} of {len(ids)} runs under way")
            if open_:
                await asyncio.sleep(LOOK)
    found = [over[each].run for each in ids]
    out.show(
        found if len(found) > 1 else found[0] if found else [], as_json, lambda: out.line("\n".join(map(headline, found)) or "nothing to wait for")
    )
    return all(run.outcome in GOOD for run in found)


def where(detail: "RunDetail") -> str:
    """Where a run is, in a line: its stages with their times."""
    steps = " · ".join(f"{step.stage} {out.seconds(step.seconds) if step.finished_at else step.state}" for step in detail.steps)
    run = detail.run
    return f"{run.tenant_id} {out.short(run.run_id)}: {steps or run.state}" + (f" → {run.outcome}" if run.outcome else "")
