"""Law 7, silence, for every registered detector; and that a detector is one file which nothing else lists."""

from __future__ import annotations

import ast
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

import trimtab
from trimtab.detectors import detect, detectors
from trimtab.history import History
from trimtab.policy import DEFAULT_LADDERS, PRESETS
from trimtab.types import Finding, Measurement, Value

SOURCE = Path(trimtab.__file__).parent

NUM_STEPS = 150
"""Past the warm-up, and past the window of 100."""

NUM_GROUPS = 3

SHAPES: dict[str, Callable[[float, float], float]] = {
    "flat": lambda _, __: 1.0,
    "exponential": lambda time, rate: math.exp(-5 * rate * time),
    "power law": lambda time, rate: (1 + 99 * time) ** -rate,
    "linear": lambda time, rate: 1 - 0.99 * rate * time,
    "cosine": lambda time, rate: 1 - 0.495 * rate * (1 - math.cos(math.pi * time)),
}
"""A share of the start, at a time from 0 to 1 and a rate from 0 to 1."""


@dataclass(frozen=True)
class Curve:
    """A flat or smoothly falling curve, with or without bounded Gaussian noise of up to 5 % of its level."""

    shape: str
    rate: float
    exponent: float
    drop: float = 0.0
    seed: int | None = None

    def compute(self) -> NDArray[np.float64]:
        """Its numbers; shape (steps,)."""
        times = np.linspace(0, 1, NUM_STEPS)
        smooth = np.array([SHAPES[self.shape](time, self.rate) for time in times]) - self.drop
        noise = np.zeros(NUM_STEPS)
        if self.seed is not None:
            noise = np.random.default_rng(self.seed).normal(0, 0.02, NUM_STEPS).clip(-0.05, 0.05)
        return np.asarray(10**self.exponent * (smooth + np.abs(smooth) * noise))


@dataclass(frozen=True)
class Schedule:
    """A learning rate: a linear warm-up, then constant or a cosine down to 0."""

    exponent: float
    num_warmup: int
    falls: bool

    def compute(self) -> NDArray[np.float64]:
        """Its numbers; shape (steps,)."""
        warmup = np.arange(1, self.num_warmup + 1) / max(self.num_warmup, 1)
        times = np.linspace(0, 1, NUM_STEPS - self.num_warmup)
        after = (1 + np.cos(math.pi * times)) / 2 if self.falls else np.ones_like(times)
        return np.asarray(10**self.exponent * np.concatenate([warmup, after]))


