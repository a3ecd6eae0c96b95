"""The quality pipeline: a tick becomes a measured and judged verdict a tenant, and the verdict becomes incidents that open, go on or end."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from agents.incidents import change
from agents.sentences import message, title
from expectations import baseline, decide
from expectations.findings import QUESTIONS, Case, conclude, prepare, to_hold, to_learn, unwatched
from expectations.judge import judge, warm
from expectations.limits import Limits, read_own
from expectations.profile import Due, is_clean, to_count_on
from expectations.profile import measure as profile
from expectations.warehouse import Warehouse
from schemas.quality import DqDecided, DqEvaluated, DqTick
from streams.calmly import calmly
from streams.clients.quality import Change, IncidentState, TenantStanding
from streams.cpu import ChildDied, ChildFailed
from streams.services import Services
from streams.settings import QualitySettings, Settings
from streams.stage import GiveUp, Retry, TryAgain, stage

CHUNK = 500
"""Tenants measured by the same statements: a chunk reads the table of interactions once and asks the judge once, however many they are."""

ALMOST = 0.95
"""Of `full_every`: a tick that comes a moment early would else leave the reading of everything to the next one."""

WITHIN = timedelta(minutes=10)
"""For measuring; the rest of the stage's time is the judge's."""

ATTEMPTS = 4
"""At measuring; after the last one that the judge did not answer, the verdict is an error: an old "pass" says nothing about this data."""
NO_JUDGE = (ChildDied, ChildFailed, TimeoutError)


@stage(batch=CHUNK, at_once=1, retry=Retry(attempts=ATTEMPTS, every=timedelta(minutes=1)), timeout=timedelta(minutes=15))
async def measure(events: list[DqTick], use: Services) -> list[DqEvaluated | TryAgain | GiveUp]:
    """Measure the tenants' tables in set-based passes and judge the numbers. Only reads, so doing twice is like doing once.

    One call at a time: a worker keeps one core of the warehouse busy, and no more."""
    now = use.quality.now()
    settings, warehouse = use.settings.quality, warehouse_of(use.settings)
    standings = await use.quality.standings([event.key for event in events], baseline.hour_of_week(now))
    known = [standings.get(event.key, TenantStanding()) for event in events]
    due = [_due(event, standing, settings, now) for event, standing in zip(events, known, strict=True)]
    limits = limits_of(settings)
    profiles, _ = await asyncio.gather(profile(warehouse, due, now, settings.future_tolerance, WITHIN), _warmed(known, use))
    cases = [
        prepare(profiles[event.key], standing.samples, limits, read_own(standing.settings), now, _held(standing))
        async for event, standing in calmly(zip(events, known, strict=True))
    ]
    unjudged, failed, spent = None, {}, set()
    try:
        failed = await _judged([case for case in cases if case.profile.watched], use)
    except NO_JUDGE as trouble:
        unjudged = f"the judge did not answer ({trouble})"
        at = await use.quality.attempts([event.run_id for event in events if event.run_id], measure.name)
        spent = {run for run, attempt in at.items() if attempt >= ATTEMPTS}
    return [
        TryAgain(f"{unjudged}; the data is measured again", code="judge_died")
        if unjudged and case.profile.watched and event.run_id not in spent
        else _evaluated(event, each, standing, case, failed.get(event.key, {}), now, unjudged)
        async for event, each, standing, case in calmly(zip(events, due, known, cases, strict=True))
    ]


@stage(batch=200, retry=Retry(attempts=10, every=timedelta(seconds=30)))
async def alert(events: list[DqEvaluated], use: Services) -> list[DqDecided]:
    """Open, worsen and resolve incidents by the decision table; healthy data lets a blocked training through. Recorded once a measurement."""
    policy = policy_of(use.settings.quality)

    def decided(event: DqEvaluated, incidents: Mapping[str, IncidentState], now: datetime) -> Sequence[Change]:
        return [
            change(
                event.tenant_id,
                finding,
                incidents.get(finding["check"]),
                now,
                policy,
                begun_by=event.run_id,
                title=title,
                message=message,
            )
            for finding in (event.checks if event.watched else unwatched(name for name, each in incidents.items() if each.open))
        ]

    recorded = await use.quality.record(events, decided)
    good = [event.tenant_id for event in events if event.watched and event.verdict in ("pass", "warn")]
    let_through = await use.quality.let_through(good, "the data is good again")
    return [
        event.then(
            DqDecided,
            verdict=event.verdict,
            decisions=each.decisions,
            quiet=each.quiet,
            let_through=let_through.get(event.tenant_id),
        )
        async for event, each in calmly(zip(events, recorded, strict=True))
    ]


def warehouse_of(settings: Settings) -> Warehouse:
    """Where the watched tables are read, as the settings say."""
    quality = settings.quality
    return Warehouse(
        (quality.dsn or settings.warehouse.dsn).get_secret_value(),
        role=quality.role,
        statement_timeout=quality.statement_timeout,
        least_timeout=quality.least_timeout,
        lock_timeout=quality.lock_timeout,
        work_mem=quality.work_mem,
    )


def limits_of(settings: QualitySettings) -> Limits:
    return Limits(
        types=settings.interaction_types,
        tolerated_percent=settings.tolerated_percent,
        high_percent=settings.high_percent,
        unusual=settings.unusual,
        very_unusual=settings.very_unusual,
        warm_up=settings.warm_up,
        ages={name: getattr(settings, name) for name in ("interactions_within", "items_within", "training_within")},
    )


def policy_of(settings: QualitySettings) -> decide.Policy:
    return decide.Policy(remind_every=settings.remind_every, flapping_within=settings.flapping_within)


def _due(event: DqTick, standing: TenantStanding, settings: QualitySettings, now: datetime) -> Due:
    """A clean tenant's scheduled tick reads new rows alone; what was asked for by hand, after a change of the types, and once a day, everything."""
    types = read_own(standing.settings).interaction_types or settings.interaction_types
    left: dict[str, Any] = standing.profile.get("count_on", {})
    anew = event.slot is None or left.get("types") != list(types)
    whole = Due(event.key, types, alone=standing.slow, seen=_seen(standing))
    if anew or now - datetime.fromisoformat(left["whole_at"]) >= settings.full_every * ALMOST:
        return whole
    return replace(whole, since=datetime.fromisoformat(left["since"]), before=left["before"])


