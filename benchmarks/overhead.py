"""What `check` costs: supervised loops against the same loops with `clip_grad_norm_`, as ratios.

    python benchmarks/overhead.py [--blocks 41] [--seconds 0.3] [--only WORKLOAD]

The protocol is in `trimtab.bench.overhead`. Printed are the medians over the blocks: of two loops without a supervisor
against each other (A/A, the noise), of `check`, and of `check` with a run folder. Beside each stands the most it may
cost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from trimtab.bench.overhead import BLOCK_SECONDS, LARGE, NUM_BLOCKS, WORKLOADS, Overhead, measure_overhead


def show_progress(name: str, done: int, total: int) -> None:
    """Say on the terminal what is being measured."""
    print(f"{done + 1} of {total}: {name} ...", file=sys.stderr, flush=True)


def print_checks(rows: Sequence[Overhead]) -> None:
    """Print one line for each workload."""
    print(f"{'workload':22} {'ms/step':>8} {'A/A':>7} {'check':>7} {'+ run':>7}   bound")
    for plain in (row for row in rows if row.name == "check"):
        recorded = next(r for r in rows if (r.workload, r.name) == (plain.workload, "check with run folder"))
        milliseconds, noise = 1000 * (plain.step_seconds or 0), plain.noise or 0
        print(
            f"{plain.workload:22} {milliseconds:8.2f} {noise:7.4f} {plain.figure:7.4f} {recorded.figure:7.4f}"
            f"   {plain.bound}"
        )


def print_large(rows: Sequence[Overhead]) -> None:
    """Print what was measured on the large workload alone."""
    found = {row.name: row for row in rows if row.workload == LARGE}
    snapshots, probe, both = (found[name] for name in ("snapshots", "probe", "snapshots and probe"))
    print(
        f"snapshots, 25M: {snapshots.figure:.4f}; probe: {probe.figure:.4f} of the time, every {probe.probe_every} "
        f"steps   {both.bound} together"
    )
    stall, resume = found["checkpoint"], found["resume"]
    print(f"checkpoint, 25M: stalls the loop {stall.figure:.2f} times as long as a copy in memory   {stall.bound}")
    print(f"resume, 25M: {resume.figure:.2f} s   {resume.bound:g}")
    review = found["review"]
    print(f"review without spectra, 25M: {1000 * review.figure:.2f} ms   {1000 * (review.bound or 0):g}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--blocks", type=int, default=NUM_BLOCKS, help="interleaved blocks; a quarter where a step is slow"
    )
    parser.add_argument("--seconds", type=float, default=BLOCK_SECONDS, help="seconds a block takes")
    parser.add_argument("--only", choices=[*WORKLOADS], help="one workload alone")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.blocks} interleaved blocks")
    names = None if options.only is None else [options.only]
    rows = measure_overhead(names, options.blocks, options.seconds, show_progress)
    print_checks(rows)
    if options.only in (None, LARGE):
        print_large(rows)


if __name__ == "__main__":
    main()