seeds = st.none() | st.integers(0, 2**32 - 1)
positive = st.builds(Curve, st.sampled_from(sorted(SHAPES)), st.floats(0, 1), st.floats(-6, 6), seed=seeds)
signed = st.builds(replace, positive, drop=st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0]))
schedules = st.builds(Schedule, st.floats(-6, 0), st.integers(0, NUM_STEPS // 2), st.booleans())


def make_run(loss: Curve, norm: Curve, rate: Schedule, weights: tuple[Curve, ...]) -> Iterator[Measurement]:
    """Every metric of a run in which nothing happens."""
    shares = np.sqrt(np.arange(1, NUM_GROUPS + 1) / sum(range(1, NUM_GROUPS + 1)))
    columns = zip(loss.compute(), norm.compute(), rate.compute(), *(each.compute() for each in weights), strict=True)
    for step, (loss_now, norm_now, rate_now, *weights_now) in enumerate(columns, 1):
        values: dict[str, Value] = {
            "loss": float(loss_now),
            "grad_norm": float(norm_now),
            "learning_rate": float(rate_now),
            "loss_scale": 65536.0,
            "step_seconds": 0.1,
            "supervisor_seconds": 0.001,
            "cpu_seconds": 0.09,
            "data_seconds": 0.02,
            "group_grad_norm": tuple((norm_now * shares).tolist()),
            "group_nonfinite": (0.0,) * NUM_GROUPS,
            "weight_norm": tuple(map(float, weights_now)),
        }
        if step % 100 == 2:
            values |= {"missing_gradients": (0.0,) * NUM_GROUPS, "stale_gradients": 0.0, "dead_units": (nan, 0.0, 0.6)}
            values |= {"eval_mode_loss": loss_now + 0.1 * abs(loss_now), "batch_norm_loss": loss_now}
            values |= {"eval_dropouts": 0.0, "device_utilization": 0.95}
            values |= {"activation_std": (3.0, 1.0, 0.2), "saturated_units": (nan, 0.0, 0.6), "output_spread": 0.1}
        if step % 8 == 1:
            values |= {"update_ratio": (1e-3,) * NUM_GROUPS, "lost_updates": (0.5, 0.0, math.nan)}
        if step % 100 == 2:
            values |= {"underflow_share": 0.05, "schedule_position": step - 1.0, "schedule_moves": 1.0}
        yield Measurement(step, values)


def watch(name: str, measurements: Iterable[Measurement]) -> Iterator[Finding]:
    """What one detector with its defaults finds."""
    history = History([f"group {index}" for index in range(NUM_GROUPS)])
    for measurement in measurements:
        history.append(measurement)
        yield from detect(history, {name: {}})
        history.close(accepted=True)


@pytest.mark.parametrize("name", sorted(detectors))
@settings(deadline=None)
@given(loss=signed, norm=positive, rate=schedules, weights=st.tuples(*[positive] * NUM_GROUPS))
def test_healthy_runs_yield_nothing(
    name: str, loss: Curve, norm: Curve, rate: Schedule, weights: tuple[Curve, ...]
) -> None:
    """Flat and smoothly falling curves yield nothing, for every detector, every metric, sign and scale."""
    assert list(watch(name, make_run(loss, norm, rate, weights))) == []


@pytest.mark.parametrize("name", sorted(detectors))
@settings(deadline=None)
@given(loss=signed, error=positive)
def test_healthy_reviews_yield_nothing(name: str, loss: Curve, error: Curve) -> None:
    """A validation loss that falls or stays, and an accuracy that rises or stays, yield nothing."""
    losses, errors = loss.compute(), error.compute()
    alone = [
        Measurement(8 * index, {"val_loss": float(losses[index]), "accuracy": float(1 - errors[index])}, "review")
        for index in range(NUM_STEPS)
    ]
    assert list(watch(name, alone)) == []


@pytest.mark.parametrize("name", sorted(detectors))
@settings(deadline=None)
@given(loss=signed, gap=st.floats(0, 0.3), seed=seeds, norm=positive)
def test_healthy_epochs_yield_nothing(name: str, loss: Curve, gap: float, seed: int | None, norm: Curve) -> None:
    """Two losses that fall or rest side by side, after a first epoch in which something was learned, yield nothing."""
    train, evaluated = loss.compute(), replace(loss, seed=seed).compute()
    distance = gap * abs(train[0])
    norms = norm.compute()
    reviews = [
        Measurement(
            8 * index,
            {
                "val_loss": float(evaluated[index] + distance),
                "train_loss": float(train[index]),
                "train_grad_norm": float(norms[index]),
                **({"start_loss": float(train[0] + 0.2 * abs(train[0]) + 10**loss.exponent)} if index == 0 else {}),
            },
            "review",
        )
        for index in range(NUM_STEPS)
    ]
    assert list(watch(name, reviews)) == []


TOY = '''
"""A loss of exactly 13."""

from collections.abc import Iterator

from trimtab.detectors import detector
from trimtab.history import History
from trimtab.types import Breach


@detector("toy", severity="low")
def find_toy(history: History, *, unlucky: float = 13.0) -> Iterator[Breach]:
    """The loss is exactly 13."""
    if history.newest.values.get("loss") == unlucky:
        yield Breach(metric="loss", value=unlucky, limit=unlucky, message="unlucky")
'''

USE_TOY = """
from trimtab import Measurement, Plan, Policy
from trimtab.cli import app
from trimtab.detectors import detect, detectors
from trimtab.history import History

assert detectors["toy"].settings == {"unlucky": 13.0}
assert Policy.default().plans["toy"] == Plan() == Policy.observe().plans["toy"]
assert Policy.from_dict({"detectors": {"toy": {"unlucky": 7, "ladder": ["skip"]}}}).plans["toy"].ladder == ("skip",)
history = History()
history.append(Measurement(1, {"loss": 13.0}))
assert [finding.detector for finding in detect(history, Policy.default().settings)] == ["toy"]
app(["explain", "toy"])
"""


def test_a_new_detector_is_one_new_file(tmp_path: Path) -> None:
    """A file dropped into `detectors/` is registered, asked by the default policy as advisory, and explained."""
    shutil.copytree(SOURCE, tmp_path / "trimtab", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "trimtab" / "detectors" / "toy.py").write_text(TOY, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", USE_TOY], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "The loss is exactly 13." in result.stdout


def list_texts(path: Path) -> list[str]:
    """Every text in a file's code; an f-string's parts are texts of their own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("name", sorted(detectors))
def test_nothing_lists_detectors_by_hand(name: str) -> None:
    """A detector is named in its own file and, where it acts, in the policy's tables: the ladders and the presets.

    What reads findings may name it too: a diagnosis by them, a fault by what tells of it, a benchmark, `fit`, which
    does not stop a run too soon after one, a report, and a preflight. What sets the pace of a run is called as what is
    found of it.
    """
    own = Path(sys.modules[detectors[name].judge.__module__].__file__ or "")
    readers = [SOURCE / room for room in ("diagnosis", "faults", "bench", "control", "report", "recipes")]
    readers += [SOURCE / "detectors" / file for file in ("pace.py", "idle_device.py") if name == "data-bound"]
    paths = (path for path in SOURCE.rglob("*.py") if not any(map(path.is_relative_to, readers)))
    naming = {path for path in paths if name in list_texts(path)}
    assert own.parent == SOURCE / "detectors"
    assert own in naming <= {own, SOURCE / "policy" / "table.py"}
    in_tables = [DEFAULT_LADDERS, *(table["detectors"] for table in PRESETS.values())]
    assert list_texts(SOURCE / "policy" / "table.py").count(name) == sum(name in table for table in in_tables)
