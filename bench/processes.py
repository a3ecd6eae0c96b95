"""What processes cost: CPU seconds and memory of whole families, read from /proc (Linux)."""

import os
from collections.abc import Mapping
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
Costs = dict[str, float]


def family(pid: int) -> list[int]:
    """The process and all its living descendants."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:  # a thread that has just ended
                continue
    return found


def cpu(pid: int) -> float:
    """CPU seconds used so far by a family, its ended and reaped members included (PostgreSQL's backends come and go)."""
    return sum(map(_cpu_of_one, family(pid)))


def _cpu_of_one(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICK  # utime stime cutime cstime


def cpu_by_thread(pid: int) -> Costs:
    """CPU seconds used so far by the living threads of a family, by `name number`."""
    found: Costs = {}
    for each in family(pid):
        for thread in Path(f"/proc/{each}/task").glob("*"):
            try:
                name, fields = (thread / "comm").read_text().strip(), (thread / "stat").read_text().rpartition(") ")[2].split()
            except OSError:  # it has just ended
                continue
            found[f"{name} {thread.name}"] = sum(map(int, fields[11:13])) / _TICK  # utime stime
    return found


def pss(pid: int) -> float:
    """MiB in the memory of a family, pages that several share counted once."""
    return sum(map(_pss_of_one, family(pid)))


def _pss_of_one(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def cpu_of(parts: Mapping[str, int]) -> Costs:
    return {name: cpu(pid) for name, pid in parts.items()}


def pss_of(parts: Mapping[str, int]) -> Costs:
    return {name: round(pss(pid), 1) for name, pid in parts.items()}


def spent(before: Costs, after: Costs) -> Costs:
    """CPU seconds between two readings, by part."""
    return {name: round(after[name] - before.get(name, 0.0), 2) for name in after}


def busy() -> float:
    """CPU seconds that the whole machine has worked so far, everybody's."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK
