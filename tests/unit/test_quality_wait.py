"""`tidemill quality`: `run --wait` answers with the verdict of the run it waited for and no older one; an allowance is told while it holds."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

from streams.cli import quality
from streams.cli.refusal import CliError

ASKED = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
RUN = SimpleNamespace(run_id=uuid4(), tenant_id="acme", requested_at=ASKED, outcome="failed")


@pytest.fixture
def last(monkeypatch):
    """The tenant's newest verdict, and a door behind which the run is over."""
    last = {"run_id": uuid4(), "at": ASKED - timedelta(hours=6), "verdict": "pass", "watched": True, "checks": []}

    async def found(question):
        return last

    async def asked(door, tenant):
        return [{"tenant_id": "acme", "run_id": str(RUN.run_id), "result": "run"}]

    async def run(run_id):
        return SimpleNamespace(run=RUN)

    monkeypatch.setattr(quality, "_found", found)
    monkeypatch.setattr(quality, "_ask", asked)
    door = SimpleNamespace(reader=SimpleNamespace(run=run))
    monkeypatch.setattr(quality, "act", lambda move: __import__("asyncio").run(move(door)))
    return last


def test_an_old_pass_is_no_answer_when_the_run_ended_without_a_verdict(last):
    with pytest.raises(CliError, match="without a verdict") as refused:
        quality.run("acme", wait=True)
    assert (refused.value.code, refused.value.status) == ("no_verdict", 1)


@pytest.mark.parametrize("change", [{"run_id": RUN.run_id}, {"at": ASKED + timedelta(seconds=1)}], ids=["of the run", "a later one"])
def test_the_runs_own_verdict_and_a_later_one_count(last, change):
    last |= change
    assert quality.run("acme", wait=True) == 0


@pytest.mark.parametrize(("hours", "holds"), [(1, True), (-1, False)])
def test_an_allowance_is_told_until_it_expires(last, monkeypatch, capsys, hours, holds):
    until = ASKED + timedelta(hours=hours)
    found = last | {"tenant_id": "acme", "allowance": {"until": until.isoformat(), "by": "ann", "reason": "harmless"}}
    row = {
        "tenant_id": "acme",
        "status": "active",
        "verdict": "fail",
        "watched": True,
        "failing": 1,
        "incidents": 1,
        "at": ASKED,
        "allowed_until": until,
    }

    async def at(question, tenant=None):
        return (found if tenant else [row]), ASKED

    monkeypatch.setattr(quality, "_at", at)
    quality.show("acme")
    assert ("allowed to train until" in capsys.readouterr().out) is holds
    quality.list_()
    assert (f"{until:%H:%M}" in capsys.readouterr().out) is holds


def test_a_suspended_tenant_is_listed_as_such(monkeypatch, capsys):
    row = {"tenant_id": "acme", "status": "suspended", "verdict": "fail", "watched": True, "failing": 1, "incidents": 0, "at": ASKED}

    async def at(question, tenant=None):
        return [row | {"allowed_until": None}], ASKED

    monkeypatch.setattr(quality, "_at", at)
    quality.list_()
    said = capsys.readouterr().out
    assert "suspended" in said
    assert "fail " not in said.split("\n", 1)[1]
