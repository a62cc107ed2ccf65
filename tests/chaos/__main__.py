"""``python -m tests.chaos [--seed N] [--seconds S] [--runs N]``: what ``make chaos`` does."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import run


def main() -> int:
    """Run one seed after another; the exit status is 1 when one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed (default: any)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults (default 60)")
    parser.add_argument("--runs", type=int, default=1, help="seeds, one after another (default 1)")
    options = parser.parse_args()
    first = random.randrange(1_000_000) if options.seed is None else options.seed
    failed = 0
    for seed in range(first, first + options.runs):
        print(f"seed {seed}: {options.seconds:g} s of faults …", flush=True)
        directory = Path(tempfile.mkdtemp(prefix=f"hermes-tasks-chaos-{seed}-"))
        try:
            outcome = run(seed, options.seconds, directory)
        except BaseException:
            print(f"seed {seed}: could not be run to its end; logs: {directory}", flush=True)
            raise
        print(outcome.text(), flush=True)
        if outcome.verdict.problems():
            failed += 1
        else:
            shutil.rmtree(directory)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
