"""Training when data arrives."""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"

_SQL = Path(__file__).parents[2] / "sql"


def upgrade() -> None:
    op.get_bind().connection.driver_connection.execute((_SQL / "0011_arrivals.sql").read_text())
