"""A ledger that was set back, and is refilled."""

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0001"

_SQL = Path(__file__).parents[2] / "sql"


def upgrade() -> None:
    op.get_bind().connection.driver_connection.execute((_SQL / "0009_refill.sql").read_text())