def _seen(standing: TenantStanding) -> bool:
    """Whether the warehouse ever had something of the tenant: one that was watched in doubt, during an outage, stays what it was before."""
    return standing.watched and bool(standing.profile.get("seen", standing.profile))


def _held(standing: TenantStanding) -> dict[str, Any]:
    """What was found so unusual that it blocks, until somebody can judge it anew."""
    return dict(standing.profile.get("held", {}))


async def _warmed(known: Sequence[TenantStanding], use: Services) -> None:
    """The judge with its imports done, which take it seconds once: over by the time the numbers are there."""
    if any(standing.watched for standing in known):
        with suppress(*NO_JUDGE):  # it is asked again when there is something to judge
            await use.judge.run(warm, timeout=use.settings.quality.judge_timeout)


async def _judged(cases: Sequence[Case], use: Services) -> dict[str, dict[str, str]]:
    """Tenant -> check -> level of what does not hold."""
    if not cases:
        return {}
    return await use.judge.run(judge, QUESTIONS, [case.row for case in cases], timeout=use.settings.quality.judge_timeout)


def _evaluated(
    event: DqTick, due: Due, standing: TenantStanding, case: Case, failed: Mapping[str, str], now: datetime, unjudged: str | None
) -> DqEvaluated:
    measured = case.profile
    if not measured.watched:
        return event.then(DqEvaluated, verdict="pass", watched=False, at=now)
    verdict, findings = conclude(case, failed, unjudged)
    seen = measured.seen or _seen(standing)
    left: dict[str, Any] = {"learn": to_learn(case), "hour": baseline.hour_of_week(now), "week": baseline.week(now), "seen": seen}
    if held := to_hold(findings, _held(standing), now):
        left["held"] = held
    if is_clean(measured):
        whole_at = now.isoformat() if measured.whole else standing.profile["count_on"]["whole_at"]
        left["count_on"] = to_count_on(measured) | {"whole_at": whole_at, "types": list(due.types)}
    return event.then(DqEvaluated, verdict=verdict, checks=findings, at=now, profile=left)
