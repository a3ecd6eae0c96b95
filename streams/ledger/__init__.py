"""The durable truth: PostgreSQL tables, the moves between their states as SQL functions, and the typed calls to them."""
