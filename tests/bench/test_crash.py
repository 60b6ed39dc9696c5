"""Law 9: a run that is killed at random times ends as the run that never was, bit for bit."""

from __future__ import annotations

from pathlib import Path

from trimtab.bench.crash import run_uninterrupted, run_with_crashes

NUM_EPOCHS = 5


def test_every_resume_is_bit_exact(tmp_path: Path) -> None:
    """Five kills; `benchmarks/crash.py` makes fifty."""
    seconds = run_uninterrupted(tmp_path / "reference", NUM_EPOCHS)
    seen = run_with_crashes(
        tmp_path / "run", tmp_path / "reference", NUM_EPOCHS, num_kills=5, seconds=2 * seconds, seed=1
    )
    assert seen.num_kills == 5
    assert seen.num_resumed > 0
    assert seen.differing_steps == ()
    assert seen.differing_tensors == ()
