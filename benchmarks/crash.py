"""Kill a run at random times, and see that it ends as the run that never was killed.

    python benchmarks/crash.py [--kills 50] [--epochs 12] [--seed 0]

What is trained, and what is compared, is in `trimtab.bench.crash`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from trimtab.bench.crash import STEPS_AN_EPOCH, run_uninterrupted, run_with_crashes


def main() -> int:
    """Print what became of it; the exit status is 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=50, help="how often to kill")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of a run")
    parser.add_argument("--seed", type=int, default=0, help="decides the times")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        seconds = run_uninterrupted(reference, options.epochs)
        print(f"uninterrupted: {options.epochs * STEPS_AN_EPOCH} steps in {seconds:.1f} s")
        seen = run_with_crashes(Path(folder) / "run", reference, options.epochs, options.kills, seconds, options.seed)
    print(f"killed {seen.num_kills} times in {seen.seconds:.0f} s, resumed {seen.num_resumed} times")
    print(f"steps taken twice: {seen.num_lost}")
    print(f"steps whose loss differs: {len(seen.differing_steps)} {list(seen.differing_steps[:5])}")
    print(
        f"tensors and states that differ at the end: {len(seen.differing_tensors)} {list(seen.differing_tensors[:5])}"
    )
    is_exact = not seen.differing_steps and not seen.differing_tensors
    print("PASS: every resume is bit-exact" if is_exact else "MISSED: a resume is not bit-exact")
    return 0 if is_exact else 1


if __name__ == "__main__":
    sys.exit(main())
