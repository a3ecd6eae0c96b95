"""How verbs print: one JSON document, or tables for people; text of others is made harmless for the terminal first."""

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 220
"""Columns when nobody watches: a table in a pipe is not cut to 80."""
STATES = {
    **dict.fromkeys(("succeeded", "done", "ok", "active", "live", "alive"), "green"),
    **dict.fromkeys(("running", "waiting", "ready", "pending", "cancelling", "retry"), "cyan"),
    **dict.fromkeys(("succeeded_with_warnings", "skipped", "blocked", "cancelled", "suspended", "superseded"), "yellow"),
    **dict.fromkeys(("failed", "timed_out", "down", "wrong", "open", "rejected", "dead"), "red"),
}


def to_json(data: Any) -> bytes:
    """Rows, ids, times and durations as JSON; bytes as text where they are text."""
    return orjson.dumps(data, default=_plain, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)


def show(data: Any, as_json: bool, people: Callable[[], None]) -> None:
    """Print the data, or what people read instead."""
    if as_json:
        sys.stdout.write(to_json(data).decode() + "\n")
    else:
        people()


def say(line: str) -> None:
    """A line for people who wait, beside the data."""
    sys.stderr.write(harmless(line) + "\n")
    sys.stderr.flush()


def console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    watched = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if watched else WIDE, highlight=False, markup=False, emoji=False)


def line(text: str) -> None:
    sys.stdout.write(harmless(text) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table whose cells are words; states have their colour."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        cells = [harmless(word(cell)) for cell in row]
        made.add_row(*(Text(cell, style=STATES.get(cell, "")) for cell in cells))
    console().print(made)


def word(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return seconds(value)
    return str(value)


def seconds(value: float | None) -> str:
    """A duration: 0.12 s, 4.5 s, 2:05 min, 3:20 h."""
    if value is None:
        return ""
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    whole = round(value)
    return f"{whole // 60}:{whole % 60:02} min" if value < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02} h"


def short(run_id: Any) -> str:
    """Enough of an id to type it again."""
    return str(run_id)[:8] if run_id else ""


def harmless(text: str) -> str:
    """Without what could move the cursor or turn the text round."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"hex": value.hex()}
    return str(value)
