"""Accept and commit as a worker has them done: through the group commit, until all are durable; alone, and as many as fit into one batch."""

from typing import Any

import pytest

from bench.unit.conftest import MANY, Clerk

ROUNDS, WARM_UP = 100, 20
at_once = pytest.mark.parametrize("items", [1, MANY])


@at_once
def bench_accept(benchmark: Any, clerk: Clerk, items: int) -> None:
    benchmark.extra_info |= {"what": "accept: a request becomes a run with its first step leased", "items": items}

    def ready() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (clerk.requests(items),), {}

    benchmark.pedantic(clerk.accept, setup=ready, rounds=ROUNDS, warmup_rounds=WARM_UP)


@at_once
def bench_hand_over(benchmark: Any, clerk: Clerk, items: int) -> None:
    benchmark.extra_info |= {"what": "commit: hand over from one stage to the next", "items": items}

    def ready() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ([clerk.outcome(step) for step in clerk.accept(clerk.requests(items))],), {}

    benchmark.pedantic(clerk.hand_over, setup=ready, rounds=ROUNDS, warmup_rounds=WARM_UP)
