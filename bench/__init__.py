"""The benchmark: Tidemill, DBOS and a bare loop do the same six calls on the same servers, in turns; `scripts/bench` runs it."""
