"""``python -m benchmarks [--runs N]``: every measurement, its bar, and whether it was met."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import version

from benchmarks import batching, gate, provider, takeover, unbatched


def main() -> int:
    """Print the measurements; the exit status is 1 when one misses its bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each contender (default 5)")
    runs = parser.parse_args().runs
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis"))
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {packages}, {runs} runs")
    met = True

    print("\n100 sessions x 20 turns, no-op writer, batches of one; turns/s, median (range)")
    stock, ordered = unbatched.run(runs)
    for result in (stock, ordered):
        print(f"  {result.name:24}{result}")
    met &= _bar("hermes_tasks / stock Celery", ordered.median / stock.median, at_least=0.95)

    print("\n20 sessions x 100 turns, a stand-in that takes 20 ms; turns/s, median (range)")
    single, batched = batching.run(runs)
    for result in (single, batched):
        print(f"  {result.name:24}{result}")
    met &= _bar("batches / one write per turn", batched.median / single.median, at_least=10.0)

    print(f"\nSIGKILL of a worker with a lease of {takeover.LEASE:.0f} s; seconds, median (range)")
    (killed,) = takeover.run(runs)
    print(f"  {killed.name:24}{killed}")
    met &= _bar("worst, beyond the lease", max(killed.values) - takeover.LEASE, at_most=2.0)

    print(f"\nThe gate at one call of {gate.CALLS:,}, on loopback; ms, p50 and p99")
    alone, gated = gate.run()
    for cost in (alone, gated):
        print(f"  {cost.name:24}{cost}")
    met &= _bar("added by the gate, p50", gated.p50 - alone.p50, at_most=0.3)

    met &= provider.table(0.1)
    return 0 if met else 1


def _bar(
    name: str, value: float, *, at_least: float | None = None, at_most: float | None = None
) -> bool:
    good = value >= at_least if at_least is not None else value <= (at_most or 0.0)
    bar = f"at least {at_least}" if at_least is not None else f"at most {at_most}"
    print(f"  {name:34}{value:.2f}  ({bar}: {'met' if good else 'MISSED'})")
    return good


if __name__ == "__main__":
    sys.exit(main())
