"""Refills a ledger that was lost or set back from what lies on Kafka (docs/decisions/0008-a-lost-ledger.md)."""
