"""What the watched tables should look like, and what differs from it: missing, extra and wrongly typed columns, told apart."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_IDS = frozenset({"text", "varchar", "bpchar", "uuid", "int4", "int8"})
_TIMES = frozenset({"timestamptz", "timestamp", "date"})
_TEXTS = frozenset({"text", "varchar", "bpchar"})
_DOCUMENTS = frozenset({"json", "jsonb", "text", "varchar"})

DECLARED: dict[str, dict[str, frozenset[str]]] = {
    "tenants": {"tenant_id": _TEXTS},
    "users": {"user_id": _IDS, "tenant_id": _TEXTS, "created_at": _TIMES},
    "items": {"item_id": _IDS, "tenant_id": _TEXTS, "content": _DOCUMENTS, "metadata": _DOCUMENTS, "created_at": _TIMES},
    "user_interactions": {
        "user_id": _IDS,
        "item_id": _IDS,
        "interaction_type": _TEXTS,
        "timestamp": _TIMES,
        "tenant_id": _TEXTS,
        "created_at": _TIMES,
    },
    "model_training_runs": {"tenant_id": _TEXTS, "status": _TEXTS, "completed_at": _TIMES},
}
"""Table -> column -> the types (PostgreSQL's names) that count as right."""
KNOWN_BESIDE = {"tenants": frozenset({"name", "status"}), "model_training_runs": frozenset({"run_id", "started_at", "code", "reason", "version"})}
"""Columns that may be there without being extra."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How one table differs from what is declared."""

    there: bool = True
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """`column: type, wanted …`"""

    @property
    def defects(self) -> int:
        """Extra columns are none: they are told, and harm nobody."""
        return len(self.missing) + len(self.wrong)


def differences(found: Iterable[tuple[str, str, str]]) -> dict[str, Difference]:
    """Each declared table compared with (table, column, type) as found."""
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in found:
        tables.setdefault(table, {})[column] = kind
    return {table: _difference(table, declared, tables.get(table)) for table, declared in DECLARED.items()}


def _difference(table: str, declared: Mapping[str, frozenset[str]], found: Mapping[str, str] | None) -> Difference:
    if found is None:
        return Difference(there=False, missing=sorted(declared))
    typed = {column: kinds for column, kinds in declared.items() if column in found and found[column] not in kinds}
    return Difference(
        missing=sorted(set(declared) - set(found)),
        extra=sorted(set(found) - set(declared) - KNOWN_BESIDE.get(table, frozenset())),
        wrong=[f"{column}: {found[column]}, wanted {' or '.join(sorted(kinds))}" for column, kinds in typed.items()],
    )
