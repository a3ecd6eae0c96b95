"""The CPU of one hand-over, line by line: a burst's CPU by process, the worker's shared out by where its samples were."""

from collections import Counter, defaultdict
from typing import NamedTuple

from bench.figures import CALLS, Burst
from bench.processes import Costs
from bench.profiling.stacks import Stacks

RULES = (
    ("the call to the neighbour: client, transport, effect", ("streams/clients/",)),
    ("the stage's own body", ("bench/pipeline.py",)),
    ("hand-over: columns, statement, answer", ("streams/ledger/handover.py", "_send_usual", "_send_commit")),
    ("way in: decoding, echoes, accept", ("streams/inbox.py", "streams/items.py", "schemas/cloudevents.py", "_send_receive")),
    ("outbox: rows to records and to the producer, removal", ("streams/outbox.py", "streams/records.py", "streams/journal.py")),
    ("group commit, connections", ("streams/ledger/", "asyncpg/")),
    ("executor: outcome, policy, next step", ("streams/executor.py", "streams/attempt.py", "streams/outcome.py", "streams/step.py")),
    ("aiokafka: fetching, sending", ("aiokafka/",)),
    ("Faust: from the consumer to the inbox", ("faust/", "mode/", "streams/transport.py", "streams/skim.py")),
    ("dispatcher, timers, gaps, heartbeat", ("streams/",)),
)
"""A sample belongs to the first of these that one of its frames names."""
REST = "event loop, and what C code does below it"
CONNECTIONS = {
    "tidemill-lane-0": "receive: accept, watermarks",
    "tidemill-lane-1": "commits that are not the usual",
    "tidemill-outbox": "outbox: journal entries read, rows removed, states read",
}
LANES = "hand_over"
THREADS = {"data-plane-kafk": "network and requests: produce, fetch", "C1 CompilerThre": "compiler", "VM Thread": "garbage"}
SMALL = 0.01
"""Lines below this share of the whole are one."""


class Line(NamedTuple):
    """What it is, and its CPU in milliseconds a hand-over."""

    part: str
    what: str
    ms: float


def budget(burst: Burst, stacks: Stacks, details: dict[str, Costs]) -> list[Line]:
    """The dearest first; all of them together are the burst's CPU, divided by its hand-overs."""
    a_hand_over = 1000 / (burst.runs * CALLS)
    lines = [Line("worker", what, share * burst.cpu["worker-1"] * a_hand_over) for what, share in shares(stacks).items()]
    for part, name in (("postgres", _connection), ("kafka", _thread)):
        costs: defaultdict[str, float] = defaultdict(float)
        for each, seconds in details[part].items():
            costs[name(each.rpartition(" ")[0])] += seconds
        costs["the rest"] += burst.cpu[part] - sum(details[part].values())
        lines += [Line(part, what, seconds * a_hand_over) for what, seconds in costs.items()]
    whole = sum(each.ms for each in lines)
    kept = sorted((each for each in lines if each.ms >= SMALL * whole), key=lambda each: -each.ms)
    return [*kept, Line("all", f"lines below {SMALL:.0%} each", whole - sum(each.ms for each in kept))]


def shares(stacks: Stacks) -> dict[str, float]:
    """How much of a worker's samples each line has."""
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        found[next((what for what, words in RULES if any(word in frame for frame in stack for word in words)), REST)] += count
    return {what: count / found.total() for what, count in found.items()}


def _connection(name: str) -> str:
    """What a worker's connection is for."""
    return CONNECTIONS.get(name, LANES if name.startswith("tidemill-lane-") else name)


def _thread(name: str) -> str:
    """Threads of one kind have a number in their names; the kernel keeps 15 letters of them."""
    kind = name.rstrip("0123456789#-: ") or name
    return THREADS.get(kind, kind)
