"""The faults by name, in lanes: those of one lane are injected one after another, those of different lanes at the same time.

Each is injected once by a call, leaves everything running again, and says what it measured.
"""

from tests.chaos.faults_nearby import neighbour, neighbour_cut, s3_cut, s3_slow, store
from tests.chaos.faults_servers import (
    broker_freeze,
    broker_kill,
    broker_restart,
    broker_stop,
    kafka_cut,
    kafka_delay,
    kafka_partition,
    postgres_cut,
    postgres_delay,
    postgres_kill_backends,
    postgres_partition,
    postgres_restart,
    redis_flush,
)  # fmt: skip
from tests.chaos.faults_workers import kill9_at_point, kill9_left_dead, kill9_worker, sigstop_worker, sigterm_worker, worker_join_leave
from tests.chaos.scene import Fault

LANES: dict[str, dict[str, Fault]] = {
    "kills": {"kill9_worker": kill9_worker},
    "workers": {
        "kill9_at_point": kill9_at_point,
        "kill9_left_dead": kill9_left_dead,
        "sigstop_worker": sigstop_worker,
        "sigterm_worker": sigterm_worker,
        "worker_join_leave": worker_join_leave,
    },
    "broker": {
        "broker_stop": broker_stop,
        "broker_kill": broker_kill,
        "broker_restart": broker_restart,
        "broker_freeze": broker_freeze,
        "kafka_cut": kafka_cut,
        "kafka_delay": kafka_delay,
        "kafka_partition": kafka_partition,
    },
    "postgres": {
        "postgres_restart": postgres_restart,
        "postgres_kill_backends": postgres_kill_backends,
        "postgres_cut": postgres_cut,
        "postgres_partition": postgres_partition,
        "postgres_delay": postgres_delay,
    },
    "neighbours": {
        "neighbour_hang": neighbour("hang"),
        "neighbour_reset": neighbour("reset"),
        "neighbour_500": neighbour("status", status=500),
        "neighbour_429": neighbour("status", status=429, retry_after=1_000_000_000),
        "neighbour_html": neighbour("html"),
        "neighbour_drop_reply": neighbour("drop_reply"),
        "neighbour_cut": neighbour_cut,
        "redis_flush": redis_flush,
    },
    "store": {
        "s3_slow": s3_slow,
        "s3_slow_down": store("slow_downs"),
        "s3_truncated": store("cut_short"),
        "s3_cut": s3_cut,
    },
}
FAULTS: dict[str, Fault] = {name: fault for lane in LANES.values() for name, fault in lane.items()}
