"""The spectra of a model's weight matrices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from math import isfinite, nan
from time import perf_counter
from typing import Literal, TypeAlias

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from trimtab.errors import InputError
from trimtab.history import History
from trimtab.probes import Reading, probe
from trimtab.probes.subject import Moment
from trimtab.spectra import (
    Array,
    Spectra,
    Spectrum,
    compute_eigenvalues,
    describe_spectrum,
    find_obstacle,
    summarize_spectra,
)

SCORE = "alpha_score"
"""The metric that every review has at which spectra were measured."""

SECONDS = "spectra_seconds"
"""What they took."""

METRICS = (SCORE, "num_spectra", "alpha", "alpha_sigma", SECONDS)

Cadence: TypeAlias = int | Literal["auto"]
"""Reviews from one measurement to the next, 0 for never, or chosen by what it costs."""

BUDGET = 0.01
"""The share of the time of the steps that spectra may take with "auto"."""

MOST_SECONDS = 10.0
"""The most that they may take at once with "auto": nobody expects a review to take a minute."""

WORK_A_SECOND = 2e9
"""Multiplications a second that are reckoned with before they were measured; rather too few than too many."""

PACE = 64
"""Steps whose median is the time of one."""


def measure_spectra(model: nn.Module) -> Spectra:
    """Fit a power law to the spectrum of each weight matrix of a model.

    The exponent α is that of WeightWatcher 0.7.7 with its defaults: of the eigenvalues of WᵀW, in float64, above 1e-5.
    From 2 to 5 a layer is well trained, above 6 its spectrum is dominated by noise; at initialization and on small
    matrices α is noise itself, which `band` says. Nothing acts on it.

    Matrices are parameters of two dimensions, embeddings included, and the weights of convolutions, of which the
    eigenvalues of all kernel positions are taken together. A parameter that modules share is measured once. What cannot
    be measured is named with the reason: fewer than 8 eigenvalues, above 50,000 rows, entries that are not finite,
    parameters that are on the meta device or distributed over ranks.

    It costs as much as one matrix product and one eigenvalue problem a matrix, on one core of the CPU: 0.02 s for a
    transformer of 4 layers and width 128, 3 s for the blocks of GPT-2 small. The model is only read.

    Args:
        model: the model, in any dtype, on any device.

    Returns:
        The spectra, a table when printed.

    Raises:
        InputError: if it is no module.
    """
    weights, skipped = find_weights(model)
    return _describe(weights, skipped)


def begin_spectra(model: nn.Module) -> Future[Spectra]:
    """The same in a thread of its own, on a copy of the weights as they are now: `result()` waits for it.

    Args:
        model: the model; it may be trained meanwhile.

    Raises:
        InputError: if it is no module.
    """
    weights, skipped = find_weights(model)
    copies = {name: weight.to("cpu", copy=True) for name, weight in weights.items()}
    executor = ThreadPoolExecutor(1, "trimtab-spectra")
    future = executor.submit(_describe, copies, skipped)
    executor.shutdown(wait=False)
    return future


def find_weights(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weight matrices of a model by the parameter's name, and why others are not measured.

    Raises:
        InputError: if it is no module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"measure_spectra: model is a {type(model).__name__!r}; it has to be a torch Module")
    weights: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for name, module, parameter in _list_parameters(model):
        obstacle = _find_obstacle(module, parameter)
        if obstacle:
            skipped[name] = obstacle
        elif parameter.ndim > 1:
            weights[name] = parameter.detach()
    return weights, skipped


def _list_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, module, parameter


def _find_obstacle(module: nn.Module, parameter: nn.Parameter) -> str:
    """Why a parameter is not measured; empty if it is, or is no matrix at all."""
    if is_lazy(parameter):
        return "it has no shape yet"
    if parameter.ndim < 2:
        return ""
    if hasattr(parameter, "full_tensor"):
        return "it is distributed over ranks"
    if parameter.is_meta:
        return "it is on the meta device, without numbers"
    if not parameter.is_floating_point() or parameter.layout is not torch.strided:
        return f"it is {parameter.layout} of {parameter.dtype}, which is no plain matrix of real numbers"
    if parameter.ndim > 2 and not isinstance(module, _ConvNd):
        return f"it has {parameter.ndim} dimensions and is no convolution's, so it is no one matrix"
    return find_obstacle(parameter.shape)


def _describe(weights: Mapping[str, Tensor], skipped: Mapping[str, str]) -> Spectra:
    """Measure weights on one core: on a busy machine, the threads of NumPy and of torch wait ten times as long."""
    measured: list[Spectrum] = []
    left_out = dict(skipped)
    with threadpool_limits(1, user_api="blas"):
        for name, weight in weights.items():
            entries = _to_array(weight)
            found = describe_spectrum(name, entries.shape, compute_eigenvalues(entries))
            if isinstance(found, Spectrum):
                measured.append(found)
            else:
                left_out[name] = found
    return Spectra(tuple(measured), left_out)


def _to_array(weight: Tensor) -> Array:
    """The entries in float64; NumPy converts them, in one thread, where it has their dtype."""
    has_dtype = weight.dtype in (torch.float16, torch.float32, torch.float64)
    return (weight.cpu() if has_dtype else weight.cpu().float()).numpy().astype(np.float64)


def count_work(model: nn.Module) -> float:
    """About how many multiplications the spectra of a model's weights take: a matrix product and its eigenvalues."""
    total = 0.0
    for weight in find_weights(model)[0].values():
        rows, columns = sorted(weight.shape[:2])
        total += rows * rows * (columns + 4 * rows) * weight[0, 0].numel()
    return total


