"""The suites: every check as data, with the number of the profile it looks at, its limits, and the sentence that says why it matters."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["low", "medium", "high", "critical"]
Kind = Literal["share", "age", "defects", "unusual"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
BLOCKING = frozenset({"high", "critical"})
"""A check that failed so badly blocks training."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question about a tenant's data.

    `number` is its key in the profile. kind share: rows in percent of `of`; age: hours; defects: a count that should be zero;
    unusual: a robust z-score against the tenant's baseline. `needs`: the passes of the profile without which it cannot be answered.
    """

    name: str
    suite: str
    table: str
    kind: Kind
    number: str
    needs: tuple[str, ...]
    title: str
    of: str = ""
    column: str = ""
    worst: Severity = "high"
    """What exceeding the upper limit means; an age has one limit, and this is it."""
    limit: str = ""
    """For ages: the setting that is its limit."""

    @property
    def unit(self) -> str:
        """Of its number and its limits."""
        return {"share": "%", "age": "h", "defects": "", "unusual": "σ"}[self.kind]


def _complete(table: str, *columns: str) -> list[Check]:
    return [
        Check(
            f"{table}.{column}.complete", "completeness", table, "share", f"{table}.null_{column}",
            (table, f"{table}_undated") if column == "created_at" else (table,), f"{table}.{column} is filled",
            of=f"{table}.rows", column=column,
        )
        for column in columns
    ]  # fmt: skip


COMPLETENESS = (
    Check("users.columns", "completeness", "users", "defects", "users.shape", (), "users has the declared columns"),
    Check("items.columns", "completeness", "items", "defects", "items.shape", (), "items has the declared columns"),
    Check("user_interactions.columns", "completeness", "user_interactions", "defects", "user_interactions.shape", (),
          "user_interactions has the declared columns"),
    Check("model_training_runs.columns", "completeness", "model_training_runs", "defects", "model_training_runs.shape", (),
          "model_training_runs has the declared columns", worst="medium"),
    *_complete("users", "user_id", "created_at"),
    *_complete("items", "item_id", "content", "created_at"),
    *_complete("user_interactions", "user_id", "item_id", "interaction_type", "timestamp", "created_at"),
)  # fmt: skip

FRESHNESS = (
    Check("user_interactions.fresh", "freshness", "user_interactions", "age", "user_interactions.age", ("interactions_newest",),
          "the newest interaction is young enough", limit="interactions_within"),
    Check("items.fresh", "freshness", "items", "age", "items.age", ("items_newest",), "the newest item is young enough", worst="medium",
          limit="items_within"),
    Check("model_training_runs.fresh", "freshness", "model_training_runs", "age", "model_training_runs.age", ("training_newest",),
          "the last training that succeeded is young enough", worst="medium", limit="training_within"),
    Check("user_interactions.future", "freshness", "user_interactions", "share", "user_interactions.future",
          ("interactions_recent", "user_interactions"), "no interaction is from the future", of="user_interactions.rows"),
    Check("items.future", "freshness", "items", "share", "items.future", ("items",), "no item is from the future", of="items.rows"),
)  # fmt: skip

ANOMALIES = (
    Check("user_interactions.unique", "anomalies", "user_interactions", "share", "duplicates.count", ("duplicates", "user_interactions"),
          "no interaction is there twice", of="user_interactions.rows"),
    Check("user_interactions.types", "anomalies", "user_interactions", "share", "user_interactions.invalid", ("user_interactions",),
          "every interaction type is allowed", of="user_interactions.rows", column="interaction_type"),
    Check("user_interactions.items", "anomalies", "user_interactions", "share", "orphan_items.count", ("orphan_items", "user_interactions"),
          "every interaction's item exists", of="user_interactions.rows", column="item_id"),
    Check("user_interactions.users", "anomalies", "user_interactions", "share", "orphan_users.count", ("orphan_users", "user_interactions"),
          "every interaction's user exists", of="user_interactions.rows", column="user_id"),
    Check("items.tenant", "anomalies", "items", "share", "items.without_tenant", ("tenants", "items"), "the items' tenant exists",
          of="items.rows", column="tenant_id"),
    Check("user_interactions.volume", "anomalies", "user_interactions", "unusual", "user_interactions.rows_day", ("interactions_recent",),
          "the last day's interactions are as many as usual"),
    Check("user_interactions.hour", "anomalies", "user_interactions", "unusual", "user_interactions.rows_hour", ("interactions_recent",),
          "the last hour's interactions are as many as usual", worst="medium"),
    Check("user_interactions.people", "anomalies", "user_interactions", "unusual", "user_interactions.users_day", ("interactions_recent",),
          "the last day's users are as many as usual", worst="medium"),
)  # fmt: skip

SUITES: dict[str, tuple[Check, ...]] = {"completeness": COMPLETENESS, "freshness": FRESHNESS, "anomalies": ANOMALIES}
CHECKS: dict[str, Check] = {check.name: check for suite in SUITES.values() for check in suite}
MEASUREMENT = "measurement"
"""The check that everything could be measured; its own incident, so that one locked table is not thirty."""
