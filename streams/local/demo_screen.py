"""What the demo shows: live lines while the runs travel, tables and addresses at the end; plain lines when nobody looks."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.prompt import Confirm
from rich.table import Table

from schemas.states import RunState
from streams.local.addresses import Addresses
from streams.local.demo_runs import Show, Watched

COLOURS = {RunState.SUCCEEDED: "green", RunState.SUCCEEDED_WITH_WARNINGS: "yellow", RunState.BLOCKED: "yellow"}
VERDICTS = {"pass": "green", "warn": "yellow"}


class Screen:
    """The terminal, or whatever stdout is."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def sure(self, question: str) -> bool:
        """The answer; where nobody can be asked, yes."""
        return not (sys.stdin.isatty() and self.console.is_terminal) or Confirm.ask(question, console=self.console)

    @contextmanager
    def progress(self) -> Iterator[Show]:
        """What to call with the state of all runs, as often as one likes."""
        if not self.console.is_terminal:
            yield _Lines(self).show
            return
        with Live(console=self.console, refresh_per_second=10) as live:
            yield lambda runs: live.update(_progress(runs))

    def results(self, runs: Sequence[Watched], scores: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, str], where: Addresses) -> None:
        self.console.print(_times(runs))
        if any(run.index for run in runs):
            self.console.print(_quality(runs, scores, sizes))
        for run in runs:
            for trouble in run.trouble:
                self.say(f"{run.tenant}: {trouble}")
        self.say(f"pages       {where.web}/")
        for tenant, score in list(scores.items())[:1]:
            self.say(f"recommend   curl -s '{where.inference}/api/v1/recommend/{tenant}/{score['user']}?k=10'")

    def chapter(self, title: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{escape(title)}[/]", align="left", style="dim")

    def verdicts(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Each tenant's verdict, as the last tick found it."""
        table = _table("data quality", ("tenant", "verdict"), ("failing checks", "open incidents"))
        for row in rows:
            colour = VERDICTS.get(row["verdict"], "red")
            table.add_row(escape(row["tenant_id"]), f"[{colour}]{row['verdict']}[/]", str(row["failing"]), str(row["incidents"]))
        self.console.print(table)

    def findings(self, tenant: str, failing: Sequence[Mapping[str, Any]], seeded: Mapping[str, int]) -> None:
        """What failed: the rows counted beside the rows put in, and the share beside its limits."""
        table = _table(f"what is wrong with {tenant}", ("check", "severity"), ("rows", "put in", "%", "blocks above"))
        for check in failing:
            rows, put, share = str(check.get("count", "")), str(seeded.get(check["check"], "")), f"{check.get('value') or 0:.2f}"
            table.add_row(check["check"], f"[red]{check['severity']}[/]", rows, put, share, f"{check.get('high') or 0:g}")
        self.console.print(table)

    def what_next(self, runs: Sequence[Watched], where: Addresses, home: Path) -> None:
        """For those who stay."""
        tidemill = ".venv/bin/tidemill" if home == Path(".tidemill").absolute() else f"TIDEMILL_HOME={home} .venv/bin/tidemill"
        first = runs[0]
        self.say("\nIt all stays up until Ctrl-C. Try, from another terminal:")
        self.say(f"  {tidemill} trigger {first.tenant} --wait")
        self.say(f"  {tidemill} show {str(first.run_id)[:8]}")
        self.say(f"  {tidemill} runs")
        self.say(f"  {tidemill} quality list")
        self.say(f'  echo \'{{"tenant_id": "{first.tenant}"}}\' | kcat -P -b {where.kafka} -t training.requested    # or any other Kafka client')


class _Lines:
    """For logs and pipes: a line whenever a run has moved."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._said: dict[str, str] = {}

    def show(self, runs: Sequence[Watched]) -> None:
        for run in runs:
            now = _where(run)
            if self._said.get(run.tenant) != now:
                self._said[run.tenant] = now
                self._screen.say(f"{run.tenant:<10} {run.seconds:5.1f} s  {now}")


def _where(run: Watched) -> str:
    """Where a run is, in a few words."""
    if run.detail is None:
        return "requested"
    if run.over or run.step is None:
        return run.detail.run.state
    attempt = f", attempt {run.step.attempt}" if run.step.attempt > 1 else ""
    return f"{run.step.stage} {run.step.state}{attempt}"


def _progress(runs: Sequence[Watched]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=8)
    table.add_column(justify="right", min_width=7)
    table.add_column(min_width=26)
    for run in runs:
        table.add_row(run.tenant, f"{run.seconds:.1f} s", f"[{_colour(run)}]{_where(run)}[/]")
    return table


def _colour(run: Watched) -> str:
    if not run.over or run.detail is None:
        return "cyan"
    return COLOURS.get(RunState(run.detail.run.state), "red")


def _times(runs: Sequence[Watched]) -> Table:
    """Where each run's time went."""
    stages = list(dict.fromkeys(step.stage for run in runs for step in (run.detail.steps if run.detail else ())))
    table = _table("seconds by stage", ("tenant", "run", "outcome"), (*stages, "total"))
    for run in runs:
        took = {step.stage: step.seconds for step in (run.detail.steps if run.detail else ()) if step.seconds is not None}
        spent = [f"{took[stage]:.2f}" if stage in took else "" for stage in stages]
        table.add_row(run.tenant, str(run.run_id)[:8], f"[{_colour(run)}]{_where(run).replace('_', ' ')}[/]", *spent, f"{run.seconds:.2f}")
    return table


def _quality(runs: Sequence[Watched], scores: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, str]) -> Table:
    """How good the index and the recommendations are."""
    table = _table("quality of what is served", ("tenant", "users × items", "index"), ("recall@10", "hit-rate@10", "by popularity"))
    for run in runs:
        score, index = scores.get(run.tenant, {}), run.index
        kind = "" if index is None else f"{index.kind} {index.nprobe}/{index.nlist}" if index.nlist else index.kind
        recall = "" if index is None or index.recall is None else f"{index.recall:.3f}"
        rates = [f"{score[name]:.3f}" if score else "" for name in ("hit_rate", "popularity")]
        table.add_row(run.tenant, sizes[run.tenant], kind, recall, *rates)
    return table


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """Narrow enough for 80 columns."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in texts:
        table.add_column(name, min_width=len(name), no_wrap=name != "outcome")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
