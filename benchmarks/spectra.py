"""The spectra of weight matrices: agreement with reference values, and what they cost beside WeightWatcher.

    python benchmarks/spectra.py [--rounds 3] [--threads 1] [--reference FOLDER] [--only WORKLOAD]

The reference values are those that `tests/reference` holds, of WeightWatcher 0.7.7 with its defaults; `--reference`
names a folder with `alphas.json` and the arrays `MODEL.npz` beside it in place of them. The times are the lowest of all
rounds, in CPU seconds of the process and in seconds. Where WeightWatcher can be imported it is timed in turn, on the
same matrices in the same process: with its defaults, with its randomization, and with its Marchenko–Pastur fit. In
place of these two, Trimtab counts eigenvalues beyond the edge of a random matrix, which takes no fit, so that is
the same measurement in all three columns.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any

TOLERANCE = 1e-3

BUDGETS = {"gpt 4×128": 0.1, "gpt-2 small": 5.0}
"""CPU seconds that a workload may take at most."""

LIMITS = {"default": 1.0, "randomize": 10.0, "mp_fit": 10.0}
"""How many times as fast as WeightWatcher it has to be."""

SIDES = (32, 64, 128, 256, 512, 768, 1024)
"""Square matrices that are timed one by one."""

LONG = 10.0
"""Seconds beyond which one round is enough."""

REFERENCE = Path(__file__).parent.parent / "tests" / "reference"


@dataclass(frozen=True, slots=True)
class Time:
    """The lowest times of all rounds."""

    cpu_seconds: float
    """CPU seconds of the process."""

    seconds: float
    """Seconds on the clock."""


def main() -> None:
    """Print the agreement and the times; end with 1 if one of them is beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured")
    parser.add_argument("--threads", type=int, default=1, help="threads of linear algebra")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="the folder with the reference values")
    parser.add_argument("--only", help="one workload alone")
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before NumPy is imported, which reads them once
    is_sound = show_agreement(options.reference)
    is_fast = show_times(options.rounds, options.only)
    sys.exit(0 if is_sound and is_fast else 1)


def show_agreement(folder: Path) -> bool:
    """Print the largest differences from the reference values; True if all are within the tolerance."""
    from trimtab.spectra import Spectrum, compute_eigenvalues, describe_spectrum

    worst: dict[str, float] = {}
    num = 0
    for name, weight, expected in read_reference(folder):
        found = describe_spectrum(name, weight.shape, compute_eigenvalues(weight.astype(float)))
        assert isinstance(found, Spectrum), f"{name}: {found}"
        numbers = {
            "alpha": found.fit.alpha,
            "D": found.fit.distance,
            "xmin": found.fit.xmin,
            "tail": found.fit.num_tail,
            "stable rank": found.stable_rank,
            "log norm": found.log_spectral_norm,
        }
        num += 1
        for key, value in numbers.items():
            distance = abs(value - expected[key]) / max(1.0, abs(expected[key]))
            worst[key] = max(worst.get(key, 0.0), distance)
    print(f"{num} matrices; largest difference from WeightWatcher 0.7.7 (relative where the value is above 1):")
    print("  " + ", ".join(f"{key} {value:.1e}" for key, value in worst.items()) + f"; bound {TOLERANCE:g}\n")
    return num > 0 and all(value <= TOLERANCE for value in worst.values())


def read_reference(folder: Path) -> Iterator[tuple[str, Any, Mapping[str, float]]]:
    """Name, array and expected numbers of every reference matrix."""
    import numpy as np

    if (folder / "alphas.json").exists():
        for model, layers in json.loads((folder / "alphas.json").read_text())["models"].items():
            arrays = np.load(folder / f"{model}.npz")
            for layer, held in layers.items():
                expected = {"alpha": held["alpha"], "D": held["D"], "xmin": held["xmin"], "tail": held["n_tail"]}
                norm = held["alpha_weighted"] / held["alpha"]
                yield (
                    f"{model}/{layer}",
                    arrays[f"{layer}.weight"],
                    expected | {"stable rank": held["stable_rank"], "log norm": norm},
                )
        return
    arrays = np.load(folder / "spectra.npz")
    for name, held in json.loads((folder / "spectra.json").read_text())["matrices"].items():
        expected = {"alpha": held["alpha"], "D": held["distance"], "xmin": held["xmin"], "tail": held["num_tail"]}
        yield (
            name,
            arrays[name],
            expected | {"stable rank": held["stable_rank"], "log norm": held["log_spectral_norm"]},
        )


