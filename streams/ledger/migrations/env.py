"""Alembic's entry: migrations are plain SQL files (`../sql`), run over one connection the caller opened."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
