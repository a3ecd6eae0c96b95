"""A worker's own pages, served by Faust: is it alive, may it be relied on, what does Prometheus want to know."""

from typing import Any

import faust
from faust.web import Request, Response, View
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streams.membership import Membership
from streams.runtime import Runtime


def add_probes(app: faust.App, membership: Membership, runtime: "Running") -> None:
    """`/livez`, `/readyz` and `/metrics` on the port that the setting `runtime.pages_port` gives this worker's slot."""

    @app.page("/livez")
    async def livez(view: View, request: Request) -> Response:
        return view.json({"status": "alive", "slot": membership.slot, "worker": str(membership.worker)})

    @app.page("/readyz")
    async def readyz(view: View, request: Request) -> Response:
        troubles = runtime.held_back() or trouble(membership, runtime(), runtime.no_ends())
        return view.json({"status": "not ready" if troubles else "ready", **troubles}, status=503 if troubles else 200)

    @app.page("/metrics")
    async def metrics(view: View, request: Request) -> Response:
        return view.bytes(generate_latest(), content_type=CONTENT_TYPE_LATEST.partition(";")[0])


class Running:
    """Gives the runtime once the app has opened it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self) -> Runtime | None:
        return getattr(self._app, "runtime", None)

    def no_ends(self) -> str | None:
        """Why Kafka does not say how far its logs go."""
        gaps = getattr(self._app, "gaps", None)
        return gaps.outage if gaps else None

    def held_back(self) -> dict[str, str]:
        """Why the runtime is not opened yet, when the ledger is behind Kafka."""
        reconciler = getattr(self._app, "reconciler", None)
        return {"reconciling": reconciler.sentence} if reconciler and reconciler.sentence else {}


def trouble(membership: Membership, runtime: Runtime | None, no_ends: str | None = None) -> dict[str, str]:
    """What keeps this worker from its work, by the name of who is missing; empty when nothing does."""
    if runtime is None:
        return {"starting": "waits for Kafka and its topics"}
    found = {"ledger": membership.outage or runtime.ledger.outage, "kafka": runtime.outbox.outage or no_ends}
    if not membership.held(membership.epoch):
        found["lease"] = "the lease ran out and was not renewed yet"
    if runtime.executor.draining:
        found["draining"] = "the worker was told to stop"
    return {name: reason for name, reason in found.items() if reason}
