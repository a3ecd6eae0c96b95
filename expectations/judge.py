"""Great Expectations over the profile, one row a tenant. Runs in a child process alone: the import takes seconds and holds the GIL.

The worker sends plain lists and gets plain lists back; it never imports `great_expectations`.
"""

import math
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

Row = dict[str, Any]
NOT_ASKED = float("nan")


class Question(NamedTuple):
    """One check of a suite: the columns that hold its value and its two limits."""

    check: str
    strict: bool


def judge(suites: Mapping[str, list[Question]], rows: list[Row]) -> dict[str, dict[str, str]]:
    """Tenant -> check -> "medium" or "high" for every check that does not hold, suite by suite.

    A row has `tenant_id` and for each question `{check}`, `{check} medium` and `{check} high`; NaN where it is not asked.
    """
    found: dict[str, dict[str, str]] = {}
    for suite, questions in suites.items():
        for tenant, checks in _judge(suite, questions, rows).items():
            found.setdefault(tenant, {}).update(checks)
    return found


def _judge(suite: str, questions: list[Question], rows: list[Row]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for level in ("medium", "high"):  # the second only of those that failed the first: mostly nobody
        asked = rows if level == "medium" else [row for row in rows if row["tenant_id"] in found]
        failing = {check for checks in found.values() for check in checks}
        about = [question for question in questions if level == "medium" or question.check in failing]
        for check, tenants in _unexpected(f"{suite} {level}", level, about, asked):
            for tenant in tenants:
                found.setdefault(tenant, {})[check] = level
    return found


def _unexpected(name: str, level: str, questions: list[Question], rows: list[Row]) -> list[tuple[str, list[str]]]:
    if not rows or not questions:
        return []
    import pandas as pd

    gx, gxe, batches = great_expectations_parts()
    severity = {"medium": "warning", "high": "critical"}[level]
    suite = gx.ExpectationSuite(
        name=name,
        expectations=[
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A=f"{check} {level}",
                column_B=check,
                or_equal=not strict,
                ignore_row_if="neither",  # there is nothing to look for: it would cost a quarter of all the time here
                severity=severity,
                meta={"check": check},
            )
            for check, strict in questions
        ],
    )
    batch = batches.get_batch({"dataframe": pd.DataFrame(_columns(level, questions, rows))})
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["tenant_id"]})
    found = []
    for result in outcome.results:
        check = result.expectation_config.meta["check"]
        refuse_unasked(check, result.exception_info)
        found.append((check, [entry["tenant_id"] for entry in result.result.get("unexpected_index_list") or []]))
    return found


def refuse_unasked(name: str, info: Mapping[str, Any]) -> None:
    """Raise when the library could not ask: it tells one exception, or one for each metric that the expectation needs."""
    for each in (info, *info.values()):
        if isinstance(each, Mapping) and each.get("raised_exception"):
            raise RuntimeError(f"{name}: {each['exception_message']}")


def _columns(level: str, questions: list[Question], rows: list[Row]) -> dict[str, list[Any]]:
    """Values and limits, check by check; what is not asked has a value that every limit allows."""
    columns: dict[str, list[Any]] = {"tenant_id": [row["tenant_id"] for row in rows]}
    for check, _ in questions:
        limits = columns[f"{check} {level}"] = [math.inf if math.isnan(limit := row[f"{check} {level}"]) else limit for row in rows]
        columns[check] = [-math.inf if limit == math.inf else row[check] for row, limit in zip(rows, limits, strict=True)]
    return columns


@cache
def great_expectations_parts() -> tuple[Any, Any, Any]:
    """The library, its expectations and where data frames go in; imported once a process."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    import great_expectations.expectations as gxe

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]  # as its documentation says
    batches = context.data_sources.add_pandas("profile").add_dataframe_asset("tenants").add_batch_definition_whole_dataframe("all")
    return gx, gxe, batches


def warm() -> str:
    """Import everything now, so that the first verdict does not wait for it; gives the library's version."""
    gx, _, _ = great_expectations_parts()
    return str(gx.__version__)
