"""The first ledger: tables, moves, dispatch."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

_SQL = Path(__file__).parents[2] / "sql"


def upgrade() -> None:
    for name in ("0001_tables", "0002_functions", "0003_moves", "0004_dispatch", "0008_hand_over", "0014_receive"):
        op.get_bind().connection.driver_connection.execute((_SQL / f"{name}.sql").read_text())
