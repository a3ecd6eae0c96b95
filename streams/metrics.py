"""What Prometheus scrapes from a worker; no label is a tenant, a run or anything else without bound."""

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

stage_seconds = Histogram("tidemill_stage_seconds", "Time one attempt of a stage took.", ["pipeline", "stage", "outcome"], buckets=_FAST)
events_received = Counter("tidemill_events_received_total", "Records read from Kafka, by what became of them.", ["topic", "fate"])
events_published = Counter("tidemill_events_published_total", "Events put on Kafka.", ["topic"])
steps_running = Gauge("tidemill_steps_running", "Steps this worker has in hand.")
steps_reaped = Counter("tidemill_steps_reaped_total", "Steps taken from workers whose lease ran out.")
outbox_failures = Counter("tidemill_outbox_failures_total", "Sends that Kafka did not acknowledge; their rows are sent again.")
dead_letters = Counter("tidemill_dead_letters_total", "Records that could not be used.", ["topic", "code"])
gaps = Counter("tidemill_offset_gaps_total", "Holes in the offsets read, by how they were closed.", ["topic", "how"])
index_folders_swept = Counter("tidemill_index_folders_swept_total", "Index folders that nothing named, deleted by this worker.")
