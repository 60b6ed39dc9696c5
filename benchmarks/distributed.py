"""What it costs ranks to agree on a step, beside a bare all-reduce of one number, as times and ratios.

    python benchmarks/distributed.py [--turns 201] [--ranks 1 2 4 8]

Ranks are processes on this machine that talk over gloo. In every turn each of them does, one after the other: an
all-reduce of one number; one of as many bytes as an agreement has; the agreement on a model of 64 groups; and the same
with the probes that measure its numbers. Printed are the medians over the turns, as the first rank sees them, and how
many all-reduces of one number each is worth. Where ranks outnumber cores, what is measured is mostly waiting.
"""

from __future__ import annotations

import argparse
import os

import torch

from trimtab.bench.scale import RANKED, run_ranks


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--turns", type=int, default=201, help="interleaved turns of which the median is taken")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of ranks")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {options.turns} turns, one thread a rank")
    print(f"{'ranks':>5} {'':38} {'µs':>9} {'ratio':>7}")
    for num_ranks in options.ranks:
        times = run_ranks(num_ranks, (), options.turns)
        for name in RANKED:
            print(f"{num_ranks:5} {name:38} {times[name]:9.0f} {times[name] / times[RANKED[0]]:7.2f}")


if __name__ == "__main__":
    main()
