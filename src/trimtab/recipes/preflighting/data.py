"""The data pipeline: a batch, its labels, its scale, and whether samples come again where they should not."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from trimtab.control.batches import count_samples
from trimtab.probes.batch_fingerprint import take_fingerprint
from trimtab.probes.inspection import list_tensors
from trimtab.recipes.calls import CLASSIFYING, TARGET_NAMES, is_index
from trimtab.recipes.keeping import keep_loader
from trimtab.recipes.linting import Flaw, Setup, find_flaws
from trimtab.recipes.linting.inputs import MOST_RMS, list_inputs, measure_rms
from trimtab.recipes.preflighting.flight import NUM_BATCHES, Flight
from trimtab.recipes.preflighting.picture import draw_batch
from trimtab.recipes.preflighting.result import Line
from trimtab.state.rng import capture_rng, restore_rng

MOST_BATCHES = 200
"""Batches of an epoch that are looked at for samples that come again."""

MOST_REPEATED, MANY_REPEATED = 0.01, 0.25
"""The share of samples that may come again in an epoch, and the share from which it is no accident: two workers that
read the same data repeat half of it."""

MOST_LEAKED = 0.01
"""The share of the validation samples that may be in the training data as well."""

MOST_ONE_CLASS = 0.95
"""The share of the most frequent class from which always naming it is hard to beat."""


def check_lint(flight: Flight) -> Iterator[Line]:
    """What lint finds: the grave flaws fail, the others warn."""
    setup = Setup(
        flight.model,
        flight.optimizer,
        flight.compute_loss,
        flight.batches[0],
        flight.train_loader,
        flight.scaler,
        flight.source,
        flight.compute_loss,
    )
    with flight.keep():
        flaws = find_flaws(setup)
    for each in flaws:
        yield Line(each.check, _rate(each), each.number, each.message, each.fix)
    if not flaws:
        yield Line("lint", "pass", 0.0, str(flaws))


def _rate(flaw: Flaw) -> Any:
    return "fail" if flaw.severity in ("critical", "high") else "warn"


def check_batch(flight: Flight) -> Iterator[Line]:
    """The first batches are there, and have samples."""
    given = list(_take(flight.train_loader, max(NUM_BATCHES), flight))
    if not given:
        yield Line("batch", "fail", 0.0, "train_loader gives no batch", "look at the data set and its length")
        return
    flight.batches = [flight.move(each) for each in given]
    flight.picture = draw_batch(flight.batches[0])
    num_samples = count_samples(given[0])
    shapes = ", ".join(str(list(each.shape)) for _, each in list_tensors(given[0], ""))
    num_differing = sum(_describe(each) != _describe(given[0]) for each in given[1:-1])
    kind = "batches differ in more than their length" if num_differing else "batches are alike in shape"
    yield Line("batch", "pass", num_samples, f"{num_samples or 'an unknown number of'} samples, {shapes}; {kind}")


def _describe(batch: Any) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """The names, dtypes and shapes of a batch, without the number of samples."""
    return [(name, each.dtype, tuple(each.shape[1:])) for name, each in list_tensors(batch, "")]


def check_scale(flight: Flight) -> Iterator[Line]:
    """The scale of what the model is given, where it is about what initializations expect; else lint has warned."""
    inputs = list_inputs(flight.batches[0])
    sizes = {name: measure_rms(each) for name, each in inputs}
    if sizes and max(sizes.values()) <= MOST_RMS:
        told = ", ".join(f"{name} {size:.3g}" for name, size in sizes.items())
        yield Line("scale", "pass", max(sizes.values()), f"root mean square of the inputs: {told}")


def check_labels(flight: Flight) -> Iterator[Line]:
    """How the labels of the first batches are distributed, where they are classes."""
    losses = [each for each in flight.trial.losses if each.function in CLASSIFYING and is_index(each.args[1])]
    if not losses:
        return
    scores, ignored = losses[0].args[0], losses[0].get(4, "ignore_index", -100)
    num_classes = scores.shape[1] if scores.ndim > 1 else len(scores)
    counts: Counter[int] = Counter()
    for batch in flight.batches:
        target = _find_target(batch)
        if target is not None and is_index(target):
            counts.update(target[target != ignored].flatten().tolist())
    total = sum(counts.values())
    if not total:
        return
    (first, num_first), *_ = counts.most_common(1)
    reason = (
        f"{len(counts)} of {num_classes} classes in {total} labels; class {first} has {num_first / total:.0%} of them"
    )
    if num_first > MOST_ONE_CLASS * total:
        yield Line("labels", "warn", num_first / total, reason, "sample the classes evenly, or weight the loss")
    else:
        yield Line("labels", "pass", num_first / total, reason)


def _find_target(batch: Any) -> Tensor | None:
    named = list(list_tensors(batch, ""))
    for name, each in named:
        if any(f"['{known}']" in name for known in TARGET_NAMES):
            return each
    return named[-1][1] if isinstance(batch, (list, tuple)) and len(named) > 1 else None


def check_repeats(flight: Flight) -> Iterator[Line]:
    """Samples that come again within an epoch, from other workers, or in the same order in the next epoch."""
    prints = [take_prints(each) for each in _take(flight.train_loader, MOST_BATCHES, flight)]
    rows = flight.prints = list(itertools.chain.from_iterable(prints))
    if not rows:
        yield Line("repeats", "skipped", None, "the batches have no rows of numbers to tell samples by")
        return
    share = 1 - len(set(rows)) / len(rows)
    reason = f"{share:.1%} of {len(rows):,} samples of an epoch come again in it"
    num_workers = getattr(flight.train_loader, "num_workers", 0)
    if share > MANY_REPEATED:
        workers = f", from {num_workers} workers" if num_workers > 1 else ""
        mend = "divide the data between the workers by torch.utils.data.get_worker_info()" if workers else ""
        yield Line("repeats", "fail", share, reason + workers, mend or "look at how the data set is indexed")
    elif share > MOST_REPEATED:
        yield Line("repeats", "warn", share, reason, "look for duplicates in the data")
    else:
        yield Line("repeats", "pass", share, reason)
    yield from _compare_epochs(flight, prints)


def _compare_epochs(flight: Flight, prints: list[list[float]]) -> Iterator[Line]:
    """Whether the next epoch begins with other samples."""
    if len(prints) < 2:
        return
    with keep_loader(flight.train_loader):
        now = capture_rng()
        try:
            for _ in iter(flight.train_loader):  # an epoch is drawn when it begins
                break
            second = [take_prints(each) for each in itertools.islice(flight.train_loader, len(prints[:2]))]
        finally:
            restore_rng(now)
    is_same = second == prints[:2]
    reason = "the second epoch begins with the same batches as the first" if is_same else "epochs differ in order"
    fix = "shuffle, unless the order matters or a sampler is told of each epoch by set_epoch" if is_same else ""
    yield Line("order", "warn" if is_same else "pass", float(is_same), reason, fix)


def check_leakage(flight: Flight) -> Iterator[Line]:
    """Validation samples that are in the training data too."""
    if flight.val_loader is None:
        yield Line("leakage", "skipped", None, "there are no validation data")
        return
    train = flight.prints
    held_out = [row for each in _take(flight.val_loader, MOST_BATCHES, flight) for row in take_prints(each)]
    if not train or not held_out:
        yield Line("leakage", "skipped", None, "the batches have no rows of numbers to tell samples by")
        return
    known = set(train)
    share = sum(row in known for row in held_out) / len(held_out)
    by_chance = 1 - len(known) / len(train)
    reason = f"{share:.1%} of {len(held_out):,} validation samples are among {len(train):,} training samples"
    if share > max(MOST_LEAKED, 2 * by_chance):
        yield Line("leakage", "fail", share, reason, "split by what belongs together, and after removing duplicates")
    else:
        yield Line("leakage", "pass", share, reason)


def take_prints(batch: Any) -> list[float]:
    """A number for each sample by which it is known again; of its inputs, without the target, where there is one."""
    named = [each for each in list_tensors(batch, "") if not any(f"['{name}']" in each[0] for name in TARGET_NAMES)]
    named = named[:-1] if isinstance(batch, (list, tuple)) and len(named) > 1 else named
    num_samples = count_samples([each for _, each in named])
    if not num_samples:
        return []
    return [float(take_fingerprint([each[row] for _, each in named])[0]) for row in range(num_samples)]


def _take(loader: Iterable[Any], most: int, flight: Flight) -> Iterator[Any]:
    """The first batches of a loader, as many as there is time for, and at least one; it is left as it was."""
    now = capture_rng()
    with keep_loader(loader):
        try:
            for index, batch in enumerate(loader):
                if index >= most or (index and flight.clock.is_late):
                    break
                yield batch
        finally:
            restore_rng(now)
