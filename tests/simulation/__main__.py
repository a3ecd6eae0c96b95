"""`python -m tests.simulation --seeds 200 --first 1`: seeds on all cores; failing ones are named, and tell their story with --story."""

import argparse
import sys

from tests.simulation.harness import fresh_seeds, storm
from tests.simulation.server import running_server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, help="the first of that many in a row; without it they are random")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--mutant")
    parser.add_argument("--story", action="store_true")
    options = parser.parse_args()
    seeds = fresh_seeds(options.seeds) if options.first is None else list(range(options.first, options.first + options.seeds))
    with running_server() as server:
        result = storm(server, seeds, seconds=options.seconds, mutant=options.mutant)
    for report in result.bad[:10]:
        lines = [f"seed {report.seed}: {violation[:500]}" for violation in report.violations[:6]]
        sys.stdout.write((str(report) if options.story else "\n".join(lines)) + "\n")
    sys.stdout.write(f"{result}\n")
    return 1 if result.bad else 0


if __name__ == "__main__":
    sys.exit(main())
