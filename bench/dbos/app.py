"""DBOS as it is used: the six stages as steps of a durable workflow, each with one call over a connection that is kept.

Runs in an environment of its own (`requirements.txt` beside this file); reads commands on stdin, answers on stdout.
"""

import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from dbos import DBOS, SetWorkflowID  # type: ignore[import-not-found, unused-ignore]

STAGES = {"validate": "GET", "train": "POST", "wait": "GET", "index": "POST", "deploy": "POST", "warm": "POST"}
STUB = urlsplit(os.environ["BENCH_STUB"])
QUEUE = "bench"
kept = threading.local()

DBOS(
    config={
        "name": "bench",
        "system_database_url": os.environ["BENCH_DBOS"],
        "executor_id": os.environ["BENCH_WORKER"],
        "application_version": "bench-1",
        "log_level": "WARNING",
    }
)


def call(stage: str, run: str) -> dict[str, Any]:
    """One call to the stub, over this thread's connection."""
    if not hasattr(kept, "connection"):
        kept.connection = http.client.HTTPConnection(STUB.hostname or "", STUB.port, timeout=30)
    body = json.dumps({"tenant_id": run}) if STAGES[stage] == "POST" else None
    kept.connection.request(STAGES[stage], f"/stage/{stage}/{run}", body=body, headers={"Content-Type": "application/json"})
    answer = kept.connection.getresponse()
    data: dict[str, Any] = json.loads(answer.read())
    if answer.status != 200:
        raise RuntimeError(f"{stage} of {run}: HTTP {answer.status}")
    return data


def step(name: str) -> Callable[[str], str]:
    """A stage as a step whose outcome DBOS keeps before the next begins."""

    def do(run: str) -> str:
        return str(call(name, run)["job_id"])

    declared: Callable[[str], str] = DBOS.step(name=name)(do)
    return declared


STEPS = [step(name) for name in STAGES]


@DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]
def train_tenant(run: str) -> str:
    for each in STEPS:
        each(run)
    return run


def here(run: str) -> None:
    """Called as a function, in this process."""
    with SetWorkflowID(run):
        train_tenant(run)


def enqueue(run: str) -> tuple[float, Any]:
    """Through the durable queue, for any process to work on."""
    at = time.monotonic()
    with SetWorkflowID(run):
        return at, DBOS.enqueue_workflow(QUEUE, train_tenant, run)


def obey(command: dict[str, Any]) -> Any:
    runs = command["runs"]
    if command["do"] == "here":
        with ThreadPoolExecutor(command["threads"]) as pool:
            list(pool.map(here, runs))
        return None
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(enqueue, runs))
    for _, handle in asked:
        handle.get_result(polling_interval_sec=0.05)
    return [at for at, _ in asked]


def main() -> None:
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=16, polling_interval_sec=float(os.environ["BENCH_POLL"]), on_conflict="always_update")
    say("ready")
    for line in sys.stdin:
        say(obey(json.loads(line)))
    DBOS.destroy()


def say(what: Any) -> None:
    print(">", json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
