"""Index folders that nothing names."""

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = ("0005", "0008")

_SQL = Path(__file__).parents[2] / "sql"


def upgrade() -> None:
    op.get_bind().connection.driver_connection.execute((_SQL / "0013_sweep.sql").read_text())
