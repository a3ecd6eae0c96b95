"""Changes of schedules, pauses, fair turns."""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"

_SQL = Path(__file__).parents[2] / "sql"


def upgrade() -> None:
    op.get_bind().connection.driver_connection.execute((_SQL / "0007_tenancy.sql").read_text())