def list_workloads() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name of a workload, and what makes the model of it."""
    from torch import nn

    def make_blocks(width: int, num_blocks: int, vocabulary: int = 0) -> nn.Module:
        shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
        layers: list[nn.Module] = [nn.Linear(*shape, bias=False) for shape in shapes * num_blocks]
        if vocabulary:
            embeddings = [nn.Embedding(vocabulary, width), nn.Embedding(64, width)]
            layers = [*embeddings, *layers, nn.Linear(width, vocabulary, bias=False)]
        return nn.Sequential(*layers)

    def make_square(side: int) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(nn.Linear(side, side, bias=False))

    for side in SIDES:
        yield f"{side}×{side}", make_square(side)
    yield "conv 128×128×3×3", lambda: nn.Sequential(nn.Conv2d(128, 128, 3, bias=False))
    yield "gpt 4×128", lambda: make_blocks(128, 4, vocabulary=128)
    yield "gpt-2 small", lambda: make_blocks(768, 12)


def show_times(num_rounds: int, only: str | None) -> bool:
    """Print the times of every workload; True if all are within their bounds."""
    import torch

    from trimtab import measure_spectra

    analyze = load_weightwatcher()
    print(f"{'workload':17} {'CPU s':>8} {'s':>8}", *(f"{option:>20}" for option in LIMITS if analyze))
    is_fast = True
    for name, make in list_workloads():
        if only not in (None, name):
            continue
        torch.manual_seed(0)
        model = make()
        contestants: dict[str, Callable[[], object]] = {"ours": lambda model=model: measure_spectra(model)}  # type: ignore[misc]
        if analyze is not None:
            for option in LIMITS:
                contestants[option] = lambda model=model, option=option: analyze(model, option)  # type: ignore[misc]
        times = measure_times(contestants, num_rounds)
        ours = times.pop("ours")
        is_fast &= ours.cpu_seconds <= BUDGETS.get(name, inf)
        shown = []
        for option, theirs in times.items():
            ratio = theirs.cpu_seconds / ours.cpu_seconds
            is_fast &= ratio >= LIMITS[option]
            shown.append(f"{theirs.cpu_seconds:9.4f} ({ratio:6.1f} ×)".rjust(20))
        print(f"{name:17} {ours.cpu_seconds:8.4f} {ours.seconds:8.4f}", *shown, flush=True)
    print(f"\nbounds: {', '.join(f'{name} {limit:g} CPU s' for name, limit in BUDGETS.items())}")
    return is_fast


def measure_times(contestants: Mapping[str, Callable[[], object]], num_rounds: int) -> dict[str, Time]:
    """The lowest times of each contestant, all of them in turn in every round; what takes long runs once."""
    best = dict.fromkeys(contestants, Time(inf, inf))
    for _ in range(num_rounds):
        for name, run in contestants.items():
            before = best[name]
            if LONG < before.seconds < inf:
                continue
            cpu, clock = time.process_time(), time.perf_counter()
            run()
            cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
            best[name] = Time(min(cpu, before.cpu_seconds), min(clock, before.seconds))
    return best


def load_weightwatcher() -> Callable[[Any, str], object] | None:
    """WeightWatcher's analysis of a model with one option; None where it cannot be imported."""
    logging.getLogger("weightwatcher").setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            weightwatcher = import_module("weightwatcher")
    except ImportError as error:
        print(f"WeightWatcher is not compared with, since it cannot be imported: {error}\n")
        return None
    print(f"CPU seconds beside those of WeightWatcher {weightwatcher.__version__} with one option each:\n")

    def analyze(model: Any, option: str) -> object:
        options = {} if option == "default" else {option: True}
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return weightwatcher.WeightWatcher(model=model).analyze(plot=False, savefig=False, **options)

    return analyze


if __name__ == "__main__":
    main()
