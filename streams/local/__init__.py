"""The local stack: real Kafka, PostgreSQL, Valkey and SeaweedFS as child processes, for `tidemill up` and for the tests."""
