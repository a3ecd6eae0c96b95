"""What Prometheus scrapes: this process's own metrics, and the ledger's state as gauges read when asked."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Gauge, generate_latest

from schemas.states import RunState
from streams.ledger.connection import is_outage
from streams.ledger.reader import Reader
from streams.web.parts import Use

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=Response)
async def metrics(use: Use) -> Response:
    """All metrics in Prometheus' text format; while the ledger is away its gauges are left out and `tidemill_ledger_up` is 0."""
    ledger = CollectorRegistry()
    up = Gauge("tidemill_ledger_up", "Whether the ledger answered this scrape.", registry=ledger)
    try:
        await _fill(ledger, use.reader)
        up.set(1)
    except Exception as error:
        if not is_outage(error):
            raise
        up.set(0)
    return Response(generate_latest(REGISTRY) + generate_latest(ledger), media_type=CONTENT_TYPE_LATEST)


async def _fill(registry: CollectorRegistry, reader: Reader) -> None:
    runs, backlog, workers, swept = await reader.run_counts(), await reader.backlog(), await reader.workers(), await reader.sweep()
    by_state = Gauge("tidemill_runs", "Runs by state.", ["state"], registry=registry)
    for state in RunState:
        by_state.labels(state.value).set(runs.get(state, 0))
    numbers = {
        "outbox_rows": ("Events that wait to be published.", backlog.outbox),
        "outbox_oldest_seconds": ("Age of the oldest event that waits to be published.", backlog.outbox_age or 0),
        "unpublishable_events": ("Events that Kafka refused for good.", backlog.unpublishable),
        "dead_letters_open": ("Dead letters that nobody has settled.", backlog.dead_letters),
        "gaps_open": ("Holes in the offsets read that are not accounted for.", backlog.gaps),
        "incidents_open": ("Incidents, of data quality and of what did not happen, that are not over.", backlog.incidents),
        "steps_due": ("Steps that are due and in nobody's hands.", backlog.steps_due),
        "index_folders_deleted": ("Index folders that nothing named and that were deleted so far, by all workers.", swept.folders),
        "index_folders_waiting": ("Index folders that nothing names and that are not old enough yet.", swept.waiting),
        "index_folders_unknown": ("Index folders of runs that this ledger does not know; they are left alone.", swept.unknown),
        "workers_alive": ("Workers whose lease runs.", sum(each.alive for each in workers)),
    }
    for name, (text, value) in numbers.items():
        Gauge(f"tidemill_{name}", text, registry=registry).set(value)
