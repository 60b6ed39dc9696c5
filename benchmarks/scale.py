"""How what Trimtab does grows: with groups, detectors, tensors, parameters, steps and ranks.

    python benchmarks/scale.py [--quick] [--only PART ...]

What is measured, and how, is in `trimtab.bench.scale`. Each line is a quantity at one size; behind the last size stand
the exponent of its growth over all sizes, and that between the two largest: 1 where twice the size costs twice as much.
"""

from __future__ import annotations

import argparse
import platform
import sys

import torch

from trimtab.bench.scale import FULL, PARTS, QUICK, Growth


def print_growth(growth: Growth) -> None:
    """Print a quantity, one line for each size."""
    for size, amount in growth.points:
        is_last = size == growth.points[-1][0]
        exponents = f"   ^{growth.exponent:.2f}, at the end ^{growth.last_exponent:.2f}" if is_last else ""
        print(f"{growth.quantity:44} {size:>9} {growth.counted:10} {amount:12.4g} {growth.unit:5}{exponents}")


def main() -> None:
    """Print the table, part by part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="small sizes alone, in seconds")
    parser.add_argument("--only", choices=[*PARTS], nargs="+", default=[*PARTS], help="some parts alone")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        for growth in PARTS[name](QUICK if options.quick else FULL):
            print_growth(growth)


if __name__ == "__main__":
    main()
