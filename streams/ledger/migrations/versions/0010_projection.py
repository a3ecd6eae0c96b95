"""A place in the warehouse's queue for each end of a run."""

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"

_SQL = Path(__file__).parents[2] / "sql"


def upgrade() -> None:
    op.get_bind().connection.driver_connection.execute((_SQL / "0015_projection.sql").read_text())
