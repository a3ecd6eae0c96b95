"""What happened: events, states and verdicts as frozen pydantic models; this package imports nothing of ours."""
