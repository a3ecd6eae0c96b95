"""What did not happen, and has to be told."""

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = ("0002", "0004")

_SQL = Path(__file__).parents[2] / "sql"


def upgrade() -> None:
    op.get_bind().connection.driver_connection.execute((_SQL / "0010_absence.sql").read_text())