def is_due(reviews: History, steps: History, every: Cadence, work: float) -> bool:
    """True at the first review, and at every so many after one at which spectra were measured.

    With "auto" at the first review by which they take no more than a hundredth of the time of the steps since they were
    measured last. What they take is what they took then; before, it is told from the work. All of it follows from
    numbers that every rank has, never from a clock.

    Args:
        reviews: the reviews before.
        steps: the measurements of steps.
        every: reviews from one to the next; 0 for never.
        work: the multiplications that one measurement takes.
    """
    rows = np.flatnonzero(np.isfinite(reviews.column(SCORE))) if reviews.has(SCORE) else np.empty(0, np.int64)
    if every != "auto":
        return every > 0 and (not len(rows) or len(reviews) - int(rows[-1]) >= every)
    seconds = steps.column("step_seconds")[-PACE:] if steps.has("step_seconds") else np.empty(0)
    seconds = seconds[np.isfinite(seconds)]
    if not len(seconds):
        return False
    since = int(reviews.steps[rows[-1]]) if len(rows) else 0
    took = float(reviews.column(SECONDS)[rows[-1]]) if len(rows) else work / WORK_A_SECOND
    return took <= min(BUDGET * float(np.median(seconds)) * (steps.newest.step - since), MOST_SECONDS)


@probe("spectra", size=lambda moment: len(METRICS) * int(moment.wants_spectra))
def read_spectra(moment: Moment) -> Reading:
    """`alpha_score`, `num_spectra`, `alpha` and `alpha_sigma` of a review, and `spectra_seconds`, what they took.

    Every rank measures its own copy of the weights, and they are averaged. Metrics that there are no matrices for are
    absent.
    """
    if not moment.wants_spectra:
        return {}
    began = perf_counter()
    moment.spectra = measure_spectra(moment.subject.network)
    summary = summarize_spectra(moment.spectra) | {SECONDS: perf_counter() - began}
    numbers = yield [summary.get(metric, nan) for metric in METRICS]
    return dict(_list_finite(zip(METRICS, map(float, numbers), strict=True)))


def _list_finite(numbers: Iterable[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    return ((metric, number) for metric, number in numbers if isfinite(number))
