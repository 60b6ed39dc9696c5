"""What kills representations, on real images and a real table: found when, mended how far, at what cost.

python benchmarks/representation.py [--seeds 3]      # needs scikit-learn and plotnine; about five minutes

Each trouble of `tests/scenarios/representation` with and without the guard, beside the healthy run; healthy contrastive
runs of 32 to 512 dimensions; and the time of a review.
"""

import argparse
import logging
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.scenarios.representation.runs import (  # the scenarios are those of the tests
    SCENARIOS,
    Run,
    Scenario,
    contrast,
    train_healthy,
    train_spoilt,
)
from trimtab.probes.embeddings import measure_embeddings, read_sample

DIMENSIONS = (32, 64, 128, 256, 512)


def compare(data: str, name: str, seeds: int) -> str:
    """A row: the recalls, what they are of the healthy run's, and when it was found."""
    recalls, firsts = list[list[float]](), list[int | None]()
    for seed in range(seeds):
        healthy = train_healthy(data, name, seed)
        runs = [train_spoilt(data, name, guarded=guarded, seed=seed) for guarded in (False, True)]
        recalls.append([healthy.recall, *(run.recall for run in runs)])
        firsts += [run.first_sign for run in runs]
    healthy, spoilt, guarded = (statistics.mean(column) for column in zip(*recalls, strict=True))
    shares = [row[2] / row[0] for row in recalls]
    onset = SCENARIOS[name].onset
    late = [first - onset for first in firsts if first is not None]
    found = f"{max(late)}" if len(late) == len(firsts) else "never"
    return (
        f"{data:7} {name:21} healthy {healthy:.3f}  alone {spoilt:.3f}  guarded {guarded:.3f}  "
        f"= {min(shares):4.0%} to {max(shares):4.0%} of healthy; found at most {found} epochs after its onset"
    )


def count_interventions(data: str, seeds: int) -> str:
    """Findings and interventions of healthy runs."""
    found = made = 0
    for dimensions in DIMENSIONS:
        for seed in range(seeds):
            run = Run(data, Scenario(contrast), guarded=True, dimensions=dimensions, seed=seed).train()
            assert run.guard is not None
            found, made = found + len(run.found), made + len(run.guard.made)
    of = f"{data}: {len(DIMENSIONS) * seeds} healthy runs of {DIMENSIONS} dimensions"
    return f"{of}: {found} findings, {made} interventions"


def time_review(num: int = 1024, dimensions: int = 256) -> str:
    """The time of one core that the measurements of a review take."""
    rows, view = torch.randn(2, num, dimensions)
    columns = {f"c{index}": (torch.arange(num) % (index + 2), torch.randn(num, 16)) for index in range(20)}
    seconds = []
    for _ in range(11):
        began = time.process_time()
        measure_embeddings(read_sample(rows, view, columns))
        seconds.append(time.process_time() - began)
    return f"{num:,} rows of {dimensions} dimensions, two views, 20 columns: {1e3 * statistics.median(seconds):.1f} ms"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    logging.disable()
    print(time_review(), flush=True)
    for data in ("images", "table"):
        for name in SCENARIOS:
            is_of_columns = data == "images" and name == "dead-columns"
            print(compare("strips" if is_of_columns else data, name, seeds), flush=True)
    for data in ("images", "table"):
        print(count_interventions(data, seeds), flush=True)
