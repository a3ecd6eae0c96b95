"""How events move: the runtime that carries pipelines of stages from Kafka through the ledger and back; it knows no tenant model."""
