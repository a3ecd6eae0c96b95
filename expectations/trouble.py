"""Why something could not be measured: PostgreSQL's reasons as named codes with a sentence for whoever is paged."""

from dataclasses import dataclass

import asyncpg

AWAY = "warehouse_away"
TIMEOUT = "measure_timeout"
LATE = "measure_late"
LOCKED = "table_locked"
SPENT = "no_resources"
_BY_STATE = {
    "42P01": ("table_missing", "{table} is not there; create it, or correct TIDEMILL_WAREHOUSE__DSN"),
    "42703": ("column_missing", "{table} lacks a column that the checks need; compare it with `tidemill quality checks`"),
    "42501": ("no_permission", "{table} may not be read; `grant select on {table} to` the role in TIDEMILL_QUALITY__ROLE"),
    "22023": ("no_permission", "there is no role TIDEMILL_QUALITY__ROLE in the warehouse; create it, or unset it"),
    "57014": (TIMEOUT, "reading {table} took longer than TIDEMILL_QUALITY__STATEMENT_TIMEOUT; look for a missing index or a slow view"),
    "55P03": (LOCKED, "{table} was locked by somebody all the time; find the session in pg_locks"),
}
_WRONG_TYPE = ("column_type", "{table} has a column of another type than the checks need; compare it with `tidemill quality checks`")
_BY_CLASS = {
    "22": ("bad_values", "{table} holds values that cannot be read as what they should be"),
    "53": (SPENT, "reading {table} took more memory, disk or temporary files than PostgreSQL may use; see its log, and temp_file_limit"),
}
_TYPE_STATES = frozenset({"42883", "42804", "42846", "22P02"})
_AWAY_CLASSES = frozenset({"08", "57", "58", "28", "3D"})
_CROWDED = "53300"
"""Too many connections: of that class the one that no smaller statement helps against."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A code and a sentence about one table."""

    code: str
    table: str
    sentence: str

    @property
    def of_one(self) -> bool:
        """Whether a single tenant's rows may be the cause, so that the others are worth another try without it."""
        return self.code in (TIMEOUT, SPENT, "bad_values")


def trouble(error: BaseException, table: str) -> Trouble:
    """What PostgreSQL's refusal means; everything that is not known by name is an unexpected one with its SQLSTATE."""
    state = getattr(error, "sqlstate", None) or ""
    if is_away(error):
        return Trouble(AWAY, table, "the warehouse does not answer; see that PostgreSQL runs and TIDEMILL_WAREHOUSE__DSN is right")
    if state in _TYPE_STATES:
        code, sentence = _WRONG_TYPE
    else:
        unknown = ("unmeasurable", f"{{table}} could not be read ({type(error).__name__}, SQLSTATE {state or 'none'})")
        code, sentence = _BY_STATE.get(state) or _BY_CLASS.get(state[:2]) or unknown
    return Trouble(code, table, sentence.format(table=table))


def is_away(error: BaseException) -> bool:
    """Whether the database, not the statement, is the trouble."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state != "57014" and (state == _CROWDED or state[:2] in _AWAY_CLASSES)
    return isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError)) and not isinstance(error, asyncpg.DataError)
